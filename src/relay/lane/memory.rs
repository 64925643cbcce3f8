//! What is known of an endpoint's window when its lane is gone: where the next one begins. An
//! endpoint that has answered 64 at once need not show it again for each burst.
//!
//! It outlives a term, but not the process.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::model::endpoint::EndpointId;
use crate::model::window::Remembered;

/// Long enough for what comes once a day. Some 50 bytes for each endpoint.
const KEPT_FOR: Duration = Duration::from_secs(25 * 60 * 60);

/// See the module.
#[derive(Debug, Default)]
pub(in crate::relay) struct WindowMemory(Mutex<HashMap<EndpointId, (Remembered, Instant)>>);

impl WindowMemory {
    /// Keeps what is known of an endpoint whose lane ends.
    pub(super) fn keep(&self, id: EndpointId, window: Option<Remembered>, now: Instant) {
        if let Some(window) = window {
            self.with(|kept| kept.insert(id, (window, now)));
        }
    }

    /// What is known of an endpoint whose lane begins; from now on the lane knows it better.
    pub(super) fn take(&self, id: EndpointId) -> Option<Remembered> {
        self.with(|kept| kept.remove(&id)).map(|(window, _)| window)
    }

    /// Forgets endpoints that have had no lane for long.
    pub(super) fn forget(&self, now: Instant) {
        let is_young = |since: Instant| now.saturating_duration_since(since) < KEPT_FOR;
        self.with(|kept| kept.retain(|_, (_, since)| is_young(*since)));
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<EndpointId, (Remembered, Instant)>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn a_window_is_remembered_once_and_for_a_day() {
        let (memory, now) = (WindowMemory::default(), Instant::now());
        let window = Remembered { size: 64, normal: 3.0 };
        memory.keep(7, Some(window), now);
        memory.keep(8, None, now);
        memory.forget(now + KEPT_FOR / 2);
        assert_eq!([7, 7, 8].map(|id| memory.take(id)), [Some(window), None, None]);
        memory.keep(7, Some(window), now);
        memory.forget(now + KEPT_FOR);
        assert_eq!(memory.take(7), None);
    }
}
