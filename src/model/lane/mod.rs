//! One endpoint's lane as a value: what a relay has queued for the endpoint, how much more it may
//! claim, and what a worker of the lane does next.
//!
//! A slow, dead or hostile endpoint fills its own lane and no other. Knows no lock, task, clock or
//! chance: the relay keeps a lane behind a lock and calls workers, the simulation steps one by
//! hand. The queue holds claims with their guards there, plain deliveries here, so the caller
//! counts what it holds and hands the count in as `claimed`.
//!
//! How many requests may be in flight is [`window`](super::window)'s to say, whether any may
//! [`health`](super::health)'s, how fast [`rate`](super::rate)'s, which part of a limit is this
//! relay's [`share`](super::share)'s.

mod work;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::endpoint::EndpointId;
use super::health::{Allowance, Health, Ticket};
use super::outcome::Outcome;
use super::rate::Rate;
use super::share::Share;
use super::verdict::Decision;
use super::window::{Remembered, Sent, Window};

/// A lane holds as many claims as keep it busy for this long, so that workers need not wait for the
/// next statement, and an endpoint that takes a second for each has hardly any waiting here that
/// another relay could send. Long against a statement.
const AHEAD_MS: f64 = 200.0;

/// Claims held for each request, at least, while the window rises: it may be three times as large
/// before the next are claimed.
const AHEAD_WHILE_RISING: f64 = 4.0;

/// Claims held for each request while nothing is known of the endpoint.
pub const FIRST_CLAIMS_PER_REQUEST: usize = 16;

/// An endpoint that answers nothing for this long is slow by itself; one more request may be tried.
pub const SILENCE: Duration = Duration::from_millis(50);

/// How long a lane is kept of an endpoint that other relays serve.
const NOT_OURS_FOR: Duration = Duration::from_secs(600);

/// See the module. `Q` is the type of what is queued.
#[derive(Debug)]
pub struct LaneState<Q> {
    limits: LaneLimits,
    queue: VecDeque<Q>,
    window: Window,
    health: Health,
    rate: Option<Rate>,
    /// Whether this relay has a part of the endpoint's limits; otherwise other relays serve it.
    serves: bool,
    /// How many relays have a part of them.
    servers: u32,
    opened_at: Instant,
    /// Attempts that have ended here since the lane was made.
    finished: u64,
    in_flight: usize,
    /// The caller looks every [`SILENCE`] whether the endpoint answers.
    is_watched: bool,
    tally: Tally,
    /// How long attempts take here, lately.
    mean_ms: Option<f64>,
    closed: bool,
    /// Closed for good.
    dismissed: bool,
    /// The endpoint is said to have changed since it was read: nothing more is sent by it.
    outdated: bool,
}

/// The settings of an endpoint that bound its lane, as read at one revision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LaneLimits {
    pub endpoint: EndpointId,
    pub revision: i64,
    /// A secret expires then, and the endpoint is to be read again.
    pub secrets_until: Option<Timestamp>,
    /// Requests at once, over all relays; at least 1.
    pub max_concurrency: u32,
    /// Attempts a second, over all relays.
    pub rate_limit: Option<f64>,
}

/// Bounds of one lane's claims at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Claims that the lane holds: queued, in flight or not yet recorded.
    pub claimed: usize,
    /// Claims that the relay may still make, over all lanes.
    pub free: usize,
    /// Requests that the lane may have in flight: its share of the relay's budget; at least 1.
    pub requests: usize,
}

/// How busy the relay is when a worker of the lane asks what to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Requests that the lane may have in flight: its share of the relay's budget; at least 1.
    pub requests: usize,
    /// Requests in flight over all lanes, with the one that the worker would send.
    pub in_all: usize,
}

/// Now, by the wall clock that pauses go by and by the steady one that rates go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub time: Timestamp,
    pub instant: Instant,
}

/// Belongs to one request, from the moment it is taken out until its end is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the end of the request is told with it"]
pub struct RequestNote {
    ticket: Ticket,
    sent: Sent,
}

/// Why a worker of the lane sends nothing now, and its task instead.
#[derive(Debug, PartialEq)]
pub enum Idle<Q> {
    /// Give back what was claimed: the endpoint has been paused since, or other relays serve it.
    GiveBack {
        queued: Vec<Q>,
        /// Other relays could send it at once, and may not know.
        others_serve: bool,
    },
    /// Nothing to send, or not allowed to: wait to be called.
    Wait,
    /// The endpoint's rate allows the next attempt after this.
    WaitFor(Duration),
    /// Nothing will come any more.
    Leave,
}

/// How an attempt of the lane ended.
#[derive(Debug, Clone, Copy)]
pub struct AttemptEnd<'a> {
    pub note: RequestNote,
    pub outcome: &'a Outcome,
    /// A rule may have counted an odd answer as delivered: that is a success here as well.
    pub decision: Decision,
    pub took: Duration,
    /// From the first byte written to the answer's head, where there was one: a new connection says
    /// nothing of how busy the endpoint is.
    pub answered_in: Option<Duration>,
    /// Requests in flight over all lanes when it ended.
    pub in_all: usize,
}

/// An endpoint's attempts since its health was last noted.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Tally {
    pub successes: u32,
    pub failures: u32,
    /// Of all of them together.
    pub duration_ms: f64,
}

/// How many more an endpoint may claim that holds `claimed`, while the relay has `free` left.
///
/// No more than it then leaves free: an endpoint that was fast and hangs has half of all claims at
/// most, and something is left for the next.
#[must_use]
pub fn share_of_room(free: usize, claimed: usize) -> usize {
    free.saturating_sub(claimed).div_ceil(2)
}

/// How many deliveries may be claimed for an endpoint that has no lane yet.
#[must_use]
pub fn first_room(initial_window: u32, free: usize) -> usize {
    count(initial_window).saturating_mul(FIRST_CLAIMS_PER_REQUEST).min(share_of_room(free, 0))
}

impl<Q> LaneState<Q> {
    /// An empty lane, with this relay's part of the limits. `initial_window`: requests there may be
    /// before the first answer.
    #[must_use]
    pub fn new(
        limits: LaneLimits,
        initial_window: u32,
        health: Health,
        share: Share,
        now: Instant,
    ) -> Self {
        let mut lane = Self {
            window: Window::new(initial_window, limits.max_concurrency),
            limits,
            queue: VecDeque::new(),
            health,
            rate: None,
            serves: true,
            servers: 1,
            opened_at: now,
            finished: 0,
            in_flight: 0,
            is_watched: false,
            tally: Tally::default(),
            mean_ms: None,
            closed: false,
            dismissed: false,
            outdated: false,
        };
        lane.divide(share);
        lane
    }

    /// Begins with half of this relay's part of what all of them have learnt of the endpoint.
    pub fn recall(&mut self, learnt: Remembered) {
        self.window.recall(learnt.part(self.servers));
    }

    /// What all relays have learnt of the endpoint if the others have learnt as much as this one:
    /// the next lane is to begin with it. `None`: nothing yet.
    #[must_use]
    pub fn remembered(&self) -> Option<Remembered> {
        self.window.remembered().map(|own| own.of_all(self.servers))
    }

    /// Takes over what was read of the endpoint again; what is queued and in flight stays.
    pub fn reopen(&mut self, limits: LaneLimits, health: Health, share: Share, now: Instant) {
        self.closed = false;
        self.outdated = false;
        self.limits = limits;
        self.health = health;
        self.opened_at = now;
        self.divide(share);
    }

    /// Takes this relay's part of the endpoint's limits: relays have come or gone, or the limits
    /// changed.
    pub fn divide(&mut self, share: Share) {
        let LaneLimits { endpoint, max_concurrency, rate_limit, .. } = self.limits;
        let part = share.of(endpoint, max_concurrency, rate_limit);
        self.serves = part.is_some();
        let Some(part) = part else { return };
        self.servers = part.relays;
        self.window.set_max(part.max_concurrency);
        match (&mut self.rate, part.rate_limit) {
            (Some(rate), Some(per_second)) => rate.set_rate(per_second),
            (rate, per_second) => *rate = per_second.map(Rate::new),
        }
    }

    /// Takes nothing more: the endpoint is disabled or deleted.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Takes nothing more and lets its workers go. It can be reopened for nothing.
    pub fn dismiss(&mut self) {
        (self.closed, self.dismissed) = (true, true);
    }

    /// Whether it is closed for good.
    #[must_use]
    pub fn is_dismissed(&self) -> bool {
        self.dismissed
    }

    /// Sends nothing more until it is [reopened](Self::reopen) or [confirmed](Self::confirm): the
    /// endpoint is said to have changed.
    pub fn outdate(&mut self) {
        self.outdated = true;
    }

    /// The endpoint is now at this revision, and enabled. Returns whether the lane is of it: then
    /// it sends on.
    pub fn confirm(&mut self, revision: i64) -> bool {
        // One that was read since is of a later revision.
        let is_of_it = self.limits.revision >= revision;
        if is_of_it {
            self.outdated = false;
        }
        is_of_it
    }

    /// Whether what is claimed may be put in: it is neither outdated nor closed for good.
    #[must_use]
    pub fn takes(&self) -> bool {
        !self.outdated && !self.dismissed
    }

    /// Whether this relay may send to the endpoint; otherwise other relays do.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.serves
    }

    /// Whether the limits were read at this revision, and neither a change was heard of nor has a
    /// secret expired since.
    #[must_use]
    pub fn is_current(&self, revision: i64, now: Timestamp) -> bool {
        self.limits.revision == revision
            && self.takes()
            && self.limits.secrets_until.is_none_or(|until| now < until)
    }

    /// Whether the lane knows something that a new one would not: the endpoint's trouble, what has
    /// not been noted yet, or that other relays serve it, without which it would be claimed and
    /// given back again and again.
    #[must_use]
    pub fn is_worth_keeping(&self, now: Instant) -> bool {
        self.health != Health::default()
            || self.tally != Tally::default()
            || (!self.serves && now.saturating_duration_since(self.opened_at) < NOT_OURS_FOR)
    }

    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How many attempts have ended here so far: whether it moves.
    #[must_use]
    pub fn finished_so_far(&self) -> u64 {
        self.finished
    }

    /// How many more deliveries that wait may be claimed.
    #[must_use]
    pub fn room(&self, now: Timestamp, bounds: Bounds) -> usize {
        self.room_if(now, bounds, 0)
    }

    /// How many more deliveries may be claimed that are made just now: of these one may be the
    /// probe before the pause is over.
    #[must_use]
    pub fn room_for_new(&self, now: Timestamp, bounds: Bounds) -> usize {
        self.room_if(now, bounds, 1)
    }

    fn room_if(&self, now: Timestamp, bounds: Bounds, fresh_probes: usize) -> usize {
        let Bounds { claimed, free, requests } = bounds;
        if self.closed || !self.serves {
            return 0;
        }
        let most = match self.health.may_send(now) {
            Allowance::Freely => self.most_claims(requests),
            Allowance::OneProbe => 1,
            Allowance::FreshProbe => fresh_probes,
            Allowance::No { .. } => 0,
        };
        most.saturating_sub(claimed).min(share_of_room(free, claimed))
    }

    /// Whether it will have room as soon as attempts end: it is not paused, closed or another
    /// relay's.
    #[must_use]
    pub fn flows(&self, now: Timestamp) -> bool {
        !self.closed && self.serves && self.health.may_send(now) == Allowance::Freely
    }

    /// How many claims to hold while there may be `requests` in flight.
    fn most_claims(&self, requests: usize) -> usize {
        let least = if self.window.is_rising() { AHEAD_WHILE_RISING } else { 1.0 };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to a small number"
        )]
        let per_request = self
            .mean_ms
            .map_or(FIRST_CLAIMS_PER_REQUEST, |mean| (AHEAD_MS / mean).clamp(least, 1e6) as usize);
        // Where the first does not answer, others are to be there to be sent.
        let width = count(self.window.size().max(self.window.start()));
        let most = requests.min(width).saturating_mul(per_request);
        self.rate.as_ref().map_or(most, |rate| most.min(rate.per_second()))
    }

    pub fn push(&mut self, claimed: Q) {
        self.queue.push_back(claimed);
    }

    /// Takes out what is queued and not begun, to be given back.
    pub fn drain(&mut self) -> Vec<Q> {
        self.queue.drain(..).collect()
    }

    /// Takes out what is queued, not begun, and not wanted any more.
    pub fn withdraw(&mut self, is_unwanted: impl Fn(&Q) -> bool) -> Vec<Q> {
        if !self.queue.iter().any(&is_unwanted) {
            return Vec::new();
        }
        let (unwanted, wanted) = self.queue.drain(..).partition::<Vec<_>, _>(is_unwanted);
        self.queue = wanted.into();
        unwanted
    }

    /// Takes out what was claimed before the endpoint's limits were known and other relays may
    /// have.
    pub fn take_excess(&mut self, share: Share) -> Vec<Q> {
        let most = self.most_claims(usize::MAX);
        if share.relays() == 1 || self.queue.len() <= 2 * most {
            return Vec::new();
        }
        self.queue.split_off(most).into()
    }

    fn width(&self) -> usize {
        count(self.window.size())
    }
}

fn count(requests: u32) -> usize {
    usize::try_from(requests).unwrap_or(usize::MAX)
}

fn short(requests: usize) -> u32 {
    u32::try_from(requests).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
