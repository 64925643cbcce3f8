//! Decides when to look for events: again and again while awake, on NOTIFY while asleep.
//!
//! While awake, the relay keeps the bell silent, so no insert pays for a NOTIFY. While asleep,
//! every insert rings. In between, the relay has ended the silence but may still miss the
//! transactions that inserted during it: it looks until all of them have ended. A few events a
//! second are heard by the bell alone; the relay keeps it silent only when there are many.
//!
//! A lost bell costs latency only: a poll always runs behind it. And a bell that rings for nothing,
//! as any role that may log in can have it, costs some looks a second.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// This many events in one look keep the relay awake …
const MANY: u32 = 16;
/// … and so do this many bells …
const BELLS: usize = 10;
/// … within this: beyond 200 a second, looking is cheaper than being rung for.
const WITHIN: Duration = Duration::from_millis(50);
/// Looks that find nothing before the relay goes to sleep, each after twice the pause of the one
/// before.
const QUIET_LOOKS: u32 = 5;
/// The timer ends on a full millisecond: after 0.3 to 1.3 of them.
const FIRST_PAUSE: Duration = Duration::from_micros(300);
/// So many bells in a row may ring for nothing, as each does for all relays but one. After that the
/// next look waits, each for twice as long as the one before …
const VAIN_BELLS: u32 = 4;
const FIRST_VAIN_PAUSE: Duration = Duration::from_millis(1);
/// … at most for this: 20 looks a second.
const LONGEST_VAIN_PAUSE: Duration = Duration::from_millis(50);
/// A bell after this much silence is looked after at once.
const VAIN_FOR: Duration = Duration::from_secs(1);

/// Whether the relay sleeps, and what follows from a look.
#[derive(Debug, Clone)]
pub struct Sleep {
    state: State,
    /// When the last bells rang.
    bells: VecDeque<Instant>,
    /// How many in a row rang for nothing.
    vain: u32,
    /// One has rung since the last look.
    has_rung: bool,
    /// Until the next look, if nothing is found.
    pause: Duration,
    longest_pause: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The relay keeps the bell silent.
    Awake { quiet: u32 },
    /// The relay is to end the silence.
    Tired,
    /// The relay has ended it; transactions below `skippers` may have skipped the bell.
    Falling { skippers: i64 },
    /// Every insert rings.
    Asleep,
}

/// The result of a look at the outbox.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Look {
    pub(super) events: u32,
    /// Whether there may be more to route at once, although nothing rings for it.
    pub(super) more: bool,
    /// Transactions below this have ended; `None`: another relay was routing.
    pub(super) xmin: Option<i64>,
}

impl Sleep {
    pub(super) fn new(longest_pause: Duration) -> Self {
        Self {
            state: State::Asleep,
            bells: VecDeque::with_capacity(BELLS),
            vain: 0,
            has_rung: false,
            pause: FIRST_PAUSE,
            longest_pause,
        }
    }

    pub(super) fn is_asleep(&self) -> bool {
        self.state == State::Asleep
    }

    /// Whether the relay is to end the bell's silence.
    pub(super) fn is_tired(&self) -> bool {
        self.state == State::Tired
    }

    /// The bell rang. Returns how long to wait before the look that is due for it.
    pub(super) fn rang(&mut self, now: Instant) -> Duration {
        let last = self.bells.front();
        if last.is_none_or(|last| now.saturating_duration_since(*last) > VAIN_FOR) {
            self.vain = 0;
        }
        self.has_rung = true;
        self.bells.truncate(BELLS - 1);
        self.bells.push_front(now);
        match self.vain.checked_sub(VAIN_BELLS) {
            None => Duration::ZERO,
            Some(over) => {
                FIRST_VAIN_PAUSE.saturating_mul(1 << over.min(10)).min(LONGEST_VAIN_PAUSE)
            }
        }
    }

    /// The session that hears the bell is gone, and the silence soon after.
    pub(super) fn lost(&mut self) {
        self.state = State::Asleep;
    }

    /// There is a session that hears the bell. Transactions that are open may have skipped it,
    /// while one before kept it silent: the relay is to ask which.
    pub(super) fn opened(&mut self) {
        self.state = State::Tired;
    }

    /// The relay has ended the silence.
    pub(super) fn armed(&mut self, skippers: i64) {
        self.state = State::Falling { skippers };
    }

    /// Takes in what a look found. Returns how long to wait before the next (`None`: until the bell
    /// rings or the poll comes round), and whether the relay is to keep the bell silent.
    pub(super) fn after(
        &mut self,
        look: Look,
        hears: bool,
        now: Instant,
    ) -> (Option<Duration>, bool) {
        let has_rung = std::mem::take(&mut self.has_rung);
        if look.events > 0 {
            self.vain = 0;
        } else if has_rung && look.xmin.is_some() {
            self.vain = self.vain.saturating_add(1);
        }
        if look.events == 0 && !look.more {
            return (self.after_nothing(look.xmin, hears), false);
        }
        self.pause = FIRST_PAUSE;
        let are_many = look.more || look.events >= MANY || self.bells_are_many(now);
        let rises = hears && are_many && !matches!(self.state, State::Awake { .. });
        if hears && are_many {
            self.state = State::Awake { quiet: 0 };
        }
        let wait = match self.state {
            // Events that came since have rung, and are heard.
            State::Asleep if hears => None,
            State::Awake { .. } if look.more => Some(Duration::ZERO),
            State::Asleep | State::Falling { .. } | State::Awake { .. } | State::Tired => {
                Some(FIRST_PAUSE)
            }
        };
        (wait, rises)
    }

    fn after_nothing(&mut self, xmin: Option<i64>, hears: bool) -> Option<Duration> {
        match self.state {
            State::Asleep if hears => None,
            State::Falling { skippers } if xmin.is_some_and(|xmin| xmin >= skippers) => {
                self.state = State::Asleep;
                None
            }
            State::Asleep | State::Falling { .. } => Some(self.longer_pause()),
            State::Awake { quiet } if quiet < QUIET_LOOKS => {
                self.state = State::Awake { quiet: quiet + 1 };
                Some(self.longer_pause())
            }
            State::Awake { .. } | State::Tired => {
                self.pause = FIRST_PAUSE;
                // Without a session there is no silence to end.
                self.state = if hears { State::Tired } else { State::Asleep };
                Some(Duration::ZERO)
            }
        }
    }

    fn longer_pause(&mut self) -> Duration {
        let pause = self.pause.min(self.longest_pause);
        self.pause = pause * 2;
        pause
    }

    fn bells_are_many(&self, now: Instant) -> bool {
        self.bells.len() == BELLS
            && self.bells.back().is_some_and(|first| now.saturating_duration_since(*first) < WITHIN)
    }
}
