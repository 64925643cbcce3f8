//! One relay's share of an endpoint's limits, so that they hold over all relays together.
//!
//! Every relay reads from the same table which relays live, and computes the shares alone. While a
//! relay comes or goes, shares may not add up for a heartbeat.

use super::endpoint::EndpointId;

/// The position of a relay among the live ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// From 0, in the order of the relays' numbers.
    position: u32,
    /// At least 1.
    relays: u32,
}

/// One relay's part of an endpoint's limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EndpointShare {
    /// Requests at once; at least 1.
    pub max_concurrency: u32,
    /// Attempts a second.
    pub rate_limit: Option<f64>,
    /// How many relays have such a part.
    pub relays: u32,
}

impl Share {
    /// The only relay there is.
    pub const ALONE: Self = Self { position: 0, relays: 1 };

    /// The share of the relay `me` among those that live.
    #[must_use]
    pub fn among<T: Ord + Copy>(relays: &[T], me: T) -> Self {
        let before = relays.iter().filter(|&&other| other < me).count();
        let others = relays.iter().filter(|&&other| other != me).count();
        let small = |count| u32::try_from(count).unwrap_or(u32::MAX - 1);
        Self { position: small(before), relays: small(others) + 1 }
    }

    /// How many relays there are.
    #[must_use]
    pub fn relays(self) -> u32 {
        self.relays
    }

    /// This relay's part of an endpoint's limits; `None` if others use them up.
    ///
    /// As many relays serve an endpoint as can each have one request at once and, where there is a
    /// rate limit, one attempt a second: a bucket of tokens holds at least one.
    #[must_use]
    pub fn of(
        self,
        endpoint: EndpointId,
        max_concurrency: u32,
        rate_limit: Option<f64>,
    ) -> Option<EndpointShare> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to what a u32 holds"
        )]
        let by_rate = rate_limit.map_or(u32::MAX, |rate| rate.clamp(1.0, 1e9) as u32);
        let servers = self.relays.min(max_concurrency.max(1)).min(by_rate);
        // Each endpoint begins with another relay, so that small limits spread.
        let turn =
            u64::from(self.position) + endpoint.rem_euclid(i64::from(self.relays)).unsigned_abs();
        let turn = u32::try_from(turn % u64::from(self.relays)).unwrap_or(0);
        (turn < servers).then(|| EndpointShare {
            max_concurrency: (max_concurrency.max(1) / servers)
                + u32::from(turn < max_concurrency.max(1) % servers),
            rate_limit: rate_limit.map(|rate| rate / f64::from(servers)),
            relays: servers,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(relays: u32) -> impl Iterator<Item = Share> {
        let all: Vec<u32> = (0..relays).map(|n| n * 3 + 1).collect();
        (0..relays).map(move |n| Share::among(&all, n * 3 + 1))
    }

    #[test]
    fn a_relay_alone_has_all_of_it() {
        let all = EndpointShare { max_concurrency: 7, rate_limit: Some(0.5), relays: 1 };
        assert_eq!(Share::ALONE.of(3, 7, Some(0.5)), Some(all));
        assert_eq!(Share::among(&[5], 5), Share::ALONE);
        assert_eq!(Share::among(&[], 5), Share::ALONE, "its row may not be there yet");
    }

    #[test]
    fn one_at_a_time_is_served_by_one_relay_and_not_always_the_same() {
        let server = |endpoint| shares(3).position(|share| share.of(endpoint, 1, None).is_some());
        let servers: Vec<_> = (0..3).map(server).collect();
        let mut different = servers.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), 3, "{servers:?}");
    }

    proptest! {
        #[test]
        fn the_parts_make_up_the_whole(
            relays in 1u32..40,
            endpoint in any::<i64>(),
            max_concurrency in 1u32..500,
            rate_limit in proptest::option::of(0.01f64..1000.0),
        ) {
            let parts: Vec<_> = shares(relays)
                .filter_map(|share| share.of(endpoint, max_concurrency, rate_limit))
                .collect();
            let requests: u32 = parts.iter().map(|part| part.max_concurrency).sum();
            prop_assert_eq!(requests, max_concurrency);
            prop_assert!(parts.iter().all(|part| part.max_concurrency >= 1));
            let all = usize::try_from(parts[0].relays);
            prop_assert_eq!(all, Ok(parts.len()));
            if let Some(rate) = rate_limit {
                let rates: f64 = parts.iter().filter_map(|part| part.rate_limit).sum();
                prop_assert!((rates - rate).abs() < 1e-9 * rate);
                // A bucket lets one request through at once, however low the rate.
                let bursts: f64 = parts.iter().filter_map(|part| part.rate_limit).map(|rate| rate.max(1.0)).sum();
                prop_assert!(bursts <= rate.max(1.0) + 1e-9 * rate);
            }
        }
    }
}
