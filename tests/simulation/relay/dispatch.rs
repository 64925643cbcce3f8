//! The dispatcher of a simulated relay: performs the steps that the crate's [`Dispatch`] names. The
//! bell's session is not there: what it hears is the operation list's choice, and its lock costs
//! nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use posthaste::config::{Config, WakeMode};
use posthaste::model::dispatch::{
    ClaimRequest, ClaimRoom, Dispatch, DispatchSettings, Facts, LookedAhead, RouteBy, RouteFailure,
    RoutedStep, Step,
};
use posthaste::model::endpoint::EndpointId;
use posthaste::model::lease::sends_for;
use posthaste::model::routing::{Cut, LaneRoom, Recipients};
use posthaste::relay::most_claims;
use posthaste::store::RelayId;
use posthaste::store::deliveries::{DueClaims, Owed};
use posthaste::store::endpoints::KnownEndpoint;
use posthaste::store::routing::{FEW, Routed};
use tokio::sync::Mutex;

use super::{Micros, Relay, instant, since, timestamp};
use crate::simulation::lane::Lane;
use crate::simulation::operations::Notice;
use crate::simulation::statement::{Failure, Look, Statement};

/// More than a list has statements: chance would have it that no two terms have a token in common.
const TOKENS: i64 = 1_000_000;
/// A round has fewer steps.
const MOST_STEPS: usize = 50;
/// Chance is the operation list's.
const DRAW: f64 = 0.5;

/// See the module.
#[derive(Debug)]
pub struct Dispatcher {
    dispatch: Dispatch,
    /// Whether there is a session that hears the bell.
    hears: bool,
    others_are_to_know: bool,
    /// What was answered, while the endpoints it concerns are read.
    unfinished: Option<Unfinished>,
    recipients: Arc<Mutex<Recipients>>,
    /// Transactions below this had ended at the last look.
    xmin: i64,
    rests_until: Option<std::time::Instant>,
}

#[derive(Debug)]
enum Unfinished {
    Poll,
    Route { step: Box<RoutedStep>, at: Micros },
}

impl Dispatcher {
    pub fn new(config: &Config, relay: RelayId, now: Micros) -> Self {
        let settings = DispatchSettings {
            batch: config.relay.batch,
            poll_interval: config.relay.poll_interval,
            statement_timeout: config.database.statement_timeout,
            listens: config.relay.wake == WakeMode::Listen,
        };
        Self {
            dispatch: Dispatch::new(settings, TOKENS * i64::from(relay), instant(now)),
            hears: false,
            others_are_to_know: false,
            unfinished: None,
            recipients: Arc::default(),
            xmin: 0,
            rests_until: None,
        }
    }
}

impl Relay {
    pub fn notice(&mut self, notice: Notice, now: Micros) {
        let Dispatcher { dispatch, hears, .. } = &mut self.dispatcher;
        let now = instant(now);
        match notice {
            Notice::Rung => dispatch.rang(now),
            Notice::Steered => {
                self.lines.all = true;
                dispatch.are_due(now);
            }
            Notice::Due => dispatch.are_due(now),
            Notice::SessionEnded => {
                *hears = false;
                dispatch.rang(now);
            }
        }
    }

    pub(super) fn let_others_know(&mut self) {
        self.dispatcher.others_are_to_know = true;
    }

    pub(super) fn is_uncertain(&self) -> bool {
        !self.dispatcher.dispatch.uncertain().is_empty()
    }

    /// For how long the dispatcher rests from now on.
    pub fn rests_for(&self, now: Micros) -> Option<Micros> {
        if self.stopping {
            return None;
        }
        let rest = self.dispatcher.rests_until?.saturating_duration_since(instant(now));
        i64::try_from(rest.as_micros()).ok()
    }

    /// The next statement of the dispatcher. `None`: it rests, or backs off.
    pub(super) fn turn(&mut self, most: u8, now: Micros) -> Option<Statement> {
        if let Some(statement) = self.open_first(now) {
            return Some(statement);
        }
        for _ in 0..MOST_STEPS {
            if self.stopping {
                return None;
            }
            let facts = self.facts(now);
            match self.dispatcher.dispatch.next(instant(now), &facts) {
                Step::Disown => {
                    let tokens = self.dispatcher.dispatch.uncertain().tokens().collect();
                    return Some(Statement::Disown { tokens });
                }
                Step::Reconnect => {
                    self.dispatcher.hears = true;
                    self.lines.all = true;
                    self.dispatcher.dispatch.reconnected(true, instant(now));
                }
                Step::CheckBell | Step::Silence => {}
                Step::Poll => return Some(Statement::Due),
                Step::TellOthers => {
                    self.dispatcher.others_are_to_know = false;
                    return Some(Statement::TellOthers);
                }
                Step::Claim => {
                    if let Some(claim) = self.claim(now) {
                        return Some(claim);
                    }
                }
                Step::ReadFloor => return Some(Statement::Floor),
                Step::Route { events, by, overflow } => {
                    let is_few = by == RouteBy::Few && most == FEW;
                    let by = if by == RouteBy::Few && !is_few { RouteBy::Steps } else { by };
                    let most = u32::from(most);
                    let most = if is_few { most } else { events.min(most) };
                    return Some(self.look(most, by, overflow, now));
                }
                Step::RouteAhead => {
                    let now = instant(now);
                    self.dispatcher.dispatch.looked_ahead(LookedAhead::NoTenants, now, now);
                }
                Step::Arm => {
                    let skippers = Some(self.dispatcher.xmin);
                    self.dispatcher.dispatch.armed(skippers, instant(now));
                }
                Step::BackOff => {
                    self.dispatcher.rests_until = Some(instant(now));
                    return None;
                }
                Step::Rest { until, .. } if until > instant(now) => {
                    self.dispatcher.rests_until = Some(until);
                    return None;
                }
                Step::Rest { .. } => {}
            }
        }
        panic!("the dispatcher goes round without a statement: {:?}", self.dispatcher);
    }

    fn facts(&self, now: Micros) -> Facts {
        let fed = self.dispatcher.dispatch.fed();
        let left = self.dispatcher.dispatch.left().iter().map(|id| self.room_of_left(*id, now));
        let left: Vec<_> = left.collect();
        let room: usize = fed.iter().map(|id| self.room(*id, false, now)).sum();
        Facts {
            hears: self.dispatcher.hears,
            is_due: self.due.due(instant(now)).next().is_some(),
            due_at: self.due.next_after(instant(now)),
            others_are_to_know: self.dispatcher.others_are_to_know,
            room_of_fed: room.min(self.free(now)),
            held_by_fed: self.lanes_of(fed).map(Lane::claimed).sum(),
            queued_by_fed: self.lanes_of(fed).map(|lane| lane.state.queued()).sum(),
            is_fed_idle: self.lanes_of(fed).any(|lane| lane.claimed() == 0),
            finished_by_fed: self.finished_by(fed),
            room_of_left: left.iter().map(|one| one.room).sum::<usize>().min(self.free(now)),
            is_left_idle: left.iter().any(LaneRoom::is_idle),
        }
    }

    fn finished_by(&self, fed: &[EndpointId]) -> u64 {
        self.lanes_of(fed).map(|lane| lane.state.finished_so_far()).sum()
    }

    fn lanes_of(&self, ids: &[EndpointId]) -> impl Iterator<Item = &Lane> {
        ids.iter().filter_map(|id| self.lanes.get(id))
    }

    fn room_of_left(&self, id: EndpointId, now: Micros) -> LaneRoom {
        let other =
            || LaneRoom { room: self.room(id, true, now), bytes: usize::MAX, held: 0, flows: true };
        self.lanes.get(&id).map_or_else(other, |lane| self.room_for_step(id, lane, now))
    }

    fn room_for_step(&self, id: EndpointId, lane: &Lane, now: Micros) -> LaneRoom {
        LaneRoom {
            room: self.room(id, true, now),
            bytes: usize::MAX,
            held: lane.claimed(),
            flows: lane.state.flows(timestamp(now)),
        }
    }

    /// Whether a request may begin, or anything be claimed.
    pub(super) fn lease_is_fresh(&self, now: Micros) -> bool {
        since(self.renewed_at, now) < sends_for(self.lease_length())
    }

    /// How many more deliveries may be claimed in all.
    pub(super) fn free(&self, now: Micros) -> usize {
        if !self.lease_is_fresh(now) {
            return 0;
        }
        let relay = &self.config.relay;
        self.holdings.room(most_claims(&self.config), relay.max_in_flight_bytes)
    }

    fn free_bytes(&self) -> usize {
        self.config.relay.max_in_flight_bytes.saturating_sub(self.holdings.bytes())
    }

    fn next_token(&mut self) -> i64 {
        let token = self.dispatcher.dispatch.next_token();
        self.holdings.begin(token);
        token
    }

    fn look(&mut self, most: u32, by: RouteBy, overflow: bool, now: Micros) -> Statement {
        let ordinary = self.room(EndpointId::MIN, true, now);
        let rooms = self.lanes.keys().map(|id| (*id, self.room(*id, true, now)));
        let rooms: Vec<_> = rooms.filter(|(_, room)| *room != ordinary).collect();
        let floor = self.dispatcher.dispatch.floor().expect("it was read before");
        Statement::Look(Look {
            most,
            by,
            overflow,
            floor,
            lanes: self
                .lanes
                .iter()
                .map(|(id, lane)| (*id, self.room_for_step(*id, lane, now)))
                .collect(),
            recipients: Arc::clone(&self.dispatcher.recipients),
            endpoints: rooms.iter().map(|(id, _)| *id).collect(),
            rooms: rooms.iter().map(|(_, room)| small(*room)).collect(),
            of_others: small(ordinary),
            in_all: small(self.free(now)),
            bytes: i64::try_from(self.free_bytes()).unwrap_or(i64::MAX),
            token: self.next_token(),
        })
    }

    fn claim(&mut self, now: Micros) -> Option<Statement> {
        let room_of = |endpoint: EndpointId| ClaimRoom {
            claims: self.room(endpoint, false, now),
            bytes: usize::MAX,
            tenant: None,
        };
        let dispatch = &self.dispatcher.dispatch;
        let asked = dispatch.ask(&self.due, self.free(now), room_of, instant(now));
        if asked.endpoints.is_empty() {
            return None;
        }
        let (bytes, token) = (self.free_bytes(), self.next_token());
        Some(Statement::Claim { token, asked, bytes })
    }

    // ── answers ──

    pub(super) fn floor_is(&mut self, floor: jiff::Timestamp) {
        self.dispatcher.dispatch.floor_is(floor);
    }

    pub(super) fn unusual(&mut self, by: RouteBy, now: Micros) {
        self.dispatcher.dispatch.unusual(by, instant(now));
    }

    pub(super) fn blocked(&mut self, cut: Cut, now: Micros) {
        let finished = self.finished_by(&[cut.full]);
        self.dispatcher.dispatch.blocked(cut, finished, instant(now));
    }

    pub(super) fn routed(&mut self, token: i64, routed: Option<Routed>, now: Micros) {
        let Some(routed) = routed else {
            return self.dispatcher.dispatch.routed(None, instant(now), instant(now));
        };
        self.dispatcher.xmin = routed.xmin;
        self.lines.these.extend(routed.lines);
        self.lines.all |= routed.closes_span;
        for endpoint in &routed.waiting {
            self.due.put(*endpoint, instant(now));
            if self.lanes.get(endpoint).is_some_and(|lane| !lane.state.serves()) {
                self.let_others_know();
            }
        }
        let mut fed: Vec<_> = routed.claimed.iter().map(|one| one.delivery.endpoint_id).collect();
        fed.sort_unstable();
        fed.dedup();
        let step = RoutedStep {
            events: routed.events,
            deliveries: routed.deliveries,
            more: routed.more,
            closes_span: routed.closes_span,
            xmin: routed.xmin,
            floor: routed.floor,
            fed,
            cut: routed.cut,
            finished: 0,
        };
        self.fresh = self.holdings.book(token, routed.claimed);
        self.dispatcher.unfinished = Some(Unfinished::Route { step: Box::new(step), at: now });
    }

    pub(super) fn claimed(
        &mut self,
        token: i64,
        asked: &ClaimRequest,
        claims: DueClaims,
        now: Micros,
    ) {
        let mut counts: BTreeMap<EndpointId, usize> = BTreeMap::new();
        for one in &claims.claimed {
            *counts.entry(one.delivery.endpoint_id).or_default() += 1;
        }
        let count = |endpoint: EndpointId| counts.get(&endpoint).copied().unwrap_or(0);
        let dispatch = &mut self.dispatcher.dispatch;
        dispatch.claimed(asked, count, claims.is_cut, &mut self.due, instant(now));
        self.fresh = self.holdings.book(token, claims.claimed);
    }

    pub(super) fn polled(&mut self, due: &[Owed], now: Micros) {
        let present = timestamp(now);
        for owed in due {
            self.due.put(owed.endpoint_id, instant(now) + owed.due_in);
            let lane = self.lanes.get(&owed.endpoint_id);
            if lane.is_some_and(|lane| !lane.state.is_current(owed.revision, present)) {
                self.changed.push(owed.endpoint_id);
            }
        }
        self.dispatcher.unfinished = Some(Unfinished::Poll);
    }

    pub(super) fn disowned(&mut self, count: u64, now: Micros) {
        self.dispatcher.dispatch.disowned(count, instant(now));
    }

    pub(super) fn told_others(&mut self) {
        self.dispatcher.dispatch.told_others();
    }

    pub(super) fn turn_failed(&mut self, statement: &Statement, failure: Failure, now: Micros) {
        let Failure { may_be_of_some_row } = failure;
        let now = instant(now);
        let dispatch = &mut self.dispatcher.dispatch;
        match statement {
            Statement::Look(Look { most, by, .. }) => {
                let kind = may_be_of_some_row.then_some("of a row");
                let failure = RouteFailure { kind, is_overdue: false, is_uncertain: true };
                dispatch.route_failed(*most, *by, failure, now);
            }
            Statement::Claim { asked, .. } => {
                dispatch.claim_failed(asked, may_be_of_some_row, &mut self.due, now);
            }
            Statement::TellOthers => {
                self.dispatcher.others_are_to_know = true;
                dispatch.failed();
            }
            _ => dispatch.failed(),
        }
    }

    // ── endpoints that are new or have changed ──

    /// Reads endpoints that are not there or out of date; then finishes what waited for them.
    fn open_first(&mut self, now: Micros) -> Option<Statement> {
        let present = timestamp(now);
        let is_stale = |id: &EndpointId, revision: i64| {
            let lane = self.lanes.get(id);
            lane.is_none_or(|lane| !lane.state.is_current(revision, present))
        };
        let fresh = self.fresh.iter().map(|booked| &booked.claim.delivery);
        let stale = fresh.filter(|one| is_stale(&one.endpoint_id, one.endpoint_revision));
        let mut ids: Vec<_> = stale.map(|one| one.endpoint_id).collect();
        ids.extend(&self.changed);
        if ids.is_empty() {
            self.finish(now);
            return None;
        }
        Some(Statement::Endpoints { ids })
    }

    pub(super) fn opened(&mut self, known: Vec<KnownEndpoint>, now: Micros) {
        self.changed.clear();
        self.open(known, now);
        self.finish(now);
    }

    /// What is claimed stays this relay's own until it is in a lane, unless the relay stops. A poll
    /// is made again.
    pub(super) fn not_opened(&mut self) {
        self.changed.clear();
        if self.stopping {
            let fresh = std::mem::take(&mut self.fresh);
            self.give_back(fresh.into_iter().map(|booked| booked.claim).collect());
        }
        if matches!(self.dispatcher.unfinished, Some(Unfinished::Poll)) {
            self.dispatcher.unfinished = None;
            self.dispatcher.dispatch.failed();
        }
    }

    fn finish(&mut self, now: Micros) {
        self.assign(now);
        match self.dispatcher.unfinished.take() {
            Some(Unfinished::Route { mut step, at }) => {
                let full = step.cut.as_ref().map(|cut| vec![cut.full]);
                step.finished = self.finished_by(&full.unwrap_or_else(|| step.fed.clone()));
                self.dispatcher.dispatch.routed(Some(*step), instant(at), instant(now));
            }
            Some(Unfinished::Poll) => {
                self.forget_idle(now);
                if self.config.relay.wake == WakeMode::Poll {
                    // It hears of no steering.
                    self.lines.all = true;
                }
                self.dispatcher.dispatch.polled(DRAW, instant(now));
            }
            None => {}
        }
    }
}

fn small(room: usize) -> i32 {
    i32::try_from(room).unwrap_or(i32::MAX)
}
