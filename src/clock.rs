//! The source of time, so that a test can let it stand still.
//!
//! No other code of this crate reads the standard library's clocks (`clippy.toml` forbids them).
//! tokio's timers and Postgres have clocks of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

/// The real time: wall time for headers, monotonic time for durations. Postgres decides what is
/// due, on its own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock;

impl Clock {
    #[must_use]
    pub fn now(self) -> Timestamp {
        Timestamp::now()
    }

    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn instant(self) -> Instant {
        Instant::now()
    }

    /// Time since an earlier [`instant`](Self::instant).
    #[must_use]
    pub fn since(self, earlier: Instant) -> Duration {
        self.instant().saturating_duration_since(earlier)
    }
}

/// The present of a relay, which it tells Postgres: the real one, or one that a test has moved
/// ahead or set wrong. Hours pass in it without a wait.
#[derive(Debug, Clone, Default)]
pub struct Present {
    /// Milliseconds ahead of the real time. `None`: it cannot be moved.
    ahead: Option<Arc<AtomicU64>>,
    /// Milliseconds by which the wall clock is wrong, without the relay's knowledge.
    wrong: Arc<AtomicI64>,
    /// The time of the wall clock, if it stands still.
    still: Option<Timestamp>,
}

impl Present {
    /// A present that can be moved ahead; every clone moves with it.
    #[must_use]
    pub fn movable() -> Self {
        Self { ahead: Some(Arc::default()), ..Self::default() }
    }

    /// A present whose wall clock stands still, for tests that depend on the second; the monotonic
    /// clock goes on.
    #[must_use]
    pub fn still_at(at: Timestamp) -> Self {
        Self { still: Some(at), ..Self::default() }
    }

    /// Lets this much time pass at once. The real present stays where it is.
    pub fn advance(&self, by: Duration) {
        if let Some(ahead) = &self.ahead {
            ahead.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// Sets the wall clock wrong by this much, as an operator or a virtual machine may; the
    /// monotonic clock goes on, and Postgres has a clock of its own.
    pub fn set_wrong(&self, by: SignedDuration) {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.wrong.store(by, Ordering::Relaxed);
    }

    #[must_use]
    pub fn now(&self) -> Timestamp {
        let wrong = SignedDuration::from_millis(self.wrong.load(Ordering::Relaxed));
        let now = self.still.unwrap_or_else(|| Clock.now());
        let now = now.saturating_add(wrong).unwrap_or(Timestamp::MAX);
        now.checked_add(self.ahead()).unwrap_or(Timestamp::MAX)
    }

    #[must_use]
    pub fn instant(&self) -> Instant {
        Clock.instant() + self.ahead()
    }

    /// Time since an earlier [`instant`](Self::instant).
    #[must_use]
    pub fn since(&self, earlier: Instant) -> Duration {
        self.instant().saturating_duration_since(earlier)
    }

    /// The present that Postgres is told. `None`: its own clock.
    #[must_use]
    pub fn handed_in(&self) -> Option<Timestamp> {
        self.ahead.as_ref().map(|_| self.now())
    }

    fn ahead(&self) -> Duration {
        Duration::from_millis(self.ahead.as_ref().map_or(0, |ahead| ahead.load(Ordering::Relaxed)))
    }
}
