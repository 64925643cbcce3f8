//! The stations of one term, and what each of them is handed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, mpsc};
use tokio_util::task::TaskTracker;

use super::attempt::Attempts;
use super::brake::Brake;
use super::claims::{Claims, most_claims};
use super::database::{Backoff, Link};
use super::dispatch::{BellSession, Dispatcher, Lookout};
use super::effects::Effects;
use super::ended::{Ended, Results};
use super::health::HealthNotes;
use super::history::History;
use super::lane::{Lanes, Workshop};
use super::lease::Heartbeats;
use super::limits::budget::Budget;
use super::limits::files::Files;
use super::ordering::{ToLookAt, Turns};
use super::policy::Policy;
use super::record::{Recorder, Unrecorded};
use super::term::Term;
use super::unflushed::Unflushed;
use super::upkeep::Upkeep;
use crate::clock::Present;
use crate::config::{Config, UpkeepSettings, WakeMode as Mode};
use crate::model::dispatch::{Dispatch, DispatchSettings};
use crate::model::routing::Recipients;
use crate::model::rules::RuleSet;
use crate::model::share::Share;
use crate::model::webhook_id::WebhookIds;
use crate::observe::metrics::Metrics;
use crate::observe::status::Status;
use crate::outbound::client::Client;
use crate::store::Store;
use crate::store::bell::Changes;
use crate::store::relays::Lease;

/// Outlasts the terms of one relay.
#[derive(Debug)]
pub(super) struct Lasting {
    pub(super) config: Config,
    pub(super) store: Store,
    pub(super) client: Client,
    pub(super) clock: Present,
    pub(super) metrics: Arc<Metrics>,
    pub(super) status: Status,
    pub(super) history: Arc<History>,
    /// A bug ended the last term: the next one begins with single events and results.
    pub(super) careful: AtomicBool,
}

impl Lasting {
    fn is_careful(&self) -> bool {
        self.careful.load(Ordering::Relaxed)
    }
}

/// A new term's lease, and the facts read with it.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) lease: Lease,
    pub(super) share: Share,
    pub(super) rules: RuleSet,
    pub(super) webhook_ids: WebhookIds,
    pub(super) bell: BellSession,
    /// The sessions that this term opens.
    pub(super) sessions: TaskTracker,
}

/// The stations of one term, before they run.
#[derive(Debug)]
pub(super) struct Stations {
    pub(super) dispatcher: Dispatcher,
    pub(super) brake: Brake,
    pub(super) recorder: Recorder,
    pub(super) results: mpsc::Receiver<Ended>,
    pub(super) notes: HealthNotes,
    pub(super) upkeep: Upkeep,
    pub(super) turns: Turns,
    pub(super) heartbeats: Heartbeats,
    pub(super) lease: Lease,
}

/// Files that the senders of webhooks and what they need may take.
fn files_of_senders(config: &Config) -> usize {
    /// The spool, the way to the database, and connections that are changing places: an eighth, and
    /// some (`serve::listener::most_files`).
    const BESIDE: usize = 32;
    let most = config.ingest.max_connections;
    config.ingest.listen.map_or(0, |_| most + most / 8 + BESIDE)
}

/// Used by most stations.
#[derive(Debug)]
struct Common {
    database: Arc<Link>,
    term: Arc<Term>,
    clock: Present,
    metrics: Arc<Metrics>,
    claims: Arc<Claims>,
    lanes: Arc<Lanes>,
    lines: Arc<ToLookAt>,
    unflushed: Arc<Unflushed>,
}

impl Stations {
    pub(super) fn new(lasting: &Lasting, beginning: Beginning) -> Self {
        let Lasting { config, clock, metrics, .. } = lasting;
        let Beginning { lease, share, rules, webhook_ids, bell, sessions } = beginning;
        let term = Arc::new(Term::new(lease.registration(), config.relay.lease, sessions));
        let database = Link::new(lasting.store.clone(), lasting.status.clone(), clock.clone());
        let policy = Arc::new(Policy::new(config, rules));
        let claims = Arc::new(Claims::new(config, &term, clock.clone()));
        let effects = Arc::<Effects>::default();
        let (results, receiver) = Results::new(most_claims(config) + config.relay.batch);
        let lanes = Lanes::new(Workshop {
            clock: clock.clone(),
            metrics: Arc::clone(metrics),
            policy: Arc::clone(&policy),
            term: Arc::clone(&term),
            store: lasting.store.clone(),
            claims: Arc::clone(&claims),
            budget: Budget::new(config.relay.max_in_flight),
            attempts: attempts(lasting, &term, &policy, webhook_ids),
            results: results.clone(),
            effects: Arc::clone(&effects),
            share: Mutex::new(share),
            initial_window: config.delivery.initial_window,
            idle_timeout: config.delivery.idle_timeout,
        });
        let common = Common {
            database: Arc::new(database),
            term,
            clock: clock.clone(),
            metrics: Arc::clone(metrics),
            claims,
            lanes: Arc::new(lanes),
            lines: Arc::default(),
            unflushed: Arc::default(),
        };
        let retaken = Arc::new(Notify::new());
        Self {
            brake: common.brake(results.clone(), bell.changes()),
            dispatcher: common.dispatcher(lasting, results, bell, Arc::clone(&effects)),
            recorder: common.recorder(lasting, Arc::clone(&effects)),
            results: receiver,
            notes: common.notes(effects),
            upkeep: common.upkeep(config.upkeep.clone(), Arc::clone(&retaken)),
            turns: common.turns(),
            heartbeats: common.heartbeats(config, policy, retaken),
            lease,
        }
    }
}

impl Common {
    fn dispatcher(
        &self,
        lasting: &Lasting,
        results: Results,
        bell: BellSession,
        effects: Arc<Effects>,
    ) -> Dispatcher {
        let settings = dispatch_settings(&lasting.config);
        // Drawn, so that no two terms have a token in common: after a failover that lost rows,
        // not even the numbers of relays and events tell them apart.
        let token = fastrand::i64(0..i64::MAX / 2);
        let state = Dispatch::new(settings, token, self.clock.instant());
        Dispatcher {
            effects,
            recipients: Recipients::default(),
            lookout: Lookout::default(),
            state: if lasting.is_careful() { state.carefully() } else { state },
            bell,
            database: Arc::clone(&self.database),
            term: Arc::clone(&self.term),
            clock: self.clock.clone(),
            metrics: Arc::clone(&self.metrics),
            claims: Arc::clone(&self.claims),
            lanes: Arc::clone(&self.lanes),
            results,
            lines: Arc::clone(&self.lines),
            history: Arc::clone(&lasting.history),
            unflushed: Arc::clone(&self.unflushed),
        }
    }

    fn brake(&self, results: Results, changes: Arc<Changes>) -> Brake {
        Brake {
            database: Arc::clone(&self.database),
            term: Arc::clone(&self.term),
            metrics: Arc::clone(&self.metrics),
            claims: Arc::clone(&self.claims),
            lanes: Arc::clone(&self.lanes),
            results,
            changes,
            clock: self.clock.clone(),
        }
    }

    fn recorder(&self, lasting: &Lasting, effects: Arc<Effects>) -> Recorder {
        Recorder {
            database: Arc::clone(&self.database),
            term: Arc::clone(&self.term),
            clock: self.clock.clone(),
            metrics: Arc::clone(&self.metrics),
            claims: Arc::clone(&self.claims),
            lanes: Arc::clone(&self.lanes),
            lines: Arc::clone(&self.lines),
            effects,
            unflushed: Arc::clone(&self.unflushed),
            interval: lasting.config.relay.record_interval,
            is_careful: lasting.is_careful(),
            kept: Unrecorded::default(),
            backoff: Backoff::default(),
        }
    }

    fn notes(&self, effects: Arc<Effects>) -> HealthNotes {
        HealthNotes {
            database: Arc::clone(&self.database),
            term: Arc::clone(&self.term),
            metrics: Arc::clone(&self.metrics),
            lanes: Arc::clone(&self.lanes),
            effects,
        }
    }

    fn upkeep(&self, settings: UpkeepSettings, retaken: Arc<Notify>) -> Upkeep {
        Upkeep {
            database: Arc::clone(&self.database),
            term: Arc::clone(&self.term),
            metrics: Arc::clone(&self.metrics),
            claims: Arc::clone(&self.claims),
            lines: Arc::clone(&self.lines),
            retaken,
            settings,
        }
    }

    fn turns(&self) -> Turns {
        Turns {
            database: Arc::clone(&self.database),
            term: Arc::clone(&self.term),
            clock: self.clock.clone(),
            metrics: Arc::clone(&self.metrics),
            claims: Arc::clone(&self.claims),
            lines: Arc::clone(&self.lines),
        }
    }

    fn heartbeats(&self, config: &Config, policy: Arc<Policy>, retaken: Arc<Notify>) -> Heartbeats {
        Heartbeats {
            database: Arc::clone(&self.database),
            term: Arc::clone(&self.term),
            metrics: Arc::clone(&self.metrics),
            policy,
            claims: Arc::clone(&self.claims),
            lanes: Arc::clone(&self.lanes),
            lines: Arc::clone(&self.lines),
            unflushed: Arc::clone(&self.unflushed),
            retaken,
            heartbeat: config.relay.heartbeat,
            lease: config.relay.lease,
        }
    }
}

fn attempts(
    lasting: &Lasting,
    term: &Arc<Term>,
    policy: &Arc<Policy>,
    webhook_ids: WebhookIds,
) -> Attempts {
    let config = &lasting.config;
    Attempts {
        client: lasting.client.clone(),
        files: Files::of_this_process(files_of_senders(config)),
        settings: config.delivery.clone(),
        retry_after_cap: config.retry.retry_after_cap,
        policy: Arc::clone(policy),
        webhook_ids,
        term: Arc::clone(term),
        clock: lasting.clock.clone(),
        metrics: Arc::clone(&lasting.metrics),
    }
}

fn dispatch_settings(config: &Config) -> DispatchSettings {
    DispatchSettings {
        batch: config.relay.batch,
        poll_interval: config.relay.poll_interval,
        statement_timeout: config.database.statement_timeout,
        listens: config.relay.wake == Mode::Listen,
    }
}
