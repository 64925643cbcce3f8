//! A lane per endpoint: the [value](LaneState) that decides how much it may take and what is sent
//! next, behind a lock, and the workers that send. A slow, dead or hostile endpoint fills its own
//! lane and no other.
//!
//! The dispatch puts claims in; workers take them out, each with a connection of its own. A claim
//! takes room in its lane until it is recorded or given back, that is, until it is dropped.

mod brake;
mod follow;
mod meanwhile;
mod worker;
mod workshop;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::Notify;

use self::meanwhile::HeardMeanwhile;
pub(super) use self::workshop::Workshop;
#[cfg(test)]
use super::attempt::ConnectionSlot;
use super::attempt::ReadyEndpoint;
use super::claims::holdings::Claim;
use super::ended::Ended;
use super::limits::tenants::{Held, TenantHeld};
use crate::model::dispatch::ClaimRoom;
use crate::model::endpoint::{Endpoint, EndpointId};
use crate::model::health::Health;
use crate::model::lane::{Bounds, LaneState, Tally, first_room, share_of_room};
use crate::model::outcome::Refusal;
use crate::model::routing::LaneRoom;
use crate::model::share::Share;
use crate::model::tenant::{Tenant, TenantRoom, share_in_tenant};
use crate::model::window::Remembered;
#[cfg(test)]
use crate::model::{delivery::Delivery, outcome::Outcome};

/// All lanes of this relay.
#[derive(Debug)]
pub(super) struct Lanes {
    map: Mutex<HashMap<EndpointId, Arc<Lane>>>,
    /// Locked after the map and before a lane.
    heard_meanwhile: Mutex<HeardMeanwhile>,
    workshop: Arc<Workshop>,
}

/// One endpoint's lane.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) id: EndpointId,
    /// The claims that are in it: queued, in flight, or not yet recorded.
    held: Arc<Held>,
    workshop: Arc<Workshop>,
    staffed: Mutex<Staffed>,
}

/// A lane's value and its workers.
#[derive(Debug)]
struct Staffed {
    state: LaneState<Claim>,
    ready: Arc<ReadyEndpoint>,
    /// What the endpoint's tenant holds, if it has one.
    tenant: Option<Arc<TenantHeld>>,
    workers: usize,
    /// Workers that are parked and not called; the last to come is the first to be called, since
    /// its connection is still warm.
    parked: Vec<Arc<Notify>>,
}

impl Lanes {
    pub(super) fn new(workshop: Workshop) -> Self {
        let (map, heard_meanwhile) = (Mutex::default(), Mutex::default());
        Self { map, heard_meanwhile, workshop: Arc::new(workshop) }
    }

    pub(super) fn get(&self, id: EndpointId) -> Option<Arc<Lane>> {
        self.lock().get(&id).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Lane>> {
        self.lock().values().cloned().collect()
    }

    /// Makes an endpoint ready and opens its lane; a lane that exists takes the endpoint over, and
    /// knows its window better than what was learnt before.
    pub(super) fn open(
        &self,
        endpoint: Endpoint,
        secrets_until: Option<Timestamp>,
        health: Health,
        learnt: Option<Remembered>,
    ) -> Arc<Lane> {
        let defaults = self.workshop.attempts.defaults();
        self.open_ready(ReadyEndpoint::new(defaults, endpoint, secrets_until), health, learnt)
    }

    /// Opens the lane of an endpoint that nothing can be sent to: what is owed to it is refused,
    /// for this reason.
    pub(super) fn open_unusable(
        &self,
        id: EndpointId,
        revision: i64,
        refusal: (Refusal, String),
    ) -> Arc<Lane> {
        let defaults = self.workshop.attempts.defaults();
        let ready = ReadyEndpoint::unusable(defaults, id, revision, refusal);
        self.open_ready(ready, Health::default(), None)
    }

    fn open_ready(
        &self,
        ready: ReadyEndpoint,
        health: Health,
        learnt: Option<Remembered>,
    ) -> Arc<Lane> {
        let workshop = &self.workshop;
        let (id, now) = (ready.endpoint.id, workshop.clock.instant());
        let (limits, share) = (ready.limits(), workshop.share());
        let tenant = ready.endpoint.tenant.map(|tenant| workshop.claims.tenants.get(tenant));
        let ready = Arc::new(ready);
        let mut lanes = self.lock();
        let is_outdated = self.heard_meanwhile().changed.contains(&id);
        if let Some(lane) = lanes.get(&id) {
            let mut staffed = lane.lock();
            if !staffed.state.is_dismissed() {
                staffed.state.reopen(limits, health, share, now);
                staffed.ready = ready;
                staffed.tenant = tenant;
                if is_outdated {
                    staffed.outdate();
                }
                drop(staffed);
                return Arc::clone(lane);
            }
        }
        let mut state = LaneState::new(limits, workshop.initial_window, health, share, now);
        if let Some(learnt) = learnt {
            state.recall(learnt);
        }
        let mut staffed = Staffed { state, ready, tenant, workers: 0, parked: Vec::new() };
        if is_outdated {
            staffed.outdate();
        }
        let lane = Arc::new(Lane {
            id,
            held: Arc::default(),
            workshop: Arc::clone(workshop),
            staffed: Mutex::new(staffed),
        });
        lanes.insert(id, Arc::clone(&lane));
        lane
    }

    /// Forgets lanes that hold nothing and know nothing of their endpoints but what is noted.
    /// Called now and then, so that endpoints that are long gone take no memory.
    pub(super) fn forget_idle(&self, now: Instant) {
        self.lock().retain(|_, lane| {
            let staffed = lane.lock();
            let state = &staffed.state;
            let is_in_use = staffed.workers > 0 || state.is_worth_keeping(now);
            lane.claimed() > 0 || (is_in_use && !state.is_dismissed())
        });
        self.workshop.claims.tenants.forget_idle();
    }

    /// How many deliveries may be claimed for an endpoint that has no lane yet.
    pub(super) fn first_room(&self) -> usize {
        first_room(self.workshop.initial_window, self.workshop.claims.room())
    }

    /// The same, with bytes, within the room of its tenant.
    pub(super) fn first_room_to_claim(&self, tenant: Option<Tenant>) -> ClaimRoom {
        let claims = &self.workshop.claims;
        let tenant = tenant.map(|tenant| claims.room_of_any(tenant));
        let share = |left: fn(TenantRoom) -> usize| {
            tenant.map_or(usize::MAX, |tenant| share_in_tenant(left(tenant), 0))
        };
        ClaimRoom {
            claims: self.first_room().min(share(|tenant| tenant.claims)),
            bytes: share_of_room(claims.room_for_bytes(), 0).min(share(|tenant| tenant.bytes)),
            tenant,
        }
    }

    /// Requests in flight, over all lanes.
    pub(super) fn in_flight(&self) -> usize {
        self.workshop.budget.in_flight()
    }

    /// Which of how many relays this one is.
    pub(super) fn share(&self) -> Share {
        self.workshop.share()
    }

    /// Relays have come or gone: limits are divided anew, and what is beyond this relay's part is
    /// given back.
    pub(super) async fn divide(&self, share: Share) {
        let before = std::mem::replace(&mut *self.workshop.lock_share(), share);
        if before != share {
            tracing::info!(relays = share.relays(), "limits are divided anew");
            for lane in self.all() {
                lane.divide();
                lane.give_back_excess().await;
            }
            self.workshop.claims.room_freed.notify_one();
        }
    }

    /// Sends again where something is queued: the lease is fresh again.
    pub(super) fn resume(&self) {
        self.all().iter().for_each(Lane::resume);
    }

    /// Gives back what is queued and not begun, and lets the workers go.
    pub(super) async fn dismiss(&self) {
        for lane in self.all() {
            lane.dismiss();
            lane.give_back(lane.drain()).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EndpointId, Arc<Lane>>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    /// How many more deliveries that wait may be claimed for it.
    pub(super) fn room(&self) -> usize {
        self.room_to_claim().claims
    }

    /// The same, with the bytes that they may have, and with the room of its tenant.
    pub(super) fn room_to_claim(&self) -> ClaimRoom {
        let staffed = self.lock();
        let (now, tenant) = (self.workshop.clock.now(), self.room_of_tenant(&staffed));
        let room = staffed.state.room(now, self.bounds(&staffed));
        let (claims, bytes) = self.within(tenant, room);
        ClaimRoom { claims, bytes, tenant }
    }

    /// How many more deliveries may be claimed for it that are made just now.
    pub(super) fn room_for_new(&self) -> usize {
        self.room_for_step().room
    }

    /// The same, and what else routing goes by.
    pub(super) fn room_for_step(&self) -> LaneRoom {
        let staffed = self.lock();
        let (now, bounds) = (self.workshop.clock.now(), self.bounds(&staffed));
        let room = staffed.state.room_for_new(now, bounds);
        let (room, bytes) = self.within(self.room_of_tenant(&staffed), room);
        LaneRoom { room, bytes, held: bounds.claimed, flows: staffed.state.flows(now) }
    }

    fn bounds(&self, staffed: &Staffed) -> Bounds {
        Bounds {
            claimed: self.claimed(),
            free: self.workshop.claims.room(),
            requests: self.workshop.budget.share(staffed.tenant.as_deref()),
        }
    }

    fn room_of_tenant(&self, staffed: &Staffed) -> Option<TenantRoom> {
        staffed.tenant.as_deref().map(|tenant| self.workshop.claims.room_of(tenant))
    }

    /// So much of its own room, and of its share of all bytes, as is within what its tenant may
    /// claim. The next events are taken to be as large as those that it holds.
    fn within(&self, tenant: Option<TenantRoom>, room: usize) -> (usize, usize) {
        let (claims, bytes) = (self.held.claims(), self.held.bytes());
        let (of_claims, of_bytes) = tenant.map_or((usize::MAX, usize::MAX), |tenant| {
            (share_in_tenant(tenant.claims, claims), share_in_tenant(tenant.bytes, bytes))
        });
        let of_bytes = share_of_room(self.workshop.claims.room_for_bytes(), bytes).min(of_bytes);
        let mean = bytes.checked_div(claims).unwrap_or_default();
        let by_bytes = of_bytes.checked_div(mean).unwrap_or(usize::MAX);
        let room = room.min(of_claims).min(by_bytes);
        (if of_bytes == 0 { 0 } else { room }, of_bytes)
    }

    pub(super) fn claimed(&self) -> usize {
        self.held.claims()
    }

    /// How many of its claims have not been taken out to be sent.
    pub(super) fn queued(&self) -> usize {
        self.lock().state.queued()
    }

    /// Whether this relay may send to it; otherwise other relays do.
    pub(super) fn serves(&self) -> bool {
        self.lock().state.serves()
    }

    pub(super) fn host(&self) -> String {
        self.lock().ready.host().to_owned()
    }

    /// Whether the settings were read at this revision and no secret has expired since.
    pub(super) fn is_current(&self, revision: i64, now: Timestamp) -> bool {
        self.lock().state.is_current(revision, now)
    }

    /// How many attempts have ended here so far: whether it moves.
    pub(super) fn finished_so_far(&self) -> u64 {
        self.lock().state.finished_so_far()
    }

    /// The attempts since the last call, if there were any, the endpoint's health, and what is
    /// known of its window.
    pub(super) fn take_tally(&self) -> Option<(Tally, Health, Option<Remembered>)> {
        let state = &mut self.lock().state;
        let (tally, health) = state.take_tally()?;
        Some((tally, health, state.remembered()))
    }

    /// Hands it a claim to send.
    ///
    /// # Errors
    /// When it was outdated or closed in this moment: the claim, to be given back.
    pub(super) fn push(self: &Arc<Self>, mut claim: Claim) -> Result<(), Claim> {
        let mut staffed = self.lock();
        claim.enter(&self.held, staffed.tenant.as_ref());
        if !staffed.state.takes() {
            return Err(claim);
        }
        staffed.state.push(claim);
        self.staff(&mut staffed);
        Ok(())
    }

    /// Lets a claim take room that is not handed over but ended right away.
    pub(super) fn hold(&self, claim: &mut Claim) {
        claim.enter(&self.held, self.lock().tenant.as_ref());
    }

    fn divide(self: &Arc<Self>) {
        let mut staffed = self.lock();
        staffed.state.divide(self.workshop.share());
        if staffed.state.queued() > 0 {
            self.staff(&mut staffed);
        }
    }

    /// Gives back what was claimed before the endpoint's limits were known, and other relays can
    /// send sooner.
    pub(super) async fn give_back_excess(&self) {
        let excess = self.lock().state.take_excess(self.workshop.share());
        if !excess.is_empty() {
            self.leave_to_others(excess).await;
        }
    }

    async fn give_back(&self, claims: Vec<Claim>) {
        for claim in claims {
            self.workshop.results.report(Ended::unsent(claim)).await;
        }
    }

    async fn leave_to_others(&self, claims: Vec<Claim>) {
        for claim in claims {
            self.workshop.results.report(Ended::left_to_others(claim)).await;
        }
    }

    /// Staffs again after something outside the lane has changed.
    pub(super) fn resume(self: &Arc<Self>) {
        let mut staffed = self.lock();
        if staffed.state.queued() > 0 {
            self.staff(&mut staffed);
        }
    }

    /// Makes an attempt of a delivery, with a connection of its own.
    #[cfg(test)]
    pub(super) async fn try_once(&self, delivery: &Delivery) -> Outcome {
        let ready = Arc::clone(&self.lock().ready);
        let mut slot = ConnectionSlot::default();
        let sent = self.workshop.attempts.make(&ready, delivery, &mut slot).await;
        sent.expect("no bug is in the way").outcome
    }

    /// Takes nothing more: the endpoint is disabled or deleted.
    fn close(&self) {
        self.lock().state.close();
    }

    /// Lets its workers go when they have nothing in flight any more. It cannot be reopened, and
    /// another takes its place when the endpoint's is opened.
    fn dismiss(&self) {
        let mut staffed = self.lock();
        staffed.state.dismiss();
        staffed.parked.drain(..).for_each(|parked| parked.notify_one());
    }

    /// Takes out what is queued and not begun, to be given back.
    fn drain(&self) -> Vec<Claim> {
        self.lock().state.drain()
    }

    fn lock(&self) -> MutexGuard<'_, Staffed> {
        self.staffed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests;
