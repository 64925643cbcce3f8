//! Lists that have failed, as short as they could be made, each with the promise that it broke.

use super::ground::Ground;
use super::operations::{Fate::Fine, Operation, Operation::*, PLAIN};
use super::run;

const PINNED: [(&str, &[Operation]); 1] = [(
    // It routed and claimed under a number that nobody would look for again.
    "a relay that was taken for dead and does not know it yet claims nothing",
    &[
        Start { relay: 0 },
        Insert { on: 0, count: 1, event: PLAIN },
        Start { relay: 1 },
        Pass { seconds: 16 },
        Beat { relay: 1, fate: Fine },
        Bury { relay: 1, fate: Fine },
        Look { relay: 0, most: 200, room: 3, fate: Fine },
    ],
)];

#[tokio::test]
async fn what_has_failed_once_holds() {
    let mut ground = Ground::prepare().await;
    for (promise, list) in PINNED {
        let ran = Box::pin(run(&mut ground, list)).await;
        assert!(ran.is_ok(), "{promise}: {ran:?}");
    }
}
