//! Records the health of endpoints: at most about once a second per endpoint.

use std::borrow::Cow;

use super::attempts::without_nul;
use super::{Store, StoreError};
use crate::model::endpoint::EndpointId;
use crate::model::health::{Health, State};

const NOTE_HEALTH: &str = include_str!("../../sql/queries/note_health.sql");

/// The results of an endpoint's attempts since the last note, and its health now.
#[derive(Debug)]
pub struct Note {
    pub endpoint_id: EndpointId,
    pub successes: u32,
    pub failures: u32,
    /// Of all these attempts together, in milliseconds.
    pub duration_ms: f64,
    pub health: Health,
}

/// Adds these notes to `endpoint_health`. Deleted endpoints are passed over.
///
/// # Errors
/// When the statement fails.
pub async fn note_health(store: &Store, notes: &[Note]) -> Result<(), StoreError> {
    let column = |of: &dyn Fn(&Note) -> f64| -> Vec<f64> { notes.iter().map(of).collect() };
    let endpoints: Vec<i64> = notes.iter().map(|note| note.endpoint_id).collect();
    let failing: Vec<_> = notes.iter().map(|note| note.health.failing_since).collect();
    let until: Vec<_> = notes
        .iter()
        .map(|note| match note.health.state {
            State::Flowing | State::Probing => None,
            State::Paused { until } => Some(until),
        })
        .collect();
    let states: Vec<&str> = notes
        .iter()
        .map(|note| match note.health.state {
            State::Flowing => "flowing",
            State::Paused { .. } => "paused",
            State::Probing => "probing",
        })
        .collect();
    let troubles: Vec<Option<&str>> = notes
        .iter()
        .map(|note| note.health.trouble.as_ref().map(|trouble| trouble.kind.as_str()))
        .collect();
    let reasons: Vec<Option<Cow<'_, str>>> = notes
        .iter()
        .map(|note| note.health.trouble.as_ref().map(|trouble| without_nul(&trouble.reason)))
        .collect();
    let integers = |of: &dyn Fn(&Note) -> u32| -> Vec<i32> {
        notes.iter().map(|note| i32::try_from(of(note)).unwrap_or(i32::MAX)).collect()
    };
    store
        .queue
        .execute(
            NOTE_HEALTH,
            "note endpoints' health",
            &[
                &store.now(),
                &endpoints,
                &column(&|note| f64::from(note.successes)),
                &column(&|note| f64::from(note.failures)),
                &column(&|note| note.duration_ms),
                &states,
                &integers(&|note| note.health.consecutive_failures),
                &failing,
                &integers(&|note| note.health.pauses),
                &until,
                &integers(&|note| note.health.consecutive_rejections),
                &troubles,
                &reasons,
            ],
        )
        .await?;
    Ok(())
}
