//! Records what came of deliveries, in batches: one statement for some hundred of them. The last
//! station; what is recorded here frees its lane's room.
//!
//! If the database is away the results wait. The queue of results is bounded by the claims that a
//! relay may hold, so claiming stops by itself while recording stands still.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Shared;
use super::database::Backoff;
use super::effects::EffectOn;
use super::ended::Ended;
use crate::model::delivery::Delivery;
use crate::model::outcome::Outcome;
use crate::model::verdict::Decision;
use crate::store::attempts::{Attempt, Held, record};
use crate::store::deliveries::release;

/// More rows in one statement gain nothing (*measured*), and hold the row locks longer.
const MOST_PER_STATEMENT: usize = 512;

/// Records until it is told that nothing more comes, and all that came is written down.
pub(super) async fn record_all(shared: Arc<Shared>, mut results: mpsc::Receiver<Ended>) {
    let shared = &shared;
    let mut batch = Vec::with_capacity(MOST_PER_STATEMENT);
    loop {
        // Both arms may be dropped: receiving takes nothing out until it is done.
        let received = tokio::select! {
            received = results.recv_many(&mut batch, MOST_PER_STATEMENT) => received,
            () = shared.term.no_more_results.cancelled(), if !results.is_closed() => {
                results.close();
                continue;
            }
        };
        if received == 0 {
            return;
        }
        gather(&mut results, &mut batch, shared.config.relay.record_interval).await;
        write_down(shared, &batch).await;
        batch.clear();
        shared.claims.room_freed.notify_one();
    }
}

/// Waits a little for more, so that one statement serves many.
async fn gather(results: &mut mpsc::Receiver<Ended>, batch: &mut Vec<Ended>, patience: Duration) {
    let until = tokio::time::Instant::now() + patience;
    while batch.len() < MOST_PER_STATEMENT {
        let most = MOST_PER_STATEMENT - batch.len();
        match tokio::time::timeout_at(until, results.recv_many(batch, most)).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Writes a batch down, however long the database is away.
async fn write_down(shared: &Arc<Shared>, batch: &[Ended]) {
    let mut backoff = Backoff::default();
    loop {
        // A relay that was taken for dead has lost its claims, and these results with them: each
        // delivery is made again, under an interrupted attempt that says so.
        if shared.term.over.is_cancelled() {
            shared.metrics.claims_lost.increment(batch.len() as u64);
            return;
        }
        match try_write_down(shared, batch).await {
            Ok(()) => return,
            Err(error) => {
                shared.database.failed(&shared.term, &shared.metrics.database_errors.record, &error)
            }
        }
        backoff.wait(&shared.term.over).await;
    }
}

async fn try_write_down(
    shared: &Arc<Shared>,
    batch: &[Ended],
) -> Result<(), crate::store::StoreError> {
    let mut attempts = Vec::with_capacity(batch.len());
    let mut unsent = Vec::new();
    for ended in batch {
        match ended.attempt() {
            Some(attempt) => attempts.push(attempt),
            None => unsent.push(ended.key()),
        }
    }
    if !unsent.is_empty() {
        let released = release(&shared.database.store, shared.term.relay, &unsent).await?;
        shared.metrics.claims_released.increment(released);
    }
    if attempts.is_empty() {
        return Ok(());
    }
    let began = shared.clock.instant();
    let held = record(&shared.database.store, shared.term.relay, &attempts, began).await?;
    shared.metrics.record_duration.record(shared.clock.since(began));
    #[expect(clippy::cast_precision_loss, reason = "at most some hundred")]
    shared.metrics.record_batch_size.record(attempts.len() as f64);
    move_on(shared, batch, &held);
    for attempt in attempts {
        if held.contains_key(&(attempt.event_id, attempt.endpoint_id)) {
            note(shared, attempt);
        } else {
            shared.metrics.claims_lost.increment(1);
            tracing::warn!(
                event = attempt.event_id,
                endpoint = attempt.endpoint_id,
                attempt = attempt.number,
                "the claim was lost before the attempt was recorded"
            );
        }
        // Also where the claim was lost: the receiver did say so.
        if let Some(effect) = EffectOn::ruled(attempt) {
            shared.effects.apply_soon(effect);
        }
    }
    Ok(())
}

/// Lets lines go on whose head has ended.
fn move_on(shared: &Shared, batch: &[Ended], held: &Held) {
    let mut standing = Vec::new();
    for ended in batch {
        let Delivery { event_id, endpoint_id, ordering_key, .. } = &ended.claim.delivery;
        let (Some(key), Some(attempt)) = (ordering_key, ended.attempt()) else { continue };
        let stays = attempt.blocks || matches!(attempt.verdict.decision, Decision::Retry { .. });
        match held.get(&(*event_id, *endpoint_id)) {
            Some(Some(next_due_in)) => shared.claims.due_in(*endpoint_id, *next_due_in),
            Some(None) if !stays => standing.push((*endpoint_id, key.clone())),
            Some(None) | None => {}
        }
    }
    shared.lines.these(standing);
}

/// Says once, where the story ends, what became of it.
fn note(shared: &Shared, attempt: &Attempt) {
    let (event, endpoint, number) = (attempt.event_id, attempt.endpoint_id, attempt.number);
    let outcome = attempt.outcome.as_ref().map_or("none", Outcome::kind);
    shared.count(attempt);
    let host = shared.lanes.get(endpoint).map(|lane| lane.host()).unwrap_or_default();
    let detail = attempt.outcome.as_ref().and_then(Outcome::detail);
    let reason = attempt.verdict.reason.as_deref().unwrap_or_default();
    match attempt.verdict.decision {
        Decision::Delivered => tracing::debug!(event, endpoint, attempt = number, "delivered"),
        Decision::Retry { after } => {
            shared.claims.due_in(endpoint, after);
            let cause = attempt.outcome.as_ref().and_then(Outcome::cause);
            let status =
                attempt.outcome.as_ref().and_then(Outcome::answer).map(|answer| answer.status);
            tracing::info!(
                event,
                endpoint,
                host,
                attempt = number,
                outcome,
                cause,
                detail,
                status,
                retry_in_s = after.as_secs(),
                reason,
                "not delivered, to be tried again"
            );
        }
        Decision::Dead => {
            tracing::warn!(
                event,
                endpoint,
                host,
                attempt = number,
                outcome,
                detail,
                reason,
                "dead"
            );
        }
        Decision::Cancelled => tracing::info!(event, endpoint, reason, "cancelled"),
    }
}
