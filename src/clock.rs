//! Where the time comes from. Nothing else reads a clock (`clippy.toml` sees to it), so a test can
//! stand still.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// The relay's clock: wall time for headers, monotonic time for durations. What is due is decided by
/// Postgres, on its own clock.
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
