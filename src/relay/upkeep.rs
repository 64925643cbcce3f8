//! Upkeep: days made ahead and dropped after their retention, ledgers trimmed. Every relay does it
//! now and then; each statement finds nothing to do where another one was first.

use std::sync::Arc;

use super::Shared;
use crate::store::StoreError;
use crate::store::received;
use crate::store::upkeep::{
    cancel_orphans, drop_partitions, make_partitions, release_orphans, trim,
};

/// Keeps up until the end.
pub(super) async fn keep_up(shared: Arc<Shared>) {
    while !shared.is_ending() {
        if let Err(error) = once(&shared).await {
            shared.complain(&shared.metrics.database_errors.upkeep, &error);
        }
        tokio::select! {
            () = tokio::time::sleep(shared.config.upkeep.interval) => {}
            () = shared.retaken.notified() => {}
            () = shared.ending.cancelled() => {}
        }
    }
}

async fn once(shared: &Shared) -> Result<(), StoreError> {
    let upkeep = &shared.config.upkeep;
    let tokens = shared.holdings.tokens().clone();
    let held: Vec<_> = tokens.held.into_keys().collect();
    let released = release_orphans(&shared.store, shared.relay, &held, tokens.newest).await?;
    if released > 0 {
        tracing::warn!(released, "released claims of which no relay knows");
    }
    let made = make_partitions(&shared.store, upkeep.partitions_ahead).await?;
    if made > 0 {
        tracing::info!(made, "made partitions");
    }
    let dropped =
        drop_partitions(&shared.store, upkeep.outbox_retention, upkeep.attempts_retention).await?;
    if !dropped.is_empty() {
        tracing::info!(?dropped, "dropped partitions past their retention");
    }
    let cancelled = cancel_orphans(&shared.store).await?;
    if cancelled > 0 {
        tracing::info!(cancelled, "cancelled what deleted endpoints were still owed");
    }
    shared.lines.all();
    trim(&shared.store, upkeep.outbox_retention).await?;
    received::trim(&shared.store, upkeep.received_retention).await
}
