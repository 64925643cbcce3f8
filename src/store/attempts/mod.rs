//! Recording: attempts are appended, and deliveries ended or rescheduled, in one statement a batch.

mod attempt;
mod delivered;

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use tokio_postgres::Row;

pub use self::attempt::{Attempt, Commit, RecordedDeliveries};
use self::attempt::{answer, column, millis, waited_for_body};
use self::delivered::{has_just_delivered, record_delivered};
use super::batches::{Bits, Marked};
use super::{RelayId, Store, StoreError};
use crate::model::outcome::{Outcome, Phase, Phases};
use crate::model::verdict::Decision;

const RECORD: &str = include_str!("../../../sql/queries/record.sql");
const RECORD_ONE: &str = include_str!("../../../sql/queries/record_one.sql");
const FLUSH: &str = include_str!("../../../sql/queries/flush.sql");

/// Records these attempts, in one statement.
///
/// `now` tells how long ago each began. Returns the deliveries whose claim was still the caller's.
/// The caller had lost the claim of those that are missing; they are neither changed nor logged.
///
/// # Errors
/// When the statement fails; then nothing has been recorded.
pub async fn record(
    store: &Store,
    relay: RelayId,
    attempts: &[&Attempt],
    now: Instant,
    commit: Commit,
) -> Result<RecordedDeliveries, StoreError> {
    if let [one] = attempts
        && !one.is_of_a_line
        && one.batch.is_none()
        && one.verdict.decision == Decision::Delivered
    {
        return record_one(store, relay, one, now, commit).await;
    }
    if attempts.iter().all(|attempt| has_just_delivered(attempt)) {
        return record_delivered(store, relay, attempts, now, commit).await;
    }
    let (which, more) = with_more(attempts);
    let (batches, marks) = marks(attempts);
    let outcomes = Texts::of(&more, outcome, Cow::from);
    let causes = Texts::of(&more, cause, Cow::from);
    let details = Texts::of(&more, detail, Detail::text);
    let headers = Texts::of(&more, headers, headers_json);
    let bodies = Texts::of(&more, body, body_text);
    let verdicts = Texts::of(&more, verdict, Cow::from);
    let reasons = Texts::of(&more, reason, without_nul);
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
                &column(attempts, retry_after_ms),
                &column(attempts, |a| a.blocks),
                &column(attempts, number),
                &column(attempts, |a| began_before(a, now)),
                &column(attempts, |a| answer(a).map_or(0, |a| i32::from(a.status))),
                &column(attempts, |a| millis(a.took)),
                &column(attempts, |a| a.phases.headers.map_or(-1.0, millis)),
                &column(attempts, |a| waited_for_body(a).map_or(-1.0, millis)),
                &which,
                &column(&more, |a| a.phases.resolve.map_or(-1.0, millis)),
                &column(&more, |a| a.phases.connect.map_or(-1.0, millis)),
                &column(&more, |a| a.phases.tls.map_or(-1.0, millis)),
                &column(&more, |a| answer(a).is_some_and(|a| a.body_truncated)),
                &outcomes.different,
                &outcomes.which,
                &causes.different,
                &causes.which,
                &details.different,
                &details.which,
                &headers.different,
                &headers.which,
                &bodies.different,
                &bodies.which,
                &verdicts.different,
                &verdicts.which,
                &reasons.different,
                &reasons.which,
                &column(attempts, place),
                &column(attempts, |a| a.event_created_at),
                &batches,
                &marks,
                &(commit == Commit::AtOnce),
            ],
        )
        .await?;
    Ok(recorded(&rows))
}

/// The attempt that delivered a delivery of no line.
async fn record_one(
    store: &Store,
    relay: RelayId,
    attempt: &Attempt,
    now: Instant,
    commit: Commit,
) -> Result<RecordedDeliveries, StoreError> {
    let Phases { resolve, connect, tls, headers: head, .. } = attempt.phases;
    let is_kept = headers(attempt).is_some() || body(attempt).is_some();
    let recorded = store
        .queue
        .execute(
            RECORD_ONE,
            "record an attempt",
            &[
                &relay,
                &store.now(),
                &attempt.event_id,
                &attempt.endpoint_id,
                &attempt.claim_token,
                &number(attempt),
                &began_before(attempt, now),
                &answer(attempt).map(|answer| i32::from(answer.status)),
                &millis(attempt.took),
                &resolve.map(millis),
                &connect.map(millis),
                &tls.map(millis),
                &head.map(millis),
                &waited_for_body(attempt).map(millis),
                &answer(attempt).filter(|_| is_kept).map(|answer| answer.body_truncated),
                &outcome(attempt),
                &cause(attempt),
                &detail(attempt).map(Detail::text),
                &headers(attempt).map(headers_json),
                &body(attempt).map(body_text),
                &reason(attempt).map(without_nul),
                &(commit == Commit::AtOnce),
            ],
        )
        .await?;
    let key = (attempt.event_id, attempt.endpoint_id);
    let alone = (recorded > 0).then_some((key, None)).into_iter().collect();
    Ok(RecordedDeliveries { alone, ..RecordedDeliveries::default() })
}

/// Waits until all that was committed before is on the server's disk, and wherever else the
/// operator has commits wait for. `false`: this relay has no row any more, and so it did not wait.
///
/// # Errors
/// When the statement fails.
pub async fn flush(store: &Store, relay: RelayId) -> Result<bool, StoreError> {
    Ok(store.queue.execute(FLUSH, "wait for the disk", &[&relay]).await? > 0)
}

fn recorded(rows: &[Row]) -> RecordedDeliveries {
    let mut recorded = RecordedDeliveries::default();
    for row in rows {
        if let Some(token) = row.get("token") {
            recorded.batches.insert(token, row.get("fresh"));
            continue;
        }
        let next_due_in: Option<f64> = row.get("next_due_in_ms");
        let key = (row.get("event_id"), row.get("endpoint_id"));
        let next = recorded.alone.entry(key).or_default();
        *next = next.or(next_due_in.map(super::rows::millis));
    }
    recorded
}

/// The batches of these, and in each the deliveries that are recorded.
fn marks(attempts: &[&Attempt]) -> (Vec<i64>, Vec<Bits>) {
    let mut marked = Marked::default();
    for attempt in attempts {
        if let Some(place) = attempt.batch {
            marked.mark(attempt.claim_token, place);
        }
    }
    marked.columns()
}

/// -1 where it is in no batch.
fn place(attempt: &Attempt) -> i32 {
    attempt.batch.map_or(-1, |place| i32::try_from(place.at).unwrap_or(i32::MAX))
}

/// The delay of a retry in milliseconds; -1 for any other decision.
fn retry_after_ms(attempt: &Attempt) -> f64 {
    match attempt.verdict.decision {
        Decision::Retry { after } => after.as_secs_f64() * 1000.0,
        Decision::Delivered | Decision::Dead | Decision::Cancelled => -1.0,
    }
}

/// The attempts of which there is more to say than that they were answered and delivered, and for
/// each attempt its position among those, from 1; 0 where it is none of them.
fn with_more<'a>(attempts: &[&'a Attempt]) -> (Vec<i32>, Vec<&'a Attempt>) {
    let mut more = Vec::new();
    let which = column(attempts, |attempt| {
        if !has_more(attempt) {
            return 0;
        }
        more.push(attempt);
        i32::try_from(more.len()).unwrap_or_default()
    });
    (which, more)
}

fn has_more(attempt: &Attempt) -> bool {
    let Phases { resolve, connect, tls, .. } = attempt.phases;
    resolve.or(connect).or(tls).is_some()
        || outcome(attempt).is_some()
        || detail(attempt).is_some()
        || headers(attempt).is_some()
        || body(attempt).is_some()
        || verdict(attempt).is_some()
        || reason(attempt).is_some()
}

/// A column of texts, most of which are the same.
struct Texts<'a> {
    different: Vec<Cow<'a, str>>,
    /// For each row, the position of its text among those, from 1; 0 where it has none.
    which: Vec<i32>,
}

impl<'a> Texts<'a> {
    /// `text` is made of each `part` once, however many attempts have it.
    fn of<P: Copy + Eq + Hash>(
        attempts: &[&'a Attempt],
        part: impl Fn(&'a Attempt) -> Option<P>,
        text: impl Fn(P) -> Cow<'a, str>,
    ) -> Self {
        let mut places = HashMap::new();
        let mut texts = Self { different: Vec::new(), which: Vec::with_capacity(attempts.len()) };
        for attempt in attempts {
            let place = part(attempt).map_or(0, |part| {
                *places.entry(part).or_insert_with(|| {
                    texts.different.push(text(part));
                    i32::try_from(texts.different.len()).unwrap_or_default()
                })
            });
            texts.which.push(place);
        }
        texts
    }
}

/// Details for the operator, shown beside the cause.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Detail<'a> {
    Said(&'a str),
    /// A deadline passed in this phase, after this duration.
    Late(Phase, Duration),
}

fn detail(attempt: &Attempt) -> Option<Detail<'_>> {
    let outcome = attempt.outcome.as_ref()?;
    let Outcome::TimedOut { phase } = outcome else { return outcome.detail().map(Detail::Said) };
    let waited = attempt.phases.of(*phase).unwrap_or(attempt.took);
    Some(Detail::Late(*phase, waited))
}

impl<'a> Detail<'a> {
    fn text(self) -> Cow<'a, str> {
        match self {
            Self::Said(text) => without_nul(text),
            Self::Late(phase, waited) => phase.late(waited).into(),
        }
    }
}

/// What is stored is null where it was answered.
fn outcome(attempt: &Attempt) -> Option<&str> {
    match &attempt.outcome {
        Some(Outcome::Answered(_)) => None,
        Some(outcome) => Some(outcome.kind()),
        None => Some("none"),
    }
}

fn cause(attempt: &Attempt) -> Option<&str> {
    attempt.outcome.as_ref().and_then(Outcome::cause)
}

/// What is stored is null where it was delivered.
fn verdict(attempt: &Attempt) -> Option<&str> {
    let decision = &attempt.verdict.decision;
    (*decision != Decision::Delivered).then(|| decision.as_str())
}

fn reason(attempt: &Attempt) -> Option<&str> {
    attempt.verdict.reason.as_deref()
}

fn headers(attempt: &Attempt) -> Option<&[(String, String)]> {
    answer(attempt).map(|answer| answer.headers.as_slice()).filter(|headers| !headers.is_empty())
}

fn body(attempt: &Attempt) -> Option<&[u8]> {
    answer(attempt).map(|answer| answer.body.as_slice()).filter(|body| !body.is_empty())
}

/// How long before `now` the attempt began, in milliseconds.
fn began_before(attempt: &Attempt, now: Instant) -> f64 {
    now.saturating_duration_since(attempt.began).as_secs_f64() * 1000.0
}

/// The column is narrow. (No delivery has as many attempts.)
fn number(attempt: &Attempt) -> i32 {
    i16::try_from(attempt.number).unwrap_or(i16::MAX).into()
}

/// Postgres's text has no NUL.
pub(super) fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{FFFD}").into() } else { text.into() }
}

fn body_text(body: &[u8]) -> Cow<'_, str> {
    match String::from_utf8_lossy(body) {
        Cow::Borrowed(text) => without_nul(text),
        Cow::Owned(text) => without_nul(&text).into_owned().into(),
    }
}

/// `{"name": "value"}`; a header that came more than once has its values joined, as HTTP reads it.
fn headers_json(headers: &[(String, String)]) -> Cow<'_, str> {
    let mut object = serde_json::Map::with_capacity(headers.len());
    for (name, value) in headers {
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
    serde_json::Value::Object(object).to_string().into()
}
