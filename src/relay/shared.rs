//! What the stations of one term share: where results go, how much is held, what has ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};
use tokio_util::task::TaskTracker;

use super::claims::Claims;
use super::database::Link;
use super::health::EffectOn;
use super::history::History;
use super::lane::{FIRST_CLAIMS_PER_REQUEST, Lane, Lanes};
use super::limits::budget::Budget;
use super::limits::files::Files;
use super::ordering::ToLookAt;
use super::policy::Policy;
use super::record::Finished;
use super::term::Term;
use crate::clock::Present;
use crate::config::Config;
use crate::model::rules::RuleSet;
use crate::model::share::Share;
use crate::model::verdict::Decision;
use crate::observe::metrics::Metrics;
use crate::observe::status::Status;
use crate::outbound::client::Client;
use crate::store::Store;
use crate::store::attempts::Attempt;
use crate::store::relays::Registration;

/// How many files senders of webhooks and what they need may take.
fn files_of_senders(config: &Config) -> usize {
    /// The spool, and the way to the database.
    const BESIDE: usize = 16;
    config.ingest.listen.map_or(0, |_| config.ingest.max_connections + BESIDE)
}

/// See the module. Made for one term, dropped with it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) client: Client,
    pub(super) clock: Present,
    pub(super) metrics: Arc<Metrics>,
    pub(super) history: Arc<History>,
    pub(super) database: Link,
    pub(super) policy: Policy,
    pub(super) term: Arc<Term>,
    pub(super) claims: Claims,
    pub(super) lanes: Lanes,
    pub(super) budget: Budget,
    pub(super) files: Files,
    pub(super) lines: ToLookAt,
    /// An endpoint is to be disabled or deleted.
    pub(super) effects_wait: Notify,
    /// The lease was taken up again, perhaps in a database that has forgotten something.
    pub(super) retaken: Notify,
    results: mpsc::Sender<Finished>,
    effects: Mutex<Vec<EffectOn>>,
    share: Mutex<Share>,
}

/// What a term is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) config: Arc<Config>,
    pub(super) store: Store,
    pub(super) client: Client,
    pub(super) clock: Present,
    pub(super) metrics: Arc<Metrics>,
    pub(super) status: Status,
    pub(super) history: Arc<History>,
    pub(super) registration: Registration,
    pub(super) share: Share,
    pub(super) rules: RuleSet,
    pub(super) results: mpsc::Sender<Finished>,
    pub(super) sessions: TaskTracker,
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Self {
        let config = parts.config;
        let lease = config.relay.lease;
        let term = Arc::new(Term::new(parts.registration, lease, parts.sessions));
        Self {
            database: Link::new(parts.store, parts.status, parts.clock.clone()),
            policy: Policy::new(&config, parts.rules),
            claims: Claims::new(&config, &term, parts.clock.clone()),
            term,
            lanes: Lanes::default(),
            budget: Budget::new(config.relay.max_in_flight),
            files: Files::of_this_process(files_of_senders(&config)),
            lines: ToLookAt::default(),
            effects_wait: Notify::new(),
            retaken: Notify::new(),
            results: parts.results,
            effects: Mutex::default(),
            share: Mutex::new(parts.share),
            config,
            client: parts.client,
            clock: parts.clock,
            metrics: parts.metrics,
            history: parts.history,
        }
    }

    /// Hands a finished delivery to the recorder. Never waits for long: there is a place for every
    /// claim that may be held.
    pub(super) async fn report(&self, finished: Finished) {
        if self.results.send(finished).await.is_err() {
            tracing::error!(
                "a result came after the recorder had ended; its claim will be released"
            );
        }
    }

    /// The room of an endpoint that has no lane yet.
    pub(super) fn first_room(&self) -> usize {
        let requests = usize::try_from(self.config.delivery.initial_window).unwrap_or(usize::MAX);
        requests.saturating_mul(FIRST_CLAIMS_PER_REQUEST).min(self.claims.share_of_room(0))
    }

    /// Which of how many relays this one is.
    pub(super) fn share(&self) -> Share {
        *self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Relays have come or gone: limits are divided anew, and what is beyond this relay's part is given back.
    pub(super) async fn divide(self: &Arc<Self>, share: Share) {
        let before = std::mem::replace(
            &mut *self.share.lock().unwrap_or_else(PoisonError::into_inner),
            share,
        );
        if before != share {
            tracing::info!(relays = share.relays(), "limits are divided anew");
            for lane in self.lanes.all() {
                lane.divide(self);
                self.give_back_excess(&lane).await;
            }
            self.claims.room_freed.notify_one();
        }
    }

    /// Gives back what was claimed for a lane and others can send sooner.
    pub(super) async fn give_back_excess(&self, lane: &Arc<Lane>) {
        for delivery in lane.take_excess(self) {
            self.report(Finished::unsent(Some(lane), &delivery)).await;
            self.claims.let_others_know();
        }
    }

    pub(super) fn effects(&self) -> MutexGuard<'_, Vec<EffectOn>> {
        self.effects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has something done to an endpoint soon.
    pub(super) fn apply_soon(&self, effect: EffectOn) {
        self.effects().push(effect);
        self.effects_wait.notify_one();
    }

    /// A number from 0 to 1, by chance.
    #[expect(
        clippy::unused_self,
        reason = "chance comes from here alone, as the time does from the clock"
    )]
    pub(super) fn draw(&self) -> f64 {
        fastrand::f64()
    }

    /// Counts a recorded attempt.
    pub(super) fn count(&self, attempt: &Attempt) {
        let metrics = &self.metrics;
        if let Some(outcome) = &attempt.outcome {
            metrics.attempts(outcome).increment(1);
            metrics.attempt_duration.record(attempt.took);
        }
        match attempt.verdict.decision {
            Decision::Delivered => &metrics.deliveries.delivered,
            Decision::Retry { .. } => &metrics.deliveries.retry,
            Decision::Dead => &metrics.deliveries.dead,
            Decision::Cancelled => &metrics.deliveries.cancelled,
        }
        .increment(1);
    }

    /// Shows the gauges as they are.
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    pub(super) fn show(&self) {
        self.metrics.in_flight.set(self.budget.in_flight() as f64);
        self.metrics.claimed.set(self.claims.holdings.count() as f64);
        self.metrics.in_flight_bytes.set(self.claims.holdings.bytes() as f64);
        let waiting = self.results.max_capacity() - self.results.capacity();
        self.metrics.results_waiting.set(waiting as f64);
    }
}
