//! Remembers when each endpoint is next owed something that is not claimed. A hint: the database
//! decides what is due, and is asked for all of it with every poll.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::model::endpoint::EndpointId;

/// Deliveries that are due later than this are left to a later poll.
pub const HORIZON: Duration = Duration::from_secs(60);

/// The next moment of each endpoint.
#[derive(Debug, Default)]
pub struct Due {
    by_time: BTreeSet<(Instant, EndpointId)>,
    by_endpoint: HashMap<EndpointId, Instant>,
}

impl Due {
    /// Notes that the endpoint is owed something at that moment; an earlier one stays.
    pub fn put(&mut self, endpoint: EndpointId, at: Instant) {
        if let Some(&known) = self.by_endpoint.get(&endpoint) {
            if known <= at {
                return;
            }
            self.by_time.remove(&(known, endpoint));
        }
        self.by_endpoint.insert(endpoint, at);
        self.by_time.insert((at, endpoint));
    }

    /// Removes the endpoint: it has been looked at.
    pub fn remove(&mut self, endpoint: EndpointId) {
        if let Some(at) = self.by_endpoint.remove(&endpoint) {
            self.by_time.remove(&(at, endpoint));
        }
    }

    /// The endpoints that are due, longest first.
    pub fn due(&self, now: Instant) -> impl Iterator<Item = EndpointId> + '_ {
        self.by_time.iter().take_while(move |(at, _)| *at <= now).map(|(_, endpoint)| *endpoint)
    }

    /// The first moment after now.
    pub fn next_after(&self, now: Instant) -> Option<Instant> {
        self.by_time
            .range((now + Duration::from_nanos(1), EndpointId::MIN)..)
            .next()
            .map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn an_endpoint_is_due_at_its_earliest_moment_until_it_is_removed() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut due = Due::default();
        due.put(7, start + 3 * second);
        due.put(7, start + second);
        due.put(7, start + 2 * second);
        due.put(8, start + 2 * second);
        assert_eq!(due.next_after(start), Some(start + second));
        assert_eq!(due.due(start).count(), 0);
        assert_eq!(due.due(start + 2 * second).collect::<Vec<_>>(), [7, 8]);
        due.remove(7);
        assert_eq!(due.due(start + 3 * second).collect::<Vec<_>>(), [8]);
        assert_eq!(due.next_after(start + 2 * second), None);
    }
}
