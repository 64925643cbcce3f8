//! Keeps the lease: renews it, takes it up again after a lost session, finds relays that are dead
//! and releases what they held, and learns with each heartbeat whether the rules have changed.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::clock::Clock;
use crate::store::StoreError;
use crate::store::relays::{Lease, Renewal, bury};
use crate::store::rules::rules;

/// How a tenure ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    InOrder,
    /// Another relay took us for dead.
    Lost,
}

/// Keeps the lease until everything is recorded, then gives it back.
pub(super) async fn keep(shared: Arc<Shared>, lease: Lease) -> Ended {
    let heartbeat = shared.config.relay.heartbeat;
    let mut lease = Some(lease);
    let mut seen_rules = None;
    shared.renewed(Clock.instant());
    loop {
        let at = Clock.instant();
        match beat(&shared, &mut lease, &mut seen_rules).await {
            Ok(Renewal::Held) => {
                let could_send = shared.may_send();
                shared.renewed(at);
                if !could_send {
                    shared.lanes.all().iter().for_each(|lane| lane.resume(&shared));
                }
            }
            Ok(Renewal::Lost) => {
                shared.over.cancel();
                return Ended::Lost;
            }
            Err(error) => {
                shared.complain(&shared.metrics.database_errors.heartbeat, &error);
                lease = None;
            }
        }
        // A session that failed is taken up again soon: until then nobody holds our lock.
        let pause = if lease.is_some() { heartbeat } else { heartbeat.min(RETAKE) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.done.cancelled() => break,
        }
    }
    if let Some(lease) = lease
        && let Err(error) = lease.end().await
    {
        shared.complain(&shared.metrics.database_errors.heartbeat, &error);
    }
    Ended::InOrder
}

const RETAKE: Duration = Duration::from_millis(200);

async fn beat(
    shared: &Shared,
    lease: &mut Option<Lease>,
    seen_rules: &mut Option<i64>,
) -> Result<Renewal, StoreError> {
    let Some(held) = lease else {
        let Some(again) =
            Lease::retake(shared.store.database(), &shared.sessions, shared.relay).await?
        else {
            return Ok(Renewal::Lost);
        };
        *lease = Some(again);
        return Ok(Renewal::Held);
    };
    let (renewal, revision) = held.renew(shared.holdings.count()).await?;
    if renewal == Renewal::Held {
        if seen_rules.replace(revision).is_some_and(|seen| seen != revision) {
            shared.set_rules(rules(&shared.store).await?);
            tracing::info!("the rules have changed");
        }
        let buried = bury(&shared.store, shared.relay, shared.config.relay.lease).await?;
        if buried.relays > 0 {
            shared.metrics.relays_buried.increment(u64::try_from(buried.relays).unwrap_or(0));
            tracing::warn!(
                relays = buried.relays,
                claims = buried.claims,
                "released what dead relays held"
            );
        }
    }
    Ok(renewal)
}
