//! The lanes of a simulated relay: what its workers do, and what is given back.

use std::sync::Arc;
use std::time::Duration;

use posthaste::model::endpoint::EndpointId;
use posthaste::model::health::Transition;
use posthaste::model::lane::{AttemptEnd, Bounds, Idle, Moment, Traffic, first_room};
use posthaste::model::outcome::{Outcome, Phases};
use posthaste::model::verdict::Effect;
use posthaste::relay::{Booked, Claim, Ended, JudgedAttempt, share_of_requests};
use posthaste::store::endpoints::KnownEndpoint;

use super::{Micros, Relay, instant, timestamp};
use crate::simulation::lane::{InFlight, Lane};

impl Relay {
    /// Whether the lease is fresh enough to begin a request, as far as this relay knows.
    pub fn may_send(&self, now: Micros) -> bool {
        !self.frozen && self.lease_is_fresh(now)
    }

    /// Lets a worker that is free ask its lane, if there is room for one more request. `None`:
    /// nothing begins.
    pub fn send(&mut self, which: u8, now: Micros) -> Option<InFlight> {
        if self.in_flight.len() >= self.config.relay.max_in_flight {
            return None;
        }
        let (requests, may_send) = (self.requests_of_a_lane(), self.may_send(now));
        let traffic = Traffic { requests, in_all: self.in_flight.len() + 1 };
        let is_staffed = |lane: &&mut Lane| {
            lane.state.queued() > 0 && lane.state.in_flight() < lane.state.workers(requests)
        };
        let mut staffed: Vec<&mut Lane> = self.lanes.values_mut().filter(is_staffed).collect();
        let count = staffed.len();
        let lane = staffed.get_mut(usize::from(which).checked_rem(count)?)?;
        let moment = Moment { time: timestamp(now), instant: instant(now) };
        match lane.state.next(moment, traffic, may_send) {
            Ok((claim, note)) => Some(InFlight { request: 0, claim, note, began: moment.instant }),
            Err(Idle::GiveBack { queued, others_serve }) => {
                self.give_back(queued);
                if others_serve {
                    self.let_others_know();
                }
                None
            }
            // It asks again when the list says so.
            Err(Idle::Wait | Idle::WaitFor(_) | Idle::Leave) => None,
        }
    }

    fn requests_of_a_lane(&self) -> usize {
        share_of_requests(self.config.relay.max_in_flight.saturating_sub(self.in_flight.len()))
    }

    /// Takes in how an attempt ended.
    pub fn ended(&mut self, in_flight: InFlight, outcome: Outcome, now: Micros) {
        let present = timestamp(now);
        let InFlight { claim, note, began, .. } = in_flight;
        let took = instant(now).saturating_duration_since(began);
        let endpoint = claim.delivery.endpoint_id;
        let in_all = self.in_flight.len();
        let lane = self.lanes.get_mut(&endpoint).expect("a lane that holds claims is kept");
        let verdict = lane.judge(&claim.delivery, &outcome, &self.config, present);
        let decision = verdict.decision;
        let end = AttemptEnd { note, outcome: &outcome, decision, took, answered_in: None, in_all };
        let transition = lane.finished(end, present, instant(now));
        let (effect, on_dead) = (verdict.effect, lane.on_dead());
        let phases = Phases::default();
        let sent = JudgedAttempt { began, took, phases, outcome, verdict, on_dead };
        self.results.push_back(Ended::attempted(claim, sent));
        self.follow(endpoint, transition, effect);
    }

    /// Whether it holds something that only the rate of its endpoint keeps it from sending.
    pub fn waits_for_a_rate(&self) -> bool {
        let waits = |lane: &Lane| {
            lane.rate_limit().is_some()
                && lane.state.queued() > 0
                && lane.state.in_flight() == 0
                && lane.state.serves()
        };
        self.lanes.values().any(waits)
    }

    pub fn has_requests(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// The grace is over: ends what is in flight. Returns the endpoint of each.
    pub fn interrupt(&mut self, now: Micros) -> Vec<EndpointId> {
        let requests = std::mem::take(&mut self.in_flight);
        let endpoints = requests.iter().map(InFlight::endpoint).collect();
        for request in requests {
            self.ended(request, Outcome::Interrupted, now);
        }
        endpoints
    }

    /// As `relay::lane::follow`.
    fn follow(
        &mut self,
        endpoint: EndpointId,
        transition: Option<Transition>,
        effect: Option<Effect>,
    ) {
        let disabled = match transition {
            Some(Transition::Disabled { reason }) if effect.is_none() => Some(reason),
            _ => None,
        };
        if effect.is_none() && disabled.is_none() {
            return;
        }
        if let Some(lane) = self.lanes.get_mut(&endpoint) {
            lane.state.close();
            let queued = lane.state.drain();
            self.give_back(queued);
        }
        if let Some(reason) = disabled {
            self.effects.push((endpoint, Effect::Disable, reason));
        }
    }

    pub(super) fn give_back(&mut self, claims: Vec<Claim>) {
        self.results.extend(claims.into_iter().map(Ended::unsent));
    }

    /// Claims nothing more, and gives back what is not begun.
    pub fn stop(&mut self) {
        self.stopping = true;
        let mut queued = Vec::new();
        for lane in self.lanes.values_mut() {
            lane.state.dismiss();
            queued.extend(lane.state.drain());
        }
        self.give_back(queued);
    }

    /// More than the silence that a lane is watched for has passed.
    pub fn watch(&mut self) {
        /// More than a window takes to reach its start.
        const LOOKS: u32 = 64;
        for lane in self.lanes.values_mut() {
            if !lane.state.begins_to_be_watched() {
                continue;
            }
            let mut finished = None;
            for _ in 0..LOOKS {
                finished = lane.state.watched(finished);
                if finished.is_none() {
                    break;
                }
            }
        }
    }

    // ── claims ──

    /// How many more deliveries may be claimed for this endpoint.
    pub(super) fn room(&self, endpoint: EndpointId, is_new: bool, now: Micros) -> usize {
        let free = self.free(now);
        let Some(lane) = self.lanes.get(&endpoint) else {
            return first_room(self.config.delivery.initial_window, free);
        };
        let bounds = Bounds { claimed: lane.claimed(), free, requests: self.requests_of_a_lane() };
        let present = timestamp(now);
        if is_new {
            lane.state.room_for_new(present, bounds)
        } else {
            lane.state.room(present, bounds)
        }
    }

    /// Gives what was claimed to the lanes, where it can be sent.
    pub(super) fn assign(&mut self, now: Micros) {
        for Booked { mut claim, cancelled } in std::mem::take(&mut self.fresh) {
            if self.stopping {
                self.results.push_back(Ended::unsent(claim));
                continue;
            }
            let lane = self.lanes.get_mut(&claim.delivery.endpoint_id);
            let gone = lane.is_none().then(|| "endpoint deleted".to_owned());
            match (lane, cancelled.or(gone)) {
                (Some(lane), None) => lane.push(claim, instant(now)),
                (lane, reason) => {
                    if let Some(lane) = lane {
                        lane.enter(&mut claim);
                    }
                    let reason = reason.unwrap_or_default();
                    self.results.push_back(Ended::cancelled(claim, reason, instant(now)));
                }
            }
        }
        self.give_back_excess();
    }

    /// What was claimed before the limits were known and other relays can send sooner.
    pub(super) fn give_back_excess(&mut self) {
        let share = self.share;
        let excess: Vec<_> =
            self.lanes.values_mut().flat_map(|lane| lane.state.take_excess(share)).collect();
        if !excess.is_empty() {
            self.give_back(excess);
            self.let_others_know();
        }
    }

    /// An endpoint of which more is queued than this relay's part of its rate lets out in two
    /// seconds, while others could send it.
    pub fn excess(&self) -> Option<EndpointId> {
        #[expect(clippy::cast_precision_loss, reason = "a list has some hundred deliveries")]
        let is_excess = |lane: &&Lane| {
            let part = lane.part(self.share, &self.config);
            part.and_then(|part| part.rate_limit)
                .is_some_and(|rate| lane.state.queued() as f64 > 2.0 * rate.max(1.0))
        };
        let lane = self.lanes.values().find(is_excess).filter(|_| self.share.relays() > 1);
        lane.map(Lane::id)
    }

    pub(super) fn open(&mut self, known: Vec<KnownEndpoint>, now: Micros) {
        let (config, share, now) = (Arc::clone(&self.config), self.share, instant(now));
        for known in known {
            match self.lanes.get_mut(&known.endpoint.id) {
                Some(lane) => lane.reopen(known, &config, share, now),
                None => {
                    let lane = Lane::open(known, &config, share, now);
                    self.lanes.insert(lane.id(), lane);
                }
            }
        }
    }

    /// Forgets lanes as `relay::lane` does. Their workers have left when nothing was sent for a
    /// while.
    pub(super) fn forget_idle(&mut self, now: Micros) {
        let idle_for: Duration = self.config.delivery.idle_timeout;
        let now = instant(now);
        self.lanes.retain(|_, lane| {
            lane.claimed() > 0
                || !lane.is_noted
                || now.saturating_duration_since(lane.used_at) < idle_for
                || lane.state.is_worth_keeping(now)
        });
    }
}
