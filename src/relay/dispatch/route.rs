//! Looking at the outbox, and routing what is there.

use std::collections::HashSet;
use std::time::Instant;

use jiff::Timestamp;

use super::Dispatcher;
use super::steps::{Stepped, route_in_steps};
use crate::model::dispatch::{RouteBy, RoutedStep};
use crate::model::routing::StepRoom;
use crate::model::standing::During;
use crate::relay::fault;
use crate::store::StoreError;
use crate::store::routing::{Few, Routed, RoutingRoom, floor, route, route_few};

impl Dispatcher {
    /// Reads from where on events are still to be routed.
    pub(super) async fn read_floor(&mut self) {
        let found = match self.history.check(&self.database, &self.metrics).await {
            Ok(()) => floor(&self.database.store).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(floor) => self.state.floor_is(floor),
            Err(error) => self.look_failed(&error),
        }
    }

    /// Routes at most this many new events.
    pub(super) async fn route(&mut self, events: u32, by: RouteBy, overflow: bool) {
        if let Err(error) = self.history.check(&self.database, &self.metrics).await {
            return self.look_failed(&error);
        }
        let Some(floor) = self.state.floor() else { return };
        let token = self.next_token();
        let recorded = self.unflushed.before();
        let began = self.clock.instant();
        let done = fault::caught(async {
            match by {
                RouteBy::Steps => self.try_steps(token, floor, events, overflow).await,
                RouteBy::Few | RouteBy::Whole => self.try_route(token, floor, events, by).await,
            }
        });
        let done = done.await.unwrap_or_else(|said| {
            self.metrics.faults.increment(1);
            // It may be half of what was read.
            self.recipients.forget();
            Err(StoreError::Panicked { doing: "route events", said })
        });
        self.disable_slow();
        match done {
            Ok(Stepped::Unusual) => {
                // It may be that events were routed ahead, perhaps by another relay.
                self.lookout.are_ahead = true;
                return self.state.unusual(by, began);
            }
            Ok(Stepped::OtherRelay) => {
                // It answers for what it meets itself.
                self.database.status.has_nothing(During::Route);
                let now = self.clock.instant();
                self.state.routed(None, now, now);
            }
            Ok(Stepped::Full(cut)) => {
                // What comes next waits for its lane, not for the database.
                self.database.status.has_nothing(During::Route);
                let finished = self.finished_by(&[cut.full]);
                self.state.blocked(cut, finished, self.clock.instant());
            }
            Ok(Stepped::Routed(routed)) => {
                if routed.events > 0 {
                    self.unflushed.flushed(recorded, self.database.store.database().opened());
                }
                self.take_in(token, routed, began).await;
            }
            Err(error) => self.route_failed(events, by, &error).await,
        }
        self.end_lookout().await;
        self.metrics.asleep.set(if self.state.is_asleep() { 1.0 } else { 0.0 });
    }

    pub(super) fn look_failed(&mut self, error: &StoreError) {
        self.database.failed(&self.term, &self.metrics, During::Route, error);
        self.state.failed();
    }

    /// Routes by a step that is read, decided and written.
    async fn try_steps(
        &mut self,
        token: i64,
        floor: Timestamp,
        events: u32,
        may_overflow: bool,
    ) -> Result<Stepped, StoreError> {
        let (lanes, claims) = (&self.lanes, &self.claims);
        let room = StepRoom {
            lane: &|id| lanes.get(id).map(|lane| lane.room_for_step()),
            of_others: lanes.first_room(),
            tenant: &|tenant| claims.room_of_any(tenant),
            in_all: self.claims.room(),
            bytes: self.claims.room_for_bytes(),
            may_overflow,
        };
        let (store, by) = (self.routing_store(), (self.term.relay, token));
        route_in_steps(&store, by, events, floor, &room, &mut self.recipients).await
    }

    /// Routes by one statement.
    async fn try_route(
        &self,
        token: i64,
        floor: Timestamp,
        events: u32,
        by: RouteBy,
    ) -> Result<Stepped, StoreError> {
        // Only lanes are named whose room differs from that of an endpoint without a lane.
        let ordinary = self.lanes.first_room();
        let (known, rooms): (Vec<_>, Vec<_>) = self
            .lanes
            .all()
            .iter()
            .map(|lane| (lane.id, lane.room_for_new()))
            .filter(|(_, room)| *room != ordinary)
            .map(|(id, room)| (id, i32::try_from(room).unwrap_or(i32::MAX)))
            .unzip();
        let room = RoutingRoom {
            endpoints: &known,
            rooms: &rooms,
            of_others: i32::try_from(ordinary).unwrap_or(i32::MAX),
            in_all: i32::try_from(self.claims.room_without_tenants()).unwrap_or(i32::MAX),
            bytes: i64::try_from(self.claims.bytes_without_tenants()).unwrap_or(i64::MAX),
        };
        let (store, relay) = (&self.routing_store(), self.term.relay);
        let routed = if by == RouteBy::Few {
            match route_few(store, relay, token, floor, &room).await? {
                Few::Unusual => return Ok(Stepped::Unusual),
                Few::Routed(routed) => routed,
            }
        } else {
            route(store, relay, token, events, floor, &room).await?
        };
        Ok(routed.map_or(Stepped::OtherRelay, Stepped::Routed))
    }

    /// Takes in a step of routing, and assigns what it claimed to lanes.
    async fn take_in(&mut self, token: i64, routed: Routed, began: Instant) {
        let at = self.clock.instant();
        self.history.take_in(routed.step, &self.database, &self.metrics);
        if routed.events == 0 {
            self.database.status.has_nothing(During::Route);
        } else {
            self.database.status.succeeded(During::Route);
            self.metrics.statement_duration.route.record(at.saturating_duration_since(began));
            self.metrics.events_routed.increment(u64::from(routed.events));
            self.metrics.deliveries_routed.increment(u64::from(routed.deliveries));
            self.metrics.events_unmatched.increment(u64::from(routed.unmatched));
        }
        self.lines.these(routed.lines);
        if routed.closes_span {
            self.lines.all();
        }
        {
            let mut due = self.claims.due();
            for endpoint in &routed.waiting {
                due.put(*endpoint, at);
            }
        }
        let is_others = |id| self.lanes.get(id).is_some_and(|lane| !lane.serves());
        if routed.waiting.iter().any(|id| is_others(*id)) {
            self.claims.let_others_know();
        }
        let fed: HashSet<_> = routed.claimed.iter().map(|one| one.delivery.endpoint_id).collect();
        self.assign(token, routed.claimed).await;
        let fed: Vec<_> = fed.into_iter().collect();
        let step = RoutedStep {
            events: routed.events,
            deliveries: routed.deliveries,
            more: routed.more,
            closes_span: routed.closes_span,
            xmin: routed.xmin,
            floor: routed.floor,
            finished: match &routed.cut {
                Some(cut) => self.finished_by(&[cut.full]),
                None if routed.more => self.finished_by(&fed),
                None => 0,
            },
            fed,
            cut: routed.cut,
        };
        self.state.routed(Some(step), at, self.clock.instant());
    }
}
