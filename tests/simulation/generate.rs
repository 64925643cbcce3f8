//! Random operation lists. Each list draws anew how likely everything is, so that some lists are
//! nearly without faults and others hardly get anything done.

use fastrand::Rng;
use posthaste::store::routing::FEW;

use super::operations::{
    Answer, Event, Fate, Gate, Kind, Notice, Operation, PLAIN, Size, States, Steering, Tenant,
};

/// Long enough for a delivery to be routed, sent, lost, released and sent again, several times.
const LENGTH: std::ops::RangeInclusive<usize> = 30..=220;

/// The list of this number: the same one every time.
pub fn list(seed: u64) -> Vec<Operation> {
    let mut rng = Rng::with_seed(seed);
    let taste = Taste::draw(&mut rng);
    let start = |relay| Operation::Start { relay, size: taste.size };
    let mut list: Vec<_> = (0..taste.relays).map(start).collect();
    let length = rng.usize(LENGTH);
    while list.len() < length {
        taste.add(&mut rng, &mut list);
    }
    list
}

/// How likely everything is in one list.
struct Taste {
    relays: u8,
    connections: u8,
    /// Of a hundred statements, how many have another fate than `Fine`.
    mishaps: u8,
    size: Size,
    weights: [(u32, Maker); 15],
}

type Maker = fn(&Taste, &mut Rng, &mut Vec<Operation>);

impl Taste {
    fn draw(rng: &mut Rng) -> Self {
        let makers: [(u32, Maker); 15] = [
            (14, insert),
            (14, transaction),
            (14, look),
            (24, turn),
            (30, send),
            (26, answer),
            (20, record),
            (8, round),
            (8, lines),
            (8, beat),
            (12, steer),
            (4, fault),
            (8, slow_end),
            (10, pass),
            (6, beside),
        ];
        let mut weight = |usual: u32| match rng.u8(0..6) {
            0 => usual / 6,
            1 => usual * 4,
            _ => usual,
        };
        let weights = makers.map(|(usual, maker)| (weight(usual).max(1), maker));
        Self {
            relays: rng.u8(1..=3),
            connections: rng.u8(1..=3),
            mishaps: [0, 5, 12, 30][rng.usize(0..4)],
            size: [Size::Usual, Size::Small, Size::Least][rng.usize(0..3)],
            weights,
        }
    }

    fn add(&self, rng: &mut Rng, list: &mut Vec<Operation>) {
        let all: u32 = self.weights.iter().map(|(weight, _)| weight).sum();
        let mut drawn = rng.u32(0..all);
        for (weight, maker) in self.weights {
            if drawn < weight {
                return maker(self, rng, list);
            }
            drawn -= weight;
        }
    }

    fn relay(&self, rng: &mut Rng) -> u8 {
        rng.u8(0..self.relays)
    }

    fn fate(&self, rng: &mut Rng) -> Fate {
        if rng.u8(0..100) >= self.mishaps {
            return Fate::Fine;
        }
        match rng.u8(0..8) {
            0 | 1 => Fate::AnswerLost,
            2 => Fate::NotRun,
            3 => Fate::Slow(Gate::Beginning),
            4 => Fate::Slow(Gate::Routing),
            5 => Fate::Slow(Gate::Deliveries),
            6 => Fate::Slow(Gate::Row),
            _ => Fate::Slow(Gate::Attempts),
        }
    }
}

fn maybe<T>(rng: &mut Rng, one_in: u8, value: impl FnOnce(&mut Rng) -> T) -> Option<T> {
    (rng.u8(0..one_in) == 0).then(|| value(rng))
}

fn event(rng: &mut Rng) -> Event {
    if rng.u8(0..3) == 0 {
        return PLAIN;
    }
    Event {
        kind: [Kind::Paid, Kind::Sent, Kind::Left][rng.usize(0..3)],
        tenant: maybe(rng, 2, |rng| if rng.bool() { Tenant::A } else { Tenant::B }),
        n: rng.u8(0..4),
        ordering_key: maybe(rng, 2, |rng| rng.u8(0..2)),
        idempotency_key: maybe(rng, 8, |rng| rng.u8(0..3)),
        to: maybe(rng, 8, |rng| rng.u8(0..8)),
        after: maybe(rng, 8, |rng| [2, 30, 300][rng.usize(0..3)]),
        until: maybe(rng, 8, |rng| [1, 20, 200][rng.usize(0..3)]),
    }
}

fn insert(taste: &Taste, rng: &mut Rng, list: &mut Vec<Operation>) {
    let on = rng.u8(0..taste.connections);
    let count = if rng.u8(0..4) == 0 { rng.u8(2..6) } else { 1 };
    list.push(Operation::Insert { on, count, event: event(rng) });
}

fn transaction(taste: &Taste, rng: &mut Rng, list: &mut Vec<Operation>) {
    let on = rng.u8(0..taste.connections);
    match rng.u8(0..12) {
        0..=4 => {
            list.push(Operation::Begin { on });
            match rng.u8(0..4) {
                0 => list.push(Operation::Savepoint { on }),
                1 | 2 => list.push(Operation::Insert { on, count: 1, event: event(rng) }),
                _ => {}
            }
        }
        5..=8 => list.push(Operation::Commit { on }),
        9 => list.push(Operation::RollBack { on }),
        10 => list.push(Operation::Savepoint { on }),
        _ => list.push(Operation::RollBackToSavepoint { on }),
    }
}

/// The bell rings, and what was inserted is routed: by the second statement if a poll is due too.
fn look(taste: &Taste, rng: &mut Rng, list: &mut Vec<Operation>) {
    let relay = taste.relay(rng);
    let most = [1, 2, 3, 8, FEW, FEW, FEW][rng.usize(0..7)];
    for _ in 0..rng.u8(1..4) {
        list.push(Operation::Look { relay, most, fate: taste.fate(rng) });
    }
    turns(taste, rng, list, relay);
}

fn turn(taste: &Taste, rng: &mut Rng, list: &mut Vec<Operation>) {
    let relay = taste.relay(rng);
    if rng.bool() {
        let notice = match rng.u8(0..10) {
            0 => Notice::SessionEnded,
            1..=3 => Notice::Rung,
            4..=6 => Notice::Steered,
            _ => Notice::Due,
        };
        list.push(Operation::Hear { relay, notice });
    }
    turns(taste, rng, list, relay);
}

/// Claims are assigned by the next turn, and some of it is sent.
fn turns(taste: &Taste, rng: &mut Rng, list: &mut Vec<Operation>, relay: u8) {
    for _ in 0..rng.u8(1..4) {
        list.push(Operation::Turn { relay, fate: taste.fate(rng) });
    }
    for _ in 0..rng.u8(0..3) {
        list.push(Operation::Send { relay, which: rng.u8(0..8) });
    }
}

fn send(taste: &Taste, rng: &mut Rng, list: &mut Vec<Operation>) {
    list.push(Operation::Send { relay: taste.relay(rng), which: rng.u8(0..8) });
}

fn said(rng: &mut Rng) -> Answer {
    match rng.u8(0..25) {
        0..=7 => Answer::Accepted,
        8..=10 => Answer::AcceptedUnheard,
        11..=16 => Answer::Failed,
        17 => Answer::Busy,
        18 | 19 => Answer::Unwanted,
        20 => Answer::Gone,
        21 => Answer::Extinct,
        22 => Answer::Known,
        _ => Answer::TimedOut,
    }
}

fn answer(taste: &Taste, rng: &mut Rng, list: &mut Vec<Operation>) {
    let answer = said(rng);
    list.push(Operation::Answer { relay: taste.relay(rng), which: rng.u8(0..8), answer });
}

fn record(taste: &Taste, rng: &mut Rng, list: &mut Vec<Operation>) {
    let (relay, most) = (taste.relay(rng), rng.u8(1..5));
    list.push(Operation::Record { relay, most, fate: taste.fate(rng) });
}

/// What a relay does in a quiet moment, from one end to the other.
fn round(taste: &Taste, rng: &mut Rng, list: &mut Vec<Operation>) {
    let relay = taste.relay(rng);
    list.push(Operation::Beat { relay, fate: Fate::Fine });
    if rng.bool() {
        look(taste, rng, list);
    }
    list.push(Operation::Hear { relay, notice: Notice::Due });
    for _ in 0..4 {
        list.push(Operation::Turn { relay, fate: taste.fate(rng) });
    }
    for _ in 0..rng.u8(1..5) {
        list.push(Operation::Send { relay, which: rng.u8(0..8) });
        list.push(Operation::Answer { relay, which: rng.u8(0..8), answer: said(rng) });
    }
    list.push(Operation::Record { relay, most: rng.u8(1..6), fate: taste.fate(rng) });
}

fn lines(taste: &Taste, rng: &mut Rng, list: &mut Vec<Operation>) {
    let relay = taste.relay(rng);
    for _ in 0..rng.u8(1..4) {
        list.push(Operation::Lines { relay, fate: taste.fate(rng) });
    }
}

fn beat(taste: &Taste, rng: &mut Rng, list: &mut Vec<Operation>) {
    let relay = taste.relay(rng);
    if rng.u8(0..4) == 0 {
        list.push(Operation::Start { relay, size: taste.size });
    }
    list.push(Operation::Beat { relay, fate: taste.fate(rng) });
    if rng.bool() {
        list.push(Operation::Reap { relay, fate: taste.fate(rng) });
    }
}

fn steer(taste: &Taste, rng: &mut Rng, list: &mut Vec<Operation>) {
    let (event, endpoint) = (rng.u8(0..16), rng.u8(0..8));
    let what = match rng.u8(0..23) {
        0..=3 => Steering::Retry { event, endpoint },
        4..=6 => Steering::Replay {
            endpoint,
            states: [States::Dead, States::Ended, States::Never][rng.usize(0..3)],
        },
        7 | 8 => Steering::Cancel { event, endpoint: maybe(rng, 2, |_| endpoint) },
        9 => Steering::CancelEndpoint { endpoint },
        10 | 11 => Steering::Disable { endpoint },
        12..=14 => Steering::Enable { endpoint },
        15 => Steering::Delete { endpoint },
        16 => Steering::Add,
        17 => Steering::Subscribe { endpoint, to_all: rng.bool() },
        18 => Steering::Rotate { endpoint },
        19 => Steering::Order { endpoint, ordered: rng.u8(0..3) > 0 },
        20 | 21 => Steering::Unblock { endpoint, skip: rng.bool() },
        _ => Steering::Test { endpoint },
    };
    list.push(Operation::Steer { on: rng.u8(0..taste.connections), what });
}

fn fault(taste: &Taste, rng: &mut Rng, list: &mut Vec<Operation>) {
    if taste.mishaps == 0 && rng.bool() {
        return;
    }
    let relay = taste.relay(rng);
    match rng.u8(0..10) {
        0 | 1 => {
            list.extend([Operation::Crash { relay }, Operation::Start { relay, size: taste.size }]);
        }
        2 => list.push(Operation::Crash { relay }),
        3 | 4 => list.push(Operation::Freeze { relay }),
        5 | 6 => list.push(Operation::Thaw { relay }),
        7 | 8 => list.push(Operation::LoseSession { relay }),
        _ => list.push(Operation::Stop { relay }),
    }
}

fn slow_end(_: &Taste, rng: &mut Rng, list: &mut Vec<Operation>) {
    let which = rng.u8(0..3);
    list.push(match rng.u8(0..4) {
        0 => Operation::BreakOff { which },
        _ => Operation::Finish { which },
    });
}

/// Time goes by, and relays mostly renew.
fn pass(taste: &Taste, rng: &mut Rng, list: &mut Vec<Operation>) {
    let seconds = [1, 1, 1, 3, 3, 3, 8, 8, 16, 40, 90, 700][rng.usize(0..12)];
    list.push(Operation::Pass { seconds });
    for relay in 0..taste.relays {
        if rng.u8(0..5) > 0 {
            list.push(Operation::Beat { relay, fate: taste.fate(rng) });
        }
        if rng.u8(0..3) > 0 {
            turns(taste, rng, list, relay);
        }
    }
}

fn beside(taste: &Taste, rng: &mut Rng, list: &mut Vec<Operation>) {
    let (relay, fate) = (taste.relay(rng), taste.fate(rng));
    list.push(match rng.u8(0..6) {
        0 => Operation::Start { relay, size: taste.size },
        1 | 2 => Operation::Note { relay, fate },
        3 => Operation::Upkeep { relay, fate },
        _ => Operation::Check,
    });
}
