//! Decides how outcomes are judged: schedule and health from the settings, rules from the database.

use std::sync::{Arc, PoisonError, RwLock};

use crate::config::Config;
use crate::model::health::HealthPolicy;
use crate::model::rules::RuleSet;
use crate::model::schedule::{Delays, Schedule};

/// Schedule, health and rules. Rules change while the relay runs.
#[derive(Debug)]
pub(super) struct Policy {
    /// For an endpoint that has no schedule of its own.
    pub(super) schedule: Schedule,
    pub(super) health: HealthPolicy,
    rules: RwLock<Arc<RuleSet>>,
}

impl Policy {
    pub(super) fn new(config: &Config, rules: RuleSet) -> Self {
        let (retry, health) = (&config.retry, &config.health);
        Self {
            schedule: Schedule {
                delays: Delays::Formula {
                    exponent: retry.exponent,
                    jitter_min: retry.jitter_min,
                    jitter_max: retry.jitter_max,
                    cap: retry.cap,
                },
                max_attempts: Some(retry.max_attempts),
                max_age: retry.max_age,
            },
            health: HealthPolicy {
                failure_threshold: health.failure_threshold,
                rejection_threshold: health.rejection_threshold,
                first_pause: health.first_pause,
                longest_pause: health.longest_pause,
                disable_after: health.disable_after,
                ..HealthPolicy::default()
            },
            rules: RwLock::new(Arc::new(rules)),
        }
    }

    pub(super) fn rules(&self) -> Arc<RuleSet> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_rules(&self, rules: RuleSet) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }
}
