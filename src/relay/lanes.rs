//! A lane per endpoint: what is claimed for it and not yet recorded, how much it may take, and the
//! workers that send. A slow, dead or hostile endpoint fills its own lane and no other.
//!
//! The rounds put deliveries in; workers take them out, each with a connection of its own; the
//! recorder says when they are written down and their room is free again.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::Shared;
use super::deliver::{Line, Plan, deliver};
use super::pace::Pace;
use super::record::Finished;
use crate::model::delivery::Delivery;
use crate::model::endpoint::EndpointId;
use crate::model::health::{Allowance, Health, Sign, Ticket, Transition};
use crate::model::outcome::{Answer, Outcome};
use crate::model::share::Share;
use crate::model::verdict::Decision;
use crate::model::window::Window;

/// A lane may hold this many times its window in claims, so that workers need not wait for the next
/// statement. More would make more duplicates after a crash, and no more speed.
pub(super) const CLAIMS_PER_WINDOW: usize = 16;
/// … and no more than keep it busy for this long: an endpoint that takes a second for each has none
/// waiting here that another relay could send. Long against a statement.
const AHEAD_MS: f64 = 200.0;

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
    /// A permit for each parked worker that is called back.
    calls: Semaphore,
}

#[derive(Debug)]
struct Inner {
    plan: Arc<Plan>,
    queue: VecDeque<Delivery>,
    window: Window,
    health: Health,
    pace: Option<Pace>,
    /// Whether this relay has a part of the endpoint's limits; otherwise others serve it.
    serves: bool,
    opened_at: Instant,
    /// Queued, in flight, or not yet recorded.
    claimed: usize,
    /// Attempts that have come to an end here, ever.
    finished: u64,
    in_flight: usize,
    workers: usize,
    /// Workers that are parked and not called.
    parked: usize,
    tally: Tally,
    /// How long attempts take here, lately.
    mean_ms: Option<f64>,
    closed: bool,
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
    Send(Box<Delivery>, Arc<Plan>, Ticket),
    /// The endpoint has been paused, or is served by others, since these were claimed: give them back.
    Return(Vec<Delivery>),
    /// Nothing to do, or not allowed to: wait to be called.
    Park,
    /// The endpoint's rate allows the next one only then.
    Pace(Duration),
}

impl Lanes {
    pub(super) fn get(&self, id: EndpointId) -> Option<Arc<Lane>> {
        self.lock().get(&id).cloned()
    }

    /// The lane with this plan, made if there is none; a lane that exists takes the plan over.
    pub(super) fn open(&self, shared: &Shared, plan: Plan, health: Health) -> Arc<Lane> {
        let id = plan.endpoint.id;
        let now = shared.clock.instant();
        let mut lanes = self.lock();
        if let Some(lane) = lanes.get(&id) {
            let mut inner = lane.lock();
            inner.closed = false;
            inner.health = health;
            inner.plan = Arc::new(plan);
            inner.opened_at = now;
            inner.divide(shared.share());
            drop(inner);
            return Arc::clone(lane);
        }
        let mut inner = Inner {
            window: Window::new(shared.config.delivery.window_start, plan.max_concurrency),
            plan: Arc::new(plan),
            queue: VecDeque::new(),
            health,
            pace: None,
            serves: true,
            opened_at: now,
            claimed: 0,
            finished: 0,
            in_flight: 0,
            workers: 0,
            parked: 0,
            tally: Tally::default(),
            mean_ms: None,
            closed: false,
        };
        inner.divide(shared.share());
        let lane = Arc::new(Lane { id, inner: Mutex::new(inner), calls: Semaphore::new(0) });
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
    /// How many more deliveries may be claimed for it.
    pub(super) fn room(&self, now: Timestamp, limit: usize) -> usize {
        let inner = self.lock();
        if inner.closed || !inner.serves {
            return 0;
        }
        let most = match inner.health.may_send(now) {
            Allowance::Freely => inner.most_claims(limit),
            Allowance::OneProbe => 1,
            Allowance::No { .. } => 0,
        };
        most.saturating_sub(inner.claimed)
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

    /// Whether the settings were read at this revision and no secret has expired since.
    pub(super) fn is_current(&self, revision: i64, now: Timestamp) -> bool {
        let inner = self.lock();
        inner.plan.endpoint.revision == revision
            && inner.plan.secrets_until.is_none_or(|until| now < until)
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
        while inner.workers - inner.parked < allowed {
            if inner.parked > 0 {
                inner.parked -= 1;
                self.calls.add_permits(1);
            } else {
                inner.workers += 1;
                let work = work(Arc::clone(self), Arc::clone(shared));
                shared.workers.spawn(super::guarded(shared.over.clone(), work));
            }
        }
    }

    /// Staffs again after something outside the lane has changed.
    pub(super) fn resume(self: &Arc<Self>, shared: &Arc<Shared>) {
        let mut inner = self.lock();
        if !inner.queue.is_empty() {
            self.staff(&mut inner, shared);
        }
    }

    fn next(&self, shared: &Shared) -> Next {
        let mut inner = self.lock();
        if !inner.serves && !inner.queue.is_empty() {
            shared.let_others_know();
            return Next::Return(inner.queue.drain(..).collect());
        }
        let busy = inner.in_flight >= width(&inner.window).min(shared.budget.share());
        if inner.queue.is_empty() || busy || !shared.may_send() {
            inner.parked += 1;
            return Next::Park;
        }
        let wait = inner.pace.as_mut().and_then(|pace| pace.wait(shared.clock.instant()));
        if let Some(wait) = wait {
            return Next::Pace(wait);
        }
        // Paused since it was claimed: given back, not sent.
        let Some(ticket) = inner.health.begin(shared.clock.now()) else {
            return Next::Return(inner.queue.drain(..).collect());
        };
        let delivery = inner.queue.pop_front().expect("the queue is not empty, seen above");
        inner.in_flight += 1;
        Next::Send(Box::new(delivery), Arc::clone(&inner.plan), ticket)
    }

    /// A worker that was not called for long goes home. `false`: it was called just now.
    fn retire(&self) -> bool {
        let mut inner = self.lock();
        if inner.parked == 0 {
            return false;
        }
        inner.parked -= 1;
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
        took: Duration,
    ) -> Option<Transition> {
        let mut inner = self.lock();
        inner.in_flight -= 1;
        inner.finished += 1;
        inner.window.after(outcome);
        let sign = Sign::of(outcome, decision);
        let now = shared.clock.now();
        let transition =
            inner.health.after(ticket, sign, now, &shared.health_policy, shared.draw());
        let delivered = outcome.answer().is_some_and(Answer::accepted);
        inner.tally.successes += u32::from(delivered);
        inner.tally.failures += u32::from(!delivered);
        let took_ms = took.as_secs_f64() * 1000.0;
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
        self.close();
        self.calls.close();
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
        let per_request = self.mean_ms.map_or(CLAIMS_PER_WINDOW, |mean| {
            (AHEAD_MS / mean.max(0.1)).clamp(1.0, CLAIMS_PER_WINDOW as f64) as usize
        });
        let most = limit.min(width(&self.window)) * per_request;
        self.pace.as_ref().map_or(most, |pace| most.min(pace.per_second()))
    }

    /// Takes this relay's part of the endpoint's limits.
    fn divide(&mut self, share: Share) {
        let limit = self.plan.endpoint.rate_limit;
        let part = share.of(self.plan.endpoint.id, self.plan.max_concurrency, limit);
        self.serves = part.is_some();
        let Some(part) = part else { return };
        self.window.set_max(part.max_concurrency);
        match (&mut self.pace, part.rate_limit) {
            (Some(pace), Some(rate)) => pace.set_rate(rate),
            (pace, rate) => *pace = rate.map(Pace::new),
        }
    }
}

fn width(window: &Window) -> usize {
    usize::try_from(window.size()).unwrap_or(usize::MAX)
}

/// One worker: takes deliveries of its lane and sends them over one connection, one at a time.
async fn work(lane: Arc<Lane>, shared: Arc<Shared>) {
    let mut line = Line::default();
    loop {
        match lane.next(&shared) {
            Next::Send(delivery, plan, ticket) => {
                let permit = shared.budget.take().await;
                let sent = deliver(&shared, &plan, &delivery, &mut line).await;
                drop(permit);
                let decision = sent.verdict.decision;
                let transition = lane.finished(&shared, ticket, &sent.outcome, decision, sent.took);
                let effect = sent.verdict.effect;
                shared.report(Finished::sent(&lane, &delivery, sent)).await;
                super::health::follow(&shared, &lane, transition, effect).await;
            }
            Next::Return(deliveries) => {
                for delivery in deliveries {
                    shared.report(Finished::unsent(Some(&lane), &delivery)).await;
                }
            }
            Next::Park => {
                let idle_timeout = shared.config.delivery.idle_timeout;
                let mut called = pin!(tokio::time::timeout(idle_timeout, lane.calls.acquire()));
                let called = loop {
                    tokio::select! {
                        called = &mut called => break called,
                        () = shared.files.needed(), if line.file.is_some() => line = Line::default(),
                    }
                };
                match called {
                    Ok(Ok(call)) => call.forget(),
                    Ok(Err(_)) => return,
                    Err(_) if lane.retire() => return,
                    // Called in this very moment: the call is ours to take, or the next to park
                    // would take it for his and be counted as parked twice.
                    Err(_) => match lane.calls.acquire().await {
                        Ok(call) => call.forget(),
                        Err(_) => return,
                    },
                }
            }
            // A slow pace must not hold up a stop: the queue is given back then.
            Next::Pace(wait) => tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shared.ending.cancelled() => return,
            },
        }
    }
}

/// The bound on requests in flight over all lanes, and how much of it one lane may take.
#[derive(Debug)]
pub(super) struct Budget {
    most: usize,
    free: Semaphore,
}

/// A lane may take a quarter of what is free (dynamic thresholds, Choudhury and Hahne 1998): one
/// lane alone gets a fifth of all, many hanging lanes never get everything.
const SHARE: usize = 4;

impl Budget {
    pub(super) fn new(most: usize) -> Self {
        Self { most, free: Semaphore::new(most.max(1)) }
    }

    /// How many requests one lane may have in flight now; at least one.
    pub(super) fn share(&self) -> usize {
        (self.free.available_permits() / SHARE).max(1)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.most.saturating_sub(self.free.available_permits())
    }

    async fn take(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.free.acquire().await.ok()
    }
}
