//! Looking ahead of the cursor, in the dispatcher's turn.

use super::Dispatcher;
use super::ahead::{RoutedAhead, StepAhead, route_ahead};
use crate::model::dispatch::LookedAhead;
use crate::model::routing::StepRoom;
use crate::model::standing::During;
use crate::relay::fault;
use crate::store::StoreError;
use crate::store::ahead::trim_ahead;

impl Dispatcher {
    /// Looks ahead of the cursor once, and routes what it finds.
    pub(super) async fn look_ahead(&mut self) {
        let began = self.clock.instant();
        let Some(floor) = self.state.floor() else {
            return self.state.looked_ahead(LookedAhead::ToTheEnd, began, began);
        };
        let token = self.next_token();
        let (lanes, claims) = (&self.lanes, &self.claims);
        let room = StepRoom {
            lane: &|id| lanes.get(id).map(|lane| lane.room_for_step()),
            of_others: lanes.first_room(),
            tenant: &|tenant| claims.room_of_any(tenant),
            in_all: claims.room(),
            bytes: claims.room_for_bytes(),
            may_overflow: true,
        };
        let (by, store) = ((self.term.relay, token), &self.database.store);
        let done = fault::caught(route_ahead(
            store,
            by,
            floor,
            &room,
            &mut self.recipients,
            &mut self.lookout,
        ));
        let done = done.await.unwrap_or_else(|said| {
            self.metrics.faults.increment(1);
            // It may be half of what was read.
            self.recipients.forget();
            Err(StoreError::Panicked { doing: "route events ahead of the cursor", said })
        });
        match done {
            Ok(RoutedAhead { looked, step }) => {
                if let Some(step) = step {
                    self.take_in_ahead(token, step).await;
                }
                self.state.looked_ahead(looked, began, self.clock.instant());
            }
            Err(error) => {
                self.term.set_uncertain(true);
                self.database.failed(&self.term, &self.metrics, During::Route, &error);
                self.state.look_ahead_failed(self.clock.instant());
            }
        }
    }

    async fn take_in_ahead(&mut self, token: i64, step: StepAhead) {
        let at = self.clock.instant();
        self.history.take_in(step.step, &self.database, &self.metrics);
        self.database.status.succeeded(During::Route);
        self.metrics.events_routed.increment(step.events as u64);
        self.metrics.deliveries_routed.increment(step.deliveries as u64);
        self.metrics.events_unmatched.increment(step.unmatched as u64);
        {
            let mut due = self.claims.due();
            step.waiting.iter().for_each(|endpoint| due.put(*endpoint, at));
        }
        self.assign(token, step.claimed).await;
    }

    /// Once the backlog is routed, the next look begins anew, and what the cursor has passed is
    /// forgotten.
    pub(super) async fn end_lookout(&mut self) {
        if self.state.has_backlog() {
            return;
        }
        self.lookout.position = None;
        if self.lookout.are_ahead {
            // Upkeep does it as well.
            self.lookout.are_ahead = trim_ahead(&self.database.store).await.unwrap_or(false);
        }
    }
}
