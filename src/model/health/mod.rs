//! How an endpoint has been doing, and whether it may be sent anything now.
//!
//! After some failures in a row the endpoint is **paused**. At the end of the pause one request
//! **probes**: if it fails the next pause is longer, if it is accepted the endpoint **flows**
//! again. Deliveries wait meanwhile and spend no attempts. Failing without a break for days
//! disables it.
//!
//! Three [troubles](TroubleKind) pause an endpoint: it fails; it rejects event after event, which
//! takes more of them, since a rejection may be about the one event; and this relay's own settings
//! refuse it, which takes one request.
//!
//! The relay asks [`may_send`](Health::may_send) before it claims, [`begin`](Health::begin) before
//! each request and tells [`after`](Health::after) how it ended; the store keeps the public fields
//! in `posthaste.endpoint_health`. [`verdict`](super::verdict) decides about the delivery,
//! [`window`](super::window) about how many requests may be in flight.
//!
//! **Requests that were in flight when a pause began** end during the pause or the probe, and show
//! the time before it. So each request carries a [`Ticket`] of the stretch (from one change of
//! state to the next) that it began in. The failures of a past stretch change nothing: one incident
//! makes one pause, and no straggler passes for the probe. A success of a past stretch does reopen:
//! the endpoint has just accepted something.

use std::time::Duration;

use jiff::Timestamp;

use super::outcome::Outcome;
use super::schedule::portion;
use super::verdict::{Decision, in_words};

/// The health of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    pub state: State,
    /// Failures since the last success that count.
    pub consecutive_failures: u32,
    /// When the first of them ended.
    pub failing_since: Option<Timestamp>,
    /// Events that it rejected since the last success.
    pub consecutive_rejections: u32,
    /// Pauses since the last success; each is longer than the one before it.
    pub pauses: u32,
    /// Why it does not flow. `None` while it does.
    pub trouble: Option<Trouble>,
    /// When the first of the rejections ended, as far as this relay has seen them.
    rejecting_since: Option<Timestamp>,
    /// From then on a new event may be the probe, before the pause is over.
    fresh_from: Option<Timestamp>,
    /// Counts the changes of state.
    stretch: u32,
}

/// Why an endpoint is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub kind: TroubleKind,
    /// The words of `endpoint_status.reason`.
    pub reason: String,
}

/// The kind of trouble that pauses an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TroubleKind {
    /// The endpoint fails.
    Failing,
    /// The endpoint answers, and rejects many events in a row.
    Rejecting,
    /// This relay's own settings, or the endpoint's, do not let anything be sent to it.
    Refused,
}

/// An endpoint's health as a relay left it in the database.
#[derive(Debug, Clone, Default)]
pub struct Left {
    pub state: State,
    pub consecutive_failures: u32,
    pub failing_since: Option<Timestamp>,
    pub consecutive_rejections: u32,
    pub pauses: u32,
    pub trouble: Option<Trouble>,
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

/// When to pause and for how long. The settings allow no pause of zero, which would make probes
/// follow one another without rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthPolicy {
    /// This many failures in a row begin a pause; at least 1.
    pub failure_threshold: u32,
    /// This many rejected events without an accepted one begin a pause too; at least 1.
    pub rejection_threshold: u32,
    pub first_pause: Duration,
    /// By this factor each pause is longer than the one before.
    pub pause_growth: u32,
    /// No pause is longer.
    pub longest_pause: Duration,
    /// An endpoint is disabled when a row of failures that was long enough to pause it has lasted
    /// this long. `None`: never.
    pub disable_after: Option<Duration>,
}

/// How much may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// As much as the window holds.
    Freely,
    OneProbe,
    /// One probe, with an event that has just been routed.
    FreshProbe,
    /// Nothing before `until`; `None`: not before the probe that is out has come back.
    No {
        until: Option<Timestamp>,
    },
}

/// Belongs to one request and says in which stretch it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the result of the request is told with its ticket"]
pub struct Ticket(u32);

/// The evidence of a request about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign<'a> {
    /// It accepted the event.
    Accepting,
    /// It is alive, and rejected this event with this status.
    Rejecting(u16),
    /// It failed, with this outcome.
    Failing(&'a Outcome),
    /// The settings refuse it, for this reason.
    Refused(&'a str),
    /// None: the request was not made, or its end is unknown.
    Nothing,
}

/// A change of state, to be recorded; all but `OnTrial` are news for the endpoint's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// Paused, or (if it is `again`) paused for longer after a probe.
    Paused { until: Timestamp, again: bool, trouble: Trouble },
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
            failure_threshold: 10,
            rejection_threshold: 50,
            first_pause: Duration::from_secs(30),
            pause_growth: 2,
            longest_pause: Duration::from_secs(60 * 60),
            disable_after: Some(Duration::from_secs(5 * 24 * 60 * 60)),
        }
    }
}

impl TroubleKind {
    pub const ALL: [Self; 3] = [Self::Failing, Self::Rejecting, Self::Refused];

    /// The word stored in `endpoint_health.trouble`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failing => "failing",
            Self::Rejecting => "rejecting",
            Self::Refused => "refused",
        }
    }

    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl<'a> Sign<'a> {
    /// Reads the sign from an outcome and the decision about it (a rule may have counted an odd
    /// answer as delivered).
    ///
    /// Most 4xx answers are about the one event, say a 422 for a payload that the receiver cannot
    /// use; were they failures, one bad event type would pause all the others, and were they
    /// successes, they would hide that nothing is accepted any more. So they neither count as
    /// failures nor end a row of them, and only many without a success pause. Exempt are those
    /// about the receiver: 408 (too slow), 410 (gone), 425 (not yet) and 429 (too much). A redirect
    /// is a failure too: it is never followed, so nothing can be delivered.
    #[must_use]
    pub fn of(outcome: &'a Outcome, decision: Decision) -> Self {
        if decision == Decision::Delivered {
            return Self::Accepting;
        }
        match outcome {
            Outcome::Answered(answer) => match answer.status {
                408 | 410 | 425 | 429 => Self::Failing(outcome),
                400..=499 => Self::Rejecting(answer.status),
                _ => Self::Failing(outcome),
            },
            Outcome::TimedOut { .. } | Outcome::Unreachable { .. } => Self::Failing(outcome),
            Outcome::Refused { why, detail } if why.is_standing() => Self::Refused(detail),
            // It is about the event, or a fault of the relay.
            Outcome::Refused { .. } | Outcome::Interrupted => Self::Nothing,
        }
    }
}

impl Health {
    /// Restores the health that a relay left. A probe that was out then is made again. An endpoint
    /// that settings refused is tried at once: the settings may have changed.
    #[must_use]
    pub fn restore(left: Left) -> Self {
        let Left { state, consecutive_failures, failing_since, consecutive_rejections, .. } = left;
        let unknown = || Trouble { kind: TroubleKind::Failing, reason: String::new() };
        let trouble = (state != State::Flowing).then(|| left.trouble.unwrap_or_else(unknown));
        let refused = trouble.as_ref().is_some_and(|trouble| trouble.kind == TroubleKind::Refused);
        let at_once = State::Paused { until: Timestamp::MIN };
        let (state, pauses) = match state {
            State::Flowing => (state, left.pauses),
            State::Paused { .. } if refused => (at_once, 0),
            State::Paused { .. } => (state, left.pauses.max(1)),
            State::Probing => (at_once, left.pauses.max(1)),
        };
        Self {
            state,
            consecutive_failures,
            failing_since,
            consecutive_rejections,
            pauses,
            trouble,
            ..Self::default()
        }
    }

    /// How much may be sent now: the bound of what to claim.
    #[must_use]
    pub fn may_send(&self, now: Timestamp) -> Allowance {
        match self.state {
            State::Flowing => Allowance::Freely,
            State::Paused { until } if now >= until => Allowance::OneProbe,
            State::Paused { .. } if self.fresh_from.is_some_and(|from| now >= from) => {
                Allowance::FreshProbe
            }
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
            Allowance::OneProbe | Allowance::FreshProbe => self.change(State::Probing),
            Allowance::No { .. } => return None,
        }
        Some(Ticket(self.stretch))
    }

    /// Notes the end of a request. `draw` is from 0 to 1 and decides the jitter of a pause.
    pub fn after(
        &mut self,
        ticket: Ticket,
        sign: Sign<'_>,
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
            Sign::Failing(outcome) => self.failed(outcome, now, policy, draw),
            Sign::Rejecting(status) => self.rejected(status, now, policy, draw),
            Sign::Refused(detail) => {
                let since = self.troubled_since(TroubleKind::Refused, now);
                let trouble = Trouble { kind: TroubleKind::Refused, reason: detail.to_owned() };
                Some(self.pause_or_disable(trouble, since, now, policy, draw))
            }
            // The probe has shown nothing. Another follows soon, but not at once: the same obstacle
            // may keep it from being made.
            Sign::Nothing if probing => Some(self.pause(now, policy.first_pause, policy, draw)),
            Sign::Nothing | Sign::Accepting => None,
        }
    }

    fn accepted(&mut self) -> Option<Transition> {
        let recovered = self.pauses > 0 || self.state != State::Flowing;
        if self.state != State::Flowing {
            self.change(State::Flowing);
        }
        *self = Self { stretch: self.stretch, ..Self::default() };
        recovered.then_some(Transition::Recovered)
    }

    fn failed(
        &mut self,
        outcome: &Outcome,
        now: Timestamp,
        policy: &HealthPolicy,
        draw: f64,
    ) -> Option<Transition> {
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        let since = *self.failing_since.get_or_insert(now);
        // A failed probe pauses whatever the number: settings may have changed since the first
        // pause.
        if self.state == State::Flowing && self.consecutive_failures < policy.failure_threshold {
            return None;
        }
        let count = self.consecutive_failures;
        let reason = match count {
            1 => format!("a failure: {outcome}"),
            _ => format!("{count} failures in a row, the last: {outcome}"),
        };
        let trouble = Trouble { kind: TroubleKind::Failing, reason };
        Some(self.pause_or_disable(trouble, since, now, policy, draw))
    }

    fn rejected(
        &mut self,
        status: u16,
        now: Timestamp,
        policy: &HealthPolicy,
        draw: f64,
    ) -> Option<Transition> {
        self.consecutive_rejections = self.consecutive_rejections.saturating_add(1);
        let since = *self.rejecting_since.get_or_insert(now);
        if !self.is_in(TroubleKind::Rejecting)
            && self.consecutive_rejections < policy.rejection_threshold
        {
            // A pause for failures is over, as the endpoint answers; one failure pauses it again.
            return (self.state == State::Probing).then(|| {
                self.change(State::Flowing);
                Transition::OnTrial
            });
        }
        let count = self.consecutive_rejections;
        let reason = format!("{count} answers of 4xx in a row, the last {status}");
        let trouble = Trouble { kind: TroubleKind::Rejecting, reason };
        let since = self.troubled_since(TroubleKind::Rejecting, since);
        Some(self.pause_or_disable(trouble, since, now, policy, draw))
    }

    fn is_in(&self, kind: TroubleKind) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.kind == kind)
    }

    /// When this trouble began: at `begins`, or earlier if the endpoint is in it already. An old
    /// failure, with nothing after it, does not make a first refusal look many days old.
    fn troubled_since(&mut self, kind: TroubleKind, begins: Timestamp) -> Timestamp {
        let goes_on = self.failing_since.filter(|_| self.is_in(kind));
        *self.failing_since.insert(goes_on.unwrap_or(begins))
    }

    /// Pauses for longer than the last time, or disables the endpoint after too long a trouble.
    fn pause_or_disable(
        &mut self,
        trouble: Trouble,
        since: Timestamp,
        now: Timestamp,
        policy: &HealthPolicy,
        draw: f64,
    ) -> Transition {
        let growth = policy.pause_growth.saturating_pow(self.pauses);
        self.pauses = self.pauses.saturating_add(1);
        let disabled = policy
            .disable_after
            .filter(|&limit| {
                Duration::try_from(now.duration_since(since)).is_ok_and(|d| d >= limit)
            })
            .map(|limit| match trouble.kind {
                TroubleKind::Failing => format!(
                    "failed without a break for {}, {} times in a row",
                    in_words(limit),
                    self.consecutive_failures
                ),
                TroubleKind::Rejecting | TroubleKind::Refused => {
                    format!("accepted nothing for {}: {}", in_words(limit), trouble.reason)
                }
            });
        self.trouble = Some(trouble);
        let paused = self.pause(now, policy.first_pause.saturating_mul(growth), policy, draw);
        disabled.map_or(paused, |reason| Transition::Disabled { reason })
    }

    /// Pauses for `length`, at most the longest pause, less up to a tenth so that endpoints that
    /// failed together are not probed together.
    ///
    /// While events are rejected, the waiting events may all be of a kind that the endpoint
    /// rejects, and each probe with one of them prolongs the wait of all others. So in the second
    /// half of such a pause a new event may be the probe.
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
        let trouble = self
            .trouble
            .clone()
            .unwrap_or_else(|| Trouble { kind: TroubleKind::Failing, reason: String::new() });
        self.change(State::Paused { until });
        self.fresh_from = (trouble.kind == TroubleKind::Rejecting)
            .then(|| now.checked_add(length / 2).unwrap_or(Timestamp::MAX));
        self.trouble = Some(trouble.clone());
        Transition::Paused { until, again: self.pauses > 1, trouble }
    }

    fn change(&mut self, state: State) {
        if state == State::Flowing {
            self.trouble = None;
        }
        self.fresh_from = None;
        self.state = state;
        self.stretch = self.stretch.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests;
