//! What one step of routing does with the events that it has read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::recipients::Recipient;
use crate::model::endpoint::EndpointId;
use crate::model::lane::share_of_room;
use crate::model::tenant::{Tenant, TenantRoom, share_in_tenant};

/// As many events without an unusual one are worth a step of their own.
const WORTH_A_STEP: usize = 64;

/// An event, as far as it concerns who is owed it.
#[derive(Debug, Clone)]
pub struct Owing {
    /// Its [kind](super::EventKind)'s recipients.
    pub recipients: Arc<[Recipient]>,
    pub has_ordering_key: bool,
    /// Whether it may be sent yet.
    pub is_due: bool,
    /// Of its payload and headers.
    pub bytes: usize,
}

/// What a lane has and takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneRoom {
    /// Deliveries that may be claimed for it.
    pub room: usize,
    /// Bytes of payloads and headers that may be; the last event may exceed them.
    pub bytes: usize,
    /// Claims that it holds.
    pub held: usize,
    /// Whether it will have room as soon as attempts end: it is not paused, closed or another
    /// relay's.
    pub flows: bool,
}

impl LaneRoom {
    /// Whether its endpoint waits for events, and nothing else is in the way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.held == 0 && self.flows && self.room > 0
    }
}

/// How much one step may claim.
#[expect(missing_debug_implementations, reason = "it holds a function")]
pub struct StepRoom<'a> {
    /// Of an endpoint. `None`: it has no lane.
    pub lane: &'a (dyn Fn(EndpointId) -> Option<LaneRoom> + Send + Sync),
    /// Of one without a lane.
    pub of_others: usize,
    /// What a tenant's endpoints may claim together.
    pub tenant: &'a (dyn Fn(Tenant) -> TenantRoom + Send + Sync),
    /// Deliveries in all.
    pub in_all: usize,
    /// Bytes in all, of payloads and headers.
    pub bytes: usize,
    /// Full lanes have been waited for long enough.
    pub may_overflow: bool,
}

/// What a step does. Deliveries are pairs of an event's place among those read and a place among
/// its recipients.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct StepPlan {
    /// Events that are routed: the first of those read.
    pub taken: usize,
    /// Events among them that no endpoint is owed.
    pub unmatched: usize,
    /// Deliveries that the relay claims.
    pub claimed: Vec<(usize, usize)>,
    /// Deliveries that wait.
    pub waiting: Vec<(usize, usize)>,
    /// The step ends before an event for a lane that is full.
    pub cut: Option<Cut>,
    /// The step ends where the whole statement is to go on: before an event in a line.
    pub is_unusual: bool,
}

/// Why a step ends before an event for which there is no room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The lane that is full.
    pub full: EndpointId,
    /// The endpoints of the events that are left, where attempts are being made.
    pub left: Vec<EndpointId>,
}

/// Deliveries about which filters are to be asked.
#[must_use]
pub fn candidates(events: &[Owing]) -> Vec<(usize, usize)> {
    let of_event = |(at, event): (usize, &Owing)| {
        let filtered = event.recipients.iter().enumerate().filter(|(_, one)| one.filtered);
        filtered.map(|(place, _)| (at, place)).collect::<Vec<_>>()
    };
    events.iter().enumerate().flat_map(of_event).collect()
}

/// Decides what a step does. `let_through`: the deliveries among the [`candidates`] that filters
/// let through.
///
/// Where a lane is full, the step ends before its next event, as long as every other endpoint with
/// an event in this step has something to do. Where one has not, or the lane will not have room by
/// itself, the full lane's deliveries are written to wait, and the others' go on.
#[must_use]
pub fn decide(
    events: &[Owing],
    let_through: &HashSet<(usize, usize)>,
    room: &StepRoom<'_>,
) -> StepPlan {
    let mut step = Filling::new(events, room);
    for (at, event) in events.iter().enumerate() {
        let owed = owed(let_through, at, event);
        let is_in_line = |place: &usize| event.has_ordering_key && event.recipients[*place].ordered;
        if owed.iter().any(is_in_line) {
            step.plan.is_unusual = true;
            // A short step would cost more than it saves.
            return if at < WORTH_A_STEP {
                StepPlan { is_unusual: true, ..StepPlan::default() }
            } else {
                step.plan
            };
        }
        if let Some(full) = step.waits_for(event, &owed) {
            step.plan.cut = Some(Cut { full, left: step.flowing(&events[at..]) });
            break;
        }
        step.take(at, event, &owed);
    }
    step.plan
}

/// The places of the recipients that are owed an event.
fn owed(let_through: &HashSet<(usize, usize)>, at: usize, event: &Owing) -> Vec<usize> {
    let is_owed = |(place, one): (usize, &Recipient)| {
        (!one.filtered || let_through.contains(&(at, place))).then_some(place)
    };
    event.recipients.iter().enumerate().filter_map(is_owed).collect()
}

/// What an endpoint has that has no lane yet.
fn first_room(room: &StepRoom<'_>, one: &Recipient, tenant: Option<TenantRoom>) -> LaneRoom {
    let in_tenant = |left: Option<usize>| left.map_or(usize::MAX, |left| share_in_tenant(left, 0));
    let claims = room.of_others.min(in_tenant(tenant.map(|tenant| tenant.claims)));
    LaneRoom {
        room: if one.flowing { claims } else { 0 },
        bytes: share_of_room(room.bytes, 0).min(in_tenant(tenant.map(|tenant| tenant.bytes))),
        held: 0,
        flows: one.flowing,
    }
}

/// A step that is being filled.
struct Filling {
    lanes: HashMap<EndpointId, LaneRoom>,
    tenants: HashMap<Tenant, TenantRoom>,
    /// Endpoints that have events here and nothing to do yet.
    idle: HashSet<EndpointId>,
    in_all: usize,
    bytes: usize,
    may_overflow: bool,
    plan: StepPlan,
}

impl Filling {
    fn new(events: &[Owing], room: &StepRoom<'_>) -> Self {
        let mut lanes: HashMap<EndpointId, LaneRoom> = HashMap::new();
        let mut tenants: HashMap<Tenant, TenantRoom> = HashMap::new();
        for one in events.iter().flat_map(|event| event.recipients.iter()) {
            lanes.entry(one.endpoint).or_insert_with(|| {
                let tenant = one
                    .tenant
                    .map(|tenant| *tenants.entry(tenant).or_insert_with(|| (room.tenant)(tenant)));
                (room.lane)(one.endpoint).unwrap_or_else(|| first_room(room, one, tenant))
            });
        }
        let idle = lanes.iter().filter(|(_, lane)| lane.is_idle()).map(|(id, _)| *id).collect();
        Self {
            lanes,
            tenants,
            idle,
            in_all: room.in_all,
            bytes: room.bytes,
            may_overflow: room.may_overflow,
            plan: StepPlan::default(),
        }
    }

    /// The full lane for which routing waits before this event.
    fn waits_for(&self, event: &Owing, owed: &[usize]) -> Option<EndpointId> {
        if self.may_overflow || !event.is_due {
            return None;
        }
        let fits_in_all = owed.len() <= self.in_all && event.bytes * owed.len() <= self.bytes;
        // It may be more than ever fits.
        if !fits_in_all && self.in_all > 0 && self.plan.taken == 0 {
            return None;
        }
        let full = owed
            .iter()
            .map(|place| &event.recipients[*place])
            .find(|one| self.lanes[&one.endpoint].flows && (!self.has_room(one) || !fits_in_all))?;
        let full = full.endpoint;
        let others_wait = self.idle.iter().any(|id| *id != full);
        (!others_wait || !fits_in_all).then_some(full)
    }

    /// Whether its lane and its tenant have room for one more.
    fn has_room(&self, one: &Recipient) -> bool {
        let lane = self.lanes[&one.endpoint];
        let tenant = one.tenant.and_then(|tenant| self.tenants.get(&tenant));
        lane.room > 0
            && lane.bytes > 0
            && tenant.is_none_or(|tenant| tenant.claims > 0 && tenant.bytes > 0)
    }

    /// The endpoints of these events whose lanes take more as attempts end.
    fn flowing(&self, events: &[Owing]) -> Vec<EndpointId> {
        let endpoints = events.iter().flat_map(|event| event.recipients.iter());
        let flowing = endpoints.map(|one| one.endpoint).filter(|id| self.lanes[id].flows);
        flowing.collect::<HashSet<_>>().into_iter().collect()
    }

    fn take(&mut self, at: usize, event: &Owing, owed: &[usize]) {
        self.plan.taken += 1;
        self.plan.unmatched += usize::from(owed.is_empty());
        for &place in owed {
            let one = &event.recipients[place];
            let fits = self.has_room(one) && self.in_all > 0 && event.bytes <= self.bytes;
            if event.is_due && fits {
                let lane = self.lanes.get_mut(&one.endpoint).expect("its lane was asked");
                lane.room -= 1;
                lane.bytes = lane.bytes.saturating_sub(event.bytes);
                if let Some(tenant) = one.tenant.and_then(|tenant| self.tenants.get_mut(&tenant)) {
                    tenant.claims -= 1;
                    tenant.bytes = tenant.bytes.saturating_sub(event.bytes);
                }
                self.in_all -= 1;
                self.bytes -= event.bytes;
                self.idle.remove(&one.endpoint);
                self.plan.claimed.push((at, place));
            } else {
                self.plan.waiting.push((at, place));
            }
        }
    }
}
