//! Lists that have failed, as short as they could be made, each with the promise that it broke.

use posthaste::store::routing::FEW;

use super::ground::Ground;
use super::operations::Fate::{AnswerLost, Fine, NotRun, Slow};
use super::operations::{
    Event, Gate, Kind, Operation, Operation::*, PLAIN, Size, Size::Usual, Steering::Subscribe,
    Tenant,
};
use super::run;

/// A relay's first turn asks what is due.
const PINNED: &[(&str, &[Operation])] = &[
    (
        // It routed and claimed under a number that no relay would look for again.
        "a relay that was taken for dead and does not know it yet claims nothing",
        &[
            Start { relay: 0, size: Usual },
            Insert { on: 0, count: 1, event: PLAIN },
            Start { relay: 1, size: Usual },
            Pass { seconds: 16 },
            Beat { relay: 1, fate: Fine },
            Reap { relay: 1, fate: Fine },
            Turn { relay: 0, fate: Fine },
            Look { relay: 0, most: FEW, fate: Fine },
        ],
    ),
    (
        // A relay that reaps another holds its lock, and was taken for the session that it had
        // lost.
        "a relay that takes its lease again ends nobody's statement",
        &[
            Start { relay: 0, size: Usual },
            Start { relay: 1, size: Usual },
            Start { relay: 2, size: Usual },
            Insert { on: 0, count: 1, event: PLAIN },
            Pass { seconds: 3 },
            Turn { relay: 2, fate: Fine },
            Look { relay: 2, most: FEW, fate: Fine },
            Beat { relay: 0, fate: NotRun },
            Beat { relay: 2, fate: NotRun },
            Beat { relay: 1, fate: Fine },
            Reap { relay: 1, fate: Slow(Gate::Row) },
            Beat { relay: 0, fate: Fine },
        ],
    ),
    (
        // It had lost its session, and another relay reaped it before it noticed.
        "what a relay claims after another has taken over from it is released",
        &[
            Start { relay: 0, size: Usual },
            Start { relay: 1, size: Usual },
            Pass { seconds: 3 },
            Beat { relay: 1, fate: NotRun },
            Beat { relay: 0, fate: Fine },
            Reap { relay: 0, fate: Fine },
            Insert { on: 0, count: 1, event: PLAIN },
            Turn { relay: 1, fate: Fine },
            Turn { relay: 1, fate: Fine },
            Check,
        ],
    ),
    (
        // The check took the number of a subtransaction that was open for one that had ended.
        "a subscription that is committed after an event was routed owes nothing",
        &[
            Start { relay: 0, size: Usual },
            Begin { on: 0 },
            Savepoint { on: 0 },
            Steer { on: 0, what: Subscribe { endpoint: 4, to_all: true } },
            Insert { on: 1, count: 1, event: PLAIN },
            Turn { relay: 0, fate: Fine },
            Look { relay: 0, most: FEW, fate: Fine },
        ],
    ),
    (
        // A worker took a delivery out of its lane, and with it a token of the rate, before there
        // was room for its request.
        "a relay sends no faster than an endpoint's rate, however long requests wait for room",
        &[
            Start { relay: 1, size: Size::Small },
            Insert { on: 0, count: 1, event: PLAIN },
            Turn { relay: 1, fate: Fine },
            Turn { relay: 1, fate: Fine },
            Turn { relay: 1, fate: Fine },
            Insert {
                on: 0,
                count: 3,
                event: Event {
                    kind: Kind::Sent,
                    tenant: Some(Tenant::B),
                    n: 3,
                    after: Some(2),
                    ..PLAIN
                },
            },
            Send { relay: 1, which: 0 },
            Turn { relay: 1, fate: Fine },
            Pass { seconds: 3 },
            Send { relay: 1, which: 0 },
            Turn { relay: 1, fate: Fine },
            Turn { relay: 1, fate: Fine },
            Turn { relay: 1, fate: Fine },
            Send { relay: 1, which: 0 },
            Send { relay: 1, which: 0 },
            Send { relay: 1, which: 0 },
        ],
    ),
    (
        "what a relay that stops may have claimed unheard is released by the next one",
        &[
            Start { relay: 1, size: Usual },
            Insert {
                on: 0,
                count: 1,
                event: Event { tenant: Some(Tenant::B), n: 3, ordering_key: Some(0), ..PLAIN },
            },
            Turn { relay: 1, fate: Fine },
            Turn { relay: 1, fate: Fine },
            Turn { relay: 1, fate: Fine },
            Turn { relay: 1, fate: AnswerLost },
            Stop { relay: 1 },
        ],
    ),
];

#[tokio::test]
async fn what_has_failed_once_holds() {
    let mut ground = Ground::prepare().await;
    for (promise, list) in PINNED {
        let ran = Box::pin(run(&mut ground, list)).await;
        assert!(ran.is_ok(), "{promise}: {ran:?}");
    }
}
