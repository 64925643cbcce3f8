//! Upkeep: days made ahead and dropped after their retention, ledgers trimmed. Every relay does it
//! now and then; each statement finds nothing to do where another one was first. Each task stands alone: one
//! that fails is counted and named, and keeps no other from its work.

use std::sync::Arc;

use super::Shared;
use crate::store::StoreError;
use crate::store::received;
use crate::store::upkeep::{
    cancel_orphans, drop_partitions, make_partitions, release_orphans, trim,
};

/// Keeps up until the end.
pub(super) async fn keep_up(shared: Arc<Shared>) {
    while !shared.term.is_ending() {
        once(&shared).await;
        tokio::select! {
            () = tokio::time::sleep(shared.config.upkeep.interval) => {}
            () = shared.retaken.notified() => {}
            () = shared.term.ending.cancelled() => {}
        }
    }
}

async fn once(shared: &Shared) {
    let (store, upkeep) = (&shared.database.store, &shared.config.upkeep);
    let tokens = shared.claims.holdings.tokens_now();
    let held: Vec<_> = tokens.held.into_iter().collect();
    let released = release_orphans(store, shared.term.relay, &held, tokens.newest).await;
    if let Some(released @ 1..) = done(shared, "release_orphans", released) {
        tracing::warn!(released, "released claims of which no relay knows");
    }
    let made = make_partitions(store, upkeep.partitions_ahead).await;
    if let Some(made @ 1..) = done(shared, "make_partitions", made) {
        tracing::info!(made, "made partitions");
    }
    let dropped = drop_partitions(store, upkeep.outbox_retention, upkeep.attempts_retention).await;
    if let Some(dropped) = done(shared, "drop_partitions", dropped)
        && !dropped.is_empty()
    {
        tracing::info!(?dropped, "dropped partitions past their retention");
    }
    let cancelled = cancel_orphans(store).await;
    if let Some(cancelled @ 1..) = done(shared, "cancel_orphans", cancelled) {
        tracing::info!(cancelled, "cancelled what deleted endpoints were still owed");
    }
    shared.lines.all();
    done(shared, "trim", trim(store, upkeep.outbox_retention).await);
    done(shared, "trim_received", received::trim(store, upkeep.received_retention).await);
}

/// What a task has done. `None`: it failed, which is told here.
fn done<T>(shared: &Shared, task: &'static str, result: Result<T, StoreError>) -> Option<T> {
    result
        .inspect_err(|error| {
            shared.metrics.upkeep_failures(task).increment(1);
            if error.sqlstate().is_none() {
                // The database is away, which is no news from each task.
                return shared.database.failed(
                    &shared.term,
                    &shared.metrics.database_errors.upkeep,
                    error,
                );
            }
            shared.metrics.database_errors.upkeep.increment(1);
            tracing::warn!(task, error = error.in_full(), "upkeep failed; it is tried again");
        })
        .ok()
}
