//! Consequences of an attempt for its endpoint: pauses, recoveries, and the end of its lane.

use super::Lane;
use crate::model::health::{Fault, Transition, Trouble};
use crate::model::verdict::Effect;
use crate::relay::effects::EffectOn;

impl Lane {
    /// Takes the consequences of an attempt. A rule's effect on the endpoint waits until the
    /// attempt is recorded: deleting the endpoint ends its deliveries, and with them the claim
    /// under which this answer is to be recorded.
    pub(super) async fn follow(&self, transition: Option<Transition>, effect: Option<Effect>) {
        if transition.is_none() && effect.is_none() {
            return;
        }
        let (endpoint, host) = (self.id, self.host());
        match &transition {
            Some(Transition::Paused { until, again, trouble }) => {
                self.workshop.metrics.endpoints_paused.increment(1);
                let Trouble { fault, reason } = trouble;
                match (fault, again) {
                    (Fault::Failing, _) => {
                        tracing::warn!(endpoint, host, %until, reason, "the endpoint is paused: it keeps failing");
                    }
                    (Fault::Rejecting, _) => {
                        tracing::warn!(endpoint, host, %until, reason, "the endpoint is paused: it accepts nothing");
                    }
                    (Fault::Refused, false) => {
                        tracing::warn!(
                            endpoint,
                            host,
                            reason,
                            "the endpoint is held: nothing may be sent to it by these settings"
                        );
                    }
                    (Fault::Refused, true) => {
                        // At info, the probe's own attempt says as much.
                    tracing::debug!(endpoint, host, %until, reason, "the endpoint is still held");
                    }
                }
            }
            Some(Transition::Recovered) => {
                tracing::info!(endpoint, host, "the endpoint accepts events again")
            }
            Some(Transition::OnTrial) => {
                tracing::info!(
                    endpoint,
                    host,
                    "the endpoint answers again, but has accepted nothing yet"
                );
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
        self.close();
        self.give_back(self.drain()).await;
        if let Some(reason) = failed_for_long {
            self.workshop.effects.apply_soon(EffectOn { endpoint, delete: false, reason });
        }
    }
}
