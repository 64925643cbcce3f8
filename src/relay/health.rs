//! Writes down how endpoints do, behind `endpoint_status`, about once a second; what a rule or a long failure
//! does to an endpoint is done at once.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::store::endpoints::apply_effect;
use crate::store::health::{Note, note_health};

/// The row of an endpoint's health is written at most this often.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);

/// Writes down how the endpoints do, until told to end, and then a last time.
pub(super) async fn keep_noting(shared: Arc<Shared>) {
    loop {
        let ending = shared.term.no_more_results.is_cancelled();
        if let Err(error) = note(&shared).await {
            shared.database.failed(&shared.term, &shared.metrics.database_errors.record, &error);
        }
        if ending {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(NOTE_INTERVAL) => {}
            () = shared.effects.wait.notified() => {}
            () = shared.term.no_more_results.cancelled() => {}
        }
    }
}

async fn note(shared: &Shared) -> Result<(), crate::store::StoreError> {
    while let Some(next) = shared.effects.take() {
        let done =
            apply_effect(&shared.database.store, next.endpoint, next.delete, &next.reason).await;
        match done {
            Ok(true) => {
                shared.metrics.endpoints_disabled.increment(1);
                let what = if next.delete { "deleted" } else { "disabled" };
                tracing::warn!(endpoint = next.endpoint, reason = next.reason, "{what}");
            }
            Ok(false) => {}
            Err(error) => {
                shared.effects.put_back(next);
                return Err(error);
            }
        }
    }
    let notes: Vec<Note> = shared
        .lanes
        .all()
        .iter()
        .filter_map(|lane| {
            let (tally, health) = lane.take_tally()?;
            Some(Note {
                endpoint_id: lane.id,
                successes: tally.successes,
                failures: tally.failures,
                duration_ms: tally.duration_ms,
                health,
            })
        })
        .collect();
    if notes.is_empty() { Ok(()) } else { note_health(&shared.database.store, &notes).await }
}
