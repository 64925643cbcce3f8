//! Recording: attempts are appended, and deliveries ended or rescheduled, in one statement a batch.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_postgres::Row;

use super::batches::{Bits, Marked};
use super::{RelayId, Store, StoreError};
use crate::model::delivery::{BatchPlace, EventId};
use crate::model::endpoint::EndpointId;
use crate::model::outcome::{Answer, Outcome, Phase, Phases};
use crate::model::verdict::{Decision, Verdict};

const RECORD: &str = include_str!("../../sql/queries/record.sql");
const RECORD_ONE: &str = include_str!("../../sql/queries/record_one.sql");

/// Faster than any network: a body read in less was there when its head was.
const BODY_CAME_WITH_HEAD: Duration = Duration::from_micros(100);

/// One attempt that was made, or a delivery that ended without one, to be recorded.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub event_id: EventId,
    pub endpoint_id: EndpointId,
    pub claim_token: i64,
    /// Where it is in its batch, if it was claimed in one.
    pub batch: Option<BatchPlace>,
    pub event_created_at: Timestamp,
    /// 1 for the first; 0 for an end without an attempt.
    pub number: u32,
    pub began: Instant,
    pub took: Duration,
    pub phases: Phases,
    /// `None`: ended without an attempt.
    pub outcome: Option<Outcome>,
    pub verdict: Verdict,
    /// Whether others of its line may wait behind it.
    pub is_of_a_line: bool,
    /// Whether the delivery is dead and the others of its line wait behind it.
    pub blocks: bool,
}

impl Attempt {
    /// The same without what the receiver or the network said, which the database may refuse.
    #[must_use]
    pub fn without_details(&self) -> Self {
        let mut bare = self.clone();
        match &mut bare.outcome {
            Some(Outcome::Answered(answer)) => {
                *answer = Answer { status: answer.status, ..Answer::default() };
            }
            Some(Outcome::Unreachable { detail, .. } | Outcome::Refused { detail, .. }) => {
                detail.clear();
            }
            _ => {}
        }
        bare.verdict.reason = Some("the details could not be recorded, see the log".to_owned());
        bare
    }

    /// What it came to: the decision, and the status or kind of the outcome.
    #[must_use]
    pub fn in_words(&self) -> String {
        let decision = self.verdict.decision.as_str();
        match (answer(self), &self.outcome) {
            (Some(answer), _) => format!("{decision}: answered {}", answer.status),
            (None, Some(outcome)) => format!("{decision}: {}", outcome.kind()),
            (None, None) => decision.to_owned(),
        }
    }
}

/// Deliveries whose claim was still the caller's when they were recorded.
#[derive(Debug, Default)]
pub struct RecordedDeliveries {
    /// Those that were claimed alone. `Some`: the delivery was the head of a line, and the next in
    /// that line is due after this duration.
    alone: HashMap<(EventId, EndpointId), Option<Duration>>,
    /// Of each batch those recorded, by its token.
    batches: HashMap<i64, Bits>,
}

impl RecordedDeliveries {
    /// Whether the claim of this one was still the caller's.
    #[must_use]
    pub fn has(&self, attempt: &Attempt) -> bool {
        match attempt.batch {
            Some(place) => self
                .batches
                .get(&attempt.claim_token)
                .is_some_and(|bits| bits.has(place.at as usize)),
            None => self.alone.contains_key(&(attempt.event_id, attempt.endpoint_id)),
        }
    }

    /// When the next in its line is due, if it was the head of one that moved on.
    #[must_use]
    pub fn next_due_in(&self, attempt: &Attempt) -> Option<Duration> {
        *self.alone.get(&(attempt.event_id, attempt.endpoint_id))?
    }
}

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
) -> Result<RecordedDeliveries, StoreError> {
    if let [one] = attempts
        && !one.is_of_a_line
        && one.batch.is_none()
        && one.verdict.decision == Decision::Delivered
    {
        return record_one(store, relay, one, now).await;
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
            ],
        )
        .await?;
    let key = (attempt.event_id, attempt.endpoint_id);
    let alone = (recorded > 0).then_some((key, None)).into_iter().collect();
    Ok(RecordedDeliveries { alone, ..RecordedDeliveries::default() })
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

fn answer(attempt: &Attempt) -> Option<&Answer> {
    attempt.outcome.as_ref().and_then(Outcome::answer)
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

/// Most bodies have come with the head: the microseconds of reading them are not worth a column.
fn waited_for_body(attempt: &Attempt) -> Option<Duration> {
    attempt.phases.body.filter(|took| *took >= BODY_CAME_WITH_HEAD)
}

fn column<'a, T>(attempts: &[&'a Attempt], mut of: impl FnMut(&'a Attempt) -> T) -> Vec<T> {
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
