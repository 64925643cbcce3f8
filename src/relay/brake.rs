//! The brake: an endpoint that was disabled, deleted or changed in SQL is sent nothing more that
//! was claimed before, and nothing that was cancelled, but for the requests that have begun.
//!
//! The relay hears of the change when it commits, holds what it has queued for the endpoint, and
//! asks what the endpoint is now. What was claimed before the change is given back: it is claimed
//! and sent by what the endpoint has become, or waits for an endpoint that is disabled. Where there
//! is no session to hear with, the poll has all that is queued looked at.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::claims::Claims;
use super::claims::holdings::Claim;
use super::database::{Backoff, Link};
use super::ended::{Ended, Results};
use super::lane::{Lane, Lanes};
use super::term::Term;
use crate::clock::Present;
use crate::model::endpoint::EndpointId;
use crate::model::standing::During;
use crate::observe::metrics::Metrics;
use crate::store::bell::{Changes, HeardChanges};
use crate::store::deliveries::release;
use crate::store::endpoints::revisions;
use crate::store::withdrawals::withdrawals;

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug)]
pub(super) struct Brake {
    pub(super) database: Arc<Link>,
    pub(super) term: Arc<Term>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) claims: Arc<Claims>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) results: Results,
    pub(super) changes: Arc<Changes>,
    pub(super) clock: Present,
}

impl Brake {
    /// Takes in changes until the relay stops: then it gives back all that is queued.
    pub(super) async fn run(self) {
        // Cancellations of before the term are about claims of others.
        let mut heeded = None;
        self.changes.of_any();
        while !self.term.is_ending() {
            let HeardChanges { of, of_any, withdrawn } = self.changes.take();
            let mut lanes = self.lanes.outdate(&of);
            if of_any {
                lanes = self.lanes.queued();
            }
            let has_looked = !lanes.is_empty();
            if has_looked {
                self.look_at(lanes).await;
            }
            if withdrawn {
                self.heed_withdrawals(&mut heeded).await;
            }
            if withdrawn || has_looked {
                self.pause().await;
            }
            // Every arm may be dropped: they only wait.
            tokio::select! {
                () = self.changes.some.notified() => {}
                () = self.term.ending.cancelled() => {}
                () = self.term.over.cancelled() => {}
            }
        }
    }

    /// Lets notices gather: each look costs statements, and any role that may log in can send them.
    async fn pause(&self) {
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            () = self.term.ending.cancelled() => {}
            () = self.term.over.cancelled() => {}
        }
    }

    /// Gives back what these lanes hold of endpoints that have changed.
    async fn look_at(&self, lanes: Vec<Arc<Lane>>) {
        let ids: Vec<_> = lanes.iter().map(|lane| lane.id).collect();
        let Some(now_at) = self.now_at(&ids).await else { return };
        let mut withdrawn = Vec::new();
        for lane in lanes {
            let now_at = now_at.get(&lane.id).copied();
            let claims = lane.brake(now_at);
            if !claims.is_empty() {
                tracing::info!(
                    endpoint = lane.id,
                    deliveries = claims.len(),
                    "the endpoint has changed: what was queued for it is given back"
                );
            }
            self.metrics.withdrawn.increment(claims.len() as u64);
            withdrawn.extend(claims);
        }
        self.release(withdrawn, &now_at).await;
    }

    /// The revisions of those that are enabled, however long the database is away: meanwhile
    /// nothing is sent to an endpoint that is said to have changed. `None`: the term ends.
    async fn now_at(&self, ids: &[EndpointId]) -> Option<HashMap<EndpointId, i64>> {
        let mut backoff = Backoff::default();
        while !self.term.is_ending() {
            match revisions(&self.database.store, ids).await {
                Ok(found) => {
                    self.database.status.succeeded(During::Open);
                    return Some(found);
                }
                Err(error) => {
                    self.database.failed(&self.term, &self.metrics, During::Open, &error);
                }
            }
            backoff.wait(&self.term.ending).await;
        }
        None
    }

    /// Cancels what is queued and was cancelled since the last call, by the ids of what that found.
    /// Where the database is away, the poll calls it again.
    async fn heed_withdrawals(&self, heeded: &mut Option<HashSet<i64>>) {
        let found = match withdrawals(&self.database.store).await {
            Ok(found) => found,
            Err(error) => {
                return self.database.failed(&self.term, &self.metrics, During::Poll, &error);
            }
        };
        let ids = found.iter().map(|one| one.id).collect();
        let Some(before) = heeded.replace(ids) else { return };
        let mut new = found;
        new.retain(|one| !before.contains(&one.id));
        let now = self.clock.instant();
        for (claim, reason) in self.lanes.withdraw(&new) {
            self.results.report(Ended::cancelled(claim, reason, now)).await;
        }
    }

    /// Gives claims back and has those claimed anew that are sent by what their endpoints are now.
    async fn release(&self, withdrawn: Vec<Claim>, now_at: &HashMap<EndpointId, i64>) {
        if withdrawn.is_empty() {
            return;
        }
        let ended: Vec<_> = withdrawn.into_iter().map(Ended::unsent).collect();
        let keys: Vec<_> = ended.iter().map(Ended::key).collect();
        match release(&self.database.store, self.term.relay, &keys).await {
            Ok(released) => self.metrics.claims_released.increment(released),
            Err(error) => {
                self.database.failed(&self.term, &self.metrics, During::Open, &error);
                for ended in ended {
                    self.results.report(ended).await;
                }
                return;
            }
        }
        drop(ended);
        for key in keys.iter().filter(|key| now_at.contains_key(&key.endpoint_id)) {
            self.claims.due_in(key.endpoint_id, Duration::ZERO);
        }
        self.claims.room_freed.notify_one();
    }
}
