//! Awake or asleep: when to look for events, and who need ring.
//!
//! Awake, the relay holds the bell's lock, so no insert pays for a NOTIFY, and looks again and again.
//! Asleep, every insert rings. In between it has let go of the lock but may still have missed those
//! who tried the bell while it was held: it looks until all of them have ended. A few events a
//! second are heard by the bell alone; the lock is only taken when there are many.
//!
//! A lost bell costs latency only: a poll always runs behind it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Wake as Mode;
use crate::relay::Shared;
use crate::store::bell::{Bell, Ears};

/// So many events in one look, and the relay stays awake …
const MANY: u32 = 16;
/// … or when so many bells rang …
const BELLS: usize = 10;
/// … within this: beyond 200 a second, looking is cheaper than being rung for.
const WITHIN: Duration = Duration::from_millis(50);
/// Looks that find nothing before it goes to sleep, each after twice the pause of the one before.
const QUIET_LOOKS: u32 = 5;
/// The timer ends on a full millisecond: 0.3 to 1.3 of them.
const FIRST_PAUSE: Duration = Duration::from_micros(300);
/// A bell's session that gives no sign of life for this long is given up.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two tries to open a session.
const RECONNECT_INTERVAL: Duration = Duration::from_secs(1);
/// How often an idle session is asked for one.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// What the relay knows about sleeping.
#[derive(Debug)]
pub(in crate::relay) struct Wake {
    shared: Arc<Shared>,
    state: State,
    bell: Option<Bell>,
    ears: Ears,
    /// When the last bells rang.
    bells: VecDeque<Instant>,
    checked_at: Instant,
    /// When to try again to open a session, after it could not be opened.
    reconnect_at: Instant,
    pause: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Holds the bell's lock, or waits for it.
    Awake { quiet: u32 },
    /// Has let go; transactions below `skippers` may have skipped the bell.
    Falling { skippers: i64 },
    /// Nobody can insert without ringing.
    Asleep,
}

/// What a look at the outbox found.
#[derive(Debug, Clone, Copy)]
pub(in crate::relay) struct Look {
    pub(in crate::relay) events: u32,
    /// Whether there may be more to route at once.
    pub(in crate::relay) more: bool,
    /// Transactions below this have ended; `None`: another relay was routing.
    pub(in crate::relay) xmin: Option<i64>,
}

impl Wake {
    pub(in crate::relay) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            state: State::Asleep,
            bell: None,
            ears: Ears::default(),
            bells: VecDeque::with_capacity(BELLS),
            checked_at: shared.clock.instant(),
            reconnect_at: shared.clock.instant(),
            pause: FIRST_PAUSE,
        }
    }

    /// Waits until the bell rings.
    pub(in crate::relay) async fn rung(&self) {
        self.ears.rung.notified().await;
    }

    /// Waits until somebody has made deliveries due by hand.
    pub(in crate::relay) async fn steered(&self) {
        self.ears.steered.notified().await;
    }

    /// Waits until another relay has come upon deliveries that are due.
    pub(in crate::relay) async fn due(&self) {
        self.ears.due.notified().await;
    }

    /// Notes that it rang.
    pub(in crate::relay) fn heard(&mut self) {
        self.shared.metrics.bells.increment(1);
        self.bells.truncate(BELLS - 1);
        self.bells.push_front(self.shared.clock.instant());
    }

    /// Whether there is a session to hear the bell with, as far as one knows.
    pub(in crate::relay) fn hears(&self) -> bool {
        self.bell.as_ref().is_some_and(|bell| !bell.is_broken())
    }

    /// When a session is to be opened, if there is none and there is to be one.
    pub(in crate::relay) fn reconnect_at(&self) -> Option<Instant> {
        (!self.hears() && self.shared.config.relay.wake == Mode::Listen)
            .then_some(self.reconnect_at)
    }

    /// Opens a session if one is needed. Returns whether it was, after which a look is due: what rang
    /// meanwhile was not heard.
    pub(in crate::relay) async fn reconnect(&mut self) -> bool {
        self.check().await;
        let now = self.shared.clock.instant();
        if self.reconnect_at().is_none_or(|at| at > now) {
            return false;
        }
        self.reconnect_at = now + RECONNECT_INTERVAL;
        self.bell = None;
        self.state = State::Asleep;
        match Bell::listen(
            self.shared.database.store.database(),
            &self.shared.term.sessions,
            &self.ears,
        )
        .await
        {
            Ok(bell) => {
                self.bell = Some(bell);
                true
            }
            Err(error) => {
                self.shared.database.failed(
                    &self.shared.term,
                    &self.shared.metrics.database_errors.wake,
                    &error,
                );
                false
            }
        }
    }

    /// A session that silently died is found out by asking it.
    async fn check(&mut self) {
        let now = self.shared.clock.instant();
        let idle = self.state == State::Asleep
            && now.saturating_duration_since(self.checked_at) > CHECK_INTERVAL;
        if let (true, Some(bell)) = (idle, &self.bell) {
            self.checked_at = now;
            if !matches!(tokio::time::timeout(CHECK_TIMEOUT, bell.check()).await, Ok(Ok(()))) {
                self.bell = None;
            }
        }
    }

    /// Takes in what a look found. Returns how long to wait before the next; `None`: until the bell
    /// rings or the poll comes round.
    pub(in crate::relay) async fn after(&mut self, look: Look) -> Option<Duration> {
        let next = self.fall_or_rise(look).await;
        self.shared.metrics.asleep.set(if self.state == State::Asleep { 1.0 } else { 0.0 });
        next
    }

    async fn fall_or_rise(&mut self, look: Look) -> Option<Duration> {
        if look.events > 0 {
            self.pause = FIRST_PAUSE;
            if look.more || look.events >= MANY || self.bells_are_many() {
                self.rise();
            }
            return match self.state {
                // What came since has rung, and is heard.
                State::Asleep if self.bell.is_some() => None,
                State::Asleep | State::Falling { .. } => Some(FIRST_PAUSE),
                State::Awake { .. } if look.more => Some(Duration::ZERO),
                State::Awake { .. } => Some(FIRST_PAUSE),
            };
        }
        match self.state {
            State::Asleep if self.bell.is_some() => None,
            State::Asleep => self.longer_pause(),
            State::Falling { skippers } if look.xmin.is_some_and(|xmin| xmin >= skippers) => {
                self.state = State::Asleep;
                None
            }
            State::Falling { .. } => self.longer_pause(),
            State::Awake { quiet } if quiet < QUIET_LOOKS => {
                self.state = State::Awake { quiet: quiet + 1 };
                self.longer_pause()
            }
            State::Awake { .. } => self.fall().await,
        }
    }

    fn rise(&mut self) {
        if let Some(bell) = &mut self.bell {
            bell.silence();
            self.state = State::Awake { quiet: 0 };
        }
    }

    /// Lets go of the lock; then a look is due at once.
    async fn fall(&mut self) -> Option<Duration> {
        self.pause = FIRST_PAUSE;
        let Some(bell) = &mut self.bell else {
            self.state = State::Asleep;
            return Some(Duration::ZERO);
        };
        match tokio::time::timeout(CHECK_TIMEOUT, bell.arm()).await {
            Ok(Ok(skippers)) => self.state = State::Falling { skippers },
            // With the session goes its lock; `reconnect` opens another and looks.
            Ok(Err(_)) | Err(_) => {
                self.bell = None;
                self.state = State::Asleep;
            }
        }
        Some(Duration::ZERO)
    }

    fn longer_pause(&mut self) -> Option<Duration> {
        let pause = self.pause.min(self.shared.config.relay.poll_interval);
        self.pause = pause * 2;
        Some(pause)
    }

    fn bells_are_many(&self) -> bool {
        self.bells.len() == BELLS
            && self.bells.back().is_some_and(|first| self.shared.clock.since(*first) < WITHIN)
    }
}
