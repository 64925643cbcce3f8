//! Consequences of an attempt for its endpoint: pauses, recoveries, and the end of its lane.

use super::Lane;
use crate::model::health::{Transition, Trouble, TroubleKind};
use crate::model::verdict::Effect;
use crate::relay::effects::EffectOn;
#[cfg(test)]
use crate::relay::fault;

impl Lane {
    /// Takes the consequences of an attempt. A rule's effect on the endpoint waits until the
    /// attempt is recorded: deleting the endpoint ends its deliveries, and with them the claim
    /// under which this answer is to be recorded.
    pub(super) async fn follow(&self, transition: Option<Transition>, effect: Option<Effect>) {
        #[cfg(test)]
        fault::inject("following", &self.lock().ready.endpoint.url);
        if let Some(transition) = &transition {
            self.log(transition);
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
            let effect = EffectOn { endpoint: self.id, delete: false, reason };
            self.workshop.effects.apply_soon(effect);
        }
    }

    /// Ends, since this relay has met a bug in it: what is queued is given back, and the workers
    /// leave. The next poll that finds the endpoint owed anything opens another.
    pub(in crate::relay) async fn breaks(&self, detail: String) {
        self.workshop.metrics.faults.increment(1);
        tracing::error!(
            endpoint = self.id,
            "a bug: {detail}; what is queued for the endpoint is given back, others go on"
        );
        self.dismiss();
        self.give_back(self.drain()).await;
    }

    fn log(&self, transition: &Transition) {
        let (endpoint, host) = (self.id, self.host());
        match transition {
            Transition::Paused { until, again, trouble } => {
                self.workshop.metrics.endpoints_paused.increment(1);
                let Trouble { kind, reason } = trouble;
                let until = until.to_string();
                let paused = match kind {
                    TroubleKind::Failing => "the endpoint is paused: it keeps failing",
                    TroubleKind::Rejecting => "the endpoint is paused: it accepts nothing",
                    // At info, the probe's own attempt says as much.
                    TroubleKind::Refused if *again => {
                        tracing::debug!(
                            endpoint,
                            host,
                            until,
                            reason,
                            "the endpoint is still held"
                        );
                        return;
                    }
                    TroubleKind::Refused => {
                        "the endpoint is held: nothing may be sent to it by these settings"
                    }
                };
                tracing::warn!(endpoint, host, until, reason, "{paused}");
            }
            Transition::Recovered => {
                tracing::info!(endpoint, host, "the endpoint accepts events again");
            }
            Transition::OnTrial => {
                let answers = "the endpoint answers again, but has accepted nothing yet";
                tracing::info!(endpoint, host, "{answers}");
            }
            // Logged when it is done.
            Transition::Disabled { .. } => {}
        }
    }
}
