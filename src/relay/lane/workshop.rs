//! Shared by the lanes of one term: the bounds of what they take, the means to send it, and the way
//! to the recorder.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Present;
use crate::model::share::Share;
use crate::observe::metrics::Metrics;
use crate::relay::attempt::Attempts;
use crate::relay::claims::Claims;
use crate::relay::effects::Effects;
use crate::relay::ended::Results;
use crate::relay::limits::budget::Budget;
use crate::relay::policy::Policy;
use crate::relay::term::Term;
use crate::store::Store;

/// See the module.
#[derive(Debug)]
pub(in crate::relay) struct Workshop {
    pub(in crate::relay) clock: Present,
    pub(in crate::relay) metrics: Arc<Metrics>,
    pub(in crate::relay) policy: Arc<Policy>,
    pub(in crate::relay) term: Arc<Term>,
    pub(in crate::relay) store: Store,
    pub(in crate::relay) claims: Arc<Claims>,
    pub(in crate::relay) budget: Budget,
    pub(in crate::relay) attempts: Attempts,
    pub(in crate::relay) results: Results,
    pub(in crate::relay) effects: Arc<Effects>,
    /// Which of how many relays this one is.
    pub(in crate::relay) share: Mutex<Share>,
    /// Requests that there may be at an endpoint that has not answered yet.
    pub(in crate::relay) initial_window: u32,
    /// How long an idle connection is kept, and its worker.
    pub(in crate::relay) idle_timeout: Duration,
}

impl Workshop {
    pub(super) fn share(&self) -> Share {
        *self.lock_share()
    }

    pub(super) fn lock_share(&self) -> MutexGuard<'_, Share> {
        self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
