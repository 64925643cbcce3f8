//! Effects of rules and long failures on endpoints, waiting for the database.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::model::endpoint::EndpointId;
use crate::model::verdict::Effect;
use crate::store::attempts::Attempt;

/// An effect on an endpoint.
#[derive(Debug)]
pub(super) struct EffectOn {
    pub(super) endpoint: EndpointId,
    /// Otherwise it is disabled.
    pub(super) delete: bool,
    pub(super) reason: String,
}

impl EffectOn {
    /// The effect of a rule because of this attempt.
    pub(super) fn ruled(attempt: &Attempt) -> Option<Self> {
        let delete = match attempt.verdict.effect? {
            Effect::Delete => true,
            Effect::Disable => false,
        };
        let reason = attempt.verdict.reason.clone().unwrap_or_default();
        Some(Self { endpoint: attempt.endpoint_id, delete, reason })
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Effects {
    waiting: Mutex<Vec<EffectOn>>,
    /// Notified when there is one.
    pub(super) wait: Notify,
}

impl Effects {
    /// Applies it as soon as the database is there.
    pub(super) fn apply_soon(&self, effect: EffectOn) {
        self.put_back(effect);
        self.wait.notify_one();
    }

    /// Keeps one that could not be applied now.
    pub(super) fn put_back(&self, effect: EffectOn) {
        self.waiting().push(effect);
    }

    pub(super) fn take(&self) -> Option<EffectOn> {
        self.waiting().pop()
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<EffectOn>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
