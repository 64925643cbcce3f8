//! How an endpoint has been doing, and whether it may be sent anything now.
//!
//! After some failures in a row the endpoint is **paused**. At the end of the pause one request
//! **probes**: if it fails the next pause is longer, if it is accepted the endpoint **flows** again.
//! Deliveries wait meanwhile and spend no attempts. Failing without a break for days disables it.
//!
//! The relay asks [`may_send`](Health::may_send) before it claims, [`begin`](Health::begin) before
//! each request and tells [`after`](Health::after) how it ended; the store keeps the public fields in
//! `posthaste.endpoint_health`. What becomes of the delivery is [`verdict`](super::verdict)'s, how
//! many may be in flight [`window`](super::window)'s.
//!
//! **Requests that were in flight when a pause began** end during the pause or the probe, and tell of
//! the time before it. So each request carries a [`Ticket`] of the stretch (from one change of state
//! to the next) that it began in. The failures of a past stretch change nothing: one incident makes
//! one pause, and no straggler passes for the probe. A success of a past stretch does reopen: the
//! endpoint has just accepted something.

use std::time::Duration;

use jiff::Timestamp;

use super::outcome::Outcome;
use super::schedule::portion;
use super::verdict::{Decision, in_words};

/// The health of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    pub state: State,
    /// Failures since the last success, those that count.
    pub consecutive_failures: u32,
    /// When the first of them ended.
    pub failing_since: Option<Timestamp>,
    /// Pauses since the last success; each is longer than the one before it.
    pub pauses: u32,
    /// Counts the changes of state.
    stretch: u32,
}

/// Whether an endpoint is sent anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    #[default]
    Flowing,
    /// Nothing is sent before `until`, then one probe.
    Paused { until: Timestamp },
    /// The probe is out; nothing else is sent.
    Probing,
}

/// When to pause and for how long. Settings see to it that no pause is zero, which would make probes
/// follow one another without rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthPolicy {
    /// So many failures in a row begin a pause; at least 1.
    pub failures_to_pause: u32,
    pub first_pause: Duration,
    /// How many times as long as the last one a pause is.
    pub pause_growth: u32,
    /// No pause is longer.
    pub longest_pause: Duration,
    /// An endpoint is disabled when a row of failures that was long enough to pause it has lasted
    /// this long. `None`: never.
    pub disable_after: Option<Duration>,
}

/// What may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// As much as the window holds.
    Freely,
    OneProbe,
    /// Nothing before `until`; `None`: not before the probe that is out has come back.
    No {
        until: Option<Timestamp>,
    },
}

/// Belongs to one request and says in which stretch it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the result of the request is told with its ticket"]
pub struct Ticket(u32);

/// What a request says about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It accepted the event.
    Accepting,
    /// It is alive, but would not have this event.
    Alive,
    /// It does not do its work.
    Failing,
    /// None: the request was not made, or nobody saw its end.
    Nothing,
}

/// A change of state, to be recorded; all but `OnTrial` are news for the endpoint's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// Paused, or (if `pauses` is greater than 1) paused again after a probe.
    Paused { until: Timestamp },
    /// Flows again, but has accepted nothing yet: the row of failures goes on.
    OnTrial,
    /// Accepts again after at least one pause.
    Recovered,
    /// To be disabled; stays paused until that is done. Begin with a new [`Health`] when it is
    /// enabled again.
    Disabled { reason: String },
}

impl Default for HealthPolicy {
    fn default() -> Self {
        Self {
            failures_to_pause: 10,
            first_pause: Duration::from_secs(30),
            pause_growth: 2,
            longest_pause: Duration::from_secs(60 * 60),
            disable_after: Some(Duration::from_secs(5 * 24 * 60 * 60)),
        }
    }
}

impl Sign {
    /// Reads the sign from an outcome and what was decided about it (a rule may have counted an odd
    /// answer as delivered).
    ///
    /// Most 4xx answers are about the one event, say a 422 for a payload that the receiver cannot
    /// use; were they failures, one bad event type would pause all the others, and were they
    /// successes, they would hide that nothing is accepted any more. So they neither pause nor reset.
    /// Exempt are those about the receiver: 408 (too slow), 410 (gone) and 429 (too much). A redirect
    /// is a failure too: it is never followed, so nothing can be delivered.
    #[must_use]
    pub fn of(outcome: &Outcome, decision: Decision) -> Self {
        if decision == Decision::Delivered {
            return Self::Accepting;
        }
        match outcome {
            Outcome::Answered(answer) => match answer.status {
                408 | 410 | 429 => Self::Failing,
                400..=499 => Self::Alive,
                _ => Self::Failing,
            },
            Outcome::TimedOut { .. } | Outcome::Unreachable { .. } => Self::Failing,
            Outcome::Refused { .. } | Outcome::Interrupted => Self::Nothing,
        }
    }
}

impl Health {
    /// The health that a relay left behind. A probe that was out then is made again.
    #[must_use]
    pub fn restore(
        state: State,
        consecutive_failures: u32,
        failing_since: Option<Timestamp>,
        pauses: u32,
    ) -> Self {
        let (state, pauses) = match state {
            State::Flowing => (state, pauses),
            State::Paused { .. } => (state, pauses.max(1)),
            State::Probing => (State::Paused { until: Timestamp::MIN }, pauses.max(1)),
        };
        Self { state, consecutive_failures, failing_since, pauses, stretch: 0 }
    }

    /// What may be sent now, for claiming no more than that.
    #[must_use]
    pub fn may_send(&self, now: Timestamp) -> Allowance {
        match self.state {
            State::Flowing => Allowance::Freely,
            State::Paused { until } if now >= until => Allowance::OneProbe,
            State::Paused { until } => Allowance::No { until: Some(until) },
            State::Probing => Allowance::No { until: None },
        }
    }

    /// Called right before a request: its ticket, or `None` if it must not be made (the state may
    /// have changed since it was claimed). After a pause the request becomes the probe, and
    /// [`after`](Self::after) must be told of its end, whatever that was.
    pub fn begin(&mut self, now: Timestamp) -> Option<Ticket> {
        match self.may_send(now) {
            Allowance::Freely => {}
            Allowance::OneProbe => self.change(State::Probing),
            Allowance::No { .. } => return None,
        }
        Some(Ticket(self.stretch))
    }

    /// Takes in how a request ended. `draw` is from 0 to 1 and decides the jitter of a pause.
    pub fn after(
        &mut self,
        ticket: Ticket,
        sign: Sign,
        now: Timestamp,
        policy: &HealthPolicy,
        draw: f64,
    ) -> Option<Transition> {
        if sign == Sign::Accepting {
            return self.accepted();
        }
        if ticket != Ticket(self.stretch) {
            return None;
        }
        let probing = match self.state {
            State::Flowing => false,
            State::Probing => true,
            State::Paused { .. } => return None, // no ticket is of a pause
        };
        match sign {
            Sign::Failing => self.failed(now, policy, draw),
            // The wait is over, since the endpoint answers; but a single failure pauses it again.
            Sign::Alive if probing => {
                self.change(State::Flowing);
                Some(Transition::OnTrial)
            }
            // The probe has told nothing. Another one soon, but not at once: what kept this one from
            // being made may keep the next.
            Sign::Nothing if probing => Some(self.pause(now, policy.first_pause, policy, draw)),
            Sign::Alive | Sign::Nothing | Sign::Accepting => None,
        }
    }

    fn accepted(&mut self) -> Option<Transition> {
        let recovered = self.pauses > 0;
        if self.state != State::Flowing {
            self.change(State::Flowing);
        }
        *self = Self { stretch: self.stretch, ..Self::default() };
        recovered.then_some(Transition::Recovered)
    }

    fn failed(&mut self, now: Timestamp, policy: &HealthPolicy, draw: f64) -> Option<Transition> {
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        let since = *self.failing_since.get_or_insert(now);
        // A failed probe pauses whatever the number: settings may have changed since the first pause.
        if self.state == State::Flowing && self.consecutive_failures < policy.failures_to_pause {
            return None;
        }
        let growth = policy.pause_growth.saturating_pow(self.pauses);
        self.pauses = self.pauses.saturating_add(1);
        let paused = self.pause(now, policy.first_pause.saturating_mul(growth), policy, draw);
        match policy.disable_after {
            Some(limit)
                if Duration::try_from(now.duration_since(since)).is_ok_and(|d| d >= limit) =>
            {
                let reason = format!(
                    "failed without a break for {}, {} times in a row",
                    in_words(limit),
                    self.consecutive_failures
                );
                Some(Transition::Disabled { reason })
            }
            _ => Some(paused),
        }
    }

    /// Pauses for `length`, at most the longest pause, less up to a tenth so that endpoints that
    /// failed together are not probed together.
    fn pause(
        &mut self,
        now: Timestamp,
        length: Duration,
        policy: &HealthPolicy,
        draw: f64,
    ) -> Transition {
        let length = length.min(policy.longest_pause);
        let length = length - portion(length / 10, draw);
        let until = now.checked_add(length).unwrap_or(Timestamp::MAX);
        self.change(State::Paused { until });
        Transition::Paused { until }
    }

    fn change(&mut self, state: State) {
        self.state = state;
        self.stretch = self.stretch.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests;
