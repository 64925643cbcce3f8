//! Assigning claims to lanes, and opening lanes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Dispatcher;
use crate::model::delivery::Delivery;
use crate::model::endpoint::EndpointId;
use crate::model::outcome::Refusal;
use crate::model::standing::During;
use crate::model::withdrawal::Withdrawal;
use crate::observe::metrics::Metrics;
use crate::relay::claims::holdings::{Booked, Claim};
use crate::relay::database::Backoff;
use crate::relay::ended::Ended;
use crate::relay::fault;
use crate::relay::lane::{Lane, Lanes};
use crate::store::StoreError;
use crate::store::endpoints::{FoundEndpoint, KnownEndpoint, endpoints};
use crate::store::routing::Claimed;

/// What becomes of an endpoint's claims.
#[derive(Debug)]
enum Taker {
    Lane(Arc<Lane>),
    /// They are given back: the endpoint was disabled while it was claimed for.
    Disabled,
    /// They are cancelled.
    Deleted,
}

/// How often an endpoint is read that changes while it is read; then what it is owed is given back.
const READINGS_MAX: usize = 3;

impl Dispatcher {
    /// Gives claimed deliveries to their lanes, opening those that are not there or out of date.
    pub(super) async fn assign(&self, token: i64, claimed: Vec<Claimed>) {
        if claimed.is_empty() {
            return;
        }
        self.metrics.deliveries_claimed.increment(claimed.len() as u64);
        let booked = self.claims.holdings.book(token, claimed);
        let Ok(takers) = self.takers(&booked).await else {
            for Booked { claim, .. } in booked {
                self.results.report(Ended::unsent(claim)).await;
            }
            return;
        };
        let withdrawn = self.lanes.withdrawn_meanwhile();
        for Booked { claim, cancelled } in booked {
            let is_of = |one: &&Withdrawal| one.is_of(&claim.delivery);
            let cancelled =
                cancelled.or_else(|| Some(withdrawn.iter().find(is_of)?.reason.clone()));
            if let Some(taker) = takers.get(&claim.delivery.endpoint_id) {
                self.put(claim, cancelled, taker).await;
            }
        }
        for taker in takers.into_values() {
            if let Taker::Lane(lane) = taker {
                lane.give_back_excess().await;
            }
        }
    }

    /// Who takes each endpoint's claims. `Err`: the term ends, and the error was told.
    async fn takers(&self, booked: &[Booked]) -> Result<HashMap<EndpointId, Taker>, StoreError> {
        let now = self.clock.now();
        let mut takers = HashMap::new();
        let mut stale = HashSet::new();
        for Booked { claim, .. } in booked {
            let Delivery { endpoint_id, endpoint_revision, .. } = *claim.delivery;
            let taker = takers
                .entry(endpoint_id)
                .or_insert_with(|| self.lanes.get(endpoint_id).map_or(Taker::Deleted, Taker::Lane));
            let Taker::Lane(lane) = taker else { continue };
            if !lane.is_current(endpoint_revision, now) {
                stale.insert(endpoint_id);
            }
        }
        let unknown = takers.iter().filter(|(_, taker)| matches!(taker, Taker::Deleted));
        stale.extend(unknown.map(|(id, _)| *id));
        if !stale.is_empty() {
            let stale: Vec<_> = stale.into_iter().collect();
            let mut opened = self.open_lanes_however_long(&stale).await?;
            for id in stale {
                takers.insert(id, opened.remove(&id).unwrap_or(Taker::Deleted));
            }
        }
        Ok(takers)
    }

    /// Puts a claim into its lane, or ends it.
    async fn put(&self, mut claim: Claim, cancelled: Option<String>, taker: &Taker) {
        let ended = match (taker, cancelled) {
            (Taker::Lane(lane), None) => match fault::caught_at_once(|| lane.push(claim)) {
                Ok(Ok(())) => return,
                Ok(Err(claim)) => Ended::unsent(claim),
                Err(detail) => return lane.breaks(detail).await,
            },
            (Taker::Disabled, None) => Ended::unsent(claim),
            (taker, reason) => {
                if let Taker::Lane(lane) = taker {
                    lane.hold(&mut claim);
                }
                let reason = reason.unwrap_or_else(|| "endpoint deleted".to_owned());
                Ended::cancelled(claim, reason, self.clock.instant())
            }
        };
        self.results.report(ended).await;
    }

    /// Opens the lanes of what is claimed: it is this relay's own until it is in a lane, so an
    /// error must not leave it claimed for ever. `Err`: the term ends, and the error was told.
    async fn open_lanes_however_long(
        &self,
        ids: &[EndpointId],
    ) -> Result<HashMap<EndpointId, Taker>, StoreError> {
        let mut backoff = Backoff::default();
        loop {
            let error = match self.open_lanes(ids).await {
                Ok(opened) => {
                    self.database.status.succeeded(During::Open);
                    return Ok(opened);
                }
                Err(error) => error,
            };
            self.database.failed(&self.term, &self.metrics, During::Open, &error);
            if self.term.is_ending() {
                return Err(error);
            }
            backoff.wait(&self.term.ending).await;
        }
    }

    /// Reads endpoints that a poll has found to have changed, and opens their lanes.
    pub(super) async fn reopen_lanes(&self, ids: &[EndpointId]) -> Result<(), StoreError> {
        self.open_lanes(ids).await.map(drop)
    }

    /// Reads these endpoints and opens their lanes. Those that are gone are missing from the
    /// answer.
    async fn open_lanes(
        &self,
        ids: &[EndpointId],
    ) -> Result<HashMap<EndpointId, Taker>, StoreError> {
        let (mut ids, mut opened) = (ids.to_vec(), HashMap::new());
        for _ in 0..READINGS_MAX {
            self.lanes.reading();
            if ids.is_empty() {
                break;
            }
            opened.retain(|id, _| !ids.contains(id));
            for found in endpoints(&self.database.store, &ids).await? {
                let id = found.id;
                let taker = if found.enabled {
                    let lane = open(&self.lanes, &self.metrics, found);
                    lane.resume();
                    Taker::Lane(lane)
                } else {
                    Taker::Disabled
                };
                opened.insert(id, taker);
            }
            ids.retain(|id| self.lanes.is_outdated_meanwhile(*id));
        }
        Ok(opened)
    }
}

/// Opens an endpoint's lane. Where the endpoint cannot be read, or a bug is in the way, what is
/// owed to it is refused with the reason; no other endpoint is concerned.
fn open(lanes: &Lanes, metrics: &Metrics, found: FoundEndpoint) -> Arc<Lane> {
    let FoundEndpoint { id, revision, known, .. } = found;
    let (why, detail) = match known {
        Ok(known) => {
            let KnownEndpoint { endpoint, health, window, secrets_until } = known;
            let opened =
                fault::caught_at_once(|| lanes.open(endpoint, secrets_until, health, window));
            match opened {
                Ok(lane) => return lane,
                Err(detail) => {
                    metrics.faults.increment(1);
                    (Refusal::Fault, detail)
                }
            }
        }
        Err(error) => (Refusal::BadEndpoint, error.in_full()),
    };
    tracing::error!(
        endpoint = id,
        error = detail,
        "this endpoint cannot be used; what it is owed is refused"
    );
    lanes.open_unusable(id, revision, (why, detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::model::endpoint::Endpoint;
    use crate::model::health::Health;
    use crate::model::outcome::Outcome;
    use crate::relay::fault::tests::{BUG, delivery};
    use crate::relay::lane::tests::{FORBIDDEN, lanes};

    #[tokio::test]
    async fn a_bug_that_opening_one_endpoint_meets_refuses_what_it_is_owed() {
        let (lanes, _results) = lanes();
        let metrics = Metrics::default();
        let bug = format!("{BUG}opening");
        for (id, url) in [(3, bug.as_str()), (4, FORBIDDEN)] {
            let endpoint = Endpoint { url: url.to_owned(), ..Endpoint::unread(id, 1) };
            let health = Health::default();
            let known = KnownEndpoint { endpoint, health, window: None, secrets_until: None };
            let found = FoundEndpoint { id, revision: 1, enabled: true, known: Ok(known) };
            let lane = open(&lanes, &metrics, found);
            assert!(lane.is_current(1, Clock.now()) && lane.serves(), "{url}");
            let outcome = lane.try_once(&delivery("order.paid")).await;
            let Outcome::Refused { why, .. } = outcome else { panic!("{outcome:?}") };
            let expected = if url == bug { Refusal::Fault } else { Refusal::ForbiddenAddress };
            assert_eq!(why, expected, "{url}");
        }
        assert!(metrics.render().contains("posthaste_faults_total 1"));
    }
}
