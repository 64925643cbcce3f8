//! What the dispatcher does next: give back uncertain claims, keep the bell's session, ask what is due,
//! claim it, route new events, rest. One round does each of these at most once, in this order, and
//! ends with a rest.
//!
//! [`Dispatch::next`] names the next step; the dispatcher performs it and tells what came of it.
//! A claim that fails does not keep new events from being routed; any other error ends the round.

mod sleep;
mod suspects;
mod uncertain;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use jiff::Timestamp;

pub use self::sleep::Sleep;
pub use self::suspects::{Blame, Suspects};
pub use self::uncertain::UncertainClaims;
use super::due::Due;
use super::endpoint::EndpointId;

/// Events that a step of routing a few takes at most; above that, the whole statement is used.
pub const FEW: u8 = 100;

/// Endpoints that one claim looks at.
const ENDPOINTS_PER_CLAIM: usize = 500;
/// Deliveries that one routing statement makes, about; with a large fan-out it takes fewer events.
const DELIVERIES_PER_STEP: f64 = 5_000.0;
/// While the bell is heard, the relay polls this much less often, to leave an idle database idle.
const INTERVALS_BEHIND_THE_BELL: u32 = 5;
/// Where one event makes more deliveries than this, few events are many deliveries.
const FAN_OUT_OF_FEW: f64 = 10.0;
/// After events that a step of few leaves to a whole step. Unusual events seldom come alone, and a try
/// costs the database as much as a look.
const UNUSUAL_PAUSE: Duration = Duration::from_secs(1);
/// Between two notices to other relays, each of which costs all of them a statement.
const TELL_INTERVAL: Duration = Duration::from_millis(20);
/// Between two tries to open a session for the bell.
const RECONNECT_INTERVAL: Duration = Duration::from_secs(1);
/// How often an idle session is asked for a sign of life.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// A backlog is routed on as soon as the lanes that were fed have room again, and only as far as they
/// have: what is routed without room is written once more when it is claimed. But a full lane must not
/// hold up the others' events: where nothing moves, routing goes on after this …
const STUCK_LANES_WAIT: Duration = Duration::from_millis(20);
/// … and where it moves too slowly, after this.
const SLOW_LANES_WAIT: Duration = Duration::from_millis(200);

/// The settings that the dispatcher goes by.
#[derive(Debug, Clone, Copy)]
pub struct DispatchSettings {
    /// Events that one step of routing takes at most.
    pub batch: usize,
    /// Between two polls, where no bell is heard.
    pub poll_interval: Duration,
    /// After this the database ends a statement of its own accord.
    pub statement_timeout: Duration,
    /// Whether the bell is to be heard.
    pub listens: bool,
}

impl DispatchSettings {
    /// A round takes a poll interval and a few statements at most; well beyond that it hangs.
    #[must_use]
    pub fn stuck_after(&self) -> Duration {
        self.poll_interval * INTERVALS_BEHIND_THE_BELL + 5 * self.statement_timeout
    }

    /// How long a statement whose answer was lost may still claim something.
    fn patience(&self) -> Duration {
        2 * self.statement_timeout
    }
}

/// The next thing to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// Give back the claims of statements whose answer was lost.
    Disown,
    /// Ask the session that hears the bell for a sign of life.
    CheckBell,
    /// Open a session to hear the bell.
    Reconnect,
    /// Ask which endpoints are owed something, and when.
    Poll,
    /// Tell the other relays what is due of endpoints that they serve.
    TellOthers,
    /// Claim what is due, see [`Dispatch::ask`].
    Claim,
    /// Read from where on events are still to be routed.
    ReadFloor,
    /// Route new events.
    Route {
        /// At most this many.
        events: u32,
        /// By the statement for [few](FEW) events, which does nothing where they are unusual.
        few: bool,
    },
    /// Take the bell's lock: no insert rings from then on.
    Silence,
    /// Let go of the bell's lock: every insert rings from then on.
    Arm,
    /// Something failed: wait a little, longer each time.
    BackOff,
    /// The round is over. Wait for a bell, for room, or until a moment.
    Rest {
        /// The moment.
        until: Instant,
        /// What is to be done then.
        reason: Reason,
    },
}

/// Why a rest ends when it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is time to poll.
    Poll,
    /// Something unclaimed falls due.
    Due,
    /// It is time to look for events, to tell others, or to open a session.
    Other,
}

/// What the next step depends on beside the dispatcher's own state.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts {
    /// Whether there is a session that hears the bell.
    pub hears: bool,
    /// Whether something is due.
    pub is_due: bool,
    /// When something more falls due.
    pub due_at: Option<Instant>,
    /// Whether other relays have not been told what is due of their endpoints.
    pub others_are_to_know: bool,
    /// How many more deliveries the [fed](Dispatch::fed) lanes can take.
    pub room_of_fed: usize,
    /// How many attempts have come to an end in these lanes so far.
    pub finished_by_fed: u64,
}

/// What a claim asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClaimRequest {
    /// Endpoints that are due.
    pub endpoints: Vec<EndpointId>,
    /// Deliveries of each.
    pub rooms: Vec<usize>,
}

/// What a step of routing did.
#[derive(Debug, Clone, Default)]
pub struct RoutedStep {
    /// Events that were routed.
    pub events: u32,
    /// Deliveries that were made for them.
    pub deliveries: u32,
    /// Whether the step was full, so that there may be more.
    pub more: bool,
    /// Every transaction below this has ended.
    pub xmin: i64,
    /// No event still to be routed is older.
    pub floor: Timestamp,
    /// The endpoints whose lanes were fed by it.
    pub fed: Vec<EndpointId>,
    /// How many attempts have come to an end in these lanes by now.
    pub finished: u64,
}

/// What goes on from one round to the next.
#[derive(Debug)]
pub struct Dispatch {
    settings: DispatchSettings,
    at: Point,
    /// The claim of this round failed.
    failed: bool,
    /// Whether the bell was heard when the last step was chosen.
    hears: bool,
    sleep: Sleep,
    /// The relay is to take the bell's lock.
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
    /// The last step of routing was full.
    backlog: Option<Backlog>,
    routed_at: Instant,
    /// Deliveries per event, lately.
    fan_out: f64,
    /// Until then no step of few is tried.
    unusual_until: Instant,
    /// Events that a step may take: fewer after a step that failed because of what it read.
    most_events: u32,
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
    /// After a look.
    Rise,
    Rest,
    BackOff,
}

/// What a full step of routing has left.
#[derive(Debug)]
struct Backlog {
    fed: Vec<EndpointId>,
    /// How many attempts had come to an end there by then.
    finished: u64,
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
            backlog: None,
            routed_at: now,
            fan_out: 1.0,
            unusual_until: now,
            most_events: u32::MAX,
            suspects: Suspects::default(),
            claims_again: false,
            uncertain: UncertainClaims::default(),
            tell_at: now,
        }
    }

    /// The next step. Unless there was nothing to claim, or it is one of `CheckBell`, `Silence`,
    /// `BackOff` and `Rest`, the method that takes in what it gave is to follow, or [`failed`](Self::failed).
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
                Point::Look => Point::Rise,
                Point::Rise if self.failed => Point::BackOff,
                Point::Rise => Point::Rest,
                Point::Rest | Point::BackOff => Point::Disown,
            };
        }
    }

    /// What there is to do at this point of the round, if anything.
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
            && self.most_events > FEW.into()
            && self.unusual_until <= now;
        Step::Route { events: self.events_per_step(facts), few }
    }

    /// How many events to route: in a backlog no more than there is room for, unless that is little.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "clamped to 1 and the batch"
    )]
    fn events_per_step(&self, facts: &Facts) -> u32 {
        let batch = (self.settings.batch as f64).min(self.most_events.into());
        let room = self.backlog.as_ref().map_or(0, |_| facts.room_of_fed) as f64;
        let deliveries = if room * 2.0 >= batch { room } else { DELIVERIES_PER_STEP };
        (deliveries.min(DELIVERIES_PER_STEP) / self.fan_out.max(0.01)).clamp(1.0, batch) as u32
    }

    /// While a backlog is routed: whether the lanes that were fed have room for another half step.
    fn lanes_are_ready(&self, now: Instant, facts: &Facts) -> bool {
        let Some(backlog) = &self.backlog else { return true };
        let waited = now.saturating_duration_since(self.routed_at);
        facts.room_of_fed * 2 >= self.settings.batch
            || waited >= SLOW_LANES_WAIT
            || (waited >= STUCK_LANES_WAIT && facts.finished_by_fed == backlog.finished)
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
        let others = [look_at, facts.due_at, tell_at, self.reconnect_at()];
        let until = others.into_iter().flatten().fold(self.poll_at, Instant::min);
        let reason = if until == self.poll_at {
            Reason::Poll
        } else if Some(until) == facts.due_at {
            Reason::Due
        } else {
            Reason::Other
        };
        Step::Rest { until, reason }
    }

    // ── what there is to know about it ──

    /// The endpoints whose lanes the last full step of routing has fed.
    #[must_use]
    pub fn fed(&self) -> &[EndpointId] {
        self.backlog.as_ref().map_or(&[], |backlog| &backlog.fed)
    }

    /// From where on events are to be routed; read before the first of them.
    #[must_use]
    pub fn floor(&self) -> Option<Timestamp> {
        self.floor
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

    /// The bell rang: events were inserted.
    pub fn rang(&mut self, now: Instant) {
        self.sleep.rang(now);
        self.look_at = Some(now);
    }

    /// An operator or another relay has made deliveries due.
    pub fn are_due(&mut self, now: Instant) {
        self.poll_at = now;
    }

    // ── what came of a step ──

    /// A step failed other than by [claiming](Self::claim_failed) or [routing](Self::route_failed).
    pub fn failed(&mut self) {
        self.at = Point::BackOff;
    }

    /// Uncertain claims were given back by a statement that began at `now`.
    pub fn disowned(&mut self, released: u64, now: Instant) {
        self.uncertain.disowned(now, self.settings.patience());
        self.at = Point::Bell;
        if released > 0 {
            // They are due, and no relay has been told.
            self.poll_at = now;
        }
    }

    /// A session that hears the bell was opened, or could not be. A poll is due then: what rang
    /// meanwhile was not heard.
    pub fn reconnected(&mut self, hears: bool, now: Instant) {
        self.at = Point::Poll;
        if hears {
            self.poll_at = now;
        }
    }

    /// The relay has asked what is due; `draw` is from 0 to 1.
    pub fn polled(&mut self, draw: f64, now: Instant) {
        let intervals = if self.hears { INTERVALS_BEHIND_THE_BELL } else { 1 };
        // A tenth of jitter, so that several relays do not poll together.
        let jitter = 0.9 + 0.2 * draw;
        self.poll_at = now + (self.settings.poll_interval * intervals).mul_f64(jitter);
        self.look_at = Some(now);
        self.at = Point::TellOthers;
    }

    /// The other relays were told.
    pub fn told_others(&mut self) {
        self.at = Point::Claim;
    }

    /// What to claim: of endpoints that are due as much as each has room for, at most `room` in all.
    pub fn ask(
        &self,
        due: &Due,
        mut room: usize,
        room_of: impl Fn(EndpointId) -> usize,
        now: Instant,
    ) -> ClaimRequest {
        let mut asked = ClaimRequest::default();
        room = room.min(self.suspects.most());
        for endpoint in due.due(now) {
            if asked.endpoints.len() == ENDPOINTS_PER_CLAIM || room == 0 {
                break;
            }
            if self.suspects.is_left_out(endpoint, now) {
                continue;
            }
            let most = room_of(endpoint).min(room);
            if most > 0 {
                room -= most;
                asked.endpoints.push(endpoint);
                asked.rooms.push(most);
            }
        }
        asked
    }

    /// A claim has succeeded: `claimed` says how much of an endpoint, and `is_cut` that more was due
    /// and had room, but for its size.
    pub fn claimed(
        &mut self,
        asked: &ClaimRequest,
        claimed: impl Fn(EndpointId) -> usize,
        is_cut: bool,
        due: &mut Due,
    ) {
        // More may be due than was asked for.
        self.claims_again |= self.suspects.are_sought();
        self.suspects.clear(&asked.endpoints);
        for (endpoint, room) in asked.endpoints.iter().zip(&asked.rooms) {
            // Fewer than asked for: nothing more is due, as far as the relay can see.
            if !is_cut && claimed(*endpoint) < *room {
                due.remove(*endpoint);
            }
        }
    }

    /// A claim has failed, and may have claimed something all the same. Sees to it that an endpoint
    /// for which claiming fails does not hold up the others. `is_of_some_row`: what it read may be
    /// the reason. Where the answer is [`Blame::Again`], the round ends by backing off.
    pub fn claim_failed(
        &mut self,
        asked: &ClaimRequest,
        is_of_some_row: bool,
        due: &mut Due,
        now: Instant,
    ) -> Blame {
        self.uncertain.add(self.token, now);
        let blame = if is_of_some_row {
            self.suspects.accuse(&asked.endpoints, asked.rooms.iter().sum(), now)
        } else {
            Blame::Again
        };
        match blame {
            Blame::Again => self.failed = true,
            Blame::Half => self.claims_again = true,
            Blame::Without(endpoint, pause) => {
                self.claims_again = true;
                due.remove(endpoint);
                due.put(endpoint, now + pause);
            }
        }
        blame
    }

    /// The ledger says from where on events are still to be routed.
    pub fn floor_is(&mut self, floor: Timestamp) {
        self.floor = Some(floor);
    }

    /// A step of few has found unusual events and left them.
    pub fn unusual(&mut self, now: Instant) {
        self.unusual_until = now + UNUSUAL_PAUSE;
    }

    /// A step of routing has succeeded, at `at`; by `now`, what it claimed is in the lanes. `None`:
    /// another relay was routing.
    pub fn routed(&mut self, routed: Option<RoutedStep>, at: Instant, now: Instant) {
        self.at = Point::Rise;
        self.routed_at = at;
        self.most_events = self.most_events.saturating_mul(2);
        let look = routed.as_ref().map_or_else(sleep::Look::default, |routed| sleep::Look {
            events: routed.events,
            more: routed.more,
            xmin: Some(routed.xmin),
        });
        if let Some(routed) = routed {
            self.floor = Some(routed.floor);
            if routed.events > 0 {
                let fan_out = f64::from(routed.deliveries) / f64::from(routed.events);
                self.fan_out = (self.fan_out + fan_out) / 2.0;
            }
            self.backlog = (routed.more && routed.deliveries > 0)
                .then_some(Backlog { fed: routed.fed, finished: routed.finished });
        }
        let (wait, rises) = self.sleep.after(look, self.hears, now);
        self.rises = rises;
        self.look_at = wait.map(|wait| now + wait);
    }

    /// A step of routing has failed, and may have claimed something all the same. What it read may
    /// have been too much for it: then fewer events are tried, down to a single one, and more again with
    /// each step that succeeds.
    pub fn route_failed(&mut self, events: u32, few: bool, is_of_some_row: bool, now: Instant) {
        self.uncertain.add(self.token, now);
        if is_of_some_row {
            let tried = if few { FEW.into() } else { events };
            self.most_events = (tried / 2).max(1);
        }
        self.failed();
    }

    /// The relay has let go of the bell's lock; transactions below `skippers` may not have rung.
    /// `None`: the session is gone, and its lock with it. A look is due either way.
    pub fn armed(&mut self, skippers: Option<i64>, now: Instant) {
        match skippers {
            Some(skippers) => self.sleep.armed(skippers),
            None => self.sleep.lost(),
        }
        self.look_at = Some(now);
    }
}
