//! What follows for an endpoint: pauses, recoveries, disabling, deleting, and the moving counts
//! behind `endpoint_status`. Noted about once a second; what a rule or a long failure does to an
//! endpoint is done at once.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::lane::Lane;
use super::record::Finished;
use crate::model::endpoint::EndpointId;
use crate::model::health::{Transition, Trouble, TroubleKind};
use crate::model::verdict::Effect;
use crate::store::attempts::Attempt;
use crate::store::endpoints::apply_effect;
use crate::store::health::{Note, note_health};

/// The row of an endpoint's health is written at most this often.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);

/// Something that has to be done to an endpoint.
#[derive(Debug)]
pub(super) struct EffectOn {
    endpoint: EndpointId,
    delete: bool,
    reason: String,
}

impl EffectOn {
    /// What a rule does to the endpoint because of this attempt.
    pub(super) fn ruled(attempt: &Attempt) -> Option<Self> {
        let delete = match attempt.verdict.effect? {
            Effect::Delete => true,
            Effect::Disable => false,
        };
        let reason = attempt.verdict.reason.clone().unwrap_or_default();
        Some(Self { endpoint: attempt.endpoint_id, delete, reason })
    }
}

/// Sees to what follows from an attempt for its endpoint. What a rule does to it waits until the
/// attempt is recorded: deleting the endpoint ends its deliveries, and with them the claim under
/// which this very answer is to be written down.
pub(super) async fn follow(
    shared: &Arc<Shared>,
    lane: &Arc<Lane>,
    transition: Option<Transition>,
    effect: Option<Effect>,
) {
    let (endpoint, host) = (lane.id, lane.host());
    match &transition {
        Some(Transition::Paused { until, again, trouble }) => {
            shared.metrics.endpoints_paused.increment(1);
            let Trouble { kind, reason } = trouble;
            match (kind, again) {
                (TroubleKind::Failing, _) => {
                    tracing::warn!(endpoint, host, %until, reason, "paused: it keeps failing");
                }
                (TroubleKind::Rejecting, _) => {
                    tracing::warn!(endpoint, host, %until, reason, "paused: it accepts nothing");
                }
                (TroubleKind::Refused, false) => {
                    tracing::warn!(
                        endpoint,
                        host,
                        reason,
                        "held: nothing may be sent to it by these settings"
                    );
                }
                (TroubleKind::Refused, true) => {
                    // At info, the probe's own attempt says as much.
                    tracing::debug!(endpoint, host, %until, reason, "still held");
                }
            }
        }
        Some(Transition::Recovered) => tracing::info!(endpoint, host, "recovered"),
        Some(Transition::OnTrial) => {
            tracing::info!(endpoint, host, "answers again, but has accepted nothing yet");
        }
        Some(Transition::Disabled { .. }) | None => {}
    }
    let failed_for_long = match transition {
        Some(Transition::Disabled { reason }) if effect.is_none() => Some(reason),
        _ => None,
    };
    if effect.is_none() && failed_for_long.is_none() {
        return;
    }
    lane.close();
    for delivery in lane.drain() {
        shared.report(Finished::unsent(Some(lane), &delivery)).await;
    }
    if let Some(reason) = failed_for_long {
        shared.apply_soon(EffectOn { endpoint, delete: false, reason });
    }
}

/// Writes down how the endpoints do, until told to end, and then a last time.
pub(super) async fn keep_noting(shared: Arc<Shared>) {
    loop {
        let ending = shared.term.no_more_results.is_cancelled();
        if let Err(error) = note(&shared).await {
            shared.database.failed(&shared.term, &shared.metrics.database_errors.record, &error);
        }
        if ending {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(NOTE_INTERVAL) => {}
            () = shared.effects_wait.notified() => {}
            () = shared.term.no_more_results.cancelled() => {}
        }
    }
}

async fn note(shared: &Shared) -> Result<(), crate::store::StoreError> {
    loop {
        let Some(next) = shared.effects().pop() else { break };
        let done =
            apply_effect(&shared.database.store, next.endpoint, next.delete, &next.reason).await;
        match done {
            Ok(true) => {
                shared.metrics.endpoints_disabled.increment(1);
                let what = if next.delete { "deleted" } else { "disabled" };
                tracing::warn!(endpoint = next.endpoint, reason = next.reason, "{what}");
            }
            Ok(false) => {}
            Err(error) => {
                shared.effects().push(next);
                return Err(error);
            }
        }
    }
    let notes: Vec<Note> = shared
        .lanes
        .all()
        .iter()
        .filter_map(|lane| {
            let (tally, health) = lane.take_tally()?;
            Some(Note {
                endpoint_id: lane.id,
                successes: tally.successes,
                failures: tally.failures,
                duration_ms: tally.duration_ms,
                health,
            })
        })
        .collect();
    if notes.is_empty() { Ok(()) } else { note_health(&shared.database.store, &notes).await }
}
