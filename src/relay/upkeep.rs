//! Upkeep: days made ahead and dropped after their retention, ledgers trimmed. Every relay does it
//! now and then; each statement finds nothing to do where another relay was first. Each task stands
//! alone: a task that fails is counted and named, and keeps no other from its work.

use std::sync::Arc;

use tokio::sync::Notify;

use super::claims::Claims;
use super::database::Link;
use super::ordering::ToLookAt;
use super::term::Term;
use crate::config::UpkeepSettings;
use crate::model::standing::During;
use crate::observe::metrics::Metrics;
use crate::store::StoreError;
use crate::store::ahead::trim_ahead;
use crate::store::received;
use crate::store::upkeep::{
    cancel_orphans, drop_partitions, make_partitions, release_orphans, take_up_again, trim,
};

/// Performs the tasks of upkeep.
#[derive(Debug)]
pub(super) struct Upkeep {
    pub(super) database: Arc<Link>,
    pub(super) term: Arc<Term>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) claims: Arc<Claims>,
    pub(super) lines: Arc<ToLookAt>,
    /// Notified when the lease was taken up again.
    pub(super) retaken: Arc<Notify>,
    pub(super) settings: UpkeepSettings,
}

impl Upkeep {
    /// Keeps up until the end.
    pub(super) async fn run(self) {
        while !self.term.is_ending() {
            self.once().await;
            tokio::select! {
                () = tokio::time::sleep(self.settings.interval) => {}
                () = self.retaken.notified() => {}
                () = self.term.ending.cancelled() => {}
            }
        }
    }

    async fn once(&self) {
        let (store, upkeep) = (&self.database.store, &self.settings);
        let tokens = self.claims.holdings.tokens_now();
        let held: Vec<_> = tokens.held.into_iter().collect();
        let released = release_orphans(store, self.term.relay, &held, tokens.newest).await;
        if let Some(released @ 1..) = self.done("release_orphans", released) {
            tracing::warn!(released, "released claims of which no relay knows");
        }
        let made = make_partitions(store, upkeep.partitions_ahead).await;
        if let Some(made @ 1..) = self.done("make_partitions", made) {
            tracing::info!(made, "made partitions");
        }
        let dropped =
            drop_partitions(store, upkeep.outbox_retention, upkeep.attempts_retention).await;
        if let Some(dropped) = self.done("drop_partitions", dropped)
            && !dropped.is_empty()
        {
            tracing::info!(?dropped, "dropped partitions past their retention");
        }
        let cancelled = cancel_orphans(store).await;
        if let Some(cancelled @ 1..) = self.done("cancel_orphans", cancelled) {
            tracing::info!(cancelled, "cancelled what deleted endpoints were still owed");
        }
        let taken_up = take_up_again(store).await;
        if let Some(taken_up @ 1..) = self.done("take_up_again", taken_up) {
            tracing::info!(taken_up, "made deliveries of what was set aside");
        }
        self.lines.all();
        self.done("trim", trim(store, upkeep.outbox_retention).await);
        self.done("trim", trim_ahead(store).await);
        self.done("trim_received", received::trim(store, upkeep.received_retention).await);
    }

    /// The result of a task. `None`: it failed, and the error was told.
    fn done<T>(&self, task: &'static str, result: Result<T, StoreError>) -> Option<T> {
        result
            .inspect_err(|error| {
                self.metrics.upkeep_failures.of(task).increment(1);
                if error.sqlstate().is_none() {
                    // The database is away: each task need not tell of that.
                    return self.database.failed(&self.term, &self.metrics, During::Upkeep, error);
                }
                self.database.noted(&self.metrics, During::Upkeep, error);
                tracing::warn!(
                    task,
                    error = error.in_full(),
                    "a task of upkeep failed; it is tried again with the next round"
                );
            })
            .ok()
    }
}
