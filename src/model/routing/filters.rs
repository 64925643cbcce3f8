//! Filters that take too long. Each of them would hold up the events of all other endpoints, so it
//! goes unasked for a while, longer each time, and after the third time its endpoint is disabled.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::model::endpoint::EndpointId;

/// Long enough that a slow filter costs the others little; twice as long each time …
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// A busy minute of the database may make an honest filter slow, and then a second time.
const TIMES: u32 = 3;

/// Endpoints whose filter took too long when it was last asked.
#[derive(Debug, Default)]
pub struct SlowFilters {
    unasked: HashMap<EndpointId, Unasked>,
    /// Those that took too long too often, and what was said last.
    blamed: Vec<(EndpointId, String)>,
}

#[derive(Debug, Clone, Copy)]
struct Unasked {
    until: Instant,
    pause: Duration,
    times: u32,
}

impl SlowFilters {
    /// Whether the filter is not asked for now.
    #[must_use]
    pub fn is_unasked(&self, endpoint: EndpointId, now: Instant) -> bool {
        self.unasked.get(&endpoint).is_some_and(|unasked| now < unasked.until)
    }

    /// The filter took too long: this was said.
    pub fn took_too_long(&mut self, endpoint: EndpointId, said: &str, now: Instant) {
        let new = Unasked { until: now, pause: FIRST_PAUSE / 2, times: 0 };
        let unasked = self.unasked.entry(endpoint).or_insert(new);
        unasked.pause = (unasked.pause * 2).min(LONGEST_PAUSE);
        unasked.until = now + unasked.pause;
        unasked.times += 1;
        if unasked.times >= TIMES {
            self.blamed.push((endpoint, said.to_owned()));
        }
    }

    /// The endpoints that are to be disabled, and why.
    pub fn take_blamed(&mut self) -> Vec<(EndpointId, String)> {
        std::mem::take(&mut self.blamed)
    }

    /// The filters of these were asked, and answered.
    pub fn answered(&mut self, endpoints: impl IntoIterator<Item = EndpointId>) {
        if self.unasked.is_empty() {
            return;
        }
        for endpoint in endpoints {
            self.unasked.remove(&endpoint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn a_slow_filter_goes_unasked_for_longer_each_time_and_disables_its_endpoint_at_the_third() {
        let mut slow = SlowFilters::default();
        let mut now = Instant::now();
        for (pause, is_enough) in [(5, false), (10, false), (20, true), (40, true)] {
            let pause = Duration::from_secs(pause);
            assert!(!slow.is_unasked(1, now));
            slow.took_too_long(1, "57014", now);
            assert_eq!(!slow.take_blamed().is_empty(), is_enough);
            assert!(slow.is_unasked(1, now) && !slow.is_unasked(2, now));
            now += pause - Duration::from_millis(1);
            assert!(slow.is_unasked(1, now));
            now += Duration::from_millis(1);
        }
        slow.answered([1]);
        slow.took_too_long(1, "57014", now);
        assert!(slow.take_blamed().is_empty());
    }
}
