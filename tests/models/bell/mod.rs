//! The bell: no wake-up is lost.
//!
//! An application's transactions begin, insert and end in any order; the relay is the crate's own
//! [`Dispatch`](posthaste::model::dispatch::Dispatch), whose steps are performed as
//! `src/relay/dispatch` and `src/store/bell.rs` do; sessions break at any moment and are missed
//! later. Time passes only while the relay rests, up to the moment that it has named.

mod relay;
mod world;

use self::world::{Fault, Limits, World};
use super::explore::{Explored, explore};

const LIMITS: Limits = Limits {
    transactions: 2,
    bursts: 1,
    roll_back: false,
    is_late: true,
    most: 9,
    breaks: 1,
    failures: 0,
    others: 0,
    unfinished: false,
    fault: None,
};

fn explored(limits: Limits) -> Explored<world::Event> {
    explore(World::all(limits))
}

#[test]
fn no_wake_up_is_lost_by_a_relay_whose_session_breaks_and_whose_looks_fail() {
    explored(LIMITS).holds(100_000);
    let limits = Limits { is_late: false, roll_back: true, breaks: 0, failures: 1, ..LIMITS };
    explored(limits).holds(30_000);
}

#[test]
fn no_wake_up_is_lost_between_transactions_that_end_in_another_order_than_they_began() {
    let limits = Limits { transactions: 3, bursts: 1, is_late: false, breaks: 0, ..LIMITS };
    explored(limits).holds(200_000);
}

#[test]
fn no_wake_up_is_lost_while_a_span_takes_several_steps_also_if_another_relay_began_it() {
    let limits = Limits { most: 1, breaks: 0, ..LIMITS };
    explored(limits).holds(50_000);
    explored(Limits { unfinished: true, transactions: 1, ..limits }).holds(1_000);
}

#[test]
fn no_wake_up_is_lost_while_another_relay_routes() {
    explored(Limits { others: 1, is_late: false, breaks: 0, ..LIMITS }).holds(1_000);
}

#[test]
fn the_model_finds_a_look_before_listening() {
    let limits = Limits { fault: Some(Fault::LooksBeforeListening), ..LIMITS };
    assert_eq!(explored(limits).fails(), world::SLEEPS);
}

#[test]
fn the_model_finds_a_relay_that_does_not_look_until_those_who_skipped_the_bell_have_ended() {
    let limits = Limits { breaks: 0, ..LIMITS };
    // Taken before the lock is let go, a number is not above all of those who skip the bell.
    for fault in [Fault::ForgetsSkippers, Fault::AsksBeforeLettingGo, Fault::AsksForXmax] {
        let found = explored(Limits { fault: Some(fault), ..limits });
        assert_eq!(found.fails(), world::SLEEPS, "{fault:?}");
    }
}

#[test]
fn the_model_finds_a_relay_that_sleeps_when_it_has_ended_the_span_of_another() {
    let fault = Some(Fault::TakesAnOldSpanForAll);
    let found = explored(Limits { unfinished: true, fault, breaks: 0, most: 9, ..LIMITS });
    assert_eq!(found.fails(), world::SLEEPS);
}

#[test]
fn the_model_finds_a_cursor_that_passes_over_transactions_that_are_open() {
    let found = explored(Limits { fault: Some(Fault::ForgetsTheOpen), ..LIMITS });
    assert_eq!(found.fails(), world::PASSED_OVER);
}
