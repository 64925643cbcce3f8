//! Recording again what a crash of the server may have lost, and waiting until nothing is in doubt.

use super::Recorder;
use crate::model::standing::During;
use crate::relay::database::Backoff;
use crate::relay::unflushed::Recorded;
use crate::store::StoreError;
use crate::store::attempts::{Commit, flush, record};

/// So often it is tried to record again what the database refuses by now.
const MOST_REFUSED: u32 = 3;

impl Recorder {
    /// Records again what a crash of the server may have lost, however long the database is away.
    pub(super) async fn write_again(&self) {
        let doubted = self.unflushed.take_doubted(self.sessions());
        let mut backoff = Backoff::default();
        let mut refused = 0;
        // A relay that was taken for dead has lost these claims too.
        while !doubted.is_empty() && !self.term.over.is_cancelled() {
            let sessions = self.sessions();
            match self.try_write_again(&doubted).await {
                // All of it is on the disk: this has waited for what was there already.
                Ok(true) => break,
                // Nothing was lost, and this had nothing to wait for.
                Ok(false) => return self.unflushed.keep(doubted.into_iter(), sessions),
                Err(error) => {
                    self.database.failed(&self.term, &self.metrics, During::Record, &error);
                    refused += u32::from(error.may_be_of_some_row());
                    if refused == MOST_REFUSED {
                        return give_up(&doubted, &error);
                    }
                    backoff.wait(&self.term.over).await;
                }
            }
        }
    }

    /// Whether some of it had been lost.
    async fn try_write_again(&self, doubted: &[Recorded]) -> Result<bool, StoreError> {
        let attempts: Vec<_> = doubted.iter().map(|(attempt, _)| &**attempt).collect();
        let (store, relay) = (&self.database.store, self.term.relay);
        let held = record(store, relay, &attempts, self.clock.instant(), Commit::Waits).await?;
        let lost: Vec<_> = attempts.into_iter().filter(|attempt| held.has(attempt)).collect();
        self.database.status.succeeded(During::Record);
        if lost.is_empty() {
            return Ok(false);
        }
        tracing::info!(
            results = lost.len(),
            "the server had lost what was recorded last; it was recorded again"
        );
        for attempt in &lost {
            self.due_again(attempt);
            if let Some(next_due_in) = held.next_due_in(attempt) {
                self.claims.due_in(attempt.endpoint_id, next_due_in);
            }
        }
        if lost.iter().any(|attempt| attempt.is_of_a_line) {
            self.lines.all();
        }
        Ok(true)
    }

    /// Waits until all that was recorded is on the disk, however long the database is away.
    pub(super) async fn flush(&self) {
        let mut backoff = Backoff::default();
        while self.unflushed.count() > 0 && !self.term.over.is_cancelled() {
            self.write_again().await;
            let before = self.unflushed.before();
            match flush(&self.database.store, self.term.relay).await {
                Ok(true) => self.unflushed.flushed(before, self.sessions()),
                // It was taken for dead, and has lost its claims.
                Ok(false) => return,
                Err(error) => {
                    self.database.failed(&self.term, &self.metrics, During::Record, &error);
                    backoff.wait(&self.term.over).await;
                }
            }
        }
    }
}

/// What was taken once and is refused now must not hold up the rest. Where it was lost, its claims
/// are released, and its deliveries made once more.
fn give_up(doubted: &[Recorded], error: &StoreError) {
    for (attempt, _) in doubted {
        tracing::error!(
            event = attempt.event_id,
            endpoint = attempt.endpoint_id,
            error = error.in_full(),
            "a result cannot be recorded again; if a crash of the server has lost it, the \
             delivery is made once more"
        );
    }
}
