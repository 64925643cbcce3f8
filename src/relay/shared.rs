//! What the stations of one term share: where results go, how much is held, what has ended.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::attempt::Attempts;
use super::claims::Claims;
use super::database::Link;
use super::effects::Effects;
use super::ended::Results;
use super::health::HealthNotes;
use super::history::History;
use super::lane::{Lanes, Workshop};
use super::limits::budget::Budget;
use super::limits::files::Files;
use super::ordering::ToLookAt;
use super::policy::Policy;
use super::record::Recorder;
use super::term::Term;
use crate::clock::Present;
use crate::config::Config;
use crate::model::rules::RuleSet;
use crate::model::share::Share;
use crate::observe::metrics::Metrics;
use crate::observe::status::Status;
use crate::outbound::client::Client;
use crate::store::Store;
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
    pub(super) clock: Present,
    pub(super) metrics: Arc<Metrics>,
    pub(super) history: Arc<History>,
    pub(super) database: Arc<Link>,
    pub(super) policy: Arc<Policy>,
    pub(super) term: Arc<Term>,
    pub(super) claims: Arc<Claims>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) lines: Arc<ToLookAt>,
    pub(super) effects: Arc<Effects>,
    pub(super) results: Results,
    /// The lease was taken up again, perhaps in a database that has forgotten something.
    pub(super) retaken: Notify,
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
    pub(super) results: Results,
    pub(super) sessions: TaskTracker,
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { config, clock, metrics, results, .. } = parts;
        let term = Arc::new(Term::new(parts.registration, config.relay.lease, parts.sessions));
        let policy = Arc::new(Policy::new(&config, parts.rules));
        let claims = Arc::new(Claims::new(&config, &term, clock.clone()));
        let effects = Arc::<Effects>::default();
        let attempts = Attempts {
            client: parts.client,
            files: Files::of_this_process(files_of_senders(&config)),
            settings: config.delivery.clone(),
            retry_after_cap: config.retry.retry_after_cap,
            policy: Arc::clone(&policy),
            term: Arc::clone(&term),
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
        };
        let lanes = Arc::new(Lanes::new(Workshop {
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
            policy: Arc::clone(&policy),
            term: Arc::clone(&term),
            claims: Arc::clone(&claims),
            budget: Budget::new(config.relay.max_in_flight),
            attempts,
            results: results.clone(),
            effects: Arc::clone(&effects),
            share: Mutex::new(parts.share),
            initial_window: config.delivery.initial_window,
            idle_timeout: config.delivery.idle_timeout,
        }));
        Self {
            database: Arc::new(Link::new(parts.store, parts.status, clock.clone())),
            policy,
            claims,
            term,
            lanes,
            lines: Arc::default(),
            effects,
            retaken: Notify::new(),
            results,
            config,
            clock,
            metrics,
            history: parts.history,
        }
    }

    /// A number from 0 to 1, by chance.
    #[expect(
        clippy::unused_self,
        reason = "chance comes from here alone, as the time does from the clock"
    )]
    pub(super) fn draw(&self) -> f64 {
        fastrand::f64()
    }

    pub(super) fn recorder(&self) -> Recorder {
        Recorder {
            database: Arc::clone(&self.database),
            term: Arc::clone(&self.term),
            clock: self.clock.clone(),
            metrics: Arc::clone(&self.metrics),
            claims: Arc::clone(&self.claims),
            lanes: Arc::clone(&self.lanes),
            lines: Arc::clone(&self.lines),
            effects: Arc::clone(&self.effects),
            interval: self.config.relay.record_interval,
        }
    }

    pub(super) fn health_notes(&self) -> HealthNotes {
        HealthNotes {
            database: Arc::clone(&self.database),
            term: Arc::clone(&self.term),
            metrics: Arc::clone(&self.metrics),
            lanes: Arc::clone(&self.lanes),
            effects: Arc::clone(&self.effects),
        }
    }

    /// Shows the gauges as they are.
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    pub(super) fn show(&self) {
        self.metrics.in_flight.set(self.lanes.in_flight() as f64);
        self.metrics.claimed.set(self.claims.holdings.count() as f64);
        self.metrics.in_flight_bytes.set(self.claims.holdings.bytes() as f64);
        self.metrics.results_waiting.set(self.results.waiting() as f64);
    }
}
