//! Records how claims ended, in batches: one statement for some hundred of them. The last station;
//! a claim's room is free once it is recorded here.
//!
//! A few results are recorded without waiting for the server's disk: that wait is most of what
//! recording costs a relay that is not busy. They are kept until they are safe
//! ([`Unflushed`](super::unflushed)).
//!
//! While the database is away the results wait. Their queue is bounded by the claims that a relay
//! may hold, so claiming stops by itself while recording stands still.

mod again;
mod apart;
mod kept;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

pub(super) use self::kept::Unrecorded;
use super::claims::Claims;
use super::database::{Backoff, Link};
use super::effects::{EffectOn, Effects};
use super::ended::Ended;
use super::fault;
use super::lane::Lanes;
use super::ordering::ToLookAt;
use super::term::Term;
use super::unflushed::Unflushed;
use crate::clock::Present;
use crate::model::delivery::Delivery;
use crate::model::outcome::Outcome;
use crate::model::standing::During;
use crate::model::verdict::Decision;
use crate::observe::metrics::Metrics;
use crate::store::attempts::{Attempt, Commit, RecordedDeliveries, record};
use crate::store::deliveries::release;
use crate::store::{Store, StoreError};

/// The second try of a batch is ended after this, if the first took too long.
const SECOND_TRY: Duration = Duration::from_secs(2);
/// More rows in one statement gain nothing (*measured*), and hold the row locks longer.
const MOST_PER_STATEMENT: usize = 512;

/// Of more results in one statement each waits for the disk for little, and what comes meanwhile is
/// recorded together.
const MOST_AT_ONCE: usize = 4;
/// Results that are kept until they are on the disk. They fit one statement, where they are to be
/// recorded again.
const MOST_UNFLUSHED: usize = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Recorder {
    pub(super) database: Arc<Link>,
    pub(super) term: Arc<Term>,
    pub(super) clock: Present,
    pub(super) metrics: Arc<Metrics>,
    pub(super) claims: Arc<Claims>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) lines: Arc<ToLookAt>,
    pub(super) effects: Arc<Effects>,
    pub(super) unflushed: Arc<Unflushed>,
    /// How long a batch waits for more.
    pub(super) interval: Duration,
    /// A bug ended the last term: results are recorded one by one until one is.
    pub(super) is_careful: bool,
    pub(super) kept: Unrecorded,
    pub(super) backoff: Backoff,
}

impl Recorder {
    /// Records until it is told that nothing more comes, and all that came is written down and on
    /// the disk.
    pub(super) async fn run(mut self, mut results: mpsc::Receiver<Ended>) {
        let mut batch = Vec::with_capacity(MOST_PER_STATEMENT);
        loop {
            // Each arm may be dropped: receiving takes nothing out until it is done.
            let received = tokio::select! {
                received = results.recv_many(&mut batch, MOST_PER_STATEMENT) => received,
                () = self.term.no_more_results.cancelled(), if !results.is_closed() => {
                    results.close();
                    continue;
                }
                () = self.unflushed.doubted.notified() => {
                    self.write_again().await;
                    continue;
                }
                () = due(self.kept.due_in(self.clock.instant())) => {
                    self.try_kept().await;
                    continue;
                }
            };
            if received == 0 {
                self.flush().await;
                return self.end();
            }
            gather(&mut results, &mut batch, self.interval).await;
            let has_suspect = batch.iter().any(|ended| ended.claim.delivery.is_suspect);
            let commit = self.commit_of(batch.len(), results.is_closed());
            let sessions = self.write_down(&mut batch, commit).await;
            let recorded = batch.drain(..).filter_map(Ended::into_recorded);
            match sessions {
                // Also those whose claim was gone: a first answer may have been lost, and not the
                // record.
                Some(sessions) if commit == Commit::AtOnce => {
                    self.unflushed.keep(recorded, sessions);
                }
                _ => drop(recorded),
            }
            self.claims.room_freed.notify_one();
            if has_suspect {
                self.claims.suspect_ended.notify_one();
            }
        }
    }

    /// Whether to wait for the disk with as many results.
    fn commit_of(&self, results: usize, is_last: bool) -> Commit {
        // Where sessions do not last, none tells that the server has crashed.
        let tells = self.database.store.database().keeps_every_session();
        let fits = results <= MOST_AT_ONCE && self.unflushed.count() + results <= MOST_UNFLUSHED;
        if tells && fits && !is_last { Commit::AtOnce } else { Commit::Waits }
    }

    fn sessions(&self) -> u64 {
        self.database.store.database().opened()
    }

    /// Writes a batch down, however long the database is away. Returns how many sessions had been
    /// opened before; `None`: the term is over, or the results were written one by one, and waited.
    async fn write_down(&mut self, batch: &mut Vec<Ended>, commit: Commit) -> Option<u64> {
        if self.is_careful {
            for one in batch.drain(..) {
                self.write_apart(vec![one]).await;
            }
            return None;
        }
        let mut before: Option<String> = None;
        loop {
            if self.term.over.is_cancelled() {
                self.lost(batch.len());
                return None;
            }
            let store = match before {
                // The next may take as long as the one before.
                Some(_) => self.database.store.within(SECOND_TRY),
                None => self.database.store.clone(),
            };
            let sessions = self.sessions();
            let Err(error) = self.try_caught(&store, batch, commit).await else {
                self.backoff = Backoff::default();
                self.database.status.succeeded(During::Record);
                return Some(sessions);
            };
            let kind = (error.may_be_of_some_row() || error.is_locked_out()).then(|| error.kind());
            if kind.is_some() && kind == before {
                self.database.noted(&self.metrics, During::Record, &error);
                self.write_apart(std::mem::take(batch)).await;
                return None;
            }
            before = kind;
            self.database.failed(&self.term, &self.metrics, During::Record, &error);
            self.backoff.wait(&self.term.over).await;
        }
    }

    /// What is still kept stays claimed: the relay that reaps this one makes it again.
    fn end(&self) {
        if !self.kept.is_empty() {
            self.term.set_uncertain(true);
        }
    }

    /// Tries again what could not even be set aside.
    async fn try_kept(&mut self) {
        for one in self.kept.take_due(self.clock.instant()) {
            self.write_apart(vec![one]).await;
        }
    }

    /// A relay that was taken for dead has lost its claims, and these results with them: each
    /// delivery is made again, under an interrupted attempt that says so.
    fn lost(&self, results: usize) {
        self.metrics.claims_lost.increment(results as u64);
    }

    /// Writes a batch down; a bug that it meets is an error.
    async fn try_caught(
        &self,
        store: &Store,
        batch: &[Ended],
        commit: Commit,
    ) -> Result<(), StoreError> {
        let done = fault::caught(self.try_write_down(store, batch, commit)).await;
        done.unwrap_or_else(|said| {
            self.metrics.faults.increment(1);
            Err(StoreError::Panicked { doing: "record attempts", said })
        })
    }

    async fn try_write_down(
        &self,
        store: &Store,
        batch: &[Ended],
        commit: Commit,
    ) -> Result<(), StoreError> {
        let (relay, metrics) = (self.term.relay, &self.metrics);
        let mut attempts = Vec::with_capacity(batch.len());
        let mut unsent = Vec::new();
        for ended in batch {
            match ended.attempt() {
                Some(attempt) => attempts.push(attempt),
                None => unsent.push(ended.key()),
            }
        }
        if !unsent.is_empty() {
            let released = release(store, relay, &unsent).await?;
            metrics.claims_released.increment(released);
            self.given_back(batch);
        }
        if attempts.is_empty() {
            return Ok(());
        }
        let (began, before) = (self.clock.instant(), self.unflushed.before());
        let held = record(store, relay, &attempts, began, commit).await?;
        if commit == Commit::Waits && !held.is_empty() {
            self.unflushed.flushed(before, self.sessions());
        }
        metrics.statement_duration.record.record(self.clock.since(began));
        #[expect(clippy::cast_precision_loss, reason = "at most some hundred")]
        metrics.record_batch_size.record(attempts.len() as f64);
        self.move_on(batch, &held);
        for attempt in attempts {
            self.recorded(attempt, &held);
        }
        Ok(())
    }

    /// What is given back is due. A relay that looked for it before would have found nothing.
    fn given_back(&self, batch: &[Ended]) {
        for ended in batch.iter().filter(|ended| ended.attempt().is_none()) {
            self.claims.due_in(ended.claim.delivery.endpoint_id, Duration::ZERO);
        }
        if batch.iter().any(Ended::is_left_to_others) {
            self.claims.let_others_know();
        }
    }

    /// Lets lines go on whose head has ended.
    fn move_on(&self, batch: &[Ended], held: &RecordedDeliveries) {
        let mut standing = Vec::new();
        for ended in batch {
            let Delivery { endpoint_id, ordering_key, .. } = &*ended.claim.delivery;
            let (Some(key), Some(attempt)) = (ordering_key, ended.attempt()) else { continue };
            let stays =
                attempt.blocks || matches!(attempt.verdict.decision, Decision::Retry { .. });
            if let Some(next_due_in) = held.next_due_in(attempt) {
                self.claims.due_in(*endpoint_id, next_due_in);
            } else if !stays && held.has(attempt) {
                standing.push((*endpoint_id, key.clone()));
            }
        }
        self.lines.these(standing);
    }

    /// Takes the consequences of an attempt that the database was given.
    fn recorded(&self, attempt: &Attempt, held: &RecordedDeliveries) {
        if held.has(attempt) {
            self.count(attempt);
            self.due_again(attempt);
            self.log(attempt);
        } else {
            self.metrics.claims_lost.increment(1);
            tracing::warn!(
                event = attempt.event_id,
                endpoint = attempt.endpoint_id,
                attempt = attempt.number,
                "the claim was lost before the attempt was recorded"
            );
        }
        // Also where the claim was lost: the receiver did say so.
        if let Some(effect) = EffectOn::ruled(attempt) {
            self.effects.apply_soon(effect);
        }
    }

    /// The delivery of an attempt that failed falls due.
    fn due_again(&self, attempt: &Attempt) {
        if let Decision::Retry { after } = attempt.verdict.decision {
            self.claims.due_in(attempt.endpoint_id, after);
        }
    }

    fn count(&self, attempt: &Attempt) {
        let metrics = &self.metrics;
        if let Some(outcome) = &attempt.outcome {
            metrics.attempts.of(outcome).increment(1);
            metrics.attempt_duration.record(attempt.took);
        }
        match attempt.verdict.decision {
            Decision::Delivered => &metrics.deliveries.delivered,
            Decision::Retry { .. } => &metrics.deliveries.retry,
            Decision::Dead => &metrics.deliveries.dead,
            Decision::Cancelled => &metrics.deliveries.cancelled,
        }
        .increment(1);
    }

    /// Says once, where the story ends, what became of the delivery.
    fn log(&self, attempt: &Attempt) {
        let (event, endpoint, number) = (attempt.event_id, attempt.endpoint_id, attempt.number);
        let outcome = attempt.outcome.as_ref().map_or("none", Outcome::kind);
        let detail = attempt.outcome.as_ref().and_then(Outcome::detail);
        let reason = attempt.verdict.reason.as_deref().unwrap_or_default();
        let host = || self.lanes.get(endpoint).map(|lane| lane.host()).unwrap_or_default();
        match attempt.verdict.decision {
            Decision::Delivered => {
                tracing::debug!(event, endpoint, attempt = number, "the delivery was accepted");
            }
            Decision::Retry { after } => {
                let cause = attempt.outcome.as_ref().and_then(Outcome::cause);
                let answer = attempt.outcome.as_ref().and_then(Outcome::answer);
                tracing::info!(
                    event,
                    endpoint,
                    host = host(),
                    attempt = number,
                    outcome,
                    cause,
                    detail,
                    status = answer.map(|answer| answer.status),
                    retry_in_s = after.as_secs(),
                    reason,
                    "the delivery was not accepted and is tried again"
                );
            }
            Decision::Dead => {
                tracing::warn!(
                    event,
                    endpoint,
                    host = host(),
                    attempt = number,
                    outcome,
                    detail,
                    reason,
                    "the delivery is dead: it is not tried again"
                );
            }
            Decision::Cancelled => {
                tracing::info!(event, endpoint, reason, "the delivery was cancelled");
            }
        }
    }
}

/// Waits for this long; for ever, if there is nothing to wait for.
async fn due(after: Option<Duration>) {
    match after {
        Some(after) => tokio::time::sleep(after).await,
        None => std::future::pending().await,
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
