//! Recording: attempts are appended, and deliveries ended or rescheduled, in one statement a batch.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_postgres::Row;

use super::{RelayId, Store, StoreError};
use crate::model::delivery::EventId;
use crate::model::endpoint::EndpointId;
use crate::model::outcome::{Answer, Outcome, Phases};
use crate::model::verdict::{Decision, Verdict};

const RECORD: &str = include_str!("../../sql/queries/record.sql");

/// One attempt that was made, or a delivery that ended without one, to be recorded.
#[derive(Debug)]
pub struct Attempt {
    pub event_id: EventId,
    pub endpoint_id: EndpointId,
    pub claim_token: i64,
    pub event_created_at: Timestamp,
    /// 1 for the first; 0 for an end without an attempt.
    pub number: u32,
    pub began: Instant,
    pub took: Duration,
    pub phases: Phases,
    /// `None`: ended without an attempt.
    pub outcome: Option<Outcome>,
    pub verdict: Verdict,
    /// Whether it is dead and those of its line are to wait behind it.
    pub blocks: bool,
}

/// Deliveries whose claim was still the caller's when they were recorded; for each, in how long the
/// next of its line is due, where it was the head of one and somebody follows.
pub type Held = HashMap<(EventId, EndpointId), Option<Duration>>;

/// Records them, in one statement.
///
/// `now` is the instant that it is, for telling how long ago each began. Returns the deliveries whose
/// claim was still the caller's; what is missing there had been taken from it, and is neither changed
/// nor logged.
///
/// # Errors
/// When the statement fails; then nothing has been recorded.
pub async fn record(
    store: &Store,
    relay: RelayId,
    attempts: &[&Attempt],
    now: Instant,
) -> Result<Held, StoreError> {
    let rows = store
        .queue
        .query(
            RECORD,
            "record attempts",
            &[
                &relay,
                &store.now(),
                &column(attempts, |a| a.event_id),
                &column(attempts, |a| a.endpoint_id),
                &column(attempts, |a| a.claim_token),
                &column(attempts, |a| a.event_created_at),
                &column(attempts, |a| i32::try_from(a.number).unwrap_or(i32::MAX)),
                &column(attempts, |a| {
                    now.saturating_duration_since(a.began).as_secs_f64() * 1000.0
                }),
                &column(attempts, |a| a.outcome.as_ref().map_or("none", Outcome::kind)),
                &column(attempts, |a| a.outcome.as_ref().and_then(Outcome::cause)),
                &column(attempts, |a| {
                    a.outcome.as_ref().and_then(Outcome::detail).map(without_nul)
                }),
                &column(attempts, |a| answer(a).map(|a| i32::from(a.status))),
                &column(attempts, |a| answer(a).map(headers_json)),
                &column(attempts, |a| answer(a).map(body_text)),
                &column(attempts, |a| answer(a).is_some_and(|a| a.body_truncated)),
                &column(attempts, |a| millis(a.took)),
                &column(attempts, |a| a.phases.resolve.map(millis)),
                &column(attempts, |a| a.phases.connect.map(millis)),
                &column(attempts, |a| a.phases.tls.map(millis)),
                &column(attempts, |a| a.phases.headers.map(millis)),
                &column(attempts, |a| a.phases.body.map(millis)),
                &column(attempts, |a| a.verdict.decision.as_str()),
                &column(attempts, |a| a.verdict.reason.as_deref().map(without_nul)),
                &column(attempts, |a| match a.verdict.decision {
                    Decision::Retry { after } => Some(after.as_secs_f64() * 1000.0),
                    Decision::Delivered | Decision::Dead | Decision::Cancelled => None,
                }),
                &column(attempts, |a| a.blocks),
            ],
        )
        .await?;
    let held = |row: &Row| {
        let next_due_in: Option<f64> = row.get("next_due_in_ms");
        ((row.get("event_id"), row.get("endpoint_id")), next_due_in.map(super::deliveries::millis))
    };
    Ok(rows.iter().map(held).collect())
}

fn answer(attempt: &Attempt) -> Option<&Answer> {
    attempt.outcome.as_ref().and_then(Outcome::answer)
}

fn column<'a, T>(attempts: &[&'a Attempt], of: impl Fn(&'a Attempt) -> T) -> Vec<T> {
    attempts.iter().map(|attempt| of(attempt)).collect()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a duration in milliseconds needs no more than 24 bits of precision"
)]
fn millis(duration: Duration) -> f32 {
    (duration.as_secs_f64() * 1000.0) as f32
}

/// Postgres's text has no NUL.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}

fn body_text(answer: &Answer) -> String {
    without_nul(&String::from_utf8_lossy(&answer.body))
}

/// `{"name": "value"}`; a header that came more than once has its values joined, as HTTP reads it.
fn headers_json(answer: &Answer) -> String {
    let mut object = serde_json::Map::with_capacity(answer.headers.len());
    for (name, value) in &answer.headers {
        // json accepts \u0000, but what reads it as jsonb or text later does not.
        let value = without_nul(value);
        match object.get_mut(name) {
            Some(serde_json::Value::String(all)) => {
                all.push_str(", ");
                all.push_str(&value);
            }
            _ => {
                object.insert(name.clone(), value.into());
            }
        }
    }
    serde_json::Value::Object(object).to_string()
}
