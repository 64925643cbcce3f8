//! Assigning claims to lanes, and opening lanes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Dispatcher;
use crate::model::endpoint::EndpointId;
use crate::model::outcome::Refusal;
use crate::model::standing::During;
use crate::observe::metrics::Metrics;
use crate::relay::claims::holdings::Booked;
use crate::relay::database::Backoff;
use crate::relay::ended::Ended;
use crate::relay::fault;
use crate::relay::lane::{Lane, Lanes};
use crate::store::StoreError;
use crate::store::endpoints::{FoundEndpoint, endpoints};
use crate::store::routing::Claimed;

impl Dispatcher {
    /// Gives claimed deliveries to their lanes, opening those that are not there or out of date.
    pub(super) async fn assign(&self, token: i64, claimed: Vec<Claimed>) {
        if claimed.is_empty() {
            return;
        }
        self.metrics.deliveries_claimed.increment(claimed.len() as u64);
        let booked = self.claims.holdings.book(token, claimed);
        let now = self.clock.now();
        let mut lanes: HashMap<EndpointId, Option<Arc<Lane>>> = HashMap::new();
        let mut stale = HashSet::new();
        for Booked { claim, .. } in &booked {
            let delivery = &claim.delivery;
            let lane = lanes
                .entry(delivery.endpoint_id)
                .or_insert_with(|| self.lanes.get(delivery.endpoint_id));
            if lane.as_ref().is_none_or(|lane| !lane.is_current(delivery.endpoint_revision, now)) {
                stale.insert(delivery.endpoint_id);
            }
        }
        if !stale.is_empty() {
            let stale: Vec<_> = stale.into_iter().collect();
            if self.open_lanes_however_long(&stale).await.is_err() {
                for Booked { claim, .. } in booked {
                    self.results.report(Ended::unsent(claim)).await;
                }
                return;
            }
            for id in stale {
                lanes.insert(id, self.lanes.get(id));
            }
        }
        for Booked { mut claim, cancelled } in booked {
            let lane = lanes.get(&claim.delivery.endpoint_id).cloned().flatten();
            let gone = lane.is_none().then(|| "endpoint deleted".to_owned());
            match (lane, cancelled.or(gone)) {
                (Some(lane), None) => match fault::caught_at_once(|| lane.push(claim)) {
                    Ok(Ok(())) => {}
                    Ok(Err(claim)) => self.results.report(Ended::unsent(claim)).await,
                    Err(detail) => lane.breaks(detail).await,
                },
                (lane, reason) => {
                    if let Some(lane) = &lane {
                        lane.hold(&mut claim);
                    }
                    let (reason, now) = (reason.unwrap_or_default(), self.clock.instant());
                    self.results.report(Ended::cancelled(claim, reason, now)).await;
                }
            }
        }
        for lane in lanes.into_values().flatten() {
            lane.give_back_excess().await;
        }
    }

    /// Opens the lanes of what is claimed: it is this relay's own until it is in a lane, so an
    /// error must not leave it claimed for ever. `Err`: the term ends, and the error was told.
    async fn open_lanes_however_long(&self, ids: &[EndpointId]) -> Result<(), StoreError> {
        let mut backoff = Backoff::default();
        while let Err(error) = self.open_lanes(ids).await {
            self.database.failed(&self.term, &self.metrics, During::Open, &error);
            if self.term.is_ending() {
                return Err(error);
            }
            backoff.wait(&self.term.ending).await;
        }
        self.database.status.succeeded(During::Open);
        Ok(())
    }

    /// Reads these endpoints and opens their lanes.
    pub(super) async fn open_lanes(&self, ids: &[EndpointId]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        for found in endpoints(&self.database.store, ids).await? {
            open(&self.lanes, &self.metrics, found).resume();
        }
        Ok(())
    }
}

/// Opens an endpoint's lane. Where the endpoint cannot be read, or a bug is in the way, what is
/// owed to it is refused with the reason; no other endpoint is concerned.
fn open(lanes: &Lanes, metrics: &Metrics, found: FoundEndpoint) -> Arc<Lane> {
    let FoundEndpoint { id, revision, known } = found;
    let (why, detail) = match known {
        Ok(known) => {
            let opened = fault::caught_at_once(|| {
                lanes.open(known.endpoint, known.secrets_until, known.health)
            });
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
    use crate::store::endpoints::KnownEndpoint;

    #[tokio::test]
    async fn a_bug_that_opening_one_endpoint_meets_refuses_what_it_is_owed() {
        let (lanes, _results) = lanes();
        let metrics = Metrics::default();
        let bug = format!("{BUG}opening");
        for (id, url) in [(3, bug.as_str()), (4, FORBIDDEN)] {
            let endpoint = Endpoint { url: url.to_owned(), ..Endpoint::unread(id, 1) };
            let known = KnownEndpoint { endpoint, health: Health::default(), secrets_until: None };
            let lane = open(&lanes, &metrics, FoundEndpoint { id, revision: 1, known: Ok(known) });
            assert!(lane.is_current(1, Clock.now()) && lane.serves(), "{url}");
            let outcome = lane.try_once(&delivery("order.paid")).await;
            let Outcome::Refused { why, .. } = outcome else { panic!("{outcome:?}") };
            let expected = if url == bug { Refusal::Fault } else { Refusal::ForbiddenAddress };
            assert_eq!(why, expected, "{url}");
        }
        assert!(metrics.render().contains("posthaste_faults_total 1"));
    }
}
