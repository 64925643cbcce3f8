//! Claiming what is due.

use std::collections::HashMap;
use std::time::Instant;

use super::Dispatcher;
use crate::model::dispatch::{Blame, ClaimRequest, ClaimRoom, ENDPOINTS_PER_CLAIM};
use crate::model::endpoint::EndpointId;
use crate::model::standing::During;
use crate::store::StoreError;
use crate::store::deliveries::claim;

impl Dispatcher {
    /// Claims what is due for endpoints with room.
    pub(super) async fn claim_due(&mut self) {
        let began = self.clock.instant();
        if let Err(error) = self.open_unknown(began).await {
            self.database.failed(&self.term, &self.metrics, During::Open, &error);
            return self.state.failed();
        }
        let request = {
            let (due, room) = (self.claims.due(), self.claims.room());
            self.state.ask(&due, room, |id| self.room_to_claim(id), began)
        };
        if request.endpoints.is_empty() {
            return;
        }
        let token = self.next_token();
        let (store, relay) = (&self.database.store, self.term.relay);
        let (bytes, suspect) = (self.claims.room_for_bytes(), !self.claims.holdings.has_suspect());
        match claim(store, relay, token, &request, (bytes, suspect)).await {
            Ok(claims) => {
                self.database.status.succeeded(During::Claim);
                self.metrics.statement_duration.claim.record(self.clock.since(began));
                let mut counts: HashMap<EndpointId, usize> =
                    HashMap::with_capacity(request.endpoints.len());
                for one in &claims.claimed {
                    *counts.entry(one.delivery.endpoint_id).or_default() += 1;
                }
                let claimed = |id| counts.get(&id).copied().unwrap_or_default();
                let (now, is_cut) = (self.clock.instant(), claims.is_cut);
                self.state.claimed(&request, claimed, is_cut, &mut self.claims.due(), now);
                self.assign(token, claims.claimed).await;
            }
            Err(error) => self.claim_failed(&request, &error, self.clock.instant()),
        }
    }

    /// How much may be claimed for an endpoint.
    fn room_to_claim(&self, endpoint: EndpointId) -> ClaimRoom {
        match self.lanes.get(endpoint) {
            Some(lane) => lane.room_to_claim(),
            None => {
                let tenant = self.claims.polled_tenant(endpoint).flatten();
                self.lanes.first_room_to_claim(tenant)
            }
        }
    }

    /// Opens the lanes of endpoints whose tenants are not known, before anything is claimed for
    /// them that their tenants have no room for.
    async fn open_unknown(&self, now: Instant) -> Result<(), StoreError> {
        if self.claims.room() == 0 {
            return Ok(());
        }
        let is_unknown = |id: &EndpointId| {
            self.lanes.get(*id).is_none() && self.claims.polled_tenant(*id).is_none()
        };
        let unknown: Vec<_> = {
            let due = self.claims.due();
            due.due(now).filter(is_unknown).take(ENDPOINTS_PER_CLAIM).collect()
        };
        if unknown.is_empty() {
            return Ok(());
        }
        self.reopen_lanes(&unknown).await?;
        self.database.status.succeeded(During::Open);
        Ok(())
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
