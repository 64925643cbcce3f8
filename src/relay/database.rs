//! The database as the relay's stations use it: its errors are logged once a second however many
//! stations meet them, readiness follows, and retries are spaced out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::Counter;
use tokio_util::sync::CancellationToken;

use super::term::Term;
use crate::clock::Present;
use crate::model::standing::{During, Mishap};
use crate::observe::metrics::Metrics;
use crate::observe::status::Status;
use crate::store::{Store, StoreError};

/// A database that is away fails every statement of every station.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// Long enough not to hammer a database that is starting, short enough to notice soon that it has
/// started.
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// The store, and how this process stands with it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) store: Store,
    pub(super) status: Status,
    clock: Present,
    reported_at: Mutex<Option<Instant>>,
}

impl Link {
    pub(super) fn new(store: Store, status: Status, clock: Present) -> Self {
        Self { store, status, clock, reported_at: Mutex::new(None) }
    }

    /// Counts an error of the database, logs it at most once a second, and lets the relay be
    /// unready.
    pub(super) fn failed(
        &self,
        term: &Term,
        metrics: &Metrics,
        during: During,
        error: &StoreError,
    ) {
        self.noted(metrics, during, error);
        self.set_ready(term, Err(error.in_brief()));
        if error.is_away() {
            self.status.is_away();
        }
        let now = self.clock.instant();
        let mut reported_at = self.reported_at.lock().unwrap_or_else(PoisonError::into_inner);
        if reported_at.is_none_or(|at| now.saturating_duration_since(at) >= REPORT_INTERVAL) {
            *reported_at = Some(now);
            let (said, at) = (error.in_full(), self.store.database().address());
            if let StoreError::Strayed { .. } = error {
                tracing::error!(
                    error = said,
                    at,
                    "the address leads to another database; the statement is tried again"
                );
            } else {
                tracing::warn!(error = said, at, "a statement failed; it is tried again");
            }
        }
    }

    /// Counts and keeps an error that is told elsewhere, or that the relay is as ready with.
    pub(super) fn noted(&self, metrics: &Metrics, during: During, error: &StoreError) {
        counter(metrics, during).increment(1);
        self.status.failed(during, mishap(error));
    }

    /// The dispatcher has come round, or made the first poll of its term: the relay is ready,
    /// unless an address leads to another database.
    pub(super) fn works(&self, term: &Term) {
        if let Some(away) = self.status.is_back() {
            let (at, away_s) = (self.store.database().address(), away.as_secs_f64());
            tracing::info!(at, away_s, "the database is back");
        }
        let strayed = self.store.database().strayed();
        self.set_ready(term, strayed.map_or(Ok(()), |where_to| Err(where_to.to_owned())));
    }

    fn set_ready(&self, term: &Term, ready: Result<(), String>) {
        if !term.is_ending() {
            self.status.set_ready(ready);
        }
    }
}

/// What is kept of an error of the database.
pub(super) fn mishap(error: &StoreError) -> Mishap {
    let code = error.sqlstate().map(|code| code.code().to_owned());
    Mishap { code, message: error.in_brief() }
}

fn counter(metrics: &Metrics, during: During) -> &Counter {
    let errors = &metrics.database_errors;
    match during {
        During::Route => &errors.route,
        During::Claim | During::Open | During::Poll => &errors.claim,
        During::Record | During::Order | During::Health => &errors.record,
        During::Wake => &errors.wake,
        During::Heartbeat | During::Begin => &errors.heartbeat,
        During::Upkeep => &errors.upkeep,
    }
}

/// Waits between tries, twice as long each time, with jitter.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST_BACKOFF }
    }
}

impl Backoff {
    /// Waits, until it is told that there is no more time.
    pub(super) async fn wait(&mut self, enough: &CancellationToken) {
        let wait = self.next.mul_f64(0.5 + fastrand::f64());
        self.next = (self.next * 2).min(LONGEST_BACKOFF);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = enough.cancelled() => {}
        }
    }
}
