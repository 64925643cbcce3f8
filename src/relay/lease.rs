//! Keeps the lease: renews it, takes it up again after a lost session, finds relays that are dead
//! and releases what they held, and learns with each heartbeat whether the rules have changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::claims::Claims;
use super::database::Link;
use super::lane::Lanes;
use super::ordering::ToLookAt;
use super::policy::Policy;
use super::term::Term;
use super::unflushed::Unflushed;
use crate::clock::Clock;
use crate::model::lease::{is_settled, next_heartbeat};
use crate::model::share::Share;
use crate::model::standing::During;
use crate::observe::metrics::Metrics;
use crate::store::relays::{Heartbeat, Lease, reap};
use crate::store::rules::rules;
use crate::store::{RelayId, StoreError};

/// How a term ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TermEnd {
    InOrder,
    /// Another relay took this one for dead.
    Lost,
}

/// Renews the lease of one term.
#[derive(Debug)]
pub(super) struct Heartbeats {
    pub(super) database: Arc<Link>,
    pub(super) term: Arc<Term>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) policy: Arc<Policy>,
    pub(super) claims: Arc<Claims>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) lines: Arc<ToLookAt>,
    pub(super) unflushed: Arc<Unflushed>,
    /// Notified when the lease was taken up again, perhaps in a database that has forgotten
    /// something.
    pub(super) retaken: Arc<Notify>,
    /// Between two heartbeats.
    pub(super) heartbeat: Duration,
    /// The lease's length.
    pub(super) lease: Duration,
}

/// The session that holds the lease, and its beginning.
#[derive(Debug)]
struct HeldLease {
    lease: Lease,
    since: Instant,
}

impl HeldLease {
    fn from_now(lease: Lease) -> Self {
        Self { lease, since: Clock.instant() }
    }
}

impl Heartbeats {
    /// Keeps the lease until everything is recorded, then gives it back.
    pub(super) async fn run(self, lease: Lease) -> TermEnd {
        let mut held = Some(HeldLease::from_now(lease));
        let mut seen_rules = None;
        self.renewed(Clock.instant());
        loop {
            let at = Clock.instant();
            match self.beat(&mut held, &mut seen_rules).await {
                Ok(true) => {
                    let could_send = self.term.may_send();
                    self.renewed(at);
                    self.database.status.succeeded(During::Heartbeat);
                    if !could_send {
                        self.lanes.resume();
                    }
                }
                Ok(false) => {
                    self.term.over.cancel();
                    return TermEnd::Lost;
                }
                Err(error) => {
                    self.failed(&error);
                    held = None;
                }
            }
            let is_alone = self.lanes.share().relays() == 1;
            let pause = next_heartbeat(self.heartbeat, self.lease, held.is_some(), is_alone);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.term.done.cancelled() => break,
            }
        }
        if let Some(HeldLease { lease, .. }) = held
            && self.term.leaves_nothing()
            && let Err(error) = lease.end().await
        {
            self.failed(&error);
        }
        TermEnd::InOrder
    }

    /// The lease was renewed by a statement that began at `at`.
    fn renewed(&self, at: Instant) {
        self.term.renewed(at);
        self.database.status.renewed(self.lease, at);
    }

    fn failed(&self, error: &StoreError) {
        self.database.failed(&self.term, &self.metrics, During::Heartbeat, error);
    }

    /// Whether the lease is still held.
    async fn beat(
        &self,
        held: &mut Option<HeldLease>,
        seen_rules: &mut Option<i64>,
    ) -> Result<bool, StoreError> {
        let database = self.database.store.database();
        let Some(HeldLease { lease, since }) = held else {
            let sessions = &self.term.sessions;
            let again = Lease::retake(database, sessions, self.term.registration).await?;
            let Some(again) = again else { return Ok(false) };
            *held = Some(HeldLease::from_now(again));
            self.retaken.notify_one();
            self.unflushed.doubt(database.opened());
            return Ok(true);
        };
        let may_reap = is_settled(Clock.since(*since));
        let recorded = self.unflushed.before();
        let found = lease.renew(self.claims.holdings.count(), self.lease).await?;
        if found.held {
            self.unflushed.flushed(recorded, database.opened());
            self.lanes.divide(share(self.term.relay, &found)).await;
            // An error of these is no reason to let go of the lease.
            if let Err(error) = self.heed_rules(found.rules_revision, seen_rules).await {
                self.failed(&error);
            }
            if may_reap
                && found.somebody_is_dead
                && let Err(error) = self.reap_dead_relays().await
            {
                self.failed(&error);
            }
        }
        Ok(found.held)
    }

    async fn heed_rules(&self, revision: i64, seen: &mut Option<i64>) -> Result<(), StoreError> {
        if seen.is_some_and(|seen| seen != revision) {
            self.policy.set_rules(rules(&self.database.store).await?);
            tracing::info!("the rules have changed");
        }
        *seen = Some(revision);
        Ok(())
    }

    async fn reap_dead_relays(&self) -> Result<(), StoreError> {
        let reaped = reap(&self.database.store, self.term.relay, self.lease).await?;
        if reaped.relays > 0 {
            self.lines.all();
            // Their claims are due now, for the relay that serves its endpoint.
            self.claims.let_others_know();
            self.metrics.relay_takeovers.increment(u64::try_from(reaped.relays).unwrap_or(0));
            tracing::warn!(
                relays = reaped.relays,
                claims = reaped.claims,
                "released what dead relays held"
            );
        }
        Ok(())
    }
}

/// This relay's share of what is limited over all of them.
pub(super) fn share(me: RelayId, found: &Heartbeat) -> Share {
    Share::among(&found.others, me)
}
