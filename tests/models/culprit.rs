//! A delivery that brings relays down is set aside after three of them, and no other is.
//!
//! The rule: a delivery counts how many relays in a row have ended while they had it claimed; an
//! attempt that is recorded sets the count to zero. From two on it is sent alone of its kind, and
//! the relay writes down when it begins; only what was begun then is dead with the next end, and
//! what was not begun counts no further.

use super::explore::{Explored, Protocol, explore};

const RECORDED_BETWEEN: &str = "set aside, though an attempt was recorded in between";
const NOT_IN_FLIGHT: &str = "set aside, though it was not in flight";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    Waits,
    Claimed,
    InFlight,
    Ended,
    SetAside,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Delivery {
    at: At,
    /// The two columns that the rule is kept in.
    interruptions: u8,
    is_begun: bool,
    /// What happened: relays that have ended with it since an attempt was recorded, and how many of
    /// them while it was in flight.
    ends: u8,
    ends_in_flight: u8,
    was_in_flight: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// An attempt that is recorded leaves the count.
    KeepsTheCount,
    /// What was claimed and not begun counts as the third as well.
    CountsTheUnsent,
}

#[derive(Debug, Clone, Copy)]
#[expect(dead_code, reason = "a counterexample shows the fields")]
enum Event {
    IsClaimed(usize),
    IsBegun(usize),
    IsRecorded {
        delivery: usize,
        again: bool,
    },
    /// By the delivery that brings relays down, or for any other reason.
    RelayEnds,
}

#[derive(Debug, Clone)]
struct World {
    /// The first one brings its relay down if it is sent.
    deliveries: [Delivery; 2],
    fault: Option<Fault>,
}

impl World {
    fn new(fault: Option<Fault>) -> Self {
        let delivery = Delivery {
            at: At::Waits,
            interruptions: 0,
            is_begun: false,
            ends: 0,
            ends_in_flight: 0,
            was_in_flight: false,
        };
        Self { deliveries: [delivery; 2], fault }
    }

    fn with(&self, event: Event, change: impl FnOnce(&mut Self)) -> (Event, Self) {
        let mut world = self.clone();
        change(&mut world);
        (event, world)
    }

    /// Another one that two relays have ended with is claimed.
    fn has_suspect(&self) -> bool {
        let is_out = |one: &Delivery| matches!(one.at, At::Claimed | At::InFlight);
        self.deliveries.iter().any(|one| is_out(one) && one.interruptions >= 2)
    }

    fn of_delivery(&self, n: usize, all: &mut Vec<(Event, Self)>) {
        let one = self.deliveries[n];
        match one.at {
            At::Waits if one.interruptions >= 2 && self.has_suspect() => {}
            At::Waits => all.push(self.with(Event::IsClaimed(n), |world| {
                world.deliveries[n].at = At::Claimed;
            })),
            At::Claimed => all.push(self.with(Event::IsBegun(n), |world| {
                let one = &mut world.deliveries[n];
                (one.at, one.is_begun) = (At::InFlight, one.interruptions >= 2);
            })),
            At::InFlight if n > 0 => {
                for again in [false, true] {
                    let recorded = Event::IsRecorded { delivery: n, again };
                    all.push(self.with(recorded, |world| world.record(n, again)));
                }
            }
            At::InFlight | At::Ended | At::SetAside => {}
        }
    }

    fn record(&mut self, n: usize, again: bool) {
        let keeps = self.fault == Some(Fault::KeepsTheCount);
        let one = &mut self.deliveries[n];
        one.at = if again { At::Waits } else { At::Ended };
        one.is_begun = false;
        (one.ends, one.ends_in_flight) = (0, 0);
        if !keeps {
            one.interruptions = 0;
        }
    }

    /// Another relay releases what the one that ended had.
    fn end(&mut self) {
        for one in &mut self.deliveries {
            if !matches!(one.at, At::Claimed | At::InFlight) {
                continue;
            }
            one.was_in_flight = one.at == At::InFlight;
            one.ends = (one.ends + 1).min(9);
            one.ends_in_flight += u8::from(one.was_in_flight);
            let counts = one.is_begun || self.fault == Some(Fault::CountsTheUnsent);
            one.at = if one.interruptions >= 2 && counts { At::SetAside } else { At::Waits };
            one.interruptions = (one.interruptions + 1).min(2);
            one.is_begun = false;
        }
    }
}

impl Protocol for World {
    type Event = Event;
    type Key = [Delivery; 2];

    fn key(&self) -> Self::Key {
        self.deliveries
    }

    fn next(&self) -> Vec<(Event, Self)> {
        let mut all = vec![self.with(Event::RelayEnds, Self::end)];
        for n in 0..self.deliveries.len() {
            self.of_delivery(n, &mut all);
        }
        all
    }

    fn broken(&self) -> Option<String> {
        let wrong = |one: &Delivery| match one.at {
            At::SetAside if one.ends < 3 => Some(RECORDED_BETWEEN),
            At::SetAside if !one.was_in_flight => Some(NOT_IN_FLIGHT),
            At::SetAside => None,
            _ if one.ends_in_flight >= 3 => Some("in flight in three ends, and not set aside"),
            _ => None,
        };
        self.deliveries.iter().find_map(wrong).map(str::to_owned)
    }
}

fn explored(fault: Option<Fault>) -> Explored<Event> {
    explore(vec![World::new(fault)])
}

#[test]
fn what_was_in_flight_in_three_ends_in_a_row_is_set_aside_and_nothing_else_is() {
    explored(None).holds(2_000);
}

#[test]
fn the_model_finds_a_count_that_a_recorded_attempt_leaves() {
    assert_eq!(explored(Some(Fault::KeepsTheCount)).fails(), RECORDED_BETWEEN);
}

#[test]
fn the_model_finds_a_rule_that_sets_aside_what_was_never_sent() {
    assert_eq!(explored(Some(Fault::CountsTheUnsent)).fails(), NOT_IN_FLIGHT);
}
