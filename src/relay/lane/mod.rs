//! A lane per endpoint: what is claimed for it and not yet recorded, how much it may take, and the
//! workers that send. A slow, dead or hostile endpoint fills its own lane and no other.
//!
//! The dispatch put deliveries in; workers take them out, each with a connection of its own; the
//! recorder says when they are written down and their room is free again.

mod worker;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::Shared;
use super::attempt::{ReadyEndpoint, Times};
use crate::model::delivery::Delivery;
use crate::model::endpoint::EndpointId;
use crate::model::health::{Allowance, Health, Sign, Ticket, Transition};
use crate::model::outcome::Outcome;
use crate::model::rate::Rate;
use crate::model::share::Share;
use crate::model::verdict::Decision;
use crate::model::window::Window;

/// A lane holds as many claims as keep it busy for this long, so that workers need not wait for the next
/// statement, and an endpoint that takes a second for each has hardly any waiting here that another relay
/// could send. Long against a statement.
const AHEAD_MS: f64 = 200.0;
/// Of an endpoint of which nothing is known, so many for each request.
pub(super) const FIRST_CLAIMS_PER_REQUEST: usize = 16;

/// Who says nothing for so long is not waiting for us.
const SILENCE: Duration = Duration::from_millis(50);

/// How long a lane is kept of an endpoint that others serve.
const NOT_OURS_FOR: Duration = Duration::from_secs(600);

/// All lanes of this relay.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    map: Mutex<HashMap<EndpointId, Arc<Lane>>>,
}

/// One endpoint's lane.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) id: EndpointId,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    ready: Arc<ReadyEndpoint>,
    queue: VecDeque<Delivery>,
    window: Window,
    health: Health,
    pace: Option<Rate>,
    /// Whether this relay has a part of the endpoint's limits; otherwise others serve it.
    serves: bool,
    opened_at: Instant,
    /// Queued, in flight, or not yet recorded.
    claimed: usize,
    /// Attempts that have come to an end here, ever.
    finished: u64,
    in_flight: usize,
    workers: usize,
    /// Workers that are parked and not called; the last to come is the first to be called, since its
    /// connection is still warm.
    parked: Vec<Arc<Notify>>,
    /// Somebody looks whether it answers.
    watched: bool,
    tally: Tally,
    /// How long attempts take here, lately.
    mean_ms: Option<f64>,
    closed: bool,
    /// Closed for good.
    dismissed: bool,
}

/// What has come of an endpoint's attempts since it was last noted.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tally {
    pub(super) successes: u32,
    pub(super) failures: u32,
    pub(super) duration_ms: f64,
}

/// What a worker is to do.
enum Next {
    Send(Box<Delivery>, Arc<ReadyEndpoint>, Ticket),
    /// The endpoint has been paused, or is served by others, since these were claimed: give them back.
    Return(Vec<Delivery>),
    /// Nothing to do, or not allowed to: wait to be called.
    Park,
    /// There will be nothing to do.
    Leave,
    /// The endpoint's rate allows the next one only then.
    Rate(Duration),
}

impl Lanes {
    pub(super) fn get(&self, id: EndpointId) -> Option<Arc<Lane>> {
        self.lock().get(&id).cloned()
    }

    /// The lane with this ready, made if there is none; a lane that exists takes the ready over.
    pub(super) fn open(&self, shared: &Shared, ready: ReadyEndpoint, health: Health) -> Arc<Lane> {
        let id = ready.endpoint.id;
        let now = shared.clock.instant();
        let mut lanes = self.lock();
        if let Some(lane) = lanes.get(&id) {
            let mut inner = lane.lock();
            inner.closed = false;
            inner.health = health;
            inner.ready = Arc::new(ready);
            inner.opened_at = now;
            inner.divide(shared.share());
            drop(inner);
            return Arc::clone(lane);
        }
        let mut inner = Inner {
            window: Window::new(shared.config.delivery.initial_window, ready.max_concurrency),
            ready: Arc::new(ready),
            queue: VecDeque::new(),
            health,
            pace: None,
            serves: true,
            opened_at: now,
            claimed: 0,
            finished: 0,
            in_flight: 0,
            workers: 0,
            parked: Vec::new(),
            watched: false,
            tally: Tally::default(),
            mean_ms: None,
            closed: false,
            dismissed: false,
        };
        inner.divide(shared.share());
        let lane = Arc::new(Lane { id, inner: Mutex::new(inner) });
        lanes.insert(id, Arc::clone(&lane));
        lane
    }

    pub(super) fn all(&self) -> Vec<Arc<Lane>> {
        self.lock().values().cloned().collect()
    }

    /// Forgets lanes that hold nothing and have nothing to say. Called now and then, so that
    /// endpoints that are long gone take no memory. That others serve an endpoint is worth knowing
    /// for longer, or it would be claimed and given back again and again.
    pub(super) fn forget_idle(&self, now: Instant) {
        self.lock().retain(|_, lane| {
            let inner = lane.lock();
            inner.claimed > 0
                || inner.workers > 0
                || inner.health != Health::default()
                || (!inner.serves && now.saturating_duration_since(inner.opened_at) < NOT_OURS_FOR)
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EndpointId, Arc<Lane>>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    /// How many more deliveries that wait may be claimed for it.
    pub(super) fn room(&self, shared: &Shared) -> usize {
        self.room_if(shared, 0)
    }

    /// How many more deliveries may be claimed for it that are made just now.
    pub(super) fn room_for_new(&self, shared: &Shared) -> usize {
        self.room_if(shared, 1)
    }

    /// How many more may be claimed, if so many may be while only a new one may probe.
    fn room_if(&self, shared: &Shared, fresh_probes: usize) -> usize {
        let inner = self.lock();
        if inner.closed || !inner.serves {
            return 0;
        }
        let most = match inner.health.may_send(shared.clock.now()) {
            Allowance::Freely => inner.most_claims(shared.budget.share()),
            Allowance::OneProbe => 1,
            Allowance::FreshProbe => fresh_probes,
            Allowance::No { .. } => 0,
        };
        most.saturating_sub(inner.claimed).min(shared.claims.share_of_room(inner.claimed))
    }

    #[cfg(test)]
    pub(super) fn ready(&self) -> Arc<ReadyEndpoint> {
        Arc::clone(&self.lock().ready)
    }

    /// Whether this relay may send to it, or others do.
    pub(super) fn serves(&self) -> bool {
        self.lock().serves
    }

    /// Relays have come or gone.
    pub(super) fn divide(self: &Arc<Self>, shared: &Arc<Shared>) {
        let mut inner = self.lock();
        inner.divide(shared.share());
        if !inner.queue.is_empty() {
            self.staff(&mut inner, shared);
        }
    }

    pub(super) fn host(&self) -> String {
        self.lock().ready.host().to_owned()
    }

    /// Whether the settings were read at this revision and no secret has expired since.
    pub(super) fn is_current(&self, revision: i64, now: Timestamp) -> bool {
        let inner = self.lock();
        inner.ready.endpoint.revision == revision
            && inner.ready.secrets_until.is_none_or(|until| now < until)
    }

    /// Hands it a claimed delivery.
    pub(super) fn push(self: &Arc<Self>, shared: &Arc<Shared>, delivery: Delivery) {
        let mut inner = self.lock();
        inner.claimed += 1;
        inner.queue.push_back(delivery);
        self.staff(&mut inner, shared);
    }

    /// Takes out what was claimed before the endpoint's limits were known and others may have.
    pub(super) fn take_excess(&self, shared: &Shared) -> Vec<Delivery> {
        let mut inner = self.lock();
        let most = inner.most_claims(usize::MAX);
        if shared.share().relays() == 1 || inner.queue.len() <= 2 * most {
            return Vec::new();
        }
        inner.queue.split_off(most).into()
    }

    /// Counts a claim that is not handed over but ended right away.
    pub(super) fn hold(&self) {
        self.lock().claimed += 1;
    }

    /// Calls or hires as many workers as there is work and room for.
    fn staff(self: &Arc<Self>, inner: &mut Inner, shared: &Arc<Shared>) {
        let wanted = inner.queue.len() + inner.in_flight;
        let allowed = width(&inner.window).min(shared.budget.share()).min(wanted);
        while inner.workers - inner.parked.len() < allowed {
            if let Some(parked) = inner.parked.pop() {
                parked.notify_one();
            } else {
                inner.workers += 1;
                let work = worker::work(Arc::clone(self), Arc::clone(shared));
                shared.term.workers.spawn(super::guarded(shared.term.over.clone(), work));
            }
        }
        if inner.would_have_more() && !inner.watched {
            inner.watched = true;
            let watch = watch(Arc::clone(self), Arc::clone(shared));
            shared.term.workers.spawn(super::guarded(shared.term.over.clone(), watch));
        }
    }

    /// Takes in that a moment has passed since so many attempts had come to an end. Returns how many have now;
    /// `None`: nobody waits for that any more.
    fn minded(self: &Arc<Self>, shared: &Arc<Shared>, finished: Option<u64>) -> Option<u64> {
        let mut inner = self.lock();
        if inner.would_have_more() && finished == Some(inner.finished) {
            inner.window.on_silence();
            self.staff(&mut inner, shared);
        }
        inner.watched = inner.would_have_more();
        inner.watched.then_some(inner.finished)
    }

    /// Staffs again after something outside the lane has changed.
    pub(super) fn resume(self: &Arc<Self>, shared: &Arc<Shared>) {
        let mut inner = self.lock();
        if !inner.queue.is_empty() {
            self.staff(&mut inner, shared);
        }
    }

    fn next(&self, shared: &Shared, call: &Arc<Notify>) -> Next {
        let mut inner = self.lock();
        if inner.dismissed {
            return Next::Leave;
        }
        if !inner.serves && !inner.queue.is_empty() {
            shared.claims.let_others_know();
            return Next::Return(inner.queue.drain(..).collect());
        }
        let busy = inner.in_flight >= width(&inner.window).min(shared.budget.share());
        if inner.queue.is_empty() || busy || !shared.term.may_send() {
            inner.parked.push(Arc::clone(call));
            return Next::Park;
        }
        let wait = inner.pace.as_mut().and_then(|pace| pace.wait(shared.clock.instant()));
        if let Some(wait) = wait {
            return Next::Rate(wait);
        }
        // Paused since it was claimed: given back, not sent.
        let Some(ticket) = inner.health.begin(shared.clock.now()) else {
            return Next::Return(inner.queue.drain(..).collect());
        };
        let delivery = inner.queue.pop_front().expect("the queue is not empty, seen above");
        inner.in_flight += 1;
        Next::Send(Box::new(delivery), Arc::clone(&inner.ready), ticket)
    }

    /// A worker that was not called for long goes home. `false`: it was called just now.
    fn retire(&self, call: &Arc<Notify>) -> bool {
        let mut inner = self.lock();
        let Some(place) = inner.parked.iter().position(|parked| Arc::ptr_eq(parked, call)) else {
            return false;
        };
        inner.parked.remove(place);
        inner.workers -= 1;
        true
    }

    /// Takes in what came of an attempt. Returns what changes for the endpoint.
    fn finished(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        ticket: Ticket,
        outcome: &Outcome,
        decision: Decision,
        times: Times,
    ) -> Option<Transition> {
        let mut inner = self.lock();
        let now = shared.clock.now();
        let in_flight = u32::try_from(inner.in_flight).unwrap_or(u32::MAX);
        // As it was judged: a rule may have counted an odd answer as delivered.
        let delivered = decision == Decision::Delivered;
        if delivered {
            inner.window.on_success(times.answer_ms, in_flight, now);
        } else {
            inner.window.after(outcome, times.answer_ms, in_flight, now);
        }
        inner.in_flight -= 1;
        inner.finished += 1;
        let sign = Sign::of(outcome, decision);
        let transition =
            inner.health.after(ticket, sign, now, &shared.policy.health, shared.draw());
        inner.tally.successes += u32::from(delivered);
        inner.tally.failures += u32::from(!delivered);
        let took_ms = times.all_ms;
        inner.tally.duration_ms += took_ms;
        inner.mean_ms = Some(inner.mean_ms.map_or(took_ms, |mean| mean + (took_ms - mean) / 8.0));
        self.staff(&mut inner, shared);
        transition
    }

    /// Frees the room of deliveries that are recorded or released.
    pub(super) fn settled(&self, count: usize) {
        let mut inner = self.lock();
        inner.claimed = inner.claimed.saturating_sub(count);
    }

    /// How many attempts have come to an end here so far: whether it moves.
    pub(super) fn finished_so_far(&self) -> u64 {
        self.lock().finished
    }

    /// Takes out what is queued and not begun, to be released.
    pub(super) fn drain(&self) -> Vec<Delivery> {
        self.lock().queue.drain(..).collect()
    }

    /// Takes nothing more: the endpoint is disabled or deleted.
    pub(super) fn close(&self) {
        self.lock().closed = true;
    }

    /// Sends its workers home when they have nothing in flight any more. It cannot be reopened.
    pub(super) fn dismiss(&self) {
        let mut inner = self.lock();
        (inner.closed, inner.dismissed) = (true, true);
        inner.parked.drain(..).for_each(|parked| parked.notify_one());
    }

    /// What has come of it since last asked, if anything has, and how it stands.
    pub(super) fn take_tally(&self) -> Option<(Tally, Health)> {
        let mut inner = self.lock();
        let tally = std::mem::take(&mut inner.tally);
        (tally.successes + tally.failures > 0).then(|| (tally, inner.health.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// How many claims to hold while there may be so many requests in flight.
    fn most_claims(&self, limit: usize) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to a small number"
        )]
        let per_request = self
            .mean_ms
            .map_or(FIRST_CLAIMS_PER_REQUEST, |mean| (AHEAD_MS / mean).clamp(1.0, 1e6) as usize);
        // Where the first does not answer, others are to be there to be sent.
        let requests = count(self.window.size().max(self.window.start()));
        let most = limit.min(requests).saturating_mul(per_request);
        self.pace.as_ref().map_or(most, |pace| most.min(pace.per_second()))
    }

    /// Whether something waits that might be sent if nobody answers for a while.
    fn would_have_more(&self) -> bool {
        self.queue.len() + self.in_flight > width(&self.window)
            && self.window.minds_silence()
            && !self.dismissed
    }

    /// Takes this relay's part of the endpoint's limits.
    fn divide(&mut self, share: Share) {
        let limit = self.ready.endpoint.rate_limit;
        let part = share.of(self.ready.endpoint.id, self.ready.max_concurrency, limit);
        self.serves = part.is_some();
        let Some(part) = part else { return };
        self.window.set_max(part.max_concurrency);
        match (&mut self.pace, part.rate_limit) {
            (Some(pace), Some(rate)) => pace.set_rate(rate),
            (pace, rate) => *pace = rate.map(Rate::new),
        }
    }
}

fn width(window: &Window) -> usize {
    count(window.size())
}

fn count(requests: u32) -> usize {
    usize::try_from(requests).unwrap_or(usize::MAX)
}

/// Looks whether anything comes back while more is waiting.
async fn watch(lane: Arc<Lane>, shared: Arc<Shared>) {
    let mut finished = None;
    while let Some(so_far) = lane.minded(&shared, finished) {
        finished = Some(so_far);
        tokio::select! {
            () = tokio::time::sleep(SILENCE) => {}
            () = shared.term.ending.cancelled() => return,
        }
    }
}
