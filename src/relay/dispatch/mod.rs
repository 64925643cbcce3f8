//! The dispatcher: looks for events and routes them, claims what is due, assigns claims to lanes,
//! and rests until there is reason to look again. One task does this, one statement at a time;
//! sending and recording go on beside it.
//!
//! [`Dispatch`] decides what the next step is; this loop performs it.

mod ahead;
mod assign;
mod claim;
mod culprit;
mod filters;
mod look;
mod route;
mod steps;
mod wake;

use std::sync::Arc;
use std::time::Instant;

pub use self::ahead::{Lookout, RoutedAhead, StepAhead, route_ahead};
pub use self::steps::{Stepped, route_in_steps};
pub(super) use self::wake::BellSession;
use super::claims::Claims;
use super::database::{Backoff, Link};
use super::effects::Effects;
use super::ended::Results;
use super::history::History;
use super::lane::{Lane, Lanes};
use super::ordering::ToLookAt;
use super::term::Term;
use super::unflushed::Unflushed;
use crate::clock::Present;
use crate::model::dispatch::{Dispatch, Facts, Reason, Step};
use crate::model::endpoint::EndpointId;
use crate::model::lane::share_of_room;
use crate::model::routing::{LaneRoom, Recipients};
use crate::model::standing::During;
use crate::observe::metrics::Metrics;
use crate::store::StoreError;
use crate::store::deliveries::{disown, due, tell_others};

/// The dispatcher's state, and its means.
#[derive(Debug)]
pub(super) struct Dispatcher {
    pub(super) state: Dispatch,
    /// What is remembered of who is owed what.
    pub(super) recipients: Recipients,
    /// How far it has looked ahead.
    pub(super) lookout: Lookout,
    pub(super) bell: BellSession,
    pub(super) database: Arc<Link>,
    pub(super) term: Arc<Term>,
    pub(super) clock: Present,
    pub(super) metrics: Arc<Metrics>,
    pub(super) claims: Arc<Claims>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) results: Results,
    pub(super) lines: Arc<ToLookAt>,
    pub(super) history: Arc<History>,
    pub(super) unflushed: Arc<Unflushed>,
    pub(super) effects: Arc<Effects>,
}

impl Dispatcher {
    /// Goes round until the relay stops or its term is over.
    pub(super) async fn run(mut self) {
        let pulse = self.database.status.pulse("dispatch", self.state.settings().stuck_after());
        let mut backoff = Backoff::default();
        while !self.term.is_ending() {
            pulse.beat();
            let now = self.clock.instant();
            let facts = self.facts(now);
            match self.state.next(now, &facts) {
                Step::Rest { until, reason } => {
                    // While the event is sought that routing fails for, nothing is well yet.
                    if !self.state.is_searching() {
                        self.database.works(&self.term);
                    }
                    if !facts.is_due && facts.due_at.is_none() {
                        self.database.status.has_nothing(During::Claim);
                    }
                    backoff = Backoff::default();
                    self.rest(until, reason).await;
                }
                Step::BackOff => {
                    backoff.wait(&self.term.ending).await;
                    self.history.doubt();
                }
                step => self.perform(step).await,
            }
        }
    }

    fn facts(&self, now: Instant) -> Facts {
        let (is_due, due_at) = {
            let due = self.claims.due();
            (due.due(now).next().is_some(), due.next_after(now))
        };
        let fed = self.state.fed();
        let (room_of_left, is_left_idle) = self.room_of_left();
        Facts {
            hears: self.bell.hears(),
            is_due,
            due_at,
            others_are_to_know: self.claims.are_others_to_know(),
            room_of_fed: self.room_of(fed),
            held_by_fed: self.lanes_of(fed).map(|lane| lane.claimed()).sum(),
            queued_by_fed: self.lanes_of(fed).map(|lane| lane.queued()).sum(),
            is_fed_idle: self.lanes_of(fed).any(|lane| lane.claimed() == 0),
            finished_by_fed: self.finished_by(fed),
            room_of_left,
            is_left_idle,
        }
    }

    /// How many more deliveries these lanes can take.
    fn room_of(&self, fed: &[EndpointId]) -> usize {
        if fed.is_empty() {
            return 0;
        }
        self.lanes_of(fed).map(|lane| lane.room()).sum::<usize>().min(self.claims.room())
    }

    /// How many attempts have come to an end in these lanes so far.
    fn finished_by(&self, fed: &[EndpointId]) -> u64 {
        self.lanes_of(fed).map(|lane| lane.finished_so_far()).sum()
    }

    fn lanes_of(&self, ids: &[EndpointId]) -> impl Iterator<Item = Arc<Lane>> {
        ids.iter().filter_map(|id| self.lanes.get(*id))
    }

    /// How many more deliveries the endpoints can take whose events the last step has left, and
    /// whether one of them has nothing to do.
    fn room_of_left(&self) -> (usize, bool) {
        let bytes = share_of_room(self.claims.room_for_bytes(), 0);
        let other = LaneRoom { room: self.lanes.first_room(), bytes, held: 0, flows: true };
        let room_of =
            |id: &EndpointId| self.lanes.get(*id).map_or(other, |lane| lane.room_for_step());
        let rooms = self.state.left().iter().map(room_of);
        let add = |(room, is_idle), one: LaneRoom| (room + one.room, is_idle || one.is_idle());
        let (room, is_idle) = rooms.fold((0, false), add);
        (room.min(self.claims.room()), is_idle)
    }

    async fn perform(&mut self, step: Step) {
        let done = match step {
            Step::Disown => self.disown().await,
            Step::Poll => self.poll().await,
            Step::TellOthers => self.tell_others().await,
            Step::Claim => return self.claim_due().await,
            Step::ReadFloor => return self.read_floor().await,
            Step::Route { events, by, overflow } => {
                return self.route(events, by, overflow).await;
            }
            Step::RouteAhead => return self.look_ahead().await,
            Step::Reconnect => return self.reconnect().await,
            Step::CheckBell => return self.bell.check().await,
            Step::Silence => return self.bell.silence(),
            Step::Arm => {
                let skippers = self.bell.arm().await;
                return self.state.armed(skippers, self.clock.instant());
            }
            Step::BackOff | Step::Rest { .. } => return,
        };
        match done {
            Ok(()) => self.database.status.succeeded(During::Poll),
            Err(error) => {
                self.database.failed(&self.term, &self.metrics, During::Poll, &error);
                self.state.failed();
            }
        }
    }

    /// Gives back what may have been claimed without the relay's knowledge.
    async fn disown(&mut self) -> Result<(), StoreError> {
        let began = self.clock.instant();
        let tokens: Vec<_> = self.state.uncertain().tokens().collect();
        let released = disown(&self.database.store, self.term.relay, &tokens).await?;
        self.metrics.claims_released.increment(released);
        self.state.disowned(released, began);
        self.term.set_uncertain(!self.state.uncertain().is_empty());
        Ok(())
    }

    /// Opens a session for the bell.
    async fn reconnect(&mut self) {
        let opened = self.bell.open(self.database.store.database(), &self.term.sessions).await;
        match &opened {
            Ok(()) => {
                self.database.status.succeeded(During::Wake);
                self.metrics.wakes.reconnected.increment(1);
                // Steering was not heard of meanwhile.
                self.lines.all();
                self.unflushed.doubt(self.database.store.database().opened());
            }
            Err(error) => {
                self.database.failed(&self.term, &self.metrics, During::Wake, error);
            }
        }
        self.state.reconnected(opened.is_ok(), self.clock.instant());
    }

    /// Asks what is due, however quiet it is.
    async fn poll(&mut self) -> Result<(), StoreError> {
        let began = self.clock.instant();
        let mut changed = Vec::new();
        let due = due(&self.database.store).await?;
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        self.metrics.endpoints_waiting.set(due.len() as f64);
        let oldest = due.iter().map(|owed| owed.overdue).max().unwrap_or_default();
        self.metrics.oldest_due.set(oldest);
        // Steering that no session has heard of.
        self.bell.ears.changes.of_any();
        self.claims.polled(due.iter().map(|owed| (owed.endpoint_id, owed.tenant)).collect());
        for owed in due {
            self.claims.due_in(owed.endpoint_id, owed.due_in);
            let lane = self.lanes.get(owed.endpoint_id);
            if lane.is_some_and(|lane| !lane.is_current(owed.revision, self.clock.now())) {
                changed.push(owed.endpoint_id);
            }
        }
        // An operator has changed them, perhaps to end a pause.
        self.reopen_lanes(&changed).await?;
        self.lanes.forget_idle(began);
        if !self.state.settings().listens {
            // No session hears of steering.
            self.lines.all();
        }
        self.show();
        if !self.state.has_polled() {
            // The lease is written and the queue was read. Routing says itself if it fails, now as
            // at any later time; and once it has, only a whole round makes the relay ready again.
            self.database.works(&self.term);
        }
        self.state.polled(fastrand::f64(), began);
        Ok(())
    }

    /// Tells the others what is due of endpoints that they serve.
    async fn tell_others(&mut self) -> Result<(), StoreError> {
        self.claims.others_know();
        tell_others(&self.database.store).await.inspect_err(|_| self.claims.let_others_know())?;
        self.state.told_others();
        Ok(())
    }

    /// The token of a statement that is about to claim.
    fn next_token(&mut self) -> i64 {
        let token = self.state.next_token();
        self.claims.holdings.begin(token);
        self.lanes.claiming();
        token
    }

    /// Shows the gauges as they are.
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    fn show(&self) {
        self.metrics.in_flight.set(self.lanes.in_flight() as f64);
        self.metrics.claimed.set(self.claims.holdings.count() as f64);
        self.metrics.in_flight_bytes.set(self.claims.holdings.bytes() as f64);
        self.metrics.results_waiting.set(self.results.waiting() as f64);
    }

    /// Rests until there is reason for another round.
    async fn rest(&mut self, until: Instant, reason: Reason) {
        let now = self.clock.instant();
        let wakes = &self.metrics.wakes;
        // Every arm may be dropped: they only wait.
        tokio::select! {
            () = self.bell.ears.rung.notified() => {
                self.metrics.bells.increment(1);
                wakes.bell.increment(1);
                self.state.rang(self.clock.instant());
            }
            () = self.bell.ears.steered.notified() => {
                self.lines.all();
                wakes.bell.increment(1);
                self.state.are_due(now);
            }
            () = self.bell.ears.due.notified() => self.state.are_due(now),
            () = self.claims.room_freed.notified() => {}
            () = self.claims.suspect_ended.notified() => self.state.are_due(now),
            () = tokio::time::sleep(until.saturating_duration_since(now)) => match reason {
                Reason::Poll => wakes.poll.increment(1),
                Reason::Due => wakes.due.increment(1),
                Reason::Other => {}
            },
            () = self.term.ending.cancelled() => {}
        }
    }
}
