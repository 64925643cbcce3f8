//! An attempt as it is recorded, and what was recorded of some.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_postgres::Row;

use crate::model::delivery::{BatchPlace, EventId};
use crate::model::endpoint::EndpointId;
use crate::model::outcome::{Answer, Outcome, Phases};
use crate::model::verdict::Verdict;
use crate::store::batches::Bits;

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

/// When a recording is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// Once it is on the server's disk, and wherever else the operator has commits wait for.
    Waits,
    /// Before that: a crash of the server may undo it. What another transaction builds on it is
    /// undone then too.
    AtOnce,
}

/// Deliveries whose claim was still the caller's when they were recorded.
#[derive(Debug, Default)]
pub struct RecordedDeliveries {
    /// Those that were claimed alone. `Some`: the delivery was the head of a line, and the next in
    /// that line is due after this duration.
    pub(super) alone: HashMap<(EventId, EndpointId), Option<Duration>>,
    /// Of each batch those recorded, by its token.
    pub(super) batches: HashMap<i64, Bits>,
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

    /// Whether nothing was recorded: every claim was lost.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.alone.is_empty() && self.batches.values().all(Bits::is_empty)
    }

    /// Of the rows that say what is recorded of each batch.
    pub(super) fn of_batches(rows: &[Row]) -> Self {
        let batches = rows.iter().map(|row| (row.get("token"), row.get("fresh"))).collect();
        Self { batches, ..Self::default() }
    }

    /// When the next in its line is due, if it was the head of one that moved on.
    #[must_use]
    pub fn next_due_in(&self, attempt: &Attempt) -> Option<Duration> {
        *self.alone.get(&(attempt.event_id, attempt.endpoint_id))?
    }
}

pub(super) fn answer(attempt: &Attempt) -> Option<&Answer> {
    attempt.outcome.as_ref().and_then(Outcome::answer)
}

/// Most bodies have come with the head: the microseconds of reading them are not worth a column.
pub(super) fn waited_for_body(attempt: &Attempt) -> Option<Duration> {
    attempt.phases.body.filter(|took| *took >= BODY_CAME_WITH_HEAD)
}

pub(super) fn column<'a, T>(
    attempts: &[&'a Attempt],
    mut of: impl FnMut(&'a Attempt) -> T,
) -> Vec<T> {
    attempts.iter().map(|attempt| of(attempt)).collect()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a duration in milliseconds needs no more than 24 bits of precision"
)]
pub(super) fn millis(duration: Duration) -> f32 {
    (duration.as_secs_f64() * 1000.0) as f32
}
