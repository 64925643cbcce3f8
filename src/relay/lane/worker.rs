//! The workers of a lane: as many as it has work and room for. Each takes what is next and sends it
//! over a connection of its own, one at a time.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::Notify;

use super::{Lane, Staffed, Workshop};
use crate::model::health::Transition;
use crate::model::lane::{AttemptEnd, Idle, Moment, RequestNote, SILENCE, Traffic};
use crate::relay::attempt::{ConnectionSlot, JudgedAttempt, ReadyEndpoint};
use crate::relay::claims::holdings::Claim;
use crate::relay::ended::Ended;
use crate::relay::fault;
use crate::relay::limits::budget::RequestPlace;
use crate::store::deliveries::{ClaimKey, begin_suspect};

/// To say that an attempt begins.
const BEGIN_WITHIN: Duration = Duration::from_secs(2);

/// A claim that a worker has taken out to send, and what it needs for that.
#[derive(Debug)]
struct ToSend {
    claim: Claim,
    ready: Arc<ReadyEndpoint>,
    note: RequestNote,
}

impl Lane {
    /// Calls or hires as many workers as there is work and room for.
    pub(super) fn staff(self: &Arc<Self>, staffed: &mut Staffed) {
        let term = &self.workshop.term;
        let requests = self.workshop.budget.share(staffed.tenant.as_deref());
        let wanted = staffed.state.workers(requests);
        while staffed.workers - staffed.parked.len() < wanted {
            if let Some(parked) = staffed.parked.pop() {
                parked.notify_one();
            } else {
                staffed.workers += 1;
                term.workers.spawn(unbroken(Arc::clone(self), work(Arc::clone(self))));
            }
        }
        if staffed.state.begins_to_be_watched() {
            term.workers.spawn(unbroken(Arc::clone(self), watch(Arc::clone(self))));
        }
    }

    /// Takes out what a worker sends now, or says what it does instead. One that is to wait is
    /// parked, and `call` calls it.
    fn next(&self, call: &Arc<Notify>) -> Result<ToSend, Idle<Claim>> {
        let workshop = &self.workshop;
        let mut staffed = self.lock();
        #[cfg(test)]
        fault::inject("taking", &staffed.ready.endpoint.url);
        let now = Moment { time: workshop.clock.now(), instant: workshop.clock.instant() };
        let budget = &workshop.budget;
        let requests = budget.share(staffed.tenant.as_deref());
        let traffic = Traffic { requests, in_all: budget.in_flight() };
        let next = staffed.state.next(now, traffic, workshop.term.may_send());
        match next {
            Err(Idle::Wait) => staffed.parked.push(Arc::clone(call)),
            Err(Idle::Leave) => staffed.workers -= 1,
            _ => {}
        }
        next.map(|(claim, note)| ToSend { claim, ready: Arc::clone(&staffed.ready), note })
    }

    /// Takes in how an attempt ended. Returns what changes for the endpoint.
    fn finished(self: &Arc<Self>, note: RequestNote, sent: &JudgedAttempt) -> Option<Transition> {
        let end = AttemptEnd {
            note,
            outcome: &sent.outcome,
            decision: sent.verdict.decision,
            took: sent.took,
            answered_in: sent.phases.headers,
            in_all: self.workshop.budget.in_flight(),
        };
        let mut staffed = self.lock();
        #[cfg(test)]
        fault::inject("finishing", &staffed.ready.endpoint.url);
        let now = self.workshop.clock.now();
        // Chance decides the jitter of a pause.
        let transition =
            staffed.state.finished(end, now, &self.workshop.policy.health, fastrand::f64());
        self.staff(&mut staffed);
        transition
    }

    /// Takes in that a moment has passed since `finished` attempts had ended. Returns how many have
    /// now; `None`: the watch ends.
    fn watched(self: &Arc<Self>, finished: Option<u64>) -> Option<u64> {
        let mut staffed = self.lock();
        let finished = staffed.state.watched(finished);
        self.staff(&mut staffed);
        finished
    }

    /// Lets a worker go that was not called for long. `false`: it was called just now.
    fn retire(&self, call: &Arc<Notify>) -> bool {
        let mut staffed = self.lock();
        let Some(place) = staffed.parked.iter().position(|parked| Arc::ptr_eq(parked, call)) else {
            return false;
        };
        staffed.parked.remove(place);
        staffed.workers -= 1;
        true
    }
}

/// Does a task of the lane. If it panics, the lane is closed, and the relay goes on.
///
/// What a worker does for one delivery is [caught](fault::caught) closer to it, so that the
/// delivery has its end.
fn unbroken(lane: Arc<Lane>, task: impl Future<Output = ()>) -> impl Future<Output = ()> {
    // Not `async`: that would keep room for the task twice, 3 KB for each worker.
    fault::caught(task).then(async move |done| {
        if let Err(detail) = done {
            lane.breaks(detail).await;
        }
    })
}

/// One worker: works until the lane has nothing more for it, or the relay ends.
async fn work(lane: Arc<Lane>) {
    let mut slot = ConnectionSlot::default();
    let call = Arc::new(Notify::new());
    loop {
        // Room for a request comes first: what is taken out is sent at once, while lease, rate and
        // health still allow it.
        let permit = request_permit(&lane, &mut slot).await;
        match lane.next(&call) {
            Ok(taken) => send(&lane, taken, &mut slot, permit).await,
            Err(idle) => {
                drop(permit);
                if !rests(&lane, idle, &call, &mut slot).await {
                    return;
                }
            }
        }
    }
}

/// Waits for room for one more request of this relay. An idle connection is kept meanwhile, unless
/// its file is needed: a request that has room may wait for one.
async fn request_permit<'a>(lane: &'a Lane, slot: &mut ConnectionSlot) -> Option<RequestPlace<'a>> {
    let Workshop { attempts, budget, .. } = &*lane.workshop;
    let tenant = lane.lock().tenant.clone();
    loop {
        tokio::select! {
            biased;
            permit = budget.take(tenant.as_ref()) => return permit,
            () = attempts.files.needed(), if slot.file.is_some() => {
                *slot = ConnectionSlot::default();
            }
        }
    }
}

/// Does what there is to do instead of sending. `false`: the worker is to leave.
async fn rests(
    lane: &Arc<Lane>,
    idle: Idle<Claim>,
    call: &Arc<Notify>,
    slot: &mut ConnectionSlot,
) -> bool {
    let workshop = &lane.workshop;
    match idle {
        Idle::GiveBack { queued, others_serve } => {
            if others_serve {
                lane.leave_to_others(queued).await;
            } else {
                lane.give_back(queued).await;
            }
            true
        }
        Idle::Wait => is_called(lane, call, slot).await,
        // A slow rate must not hold up a stop: the queue is given back then.
        Idle::WaitFor(wait) => tokio::select! {
            () = tokio::time::sleep(wait) => true,
            () = workshop.term.ending.cancelled() => false,
        },
        Idle::Leave => false,
    }
}

/// Sends what was taken out, and reports its end.
async fn send(
    lane: &Arc<Lane>,
    taken: ToSend,
    slot: &mut ConnectionSlot,
    permit: Option<RequestPlace<'_>>,
) {
    let ToSend { claim, ready, note } = taken;
    let attempts = &lane.workshop.attempts;
    if claim.delivery.is_suspect {
        begins(lane, &claim).await;
    }
    let sent = match attempts.make(&ready, &claim.delivery, slot).await {
        Ok(sent) => sent,
        Err(panicked) => {
            *slot = ConnectionSlot::default();
            attempts.refused(panicked, &ready, &claim.delivery)
        }
    };
    drop(permit);
    let finished = fault::caught_at_once(|| lane.finished(note, &sent));
    let effect = sent.verdict.effect;
    lane.workshop.results.report(Ended::attempted(claim, sent)).await;
    let followed = match finished {
        Ok(transition) => fault::caught(lane.follow(transition, effect)).await,
        Err(detail) => Err(detail),
    };
    if let Err(detail) = followed {
        lane.breaks(detail).await;
    }
}

/// Says in the database that an attempt begins which may end this relay. If that cannot be said it
/// is made all the same, and is not counted against the delivery.
async fn begins(lane: &Lane, claim: &Claim) {
    let Workshop { store, term, .. } = &*lane.workshop;
    let store = store.within(BEGIN_WITHIN);
    if let Err(error) = begin_suspect(&store, term.relay, ClaimKey::of(&claim.delivery)).await {
        tracing::warn!(
            event = claim.delivery.event_id,
            endpoint = lane.id,
            error = error.in_full(),
            "cannot write down that a delivery is tried which two relays have ended with"
        );
    }
}

/// Waits to be called. `false`: there was no call for so long that the worker has left the lane. An
/// idle connection is kept meanwhile, unless too many are or its file is needed.
async fn is_called(lane: &Lane, call: &Arc<Notify>, slot: &mut ConnectionSlot) -> bool {
    let Workshop { attempts, budget, idle_timeout, .. } = &*lane.workshop;
    let kept = slot.file.as_ref().and_then(|_| budget.keep());
    if kept.is_none() {
        *slot = ConnectionSlot::default();
    }
    let mut called = pin!(call.notified());
    let mut patience = pin!(tokio::time::sleep(*idle_timeout));
    loop {
        tokio::select! {
            () = &mut called => return true,
            () = &mut patience => {
                if lane.retire(call) {
                    return false;
                }
                // Called in this very moment.
                called.await;
                return true;
            }
            () = attempts.files.needed(), if slot.file.is_some() => {
                *slot = ConnectionSlot::default();
            }
        }
    }
}

/// Looks whether anything comes back while more is waiting.
async fn watch(lane: Arc<Lane>) {
    let mut finished = None;
    while let Some(so_far) = lane.watched(finished) {
        finished = Some(so_far);
        tokio::select! {
            () = tokio::time::sleep(SILENCE) => {}
            () = lane.workshop.term.ending.cancelled() => return,
        }
    }
}
