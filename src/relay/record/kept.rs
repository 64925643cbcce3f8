//! What could neither be recorded nor set aside. Its claims are kept, so nothing is sent twice.

use std::time::{Duration, Instant};

use crate::relay::ended::Ended;

/// Between two tries to record what could not even be set aside, for instance since an operator
/// holds a lock on its row.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Results that could not even be set aside.
#[derive(Debug, Default)]
pub(in crate::relay) struct Unrecorded {
    pub(super) results: Vec<Ended>,
    pub(super) tried_at: Option<Instant>,
    /// How many results have been set aside since one was recorded.
    pub(super) in_a_row: u32,
}

impl Unrecorded {
    pub(super) fn is_empty(&self) -> bool {
        self.results.is_empty()
    }

    /// Those to be tried again, if it is time to.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Ended> {
        let is_due =
            self.tried_at.is_none_or(|at| now.saturating_duration_since(at) >= AGAIN_AFTER);
        if self.results.is_empty() || !is_due {
            return Vec::new();
        }
        self.tried_at = Some(now);
        std::mem::take(&mut self.results)
    }

    /// When it is time to.
    pub(super) fn due_in(&self, now: Instant) -> Option<Duration> {
        let waited = self.tried_at.map_or(AGAIN_AFTER, |at| now.saturating_duration_since(at));
        (!self.results.is_empty()).then(|| AGAIN_AFTER.saturating_sub(waited))
    }
}
