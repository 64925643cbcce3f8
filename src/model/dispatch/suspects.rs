//! Finds the endpoint for which claiming fails. A claim serves many endpoints in one statement, so
//! one row that the database cannot read would hold up all of them, for ever. A claim that fails
//! twice is therefore tried for half as many deliveries, down to a single one, and the endpoint of
//! that one goes without claims for a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::model::endpoint::EndpointId;

/// Long enough that an endpoint which always fails costs little, short enough that an endpoint
/// which was fixed goes on soon; twice as long each time …
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// The search for it, and the endpoints it has found.
#[derive(Debug, Clone)]
pub struct Suspects {
    /// Deliveries that the next claim may ask for.
    most: usize,
    /// The last claim failed.
    failed: bool,
    /// Until when nothing is claimed for these.
    left_out: HashMap<EndpointId, LeftOut>,
}

#[derive(Debug, Clone, Copy)]
struct LeftOut {
    until: Instant,
    pause: Duration,
}

/// Follows from a claim that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The same is tried again: the error may have passed.
    Again,
    /// The first half of it is tried.
    Half,
    /// This endpoint is to blame, and nothing is claimed for it for this long.
    Without(EndpointId, Duration),
}

impl Default for Suspects {
    fn default() -> Self {
        Self { most: usize::MAX, failed: false, left_out: HashMap::new() }
    }
}

impl Suspects {
    /// Deliveries that the next claim may ask for.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// Whether fewer are asked for than could be.
    #[must_use]
    pub fn are_sought(&self) -> bool {
        self.most < usize::MAX
    }

    /// Whether nothing is claimed for this endpoint for now.
    #[must_use]
    pub fn is_left_out(&self, endpoint: EndpointId, now: Instant) -> bool {
        self.left_out.get(&endpoint).is_some_and(|out| now < out.until)
    }

    /// A claim for these has succeeded.
    pub fn clear(&mut self, endpoints: &[EndpointId]) {
        self.failed = false;
        self.most = self.most.saturating_mul(2);
        if !self.left_out.is_empty() {
            self.left_out.retain(|endpoint, _| !endpoints.contains(endpoint));
        }
    }

    /// A claim for these endpoints, of `asked` deliveries, has failed, and one of its rows may be
    /// the reason.
    pub fn accuse(&mut self, endpoints: &[EndpointId], asked: usize, now: Instant) -> Blame {
        if !std::mem::replace(&mut self.failed, true) {
            return Blame::Again;
        }
        match endpoints {
            [one] if asked <= 1 => {
                let before = self.left_out.get(one).map(|out| out.pause * 2);
                let pause = before.unwrap_or(FIRST_PAUSE).min(LONGEST_PAUSE);
                self.left_out.insert(*one, LeftOut { until: now + pause, pause });
                Blame::Without(*one, pause)
            }
            _ => {
                self.most = (asked / 2).max(1);
                Blame::Half
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claims one delivery for each of these but those left out, as far as it may, where any claim
    /// for one of `bad` fails. Returns the endpoints it claimed for.
    fn claim(
        suspects: &mut Suspects,
        all: &[EndpointId],
        bad: &[EndpointId],
        now: Instant,
    ) -> Vec<EndpointId> {
        let asked = all.iter().copied().filter(|one| !suspects.is_left_out(*one, now));
        let asked: Vec<_> = asked.take(suspects.most()).collect();
        if asked.iter().any(|one| bad.contains(one)) {
            suspects.accuse(&asked, asked.len(), now);
            Vec::new()
        } else {
            suspects.clear(&asked);
            asked
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn the_endpoints_that_fail_are_found_and_all_others_are_served() {
        let now = Instant::now();
        let mut suspects = Suspects::default();
        let mut owed: Vec<EndpointId> = (1..=500).collect();
        let mut statements = 0;
        while owed.len() > 2 {
            let served = claim(&mut suspects, &owed, &[3, 321], now);
            owed.retain(|one| !served.contains(one));
            statements += 1;
            assert!(statements < 60, "{owed:?} {suspects:?}");
        }
        assert_eq!(owed, [3, 321]);
        // One of them is fixed.
        let later = now + FIRST_PAUSE;
        while !owed.is_empty() && statements < 80 {
            let served = claim(&mut suspects, &owed, &[321], later);
            owed.retain(|one| !served.contains(one));
            statements += 1;
        }
        assert_eq!(owed, [321]);
        assert!(suspects.is_left_out(321, later) && !suspects.is_left_out(3, later));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn a_failure_that_is_not_repeated_accuses_no_endpoint_and_one_that_goes_on_waits_longer() {
        let now = Instant::now();
        let mut suspects = Suspects::default();
        assert_eq!(suspects.accuse(&[1], 1, now), Blame::Again);
        suspects.clear(&[1]);
        assert_eq!(suspects.accuse(&[1], 1, now), Blame::Again);
        assert_eq!(suspects.accuse(&[1], 8, now), Blame::Half);
        assert_eq!(suspects.most(), 4);
        for pause in [5, 10, 20, 40, 80, 160, 320, 600, 600] {
            let pause = Duration::from_secs(pause);
            assert_eq!(suspects.accuse(&[1], 1, now), Blame::Without(1, pause));
        }
    }
}
