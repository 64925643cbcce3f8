//! Recording a batch that the database refuses. Some hundred results are written by one statement,
//! so one that cannot be written would hold up all of them, for ever, and what they are of would be
//! sent again. The batch is halved until the one is found. That one is recorded without its
//! details; if that fails too, it is set aside; if even that fails, its claim is kept, so that
//! nothing is sent a second time, and it is tried again now and then.

use std::time::Duration;

use super::Recorder;
use crate::model::standing::During;
use crate::relay::ended::Ended;
use crate::store::attempts::Commit;
use crate::store::set_aside::set_aside_delivery;
use crate::store::{Store, StoreError};

/// While one result is sought that cannot be recorded, no statement may take longer: the others
/// wait.
const PATIENCE: Duration = Duration::from_secs(1);
/// If more results than this are set aside one after the other, recording itself fails.
const IN_A_ROW: u32 = 16;

impl Recorder {
    /// Writes down what can be written of a batch that fails as a whole.
    pub(super) async fn write_apart(&mut self, batch: Vec<Ended>) {
        let store = self.database.store.within(PATIENCE);
        let mut parts = vec![batch];
        while let Some(mut part) = parts.pop() {
            if self.term.over.is_cancelled() {
                return self.lost(part.len() + parts.iter().map(Vec::len).sum::<usize>());
            }
            let Err(error) = self.try_caught(&store, &part, Commit::Waits).await else {
                self.is_careful = false;
                self.kept.in_a_row = 0;
                self.database.status.succeeded(During::Record);
                continue;
            };
            if !error.may_be_of_some_row() && !error.is_locked_out() {
                // The database is away: all of it waits, as it does elsewhere.
                self.database.failed(&self.term, &self.metrics, During::Record, &error);
                self.backoff.wait(&self.term.over).await;
                parts.push(part);
                continue;
            }
            self.database.noted(&self.metrics, During::Record, &error);
            if part.len() > 1 {
                let second = part.split_off(part.len() / 2);
                parts.push(second);
                parts.push(part);
            } else if let Some(one) = part.pop() {
                self.write_alone(&store, one, error).await;
            }
        }
        // What is set aside is told, and waits for recording no more. But where nothing at all can
        // be recorded, that is what fails.
        if self.kept.is_empty() && self.kept.in_a_row <= IN_A_ROW {
            self.database.status.has_nothing(During::Record);
        }
    }

    /// One result that cannot be recorded as it is.
    async fn write_alone(&mut self, store: &Store, one: Ended, error: StoreError) {
        let (event, endpoint) = (one.key().event_id, one.key().endpoint_id);
        let concerned = format!("event {event}, endpoint {endpoint}");
        self.database.status.concerns(During::Record, concerned);
        // A lock is waited for: a smaller statement would wait as long.
        if let Some(attempt) = one.attempt().filter(|_| !error.is_overdue()) {
            let bare = one.with_attempt(attempt.without_details());
            if let Ok(()) = self.try_caught(store, std::slice::from_ref(&bare), Commit::Waits).await
            {
                tracing::error!(
                    event,
                    endpoint,
                    error = error.in_full(),
                    "the details of an attempt cannot be recorded; the attempt is, without them"
                );
                return;
            }
        }
        let error = match one.attempt() {
            // What it waits for may be let go of, and then it can be recorded.
            Some(attempt) if !error.is_locked_out() => {
                match set_aside_delivery(store, self.term.relay, attempt, &error).await {
                    Ok(_) => {
                        self.metrics.set_aside.increment(1);
                        self.kept.in_a_row = self.kept.in_a_row.saturating_add(1);
                        tracing::error!(
                            event,
                            endpoint,
                            result = attempt.in_words(),
                            error = error.in_full(),
                            "a result cannot be recorded and is set aside (see posthaste.set_aside)"
                        );
                        return;
                    }
                    Err(_) => error,
                }
            }
            _ => error,
        };
        tracing::error!(
            event,
            endpoint,
            error = error.in_full(),
            "a result can neither be recorded nor set aside; it stays claimed and is tried again"
        );
        self.kept.results.push(one);
        self.kept.tried_at = Some(self.clock.instant());
    }
}
