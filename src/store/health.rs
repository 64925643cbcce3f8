//! Records the health of endpoints, and what was learnt of their windows: at most about once a
//! second per endpoint.

use std::borrow::Cow;

use jiff::Timestamp;

use super::attempts::without_nul;
use super::{Store, StoreError};
use crate::model::endpoint::EndpointId;
use crate::model::health::{Health, State};
use crate::model::window::Remembered;

const NOTE_HEALTH: &str = include_str!("../../sql/queries/note_health.sql");

/// The results of an endpoint's attempts since the last note, and how it is now.
#[derive(Debug)]
pub struct Note {
    pub endpoint_id: EndpointId,
    pub successes: u32,
    pub failures: u32,
    /// Of all these attempts together, in milliseconds.
    pub duration_ms: f64,
    pub health: Health,
    /// Over all relays. `None`: this one does not know it yet, and what another has left stays.
    pub window: Option<Remembered>,
}

/// Adds these notes to `endpoint_health`. Deleted endpoints are passed over.
///
/// # Errors
/// When the statement fails.
pub async fn note_health(store: &Store, notes: &[Note]) -> Result<(), StoreError> {
    store
        .queue
        .execute(
            NOTE_HEALTH,
            "note endpoints' health",
            &[
                &store.now(),
                &column(notes, |note| note.endpoint_id),
                &column(notes, |note| f64::from(note.successes)),
                &column(notes, |note| f64::from(note.failures)),
                &column(notes, |note| note.duration_ms),
                &column(notes, state),
                &column(notes, |note| integer(note.health.consecutive_failures)),
                &column(notes, |note| note.health.failing_since),
                &column(notes, |note| integer(note.health.pauses)),
                &column(notes, paused_until),
                &column(notes, |note| integer(note.health.consecutive_rejections)),
                &column(notes, trouble),
                &column(notes, reason),
                &column(notes, |note| note.window.map(window_size)),
                &column(notes, |note| note.window.map(normal_duration_ms)),
            ],
        )
        .await?;
    Ok(())
}

fn column<'a, T>(notes: &'a [Note], of: impl Fn(&'a Note) -> T) -> Vec<T> {
    notes.iter().map(of).collect()
}

fn integer(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn state(note: &Note) -> &'static str {
    match note.health.state {
        State::Flowing => "flowing",
        State::Paused { .. } => "paused",
        State::Probing => "probing",
    }
}

fn paused_until(note: &Note) -> Option<Timestamp> {
    match note.health.state {
        State::Flowing | State::Probing => None,
        State::Paused { until } => Some(until),
    }
}

fn trouble(note: &Note) -> Option<&'static str> {
    note.health.trouble.as_ref().map(|trouble| trouble.kind.as_str())
}

fn reason(note: &Note) -> Option<Cow<'_, str>> {
    note.health.trouble.as_ref().map(|trouble| without_nul(&trouble.reason))
}

/// One that the table refused would keep the notes of all endpoints from being written.
fn window_size(window: Remembered) -> i16 {
    i16::try_from(window.of_all(1).size).unwrap_or(i16::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "within a time-out: no digit that matters")]
fn normal_duration_ms(window: Remembered) -> f32 {
    window.normal_ms() as f32
}
