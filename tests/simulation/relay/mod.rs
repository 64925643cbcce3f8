//! A relay in small: what it remembers, what it asks for next and what it makes of the answer. It
//! follows the rules of `src/relay`, one statement at a time, and judges with the crate's own `model`.
//!
//! What it does next is the operation list's choice, as far as these rules leave one: after an error it
//! first gives back what may be its own, it hands out what it has claimed before it claims more, it
//! sends nothing under a lease that is not fresh, and results wait until they are written down.

mod hear;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use posthaste::model::delivery::Delivery;
use posthaste::model::endpoint::EndpointId;
use posthaste::model::health::Transition;
use posthaste::model::outcome::{Outcome, Phases};
use posthaste::model::share::Share;
use posthaste::model::verdict::{Decision, Effect, Verdict};
use posthaste::store::RelayId;
use posthaste::store::attempts::{Attempt, RecordedDeliveries};
use posthaste::store::deliveries::ClaimKey;
use posthaste::store::endpoints::KnownEndpoint;
use posthaste::store::health::Note;
use posthaste::store::ordering::Line;
use posthaste::store::relays::{Heartbeat, Lease, Registration};
use posthaste::store::routing::Claimed;

use super::ground::{Micros, SECOND, timestamp};
use super::lane::{InFlight, Lane};
use super::statement::{Done, Look, Statement, Station, Upkeep};

/// See `relay::dispatch`: between two tries to give back, and for how long.
const DISOWN_INTERVAL: Micros = 10 * SECOND;
const DISOWN_PATIENCE: Micros = 60 * SECOND;
/// See `relay::lease`: nobody is taken for dead in the first of a session.
const SETTLE: Micros = 2 * SECOND;
/// Two thirds of the lease: the heartbeat must be younger for a request to begin.
const SENDS_FOR: Micros = 10 * SECOND;

/// More than a list has statements.
const TOKENS: i64 = 1_000;

/// A claimed delivery that this relay is done with.
#[derive(Debug, Clone)]
pub struct Finished {
    claim: ClaimKey,
    /// Its ordering key, where it is the head of a line.
    line: Option<String>,
    /// `None`: not begun, to be released.
    attempt: Option<Arc<Attempt>>,
}

/// See the module.
#[derive(Debug)]
pub struct Relay {
    pub number: RelayId,
    pub registration: Registration,
    /// `None`: its session was lost, and is to be taken up again.
    pub lease: Option<Lease>,
    held_since: Micros,
    renewed_at: Micros,
    /// It has renewed and may look for the dead.
    pub may_reap: bool,
    pub frozen: bool,
    pub stopping: bool,
    /// What waits for a statement.
    pub busy: BTreeSet<Station>,
    /// What was answered while it was frozen.
    pub unheard: Vec<(Arc<Statement>, Option<Done>)>,
    token: i64,
    floor: Option<Timestamp>,
    doubtful: Vec<(i64, Micros)>,
    disown_at: Micros,
    /// Claimed, and not handed out yet.
    fresh: Vec<Claimed>,
    /// Endpoints that somebody has changed.
    changed: Vec<EndpointId>,
    pub lanes: BTreeMap<EndpointId, Lane>,
    pub in_flight: Vec<InFlight>,
    results: VecDeque<Finished>,
    batch: Vec<Finished>,
    /// What of the batch was not begun has been given back.
    released: bool,
    strikes: Vec<(EndpointId, Effect, String)>,
    kept_up: u32,
    share: Share,
    /// Lines in which nobody may have the turn.
    lines: Lines,
}

/// The lines that are to be looked at.
#[derive(Debug, Default)]
struct Lines {
    these: BTreeSet<Line>,
    all: bool,
    /// While it looks at all of them: those after this one are still to be looked at.
    walk: Option<Line>,
    /// … and these have been found.
    found: Vec<Line>,
}

/// What a relay is to do next, if its rules have nothing to do before.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    Look { most: u8, room: u8 },
    Claim { room: u8 },
    Poll,
    Reap,
    Record { most: u8 },
    Lines,
    Note,
    Upkeep,
}

impl Relay {
    pub fn new(lease: Lease, now: Micros) -> Self {
        let registration = lease.registration();
        Self {
            number: registration.relay,
            registration,
            lease: Some(lease),
            held_since: now,
            renewed_at: now,
            may_reap: false,
            frozen: false,
            stopping: false,
            busy: BTreeSet::new(),
            unheard: Vec::new(),
            // Chance would have it that no two terms have one in common.
            token: TOKENS * i64::from(registration.relay),
            floor: None,
            doubtful: Vec::new(),
            disown_at: now,
            fresh: Vec::new(),
            changed: Vec::new(),
            lanes: BTreeMap::new(),
            in_flight: Vec::new(),
            results: VecDeque::new(),
            batch: Vec::new(),
            released: false,
            strikes: Vec::new(),
            kept_up: 0,
            share: Share::ALONE,
            lines: Lines { all: true, ..Lines::default() },
        }
    }

    /// The lease was renewed by a statement that began then.
    pub fn renewed(&mut self, at: Micros, found: &Heartbeat) {
        self.may_reap = at - self.held_since >= SETTLE && found.somebody_is_dead;
        self.renewed_at = at;
        self.share = Share::among(&found.others, self.number);
        self.lanes.values_mut().for_each(|lane| lane.divide(self.share));
    }

    /// The lease was taken again.
    pub fn retaken(&mut self, lease: Lease, at: Micros) {
        self.lease = Some(lease);
        (self.held_since, self.renewed_at, self.may_reap) = (at, at, false);
    }

    pub fn claims(&self) -> usize {
        let queued: usize = self.lanes.values().map(|lane| lane.queue.len()).sum();
        queued + self.fresh.len() + self.in_flight.len() + self.results.len() + self.batch.len()
    }

    /// The tokens under which it holds something.
    fn tokens(&self) -> Vec<i64> {
        let fresh = self.fresh.iter().map(|claimed| claimed.delivery.claim_token);
        let queued = self.lanes.values().flat_map(|lane| &lane.queue);
        let in_flight = self.in_flight.iter().map(|in_flight| in_flight.delivery.claim_token);
        let done = self.results.iter().chain(&self.batch).map(|finished| finished.claim.token);
        let held = fresh.chain(queued.map(|delivery| delivery.claim_token)).chain(in_flight);
        held.chain(done).collect()
    }

    /// Whether nothing can be claimed by it any more.
    pub fn leaves_nothing(&self) -> bool {
        self.claims() == 0 && self.doubtful.is_empty() && !self.lines.are_to_be_looked_at()
    }

    /// Whether it has looked at its lines a last time.
    pub fn has_lines(&self) -> bool {
        self.lines.are_to_be_looked_at()
    }

    /// Its next statement, if there is one to make. `endpoints` are all that there are.
    pub fn next(&mut self, step: Step, endpoints: &[EndpointId], now: Micros) -> Option<Statement> {
        let station = match step {
            Step::Look { .. } | Step::Claim { .. } | Step::Poll => Station::Rounds,
            Step::Reap => Station::Keeper,
            Step::Record { .. } => Station::Recorder,
            Step::Lines => Station::Lines,
            Step::Note => Station::Noter,
            Step::Upkeep => Station::Upkeep,
        };
        if self.busy.contains(&station) {
            return None;
        }
        match step {
            Step::Look { .. } | Step::Claim { .. } | Step::Poll => self.round(step, endpoints, now),
            Step::Reap => std::mem::take(&mut self.may_reap).then_some(Statement::Reap),
            Step::Record { most } => self.record(most, now),
            Step::Lines => self.look_at_lines(),
            Step::Note => self.note(),
            Step::Upkeep => self.upkeep(),
        }
    }

    // ── rounds ──

    fn round(&mut self, step: Step, endpoints: &[EndpointId], now: Micros) -> Option<Statement> {
        let present = timestamp(now);
        if !self.fresh.is_empty() || !self.changed.is_empty() {
            let stale = |claimed: &&Claimed| {
                let delivery = &claimed.delivery;
                let lane = self.lanes.get(&delivery.endpoint_id);
                lane.is_none_or(|lane| !lane.is_current(delivery.endpoint_revision, present))
            };
            let stale = self.fresh.iter().filter(stale);
            let mut ids: Vec<_> = stale.map(|one| one.delivery.endpoint_id).collect();
            ids.append(&mut self.changed);
            if !ids.is_empty() {
                return Some(Statement::Endpoints { ids });
            }
            self.assign(now);
        }
        if self.stopping {
            return None;
        }
        if !self.doubtful.is_empty() && self.disown_at <= now {
            let tokens = self.doubtful.iter().map(|(token, _)| *token).collect();
            return Some(Statement::Disown { tokens });
        }
        match step {
            Step::Look { most, room } => Some(self.look(most, self.room(room, now), present)),
            Step::Claim { room } => self.claim(self.room(room, now), endpoints, present),
            _ => Some(Statement::Due),
        }
    }

    /// One that may be taken for dead claims nothing: it could not send it, and others can.
    fn room(&self, room: u8, now: Micros) -> u8 {
        if now - self.renewed_at < SENDS_FOR { room } else { 0 }
    }

    fn look(&mut self, most: u8, room: u8, present: Timestamp) -> Statement {
        let Some(floor) = self.floor else { return Statement::Floor };
        self.token += 1;
        let room = i32::from(room);
        let rooms = self.lanes.values().map(|lane| (lane.id, lane.room(present).min(room)));
        let (endpoints, rooms) = rooms.unzip();
        Statement::Look(Look {
            token: self.token,
            most: u32::from(most),
            floor,
            endpoints,
            rooms,
            of_others: room,
            in_all: 3 * room,
            bytes: if room == 1 { 20 } else { 1_000 },
        })
    }

    fn claim(&mut self, room: u8, ids: &[EndpointId], present: Timestamp) -> Option<Statement> {
        let most = i32::from(room);
        let room = |id| self.lanes.get(id).map_or(most, |lane| lane.room(present).min(most));
        let rooms = ids.iter().map(|id| (*id, room(id))).filter(|(_, room)| *room > 0);
        let (endpoints, rooms): (Vec<_>, Vec<_>) = rooms.unzip();
        if endpoints.is_empty() {
            return None;
        }
        self.token += 1;
        Some(Statement::Claim { token: self.token, endpoints, rooms })
    }

    /// Gives what was claimed to the lanes, where it can be sent.
    fn assign(&mut self, now: Micros) {
        for Claimed { delivery, cancelled } in std::mem::take(&mut self.fresh) {
            if self.stopping {
                self.results.push_back(unsent(&delivery));
                continue;
            }
            let lane = self.lanes.get_mut(&delivery.endpoint_id);
            let gone = lane.is_none().then(|| "endpoint deleted".to_owned());
            match (lane, cancelled.or(gone)) {
                (Some(lane), None) => lane.push(delivery),
                (lane, reason) => {
                    if let Some(lane) = lane {
                        lane.claimed += 1;
                    }
                    self.results.push_back(cancelled_for(reason, &delivery, instant(now)));
                }
            }
        }
    }

    fn open(&mut self, known: Vec<KnownEndpoint>) {
        for known in known {
            let id = known.endpoint.id;
            match self.lanes.get_mut(&id) {
                Some(lane) => lane.reopen(known, self.share),
                None => drop(self.lanes.insert(id, Lane::open(known, self.share))),
            }
        }
    }

    // ── sending ──

    /// Whether the lease is fresh enough to begin a request.
    pub fn may_send(&self, now: Micros) -> bool {
        !self.frozen && now - self.renewed_at < SENDS_FOR
    }

    /// Begins the next attempt of one of its lanes. `None`: there is nothing to send, or not now.
    pub fn send(&mut self, which: u8, now: Micros) -> Option<InFlight> {
        let ready = self.lanes.values_mut().filter(|lane| lane.is_ready());
        let mut ready: Vec<&mut Lane> = ready.collect();
        let count = ready.len();
        let lane = ready.get_mut(usize::from(which).checked_rem(count)?)?;
        let ticket = if lane.serves { lane.health.begin(timestamp(now)) } else { None };
        let Some(ticket) = ticket else {
            // Paused since it was claimed, or others serve it now: given back, not sent.
            self.results.extend(lane.queue.drain(..).map(|delivery| unsent(&delivery)));
            return None;
        };
        let delivery = lane.queue.pop_front().expect("it is ready");
        lane.in_flight += 1;
        Some(InFlight { request: 0, delivery, ticket, began: instant(now) })
    }

    /// Takes in how an attempt ended.
    pub fn ended(&mut self, in_flight: InFlight, outcome: Outcome, now: Micros) {
        let present = timestamp(now);
        let InFlight { delivery, ticket, began, .. } = in_flight;
        let lane = self.lanes.get_mut(&delivery.endpoint_id).expect("it was sent from there");
        let verdict = lane.judge(&delivery, &outcome, present);
        let transition = lane.ended(ticket, &outcome, verdict.decision, present);
        let blocks = lane.blocks(&delivery, verdict.decision);
        let (endpoint, effect) = (lane.id, verdict.effect);
        if effect.is_some() || matches!(transition, Some(Transition::Disabled { .. })) {
            lane.closed = true;
            self.results.extend(lane.queue.drain(..).map(|delivery| unsent(&delivery)));
        }
        if let (Some(Transition::Disabled { reason }), None) = (transition, effect) {
            self.strikes.push((endpoint, Effect::Disable, reason));
        }
        let number = delivery.attempt_count + 1;
        let took = instant(now).saturating_duration_since(began);
        self.results.push_back(Finished {
            claim: claim_of(&delivery),
            line: delivery.ordering_key.clone(),
            attempt: Some(Arc::new(Attempt {
                took,
                outcome: Some(outcome),
                blocks,
                ..attempt(&delivery, number, began, verdict)
            })),
        });
    }

    /// Claims nothing more, and gives back what is not begun.
    pub fn stop(&mut self) {
        self.stopping = true;
        for lane in self.lanes.values_mut() {
            lane.closed = true;
            self.results.extend(lane.queue.drain(..).map(|delivery| unsent(&delivery)));
        }
    }

    // ── recording ──

    fn record(&mut self, most: u8, now: Micros) -> Option<Statement> {
        if self.batch.is_empty() {
            let most = usize::from(most).min(self.results.len());
            self.batch = self.results.drain(..most).collect();
            self.released = false;
        }
        let unsent = self.batch.iter().filter(|finished| finished.attempt.is_none());
        let claims: Vec<ClaimKey> = unsent.map(|finished| finished.claim).collect();
        if !claims.is_empty() && !self.released {
            return Some(Statement::Release { claims });
        }
        let attempts: Vec<_> =
            self.batch.iter().filter_map(|finished| finished.attempt.clone()).collect();
        (!attempts.is_empty()).then(|| Statement::Record { attempts, now: instant(now) })
    }

    // ── beside ──

    fn look_at_lines(&mut self) -> Option<Statement> {
        let lines = &mut self.lines;
        if std::mem::take(&mut lines.all) {
            lines.walk = Some((EndpointId::MIN, String::new()));
            lines.found.clear();
        }
        if !lines.found.is_empty() {
            return Some(Statement::GiveTurns { lines: std::mem::take(&mut lines.found) });
        }
        if let Some(after) = lines.walk.clone() {
            return Some(Statement::Lines { after });
        }
        let these: Vec<Line> = std::mem::take(&mut lines.these).into_iter().collect();
        (!these.is_empty()).then_some(Statement::GiveTurns { lines: these })
    }

    fn note(&mut self) -> Option<Statement> {
        if let Some((endpoint, effect, reason)) = self.strikes.pop() {
            return Some(Statement::Strike { endpoint, delete: effect == Effect::Delete, reason });
        }
        let notes: Vec<Note> = self.lanes.values_mut().filter_map(Lane::note).collect();
        (!notes.is_empty()).then_some(Statement::Note { notes })
    }

    /// One of its statements after the other.
    fn upkeep(&mut self) -> Option<Statement> {
        self.kept_up += 1;
        Some(match self.kept_up % 5 {
            1 => Statement::ReleaseOrphans { held: self.tokens(), newest: self.token },
            2 => Statement::Upkeep(Upkeep::Orphans),
            3 => Statement::Upkeep(Upkeep::Drop),
            4 => Statement::Upkeep(Upkeep::Make),
            _ => Statement::Upkeep(Upkeep::Trim),
        })
    }

    // ── answers ──
}

impl Lines {
    fn are_to_be_looked_at(&self) -> bool {
        self.all || self.walk.is_some() || !self.these.is_empty()
    }

    fn look_at_all_again(&mut self) {
        self.walk = None;
        self.found.clear();
        self.all = true;
    }
}

/// The instant at which the simulation's clock shows this.
pub fn instant(now: Micros) -> Instant {
    use std::sync::OnceLock;
    static FIRST: OnceLock<(Instant, Micros)> = OnceLock::new();
    let (first, shown) = FIRST.get_or_init(|| (posthaste::clock::Clock.instant(), now));
    let since = Duration::from_micros(now.abs_diff(*shown));
    if now >= *shown { *first + since } else { *first - since }
}

fn claim_of(delivery: &Delivery) -> ClaimKey {
    ClaimKey {
        event_id: delivery.event_id,
        endpoint_id: delivery.endpoint_id,
        token: delivery.claim_token,
    }
}

fn unsent(delivery: &Delivery) -> Finished {
    Finished { claim: claim_of(delivery), line: delivery.ordering_key.clone(), attempt: None }
}

fn cancelled_for(reason: Option<String>, delivery: &Delivery, began: Instant) -> Finished {
    let verdict = Verdict { decision: Decision::Cancelled, effect: None, reason };
    Finished {
        claim: claim_of(delivery),
        line: delivery.ordering_key.clone(),
        attempt: Some(Arc::new(attempt(delivery, 0, began, verdict))),
    }
}

fn attempt(delivery: &Delivery, number: u32, began: Instant, verdict: Verdict) -> Attempt {
    Attempt {
        event_id: delivery.event_id,
        endpoint_id: delivery.endpoint_id,
        claim_token: delivery.claim_token,
        event_created_at: delivery.event_created_at,
        number,
        began,
        took: Duration::ZERO,
        phases: Phases::default(),
        outcome: None,
        verdict,
        blocks: false,
    }
}
