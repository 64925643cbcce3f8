//! Kinds of endpoints, and a device that has a lane send to them: events in discrete time, one
//! processor of the relay's own that each delivery takes twice, and workers without a runtime.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;

/// Nanoseconds since the beginning.
pub(super) type Nanos = u64;

pub(super) const SECOND: Nanos = 1_000_000_000;

/// A delivery's time on the relay's processor, half of it before its request and half after the
/// answer.
const OWN: Nanos = 40_000;

/// A chance that is the same in every run.
struct Chance(u64);

impl Chance {
    /// From 0 to 1 (splitmix64).
    fn draw(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let high = u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap();
        f64::from(high) / f64::from(u32::MAX)
    }

    /// From the normal distribution (Box and Muller).
    fn normal(&mut self) -> f64 {
        let (radius, turn) = (self.draw().max(1e-9), self.draw());
        (-2.0 * radius.ln()).sqrt() * (turn * std::f64::consts::TAU).cos()
    }
}

/// How an endpoint answers.
pub(super) enum Kind {
    /// Each request after as many milliseconds.
    Constant(f64),
    /// One after the other on each of so many workers, each after as many milliseconds, give or
    /// take this deviation of the logarithm.
    Workers { free_at: Vec<Nanos>, ms: f64, deviation: f64 },
    /// Beyond `well` requests at once each takes as much longer as the square of how many times as
    /// many there are; beyond four times as many, 503.
    Overloaded { well: usize, ms: f64, until: Vec<Nanos> },
    /// With this median, in milliseconds, and this deviation of the logarithm.
    Lognormal { ms: f64, deviation: f64 },
    /// One in twenty takes `slow_ms`.
    Tail { ms: f64, slow_ms: f64 },
    /// One kind until a moment, then the other.
    Changes { at: Nanos, before: Box<Kind>, after: Box<Kind> },
}

impl Kind {
    pub(super) fn workers(count: usize, ms: f64) -> Self {
        Self::Workers { free_at: vec![0; count], ms, deviation: 0.0 }
    }

    pub(super) fn uneven_workers(count: usize, ms: f64) -> Self {
        Self::Workers { free_at: vec![0; count], ms, deviation: 0.5 }
    }

    pub(super) fn changes(at: Nanos, before: Self, after: Self) -> Self {
        Self::Changes { at, before: Box::new(before), after: Box::new(after) }
    }

    /// When a request that arrives `now` is answered, and whether well.
    fn answers(&mut self, now: Nanos, chance: &mut Chance) -> (Nanos, bool) {
        match self {
            Self::Constant(ms) => (now + nanos(*ms), true),
            Self::Workers { free_at, ms, deviation } => {
                let free = free_at.iter_mut().min().unwrap();
                *free = now.max(*free) + nanos(*ms * (*deviation * chance.normal()).exp());
                (*free, true)
            }
            Self::Overloaded { well, ms, until } => {
                until.retain(|&end| end > now);
                let requests = until.len() + 1;
                if requests > 4 * *well {
                    return (now + nanos(2.0), false);
                }
                let over = (requests as f64 / *well as f64).max(1.0);
                let end = now + nanos(*ms * over * over);
                until.push(end);
                (end, true)
            }
            Self::Lognormal { ms, deviation } => {
                (now + nanos(*ms * (*deviation * chance.normal()).exp()), true)
            }
            Self::Tail { ms, slow_ms } => {
                let is_slow = chance.draw() < 0.05;
                (now + nanos(if is_slow { *slow_ms } else { *ms }), true)
            }
            Self::Changes { at, before, after } => {
                (if now < *at { before } else { after }).answers(now, chance)
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
fn nanos(ms: f64) -> Nanos {
    (ms * 1e6) as Nanos
}

/// What happens next.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    /// An answer has come and waits for the processor.
    Answer(usize),
    /// It had the processor.
    Taken(usize),
    /// The lane has been watched for [`SILENCE`].
    Silence { lane: usize, finished: Option<u64> },
}

struct Request {
    lane: usize,
    note: RequestNote,
    began: Nanos,
    well: bool,
}

/// One endpoint, its lane, and what was seen of it.
pub(super) struct Seen {
    pub(super) kind: Kind,
    pub(super) lane: LaneState<u32>,
    pub(super) most: usize,
    pub(super) failed: usize,
    /// When each request arrived, and how many were in flight with it.
    pub(super) arrivals: Vec<(Nanos, usize)>,
}

/// See the file.
pub(super) struct Device {
    pub(super) endpoints: Vec<Seen>,
    requests: Vec<Request>,
    ahead: BinaryHeap<Reverse<(Nanos, usize, Happens)>>,
    begun: usize,
    in_all: usize,
    processor_free_at: Nanos,
    chance: Chance,
    /// One use of the processor in so many finds it taken by a neighbour for 4 ms; 0: none does.
    neighbour: u32,
    now: Nanos,
    start: Moment,
}

impl Device {
    /// As many events are owed to each of these endpoints.
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    pub(super) fn new(kinds: Vec<Kind>, events: u32) -> Self {
        let start = Moment { time: Timestamp::UNIX_EPOCH, instant: Instant::now() };
        let seen = |kind| {
            let mut lane =
                LaneState::new(LIMITS, 4, Health::default(), Share::ALONE, start.instant);
            (0..events).for_each(|n| lane.push(n));
            Seen { kind, lane, most: 0, failed: 0, arrivals: Vec::new() }
        };
        Self {
            endpoints: kinds.into_iter().map(seen).collect(),
            requests: Vec::new(),
            ahead: BinaryHeap::new(),
            begun: 0,
            in_all: 0,
            processor_free_at: 0,
            chance: Chance(1),
            neighbour: 0,
            now: 0,
            start,
        }
    }

    pub(super) fn with_chance(self, seed: u64) -> Self {
        Self { chance: Chance(seed), ..self }
    }

    /// The machine is another's as well.
    pub(super) fn with_neighbour(self, one_in: u32) -> Self {
        Self { neighbour: one_in, ..self }
    }

    /// As many more events are owed to each endpoint, after a minute.
    pub(super) fn owes(&mut self, events: u32) {
        self.now += 60 * SECOND;
        for seen in &mut self.endpoints {
            (0..events).for_each(|n| seen.lane.push(n));
        }
    }

    /// Runs until all is answered, or so long.
    pub(super) fn run(&mut self, most: Nanos) {
        (0..self.endpoints.len()).for_each(|lane| self.staff(lane));
        while let Some(Reverse((at, _, happens))) = self.ahead.pop() {
            if at > most {
                return;
            }
            self.now = at;
            match happens {
                Happens::Answer(request) => {
                    let taken = self.on_the_processor();
                    self.plan(taken, Happens::Taken(request));
                }
                Happens::Taken(request) => self.ended(request),
                Happens::Silence { lane, finished } => {
                    if let Some(finished) = self.endpoints[lane].lane.watched(finished) {
                        self.watch(lane, Some(finished));
                    }
                    self.staff(lane);
                }
            }
        }
    }

    /// As the workers do.
    fn staff(&mut self, index: usize) {
        let (time, instant) = (self.start.time, self.start.instant);
        let passed = Duration::from_nanos(self.now);
        let now = Moment { time: time + passed, instant: instant + passed };
        while self.endpoints[index].lane.workers(TRAFFIC.requests)
            > self.endpoints[index].lane.in_flight()
        {
            let traffic = Traffic { in_all: self.in_all + 1, ..TRAFFIC };
            let Ok((_, note)) = self.endpoints[index].lane.next(now, traffic, true) else { break };
            self.in_all += 1;
            let arrives = self.on_the_processor();
            let Self { endpoints, chance, .. } = self;
            let seen = &mut endpoints[index];
            let (answered, well) = seen.kind.answers(arrives, chance);
            seen.most = seen.most.max(seen.lane.in_flight());
            seen.arrivals.push((arrives, seen.lane.in_flight()));
            self.requests.push(Request { lane: index, note, began: self.now, well });
            self.plan(answered, Happens::Answer(self.requests.len() - 1));
        }
        if self.endpoints[index].lane.begins_to_be_watched() {
            self.watch(index, None);
        }
    }

    fn ended(&mut self, request: usize) {
        let Request { lane: index, note, began, well } = self.requests[request];
        let lane = &mut self.endpoints[index].lane;
        let outcome = answered(if well { 204 } else { 503 });
        let decision = if well { Decision::Delivered } else { RETRY };
        let took = Duration::from_nanos(self.now - began);
        self.in_all -= 1;
        let in_all = self.in_all;
        let end = AttemptEnd { note, outcome: &outcome, decision, took, answered_in: None, in_all };
        let time = self.start.time + Duration::from_nanos(self.now);
        // No pause: what is looked at is the window.
        let policy = HealthPolicy { failure_threshold: u32::MAX, ..HealthPolicy::default() };
        lane.finished(end, time, &policy, 0.0);
        if !well {
            lane.push(0);
            self.endpoints[index].failed += 1;
        }
        self.staff(index);
    }

    fn watch(&mut self, lane: usize, finished: Option<u64>) {
        // The first look is taken at once, as the relay's watch does.
        let finished = match finished {
            None => self.endpoints[lane].lane.watched(None),
            Some(_) => finished,
        };
        if finished.is_some() {
            let silence = Nanos::try_from(SILENCE.as_nanos()).unwrap();
            self.plan(self.now + silence, Happens::Silence { lane, finished });
        }
    }

    fn on_the_processor(&mut self) -> Nanos {
        let taken = self.neighbour > 0 && self.chance.draw() < 1.0 / f64::from(self.neighbour);
        let lost = if taken { nanos(4.0) } else { 0 };
        self.processor_free_at = self.processor_free_at.max(self.now) + lost + OWN / 2;
        self.processor_free_at
    }

    fn plan(&mut self, at: Nanos, happens: Happens) {
        self.begun += 1;
        self.ahead.push(Reverse((at, self.begun, happens)));
    }
}

impl Seen {
    /// Seconds from the first arrival to the last.
    pub(super) fn span(&self) -> f64 {
        let (first, last) = (self.arrivals[0].0, self.arrivals[self.arrivals.len() - 1].0);
        (last - first) as f64 / 1e9
    }

    /// Arrivals a second since a moment.
    pub(super) fn rate_since(&self, since: Nanos) -> f64 {
        let later = self.arrivals.iter().filter(|(at, _)| *at >= since).count();
        let last = self.arrivals[self.arrivals.len() - 1].0;
        later as f64 / ((last - since) as f64 / 1e9)
    }

    /// The most in flight with what arrived since a moment.
    pub(super) fn most_since(&self, since: Nanos) -> usize {
        let later = self.arrivals.iter().filter(|(at, _)| *at >= since);
        later.map(|(_, requests)| *requests).max().unwrap_or(0)
    }
}
