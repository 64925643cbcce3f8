//! Writes down how endpoints do, behind `endpoint_status`, about once a second; what a rule or a
//! long failure does to an endpoint is done at once.
//!
//! What was learnt of an endpoint's window is part of each note, so that it outlives the lane and
//! the relay. It is no reason for one: a window changes with attempts alone, and each attempt is
//! noted, the last ones when the term ends. A relay that is killed loses the last second of it.

use std::sync::Arc;
use std::time::Duration;

use super::database::Link;
use super::effects::Effects;
use super::lane::Lanes;
use super::term::Term;
use crate::model::standing::During;
use crate::observe::metrics::Metrics;
use crate::store::StoreError;
use crate::store::endpoints::apply_effect;
use crate::store::health::{Note, note_health};

/// The row of an endpoint's health is written at most this often.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct HealthNotes {
    pub(super) database: Arc<Link>,
    pub(super) term: Arc<Term>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) effects: Arc<Effects>,
}

impl HealthNotes {
    /// Writes down how the endpoints do, until told to end, and then a last time.
    pub(super) async fn run(self) {
        loop {
            let ending = self.term.no_more_results.is_cancelled();
            match self.note().await {
                Ok(()) => self.database.status.succeeded(During::Health),
                Err(error) => {
                    self.database.failed(&self.term, &self.metrics, During::Health, &error);
                }
            }
            if ending {
                return;
            }
            // Every arm may be dropped: they only wait.
            tokio::select! {
                () = tokio::time::sleep(NOTE_INTERVAL) => {}
                () = self.effects.wait.notified() => {}
                () = self.term.no_more_results.cancelled() => {}
            }
        }
    }

    async fn note(&self) -> Result<(), StoreError> {
        self.apply().await?;
        let lanes = self.lanes.all();
        let notes = lanes.iter().filter_map(|lane| {
            let (tally, health, window) = lane.take_tally()?;
            Some(Note {
                endpoint_id: lane.id,
                successes: tally.successes,
                failures: tally.failures,
                duration_ms: tally.duration_ms,
                health,
                window,
            })
        });
        let notes: Vec<Note> = notes.collect();
        if notes.is_empty() { Ok(()) } else { note_health(&self.database.store, &notes).await }
    }

    /// Does what is to be done to endpoints.
    async fn apply(&self) -> Result<(), StoreError> {
        while let Some(next) = self.effects.take() {
            let store = &self.database.store;
            match apply_effect(store, next.endpoint, next.delete, &next.reason).await {
                Ok(true) => {
                    self.metrics.endpoints_disabled.increment(1);
                    let (endpoint, reason) = (next.endpoint, next.reason);
                    if next.delete {
                        tracing::warn!(endpoint, reason, "the endpoint was deleted");
                    } else {
                        tracing::warn!(endpoint, reason, "the endpoint was disabled");
                    }
                }
                Ok(false) => {}
                Err(error) => {
                    self.effects.put_back(next);
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}
