//! Decides what the dispatcher does next.
//!
//! A round gives back uncertain claims, keeps the bell's session, asks what is due, tells other
//! relays, claims what is due, routes new events, and ends with a rest: each if there is reason to,
//! in this order.
//!
//! [`Dispatch::next`] names the next step; the dispatcher performs it and tells what came of it.
//! A claim that fails does not keep new events from being routed; any other error ends the round.

mod ahead;
mod culprit;
mod outcomes;
mod sleep;
mod step;
mod suspects;
mod uncertain;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use jiff::Timestamp;

use self::ahead::Ahead;
pub use self::ahead::LookedAhead;
pub use self::culprit::{RouteBlame, RouteFailure, RouteSuspects};
pub use self::outcomes::ENDPOINTS_PER_CLAIM;
pub use self::sleep::Sleep;
pub use self::step::{
    ClaimRequest, ClaimRoom, DispatchSettings, Facts, Reason, RouteBy, RoutedStep, Step,
};
pub use self::suspects::{Blame, Suspects};
pub use self::uncertain::UncertainClaims;
use super::endpoint::EndpointId;

/// Events that a step of routing a few takes at most; above that, the whole statement is used.
pub const FEW: u8 = 100;

/// Deliveries that one routing statement makes, about; with a large fan-out it takes fewer events.
const DELIVERIES_PER_STEP: f64 = 5_000.0;
/// Where one event makes more deliveries than this, few events are many deliveries.
const FAN_OUT_OF_FEW: f64 = 10.0;
/// Between two notices to other relays, each of which costs all of them a statement; and between
/// two polls that notices ask for, which any role that may log in can send.
const TELL_INTERVAL: Duration = Duration::from_millis(20);
/// Between two tries to open a session for the bell.
const RECONNECT_INTERVAL: Duration = Duration::from_secs(1);
/// How often an idle session is asked for a sign of life.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// A backlog is routed on as soon as the lanes that were fed have room again, and only as far as
/// they have: what is routed without room is written once more when it is claimed. But a full lane
/// must not hold up the others' events: where nothing moves, routing goes on after this …
const STUCK_LANES_WAIT: Duration = Duration::from_millis(20);
/// … and where it moves too slowly, after this.
const SLOW_LANES_WAIT: Duration = Duration::from_millis(200);

/// The dispatcher's state, which goes on from one round to the next.
#[derive(Debug, Clone)]
pub struct Dispatch {
    settings: DispatchSettings,
    at: Point,
    /// The claim of this round failed.
    failed: bool,
    /// Whether the bell was heard when the last step was chosen.
    hears: bool,
    sleep: Sleep,
    /// The relay is to keep the bell silent.
    rises: bool,
    checked_at: Instant,
    reconnect_at: Instant,
    /// No event still to be routed is older. `None`: not read yet.
    floor: Option<Timestamp>,
    /// Number of the last claim statement; fences its claims.
    token: i64,
    /// When to look at the outbox next, besides bell and poll.
    look_at: Option<Instant>,
    poll_at: Instant,
    polled_at: Option<Instant>,
    /// A notice asks for the next poll.
    is_poll_asked_for: bool,
    /// What is due has been read in this term.
    has_polled: bool,
    /// The last step of routing was full.
    backlog: Option<Backlog>,
    ahead: Ahead,
    routed_at: Instant,
    /// Deliveries per event, lately.
    fan_out: f64,
    /// Until then no step of few is tried.
    unusual_until: Instant,
    /// Until then the whole statement routes.
    whole_until: Instant,
    /// Events that a step may take: fewer after a step that failed because of what it read.
    culprits: RouteSuspects,
    suspects: Suspects,
    /// More may be claimed at once than was asked for.
    claims_again: bool,
    uncertain: UncertainClaims,
    /// When the others may be told again.
    tell_at: Instant,
}

/// How far the round is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    Disown,
    Bell,
    Poll,
    TellOthers,
    Claim,
    Look,
    Ahead,
    /// After a look.
    Rise,
    Rest,
    BackOff,
}

/// Left by a full step of routing.
#[derive(Debug, Clone)]
struct Backlog {
    /// The endpoints whose lanes the step has fed or, if it was cut, the one whose lane is full.
    fed: Vec<EndpointId>,
    /// How many attempts had come to an end there by then.
    finished: u64,
    /// The endpoints of the events that were left, if the step was cut.
    left: Option<Vec<EndpointId>>,
}

impl Dispatch {
    /// At the beginning of a term. No two terms may have a token in common, so `token` is drawn.
    #[must_use]
    pub fn new(settings: DispatchSettings, token: i64, now: Instant) -> Self {
        Self {
            settings,
            at: Point::Disown,
            failed: false,
            hears: false,
            sleep: Sleep::new(settings.poll_interval),
            rises: false,
            checked_at: now,
            reconnect_at: now,
            floor: None,
            token,
            look_at: Some(now),
            poll_at: now,
            polled_at: None,
            is_poll_asked_for: false,
            has_polled: false,
            backlog: None,
            ahead: Ahead::default(),
            routed_at: now,
            fan_out: 1.0,
            unusual_until: now,
            whole_until: now,
            culprits: RouteSuspects::default(),
            suspects: Suspects::default(),
            claims_again: false,
            uncertain: UncertainClaims::default(),
            tell_at: now,
        }
    }

    /// The same, after a term that a bug ended: with steps of one event, until one succeeds.
    #[must_use]
    pub fn carefully(mut self) -> Self {
        self.culprits.be_careful();
        self
    }

    /// The next step. Unless there was nothing to claim, or it is one of `CheckBell`, `Silence`,
    /// `BackOff` and `Rest`, the method that takes in what it gave is to follow, or
    /// [`failed`](Self::failed).
    pub fn next(&mut self, now: Instant, facts: &Facts) -> Step {
        self.hears = facts.hears;
        loop {
            let at = self.at;
            if let Some(step) = self.step_of(at, now, facts) {
                return step;
            }
            self.at = match at {
                Point::Disown => Point::Bell,
                Point::Bell => Point::Poll,
                Point::Poll => Point::TellOthers,
                Point::TellOthers => Point::Claim,
                Point::Claim => Point::Look,
                Point::Look => Point::Ahead,
                Point::Ahead => Point::Rise,
                Point::Rise if self.failed => Point::BackOff,
                Point::Rise => Point::Rest,
                Point::Rest | Point::BackOff => Point::Disown,
            };
        }
    }

    /// The step at this point of the round, if there is reason for one.
    fn step_of(&mut self, at: Point, now: Instant, facts: &Facts) -> Option<Step> {
        match at {
            Point::Disown => self.uncertain.are_to_be_disowned(now).then_some(Step::Disown),
            Point::Bell => self.step_of_bell(now),
            Point::Poll => (self.poll_at <= now).then_some(Step::Poll),
            Point::TellOthers => (facts.others_are_to_know && self.tell_at <= now).then(|| {
                self.tell_at = now + TELL_INTERVAL;
                Step::TellOthers
            }),
            Point::Claim => {
                self.claims_again = false;
                facts.is_due.then(|| {
                    self.at = Point::Look;
                    Step::Claim
                })
            }
            Point::Look => {
                let is_time = self.look_at.is_some_and(|at| at <= now);
                (is_time && self.lanes_are_ready(now, facts)).then(|| {
                    if self.floor.is_none() { Step::ReadFloor } else { self.route(now, facts) }
                })
            }
            Point::Ahead => {
                let at = self.ahead_at(now, facts);
                at.filter(|at| *at <= now).map(|_| Step::RouteAhead)
            }
            Point::Rise if std::mem::take(&mut self.rises) => Some(Step::Silence),
            Point::Rise => self.sleep.is_tired().then_some(Step::Arm),
            Point::Rest => {
                self.at = Point::Disown;
                Some(self.rest(now, facts))
            }
            Point::BackOff => {
                self.at = Point::Disown;
                self.failed = false;
                self.look_at = Some(now);
                Some(Step::BackOff)
            }
        }
    }

    /// A session that silently died is found out by asking it.
    fn step_of_bell(&mut self, now: Instant) -> Option<Step> {
        if !self.hears {
            return self.reconnect_at().filter(|at| *at <= now).map(|_| {
                self.reconnect_at = now + RECONNECT_INTERVAL;
                self.sleep.lost();
                Step::Reconnect
            });
        }
        let unheard = now.saturating_duration_since(self.checked_at);
        (self.sleep.is_asleep() && unheard > CHECK_INTERVAL).then(|| {
            self.checked_at = now;
            Step::CheckBell
        })
    }

    /// When a session is to be opened, if there is none and there is to be one.
    fn reconnect_at(&self) -> Option<Instant> {
        (!self.hears && self.settings.listens).then_some(self.reconnect_at)
    }

    fn route(&self, now: Instant, facts: &Facts) -> Step {
        let few = self.backlog.is_none()
            && self.fan_out <= FAN_OUT_OF_FEW
            && self.culprits.most() > FEW.into()
            && self.unusual_until <= now;
        let by = if few {
            RouteBy::Few
        } else if self.whole_until <= now {
            RouteBy::Steps
        } else {
            RouteBy::Whole
        };
        let overflow = self.is_cut() && !self.lanes_have_room(facts);
        Step::Route { events: self.events_per_step(facts), by, overflow }
    }

    /// How many events to route: in a backlog no more than there is room for, unless that is
    /// little.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "clamped to 1 and the batch"
    )]
    fn events_per_step(&self, facts: &Facts) -> u32 {
        let batch = (self.settings.batch as f64).min(self.culprits.most().into());
        let (of_fed, of_left) = (facts.room_of_fed as f64, facts.room_of_left as f64);
        let deliveries = match &self.backlog {
            Some(Backlog { left: None, .. }) if of_fed * 2.0 >= batch => of_fed,
            // It reads what it can take, and ends where the first lane is full.
            Some(Backlog { left: Some(_), .. }) if self.lanes_have_room(facts) => {
                of_left.max(batch / 8.0)
            }
            _ => DELIVERIES_PER_STEP,
        };
        (deliveries.min(DELIVERIES_PER_STEP) / self.fan_out.max(0.01)).clamp(1.0, batch) as u32
    }

    /// While a backlog is routed: whether the lanes that were fed have room for another half step.
    /// As long as a step waits there to be sent, a quarter of what they take is to be free, and no
    /// less than a step: much of what a step costs does not hang on how much it takes.
    fn lanes_are_ready(&self, now: Instant, facts: &Facts) -> bool {
        let Some(backlog) = &self.backlog else { return true };
        let waited = now.saturating_duration_since(self.routed_at);
        let batch = self.settings.batch;
        let are_busy = facts.queued_by_fed >= batch && !facts.is_fed_idle && !facts.is_left_idle;
        let is_little = are_busy && facts.room_of_fed < batch.max(facts.held_by_fed / 3);
        (self.lanes_have_room(facts) && !is_little)
            || waited >= SLOW_LANES_WAIT
            || (waited >= STUCK_LANES_WAIT && facts.finished_by_fed == backlog.finished)
    }

    /// A full lane is to be half empty, unless another has nothing to do.
    fn lanes_have_room(&self, facts: &Facts) -> bool {
        let full = self.settings.batch;
        let full =
            if self.is_cut() { full.min(facts.room_of_fed + facts.held_by_fed) } else { full };
        facts.room_of_fed * 2 >= full.max(1) || facts.is_left_idle
    }

    fn is_cut(&self) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| backlog.left.is_some())
    }

    /// When to look ahead of the cursor; `None`: nothing holds up others.
    fn ahead_at(&self, now: Instant, facts: &Facts) -> Option<Instant> {
        self.backlog.as_ref()?;
        Some(self.ahead.next(self.lanes_are_ready(now, facts)).unwrap_or(now))
    }

    fn rest(&self, now: Instant, facts: &Facts) -> Step {
        if self.claims_again {
            return Step::Rest { until: now, reason: Reason::Other };
        }
        let look_at = self.look_at.map(|at| {
            let patience = [STUCK_LANES_WAIT, SLOW_LANES_WAIT].map(|wait| self.routed_at + wait);
            if self.lanes_are_ready(now, facts) {
                at
            } else if now < patience[0] {
                at.max(patience[0])
            } else {
                at.max(patience[1])
            }
        });
        let tell_at = facts.others_are_to_know.then_some(self.tell_at);
        let ahead_at = self.ahead_at(now, facts);
        let others = [look_at, ahead_at, facts.due_at, tell_at, self.reconnect_at()];
        let until = others.into_iter().flatten().fold(self.poll_at, Instant::min);
        let reason = if until == self.poll_at && self.is_poll_asked_for {
            Reason::Other
        } else if until == self.poll_at {
            Reason::Poll
        } else if Some(until) == facts.due_at {
            Reason::Due
        } else {
            Reason::Other
        };
        Step::Rest { until, reason }
    }

    /// The settings it goes by.
    #[must_use]
    pub fn settings(&self) -> &DispatchSettings {
        &self.settings
    }

    /// The endpoints whose lanes the last full step of routing has fed.
    #[must_use]
    pub fn fed(&self) -> &[EndpointId] {
        self.backlog.as_ref().map_or(&[], |backlog| &backlog.fed)
    }

    /// Whether a backlog is being routed.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        self.backlog.is_some()
    }

    /// The endpoints of the events that the last step of routing left, for want of room.
    #[must_use]
    pub fn left(&self) -> &[EndpointId] {
        let left = self.backlog.as_ref().and_then(|backlog| backlog.left.as_deref());
        left.unwrap_or_default()
    }

    /// From where on events are to be routed; read before the first of them.
    #[must_use]
    pub fn floor(&self) -> Option<Timestamp> {
        self.floor
    }

    /// Whether the relay has read in this term what is due.
    #[must_use]
    pub fn has_polled(&self) -> bool {
        self.has_polled
    }

    /// Whether routing has failed and has not succeeded since.
    #[must_use]
    pub fn is_searching(&self) -> bool {
        self.culprits.is_searching()
    }

    /// Whether the relay waits for the bell.
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        self.sleep.is_asleep()
    }

    /// The token of the next statement that claims.
    pub fn next_token(&mut self) -> i64 {
        self.token += 1;
        self.token
    }

    /// The statements whose answer was lost.
    #[must_use]
    pub fn uncertain(&self) -> &UncertainClaims {
        &self.uncertain
    }

    // ── what a rest was ended by ──

    /// The bell rang: events were inserted, or it is said so.
    pub fn rang(&mut self, now: Instant) {
        let at = now + self.sleep.rang(now);
        self.look_at = Some(self.look_at.map_or(at, |before| before.min(at)));
    }

    /// An operator or another relay has made deliveries due, or it is said so.
    pub fn are_due(&mut self, now: Instant) {
        let at = self.polled_at.map_or(now, |polled| now.max(polled + TELL_INTERVAL));
        if at < self.poll_at {
            (self.poll_at, self.is_poll_asked_for) = (at, true);
        }
    }
}
