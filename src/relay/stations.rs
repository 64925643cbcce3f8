//! The stations of one term: what each of them is handed, and the order in which they end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::attempt::Attempts;
use super::claims::{Claims, most_claims};
use super::database::Link;
use super::dispatch::{BellSession, Dispatcher};
use super::effects::Effects;
use super::ended::{Ended, Results};
use super::fault::guarded;
use super::health::HealthNotes;
use super::history::History;
use super::lane::{Lanes, Workshop};
use super::lease::{Heartbeats, TermEnd};
use super::limits::budget::Budget;
use super::limits::files::Files;
use super::ordering::{ToLookAt, Turns};
use super::policy::Policy;
use super::record::Recorder;
use super::term::Term;
use super::upkeep::Upkeep;
use crate::clock::Present;
use crate::config::{Config, Wake as Mode};
use crate::model::dispatch::{Dispatch, DispatchSettings};
use crate::model::rules::RuleSet;
use crate::model::share::Share;
use crate::observe::metrics::Metrics;
use crate::observe::status::Status;
use crate::outbound::client::Client;
use crate::stopper::Stopper;
use crate::store::Store;
use crate::store::relays::Lease;

/// What is still to be written at the end takes milliseconds, or the database is blocked.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What outlasts the terms of one relay.
#[derive(Debug)]
pub(super) struct Lasting {
    pub(super) config: Config,
    pub(super) store: Store,
    pub(super) client: Client,
    pub(super) clock: Present,
    pub(super) metrics: Arc<Metrics>,
    pub(super) status: Status,
    pub(super) history: Arc<History>,
}

/// What a term begins with.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) lease: Lease,
    pub(super) share: Share,
    pub(super) rules: RuleSet,
    /// The sessions that this term opens.
    pub(super) sessions: TaskTracker,
}

/// The stations of one term, before they run.
#[derive(Debug)]
pub(super) struct Stations {
    dispatcher: Dispatcher,
    recorder: Recorder,
    results: mpsc::Receiver<Ended>,
    notes: HealthNotes,
    upkeep: Upkeep,
    turns: Turns,
    heartbeats: Heartbeats,
    lease: Lease,
}

/// Files that the senders of webhooks and what they need may take.
fn files_of_senders(config: &Config) -> usize {
    /// The spool, and the way to the database.
    const BESIDE: usize = 16;
    config.ingest.listen.map_or(0, |_| config.ingest.max_connections + BESIDE)
}

impl Stations {
    pub(super) fn new(lasting: &Lasting, beginning: Beginning) -> Self {
        let Lasting { config, clock, metrics, .. } = lasting;
        let Beginning { lease, share, rules, sessions } = beginning;
        let term = Arc::new(Term::new(lease.registration(), config.relay.lease, sessions));
        let database = Link::new(lasting.store.clone(), lasting.status.clone(), clock.clone());
        let database = Arc::new(database);
        let policy = Arc::new(Policy::new(config, rules));
        let claims = Arc::new(Claims::new(config, &term, clock.clone()));
        let (effects, lines) = (Arc::<Effects>::default(), Arc::<ToLookAt>::default());
        let retaken = Arc::new(Notify::new());
        let (results, receiver) = Results::new(most_claims(config) + config.relay.batch);
        let attempts = Attempts {
            client: lasting.client.clone(),
            files: Files::of_this_process(files_of_senders(config)),
            settings: config.delivery.clone(),
            retry_after_cap: config.retry.retry_after_cap,
            policy: Arc::clone(&policy),
            term: Arc::clone(&term),
            clock: clock.clone(),
            metrics: Arc::clone(metrics),
        };
        let lanes = Arc::new(Lanes::new(Workshop {
            clock: clock.clone(),
            metrics: Arc::clone(metrics),
            policy: Arc::clone(&policy),
            term: Arc::clone(&term),
            claims: Arc::clone(&claims),
            budget: Budget::new(config.relay.max_in_flight),
            attempts,
            results: results.clone(),
            effects: Arc::clone(&effects),
            share: Mutex::new(share),
            initial_window: config.delivery.initial_window,
            idle_timeout: config.delivery.idle_timeout,
        }));
        Self {
            dispatcher: Dispatcher {
                // Drawn, so that no two terms have a token in common: after a failover that lost rows,
                // not even the numbers of relays and events tell them apart.
                state: Dispatch::new(
                    dispatch_settings(config),
                    fastrand::i64(0..i64::MAX / 2),
                    clock.instant(),
                ),
                bell: BellSession::default(),
                database: Arc::clone(&database),
                term: Arc::clone(&term),
                clock: clock.clone(),
                metrics: Arc::clone(metrics),
                claims: Arc::clone(&claims),
                lanes: Arc::clone(&lanes),
                results,
                lines: Arc::clone(&lines),
                history: Arc::clone(&lasting.history),
            },
            recorder: Recorder {
                database: Arc::clone(&database),
                term: Arc::clone(&term),
                clock: clock.clone(),
                metrics: Arc::clone(metrics),
                claims: Arc::clone(&claims),
                lanes: Arc::clone(&lanes),
                lines: Arc::clone(&lines),
                effects: Arc::clone(&effects),
                interval: config.relay.record_interval,
            },
            results: receiver,
            notes: HealthNotes {
                database: Arc::clone(&database),
                term: Arc::clone(&term),
                metrics: Arc::clone(metrics),
                lanes: Arc::clone(&lanes),
                effects,
            },
            upkeep: Upkeep {
                database: Arc::clone(&database),
                term: Arc::clone(&term),
                metrics: Arc::clone(metrics),
                claims: Arc::clone(&claims),
                lines: Arc::clone(&lines),
                retaken: Arc::clone(&retaken),
                settings: config.upkeep.clone(),
            },
            turns: Turns {
                database: Arc::clone(&database),
                term: Arc::clone(&term),
                clock: clock.clone(),
                metrics: Arc::clone(metrics),
                claims: Arc::clone(&claims),
                lines: Arc::clone(&lines),
            },
            heartbeats: Heartbeats {
                database,
                term,
                metrics: Arc::clone(metrics),
                policy,
                claims,
                lanes,
                lines,
                retaken,
                heartbeat: config.relay.heartbeat,
                lease: config.relay.lease,
            },
            lease,
        }
    }

    /// Runs one term: until the stop, or until the lease is lost. `grace` is for what is in flight then.
    pub(super) async fn run(self, grace: Duration, stopper: &Stopper) {
        let term = Arc::clone(&self.dispatcher.term);
        let (lanes, status) =
            (Arc::clone(&self.dispatcher.lanes), self.dispatcher.database.status.clone());
        // Each of these ends by itself when told to; the set only lets them use every core.
        let stations = &term.stations;
        let over = || term.over.clone();
        let dispatch = stations.spawn(guarded(over(), self.dispatcher.run()));
        let recorder = stations.spawn(guarded(over(), self.recorder.run(self.results)));
        let notes = stations.spawn(guarded(over(), self.notes.run()));
        let upkeep = stations.spawn(guarded(over(), self.upkeep.run()));
        let turns = stations.spawn(guarded(over(), self.turns.run()));
        let heartbeats = stations.spawn(guarded(over(), self.heartbeats.run(self.lease)));

        tokio::select! {
            () = stopper.stopping() => {}
            () = term.over.cancelled() => {}
        }
        term.ending.cancel();
        status.set_ready(Err("stopping".to_owned()));
        let over_at = tokio::time::Instant::now() + grace;
        let patience = async |after: Duration| {
            tokio::select! {
                () = tokio::time::sleep_until(over_at) => {}
                () = async { term.over.cancelled().await; tokio::time::sleep(after).await } => {}
            }
        };
        if ended(dispatch, "dispatch", patience(LAST_WORDS)).await.is_none() {
            // Its statement may go on in the server and claim for this relay.
            term.set_uncertain(true);
        }
        lanes.dismiss().await;
        term.workers.close();
        tokio::select! {
            () = term.workers.wait() => {}
            () = patience(Duration::ZERO) => {
                // What is still in flight is recorded as interrupted and made again.
                term.abort.cancel();
                term.workers.wait().await;
            }
        }
        term.no_more_results.cancel();
        // The results have as long as the requests had; a database that is away for longer hears of them
        // by the claims that are then released for this relay.
        if ended(recorder, "record", tokio::time::sleep(grace)).await.is_none() {
            term.over.cancel();
        }
        let last_words = || tokio::time::sleep(LAST_WORDS);
        ended(notes, "health", last_words()).await;
        ended(upkeep, "upkeep", last_words()).await;
        term.recorded.cancel();
        if ended(turns, "ordering", last_words()).await != Some(true) {
            // The relay that reaps this one looks at all lines.
            term.set_uncertain(true);
        }
        term.done.cancel();
        if let Some(TermEnd::Lost) = ended(heartbeats, "lease", last_words()).await {
            tracing::warn!(
                relay = term.relay,
                "the lease was lost: what this relay held is made again by others"
            );
        }
        stations.close();
        term.sessions.close();
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

/// What a station ends with. `None`: it ended by a bug, or it was held up for longer than it is waited for,
/// and was left.
async fn ended<T>(
    mut station: JoinHandle<T>,
    name: &str,
    patience: impl Future<Output = ()>,
) -> Option<T> {
    tokio::select! {
        biased;
        ended = &mut station => match ended {
            Ok(ended) => Some(ended),
            Err(error) => {
                tracing::error!(station = name, %error, "a station ended by a bug");
                None
            }
        },
        () = patience => {
            station.abort();
            tracing::warn!(
                station = name,
                "the database holds up the end of a station: it is not waited for"
            );
            None
        }
    }
}
