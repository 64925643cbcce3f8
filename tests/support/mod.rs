//! The tools of every test: a [`TestDatabase`] of its own, a [`Receiver`] that does as scripted
//! and a [`Relay`] that can be killed. All of it waits for events, and fails loudly when one does
//! not come within [`PATIENCE`].

#![expect(unreachable_pub, reason = "a test binary exports nothing: `pub` means for the promises")]

mod certificates;
mod command;
pub mod database;
mod disk;
mod inside;
mod pooler;
mod receiver;
mod relay;
mod rows;
mod scripted;
mod sender;
pub mod server;
mod standby;
mod wire;
mod writer;

use std::time::Duration;

pub use certificates::{Authority, Identity};
pub use command::{about, doctor, posthaste};
pub use database::{TestDatabase, cluster_options, migrate};
pub use disk::Disk;
pub use inside::{run_inside, take_in_inside};
pub use pooler::Pooler;
pub use receiver::{Receiver, ids};
pub use relay::{Relay, RelayBuilder};
pub use rows::{
    Attempt, HEARS_THE_BELL, HOLD_ROUTING, NewRow, attempted, attempts, endpoint, event, holds,
    inconsistencies, make_due, settled, unchecked, value, waits_for_a_lock, webhook_ids,
};
pub use scripted::{After, Gate, Received, Reply, accept, believed, give, read_request};
pub use sender::{Answer, Line, post};
pub use server::Server;
pub use standby::Standby;
pub use wire::Wire;
pub use writer::Writer;

/// How long a wait may last before it counts as failed. Nothing waits this long when all is well;
/// it is generous because a machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for an event.
///
/// # Panics
/// After [`PATIENCE`], naming what did not come.
#[track_caller]
pub fn within<T>(what: &str, event: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(PATIENCE, event).await {
            Ok(value) => value,
            Err(_) => panic!("waited {PATIENCE:?} in vain for {what} (asked at {caller})"),
        }
    }
}

/// Asks again and again until there is an answer: for what no signal can tell, such as a row that
/// another process writes.
///
/// # Panics
/// After [`PATIENCE`], naming what did not come.
#[track_caller]
pub fn until<T, F>(what: &str, mut ask: impl FnMut() -> F) -> impl Future<Output = T>
where
    F: Future<Output = Option<T>>,
{
    /// Short against a test, long against a query.
    const ASK_EVERY: Duration = Duration::from_millis(10);
    within(what, async move {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    })
}
