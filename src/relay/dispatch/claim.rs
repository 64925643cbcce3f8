//! Claiming what is due, and handing claims to their lanes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Dispatcher;
use crate::model::dispatch::Blame as Next;
use crate::model::endpoint::EndpointId;
use crate::model::outcome::Refusal;
use crate::relay::Shared;
use crate::relay::claims::holdings::Booked;
use crate::relay::database::Backoff;
use crate::relay::ended::Ended;
use crate::relay::fault;
use crate::relay::lane::Lane;
use crate::store::StoreError;
use crate::store::deliveries::claim;
use crate::store::endpoints::{Found, endpoints};
use crate::store::routing::Claimed;

/// Endpoints that one claim looks at.
const ENDPOINTS_PER_CLAIM: usize = 500;

impl Dispatcher {
    /// Claims what is due for endpoints with room.
    pub(in crate::relay) async fn claim_due(&mut self) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let at = shared.clock.instant();
        let mut left = shared.claims.room().min(self.suspects.most());
        let (mut ids, mut rooms) = (Vec::new(), Vec::new());
        let mut asked = 0;
        for endpoint in shared.claims.due().due(at) {
            if ids.len() == ENDPOINTS_PER_CLAIM || left == 0 {
                break;
            }
            if self.suspects.is_left_out(endpoint, at) {
                continue;
            }
            let room = shared
                .lanes
                .get(endpoint)
                .map_or(shared.lanes.first_room(), |lane| lane.room())
                .min(left);
            if room > 0 {
                left -= room;
                asked += room;
                ids.push(endpoint);
                rooms.push(i32::try_from(room).unwrap_or(i32::MAX));
            }
        }
        if ids.is_empty() {
            return Ok(());
        }
        self.next_token();
        let began = shared.clock.instant();
        let bytes = i64::try_from(shared.claims.room_for_bytes()).unwrap_or(i64::MAX);
        let claims =
            claim(&shared.database.store, shared.term.relay, self.token, &ids, &rooms, bytes).await;
        let claims = match claims {
            Ok(claims) => claims,
            Err(error) => {
                self.doubt();
                return self.seek(error, &ids, asked);
            }
        };
        shared.metrics.claim_duration.record(shared.clock.since(began));
        if self.suspects.are_sought() {
            // More may be due than was asked for.
            shared.claims.room_freed.notify_one();
        }
        self.suspects.clear(&ids);
        let mut counts: HashMap<EndpointId, i32> = HashMap::with_capacity(ids.len());
        for one in &claims.claimed {
            *counts.entry(one.delivery.endpoint_id).or_default() += 1;
        }
        for (endpoint, room) in ids.iter().zip(&rooms) {
            // Fewer than asked for: nothing more is due, as far as one can see.
            if !claims.is_cut && counts.get(endpoint).is_none_or(|count| count < room) {
                shared.claims.due().remove(*endpoint);
            }
        }
        self.assign(claims.claimed).await
    }

    /// Sees to it that an endpoint of which claiming fails does not hold up the others.
    fn seek(
        &mut self,
        error: StoreError,
        endpoints: &[EndpointId],
        asked: usize,
    ) -> Result<(), StoreError> {
        if !error.may_be_of_some_row() {
            return Err(error);
        }
        let now = self.shared.clock.instant();
        match self.suspects.accuse(endpoints, asked, now) {
            Next::Again => return Err(error),
            Next::Half => {}
            Next::Without(endpoint, pause) => {
                tracing::error!(
                    endpoint,
                    error = error.in_full(),
                    again_in_s = pause.as_secs(),
                    "nothing can be claimed for this endpoint; the others go on"
                );
                let mut due = self.shared.claims.due();
                due.remove(endpoint);
                due.put(endpoint, now + pause);
            }
        }
        self.shared.metrics.database_errors.claim.increment(1);
        self.shared.claims.room_freed.notify_one();
        Ok(())
    }

    /// Gives claimed deliveries to their lanes, opening those that are not there or out of date.
    pub(in crate::relay) async fn assign(
        &mut self,
        claimed: Vec<Claimed>,
    ) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        if claimed.is_empty() {
            return Ok(());
        }
        shared.metrics.deliveries_claimed.increment(claimed.len() as u64);
        let claimed = shared.claims.holdings.book(self.token, claimed);
        let now = shared.clock.now();
        let mut lanes: HashMap<EndpointId, Option<Arc<Lane>>> = HashMap::new();
        let mut stale = HashSet::new();
        for Booked { claim, .. } in &claimed {
            let delivery = &claim.delivery;
            let lane = lanes
                .entry(delivery.endpoint_id)
                .or_insert_with(|| shared.lanes.get(delivery.endpoint_id));
            if lane.as_ref().is_none_or(|lane| !lane.is_current(delivery.endpoint_revision, now)) {
                stale.insert(delivery.endpoint_id);
            }
        }
        if !stale.is_empty() {
            let stale: Vec<_> = stale.into_iter().collect();
            // Ours until they are in a lane: an error here must not leave them claimed for ever.
            let mut backoff = Backoff::default();
            while let Err(error) = self.open_lanes(&stale).await {
                shared.database.failed(&shared.term, &shared.metrics.database_errors.claim, &error);
                if shared.term.is_ending() {
                    for Booked { claim, .. } in claimed {
                        shared.results.report(Ended::unsent(claim)).await;
                    }
                    return Err(error);
                }
                backoff.wait(&shared.term.ending).await;
            }
            for id in stale {
                lanes.insert(id, shared.lanes.get(id));
            }
        }
        for Booked { mut claim, cancelled } in claimed {
            let lane = lanes.get(&claim.delivery.endpoint_id).cloned().flatten();
            let gone = lane.is_none().then(|| "endpoint deleted".to_owned());
            match (lane, cancelled.or(gone)) {
                (Some(lane), None) => lane.push(claim),
                (lane, reason) => {
                    if let Some(lane) = &lane {
                        lane.hold(&mut claim);
                    }
                    let reason = reason.unwrap_or_default();
                    let now = shared.clock.instant();
                    shared.results.report(Ended::cancelled(claim, reason, now)).await;
                }
            }
        }
        for lane in lanes.into_values().flatten() {
            lane.give_back_excess().await;
        }
        Ok(())
    }

    pub(in crate::relay) async fn open_lanes(&self, ids: &[EndpointId]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        for found in endpoints(&self.shared.database.store, ids).await? {
            open(&self.shared, found).resume();
        }
        Ok(())
    }
}

/// Opens an endpoint's lane. Where the endpoint cannot be read, or a bug is in the way, what is owed to it is
/// refused and says why; no other is concerned.
fn open(shared: &Shared, found: Found) -> Arc<Lane> {
    let Found { id, revision, known } = found;
    let (why, detail) = match known {
        Ok(known) => {
            let opened = fault::caught_at_once(|| {
                shared.lanes.open(known.endpoint, known.secrets_until, known.health)
            });
            match opened {
                Ok(lane) => return lane,
                Err(detail) => {
                    shared.metrics.faults.increment(1);
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
    shared.lanes.open_unusable(id, revision, (why, detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::model::endpoint::Endpoint;
    use crate::model::health::Health;
    use crate::model::outcome::Outcome;
    use crate::relay::fault::tests::{BUG, delivery, term};
    use crate::store::endpoints::Known;

    #[tokio::test]
    async fn a_bug_that_opening_one_endpoint_meets_refuses_what_it_is_owed() {
        let shared = term();
        for (id, url) in [(3, BUG), (4, "https://example.com/")] {
            let endpoint = Endpoint { url: url.to_owned(), ..Endpoint::unread(id, 1) };
            let known = Known { endpoint, health: Health::default(), secrets_until: None };
            let lane = open(&shared, Found { id, revision: 1, known: Ok(known) });
            assert!(lane.is_current(1, Clock.now()) && lane.serves(), "{url}");
            let outcome = lane.try_once(&delivery("order.paid")).await;
            let Outcome::Refused { why, .. } = outcome else { panic!("{outcome:?}") };
            let expected = if url == BUG { Refusal::Fault } else { Refusal::ForbiddenAddress };
            assert_eq!(why, expected, "{url}");
        }
        assert!(shared.metrics.render().contains("posthaste_faults_total 1"));
    }
}
