//! Claiming what is due.

use std::collections::HashMap;
use std::time::Instant;

use super::Dispatcher;
use crate::model::dispatch::{Blame, ClaimRequest};
use crate::model::endpoint::EndpointId;
use crate::model::standing::During;
use crate::store::StoreError;
use crate::store::deliveries::claim;

impl Dispatcher {
    /// Claims what is due for endpoints with room.
    pub(super) async fn claim_due(&mut self) {
        let began = self.clock.instant();
        let request = {
            let (due, room) = (self.claims.due(), self.claims.room());
            let room_of = |id| {
                let lane = self.lanes.get(id);
                lane.map_or_else(|| self.lanes.first_room(), |lane| lane.room())
            };
            self.state.ask(&due, room, room_of, began)
        };
        if request.endpoints.is_empty() {
            return;
        }
        let token = self.next_token();
        let rooms: Vec<_> =
            request.rooms.iter().map(|room| i32::try_from(*room).unwrap_or(i32::MAX)).collect();
        let bytes = i64::try_from(self.claims.room_for_bytes()).unwrap_or(i64::MAX);
        let (store, relay) = (&self.database.store, self.term.relay);
        let suspect = !self.claims.holdings.has_suspect();
        match claim(store, relay, token, &request.endpoints, &rooms, (bytes, suspect)).await {
            Ok(claims) => {
                self.database.status.succeeded(During::Claim);
                self.metrics.statement_duration.claim.record(self.clock.since(began));
                let mut counts: HashMap<EndpointId, usize> =
                    HashMap::with_capacity(request.endpoints.len());
                for one in &claims.claimed {
                    *counts.entry(one.delivery.endpoint_id).or_default() += 1;
                }
                let claimed = |id| counts.get(&id).copied().unwrap_or_default();
                self.state.claimed(&request, claimed, claims.is_cut, &mut self.claims.due());
                self.assign(token, claims.claimed).await;
            }
            Err(error) => self.claim_failed(&request, &error, self.clock.instant()),
        }
    }

    fn claim_failed(&mut self, request: &ClaimRequest, error: &StoreError, now: Instant) {
        let metrics = &self.metrics;
        let is_of_some_row = error.may_be_of_some_row();
        self.term.set_uncertain(true);
        let blame = self.state.claim_failed(request, is_of_some_row, &mut self.claims.due(), now);
        match blame {
            Blame::Again => self.database.failed(&self.term, metrics, During::Claim, error),
            Blame::Half => self.database.noted(metrics, During::Claim, error),
            Blame::Without(endpoint, pause) => {
                self.database.noted(metrics, During::Claim, error);
                // It is left out, and claiming for the others does not fail.
                self.database.status.concerns(During::Claim, format!("endpoint {endpoint}"));
                self.database.status.has_nothing(During::Claim);
                tracing::error!(
                    endpoint,
                    error = error.in_full(),
                    again_in_s = pause.as_secs(),
                    "nothing can be claimed for this endpoint; the others go on"
                );
            }
        }
    }
}
