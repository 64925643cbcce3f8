//! Recording attempts that delivered at once: while a backlog goes out, there is hardly anything
//! else to record.

use std::error::Error;
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::attempt::{
    Attempt, Commit, RecordedDeliveries, answer, column, millis, waited_for_body,
};
use crate::model::outcome::Phases;
use crate::model::verdict::Decision;
use crate::store::batches::Marked;
use crate::store::{RelayId, Store, StoreError};

const RECORD_DELIVERED: &str = include_str!("../../../sql/queries/record_delivered.sql");

/// Whether there is no more to say of an attempt than that it delivered a delivery of a batch, was
/// answered, and took so long.
pub(super) fn has_just_delivered(attempt: &Attempt) -> bool {
    attempt.batch.is_some()
        && attempt.number == 1
        && attempt.verdict.decision == Decision::Delivered
        && attempt.verdict.reason.is_none()
        && answer(attempt).is_some_and(|answer| answer.headers.is_empty() && answer.body.is_empty())
        && attempt.outcome.as_ref().is_some_and(|outcome| outcome.detail().is_none())
}

/// Records attempts of which there is no more to say, see [`has_just_delivered`].
pub(super) async fn record_delivered(
    store: &Store,
    relay: RelayId,
    attempts: &[&Attempt],
    now: Instant,
    commit: Commit,
) -> Result<RecordedDeliveries, StoreError> {
    let mut marked = Marked::default();
    for attempt in attempts {
        if let Some(place) = attempt.batch {
            marked.mark(attempt.claim_token, place);
        }
    }
    let (tokens, marks) = marked.columns();
    let batch = |attempt: &Attempt| {
        let at = tokens.binary_search(&attempt.claim_token).map_or(0, |at| at + 1);
        i32::try_from(at).unwrap_or_default()
    };
    let place = |attempt: &Attempt| attempt.batch.map_or(0, |place| place.at);
    let place = |attempt: &Attempt| i32::try_from(place(attempt)).unwrap_or(i32::MAX);
    let status = |attempt: &Attempt| answer(attempt).map_or(0, |answer| answer.status);
    let status = |attempt: &Attempt| i16::try_from(status(attempt)).unwrap_or(i16::MAX);
    let ago = |attempt: &Attempt| Interval(now.saturating_duration_since(attempt.began));
    let phase = |took: Option<Duration>| took.map_or(-1.0, millis);
    let connected: Vec<&Attempt> = attempts.iter().copied().filter(|one| is_new(one)).collect();
    let mut nth = 0;
    let which = column(attempts, |attempt| {
        let is_new = is_new(attempt);
        nth += i32::from(is_new);
        if is_new { nth } else { 0 }
    });
    let rows = store
        .queue
        .query(
            RECORD_DELIVERED,
            "record attempts that delivered",
            &[
                &relay,
                &store.now(),
                &tokens,
                &marks,
                &column(attempts, |a| a.event_id),
                &column(attempts, |a| a.endpoint_id),
                &column(attempts, |a| a.event_created_at),
                &column(attempts, batch),
                &column(attempts, place),
                &column(attempts, ago),
                &column(attempts, status),
                &column(attempts, |a| millis(a.took)),
                &column(attempts, |a| phase(a.phases.headers)),
                &unless_all(&-1.0, column(attempts, |a| phase(waited_for_body(a)))),
                &unless_all(&0, which),
                &column(&connected, |a| phase(a.phases.resolve)),
                &column(&connected, |a| phase(a.phases.connect)),
                &column(&connected, |a| phase(a.phases.tls)),
                &(commit == Commit::AtOnce),
            ],
        )
        .await?;
    Ok(RecordedDeliveries::of_batches(&rows))
}

/// Whether a connection was opened for it.
fn is_new(attempt: &Attempt) -> bool {
    let Phases { resolve, connect, tls, .. } = attempt.phases;
    resolve.or(connect).or(tls).is_some()
}

/// An empty column, if every element is this one.
fn unless_all<T: PartialEq>(one: &T, mut column: Vec<T>) -> Vec<T> {
    if column.iter().all(|element| element == one) {
        column.clear();
    }
    column
}

/// An `interval` without days, to the microsecond.
#[derive(Debug)]
struct Interval(Duration);

impl ToSql for Interval {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i64(i64::try_from(self.0.as_micros())?);
        // Days and months.
        out.put_i64(0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::INTERVAL
    }

    to_sql_checked!();
}
