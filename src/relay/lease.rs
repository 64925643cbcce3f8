//! Keeps the lease: renews it, takes it up again after a lost session, finds relays that are dead
//! and releases what they held, and learns with each heartbeat whether the rules have changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use crate::clock::Clock;
use crate::model::lease::may_reap;
use crate::model::share::Share;
use crate::store::relays::{Heartbeat, Lease, reap};
use crate::store::rules::rules;
use crate::store::{RelayId, StoreError};

/// How a term ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    InOrder,
    /// Another relay took us for dead.
    Lost,
}

/// Keeps the lease until everything is recorded, then gives it back.
pub(super) async fn keep(shared: Arc<Shared>, lease: Lease) -> Ended {
    let heartbeat = shared.config.relay.heartbeat;
    let mut lease = Some((lease, Clock.instant()));
    let mut seen_rules = None;
    shared.term.renewed(Clock.instant());
    loop {
        let at = Clock.instant();
        match beat(&shared, &mut lease, &mut seen_rules).await {
            Ok(true) => {
                let could_send = shared.term.may_send();
                shared.term.renewed(at);
                if !could_send {
                    shared.lanes.resume();
                }
            }
            Ok(false) => {
                shared.term.over.cancel();
                return Ended::Lost;
            }
            Err(error) => {
                shared.database.failed(
                    &shared.term,
                    &shared.metrics.database_errors.heartbeat,
                    &error,
                );
                lease = None;
            }
        }
        let pause = if lease.is_none() {
            // Taken up again soon: until then nobody holds our lock.
            heartbeat.min(RETAKE)
        } else if shared.lanes.share().relays() == 1 {
            // Nobody's death is to be noticed.
            (heartbeat * 2).min(shared.config.relay.lease / 4).max(heartbeat)
        } else {
            heartbeat
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.term.done.cancelled() => break,
        }
    }
    if let Some((lease, _)) = lease
        && shared.term.leaves_nothing()
        && let Err(error) = lease.end().await
    {
        shared.database.failed(&shared.term, &shared.metrics.database_errors.heartbeat, &error);
    }
    Ended::InOrder
}

const RETAKE: Duration = Duration::from_millis(200);

/// Whether the lease is still held.
async fn beat(
    shared: &Arc<Shared>,
    lease: &mut Option<(Lease, Instant)>,
    seen_rules: &mut Option<i64>,
) -> Result<bool, StoreError> {
    let Some((held, since)) = lease else {
        let (database, sessions) = (shared.database.store.database(), &shared.term.sessions);
        let again = Lease::retake(database, sessions, shared.term.registration).await?;
        let Some(again) = again else { return Ok(false) };
        *lease = Some((again, Clock.instant()));
        shared.retaken.notify_one();
        return Ok(true);
    };
    let settled = may_reap(Clock.since(*since));
    let found = held.renew(shared.claims.holdings.count(), shared.config.relay.lease).await?;
    if found.held {
        shared.lanes.divide(share(shared.term.relay, &found)).await;
        // An error of these is no reason to let go of the lease.
        let errors = &shared.metrics.database_errors.heartbeat;
        if let Err(error) = heed_rules(shared, found.rules_revision, seen_rules).await {
            shared.database.failed(&shared.term, errors, &error);
        }
        if settled
            && found.somebody_is_dead
            && let Err(error) = reap_dead_relays(shared).await
        {
            shared.database.failed(&shared.term, errors, &error);
        }
    }
    Ok(found.held)
}

/// This relay's share of what is limited over all of them.
pub(super) fn share(me: RelayId, found: &Heartbeat) -> Share {
    Share::among(&found.others, me)
}

async fn heed_rules(
    shared: &Shared,
    revision: i64,
    seen: &mut Option<i64>,
) -> Result<(), StoreError> {
    if seen.is_some_and(|seen| seen != revision) {
        shared.policy.set_rules(rules(&shared.database.store).await?);
        tracing::info!("the rules have changed");
    }
    *seen = Some(revision);
    Ok(())
}

async fn reap_dead_relays(shared: &Shared) -> Result<(), StoreError> {
    let reaped = reap(&shared.database.store, shared.term.relay, shared.config.relay.lease).await?;
    if reaped.relays > 0 {
        shared.lines.all();
        // What they held is due now, for whichever of us serves its endpoint.
        shared.claims.let_others_know();
        shared.metrics.relay_takeovers.increment(u64::try_from(reaped.relays).unwrap_or(0));
        tracing::warn!(
            relays = reaped.relays,
            claims = reaped.claims,
            "released what dead relays held"
        );
    }
    Ok(())
}
