//! The running relay: one file or folder per station, in the order in which an event meets them.
//!
//! `dispatch` (wake, route, claim, assign), `lane`, `attempt`, `record`; then what goes on beside:
//! `brake`, `ordering`, `lease`, `health`, `history`, `upkeep`. `stations` hands each of them what
//! it uses.
//!
//! A relay's **term** lasts as long as its lease. A relay that was taken for dead (frozen, cut off)
//! has lost its claims: its term ends, what it still had in flight is dropped, and it begins anew
//! under another number.

mod attempt;
mod brake;
mod claims;
mod client;
mod database;
mod dispatch;
mod effects;
mod ended;
mod fault;
mod health;
mod history;
mod judged;
mod lane;
mod lease;
mod limits;
mod ordering;
mod policy;
mod record;
mod stations;
mod term;
mod unflushed;
mod upkeep;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::{JoinError, JoinHandle};
use tokio_util::task::TaskTracker;

use self::client::client;
use self::database::mishap;
use self::dispatch::BellSession;
use self::fault::{guarded, in_words};
use self::lease::TermEnd;
use self::stations::{Beginning, Lasting, Stations};
use self::term::Term;
use crate::clock::Present;
use crate::config::{Config, RelaySettings, WakeMode as Mode};
use crate::model::standing::{During, Mishap};
use crate::observe::metrics::Metrics;
use crate::observe::status::Status;
use crate::stopper::Stopper;
use crate::store::relays::Lease;
use crate::store::{Database, Store, StoreError, bell, rules, webhook_ids};

pub use self::attempt::JudgedAttempt;
pub use self::claims::holdings::{Booked, Claim, ClaimTokens, Holdings};
pub use self::claims::most_claims;
pub use self::client::RelayError;
pub use self::dispatch::{Lookout, RoutedAhead, StepAhead, Stepped, route_ahead, route_in_steps};
pub use self::ended::Ended;
pub use self::judged::{Judged, judge};
pub use self::limits::budget::share_of_requests;
pub use self::limits::tenants::{Held, TenantHeld};

/// For the last statements of a station: they take milliseconds, or the database is blocked.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Delivers what the outbox holds until it is stopped.
///
/// # Errors
/// When it cannot start: the settings cannot be used, or the database is not there. Once it runs,
/// it waits for a database that goes away.
pub async fn run(
    config: &Config,
    database: Database,
    metrics: Arc<Metrics>,
    status: Status,
    present: Present,
    stopper: Stopper,
) -> Result<(), RelayError> {
    let config = config.clone();
    let store =
        Store::open(database, config.database.pool_size, config.database.statement_timeout)?
            .in_present(present.clone());
    let bell = async { Ok(bell::install(&store, config.relay.wake == Mode::Listen).await?) };
    let (client, ()) = tokio::try_join!(Box::pin(client(&config, &store)), bell)?;
    let (history, careful) = (Arc::default(), AtomicBool::new(false));
    let lasting =
        Lasting { config, store, client, clock: present, metrics, status, history, careful };
    let mut first = true;
    while !stopper.is_stopping() {
        match begin(&lasting).await {
            Ok(beginning) => {
                first = false;
                lasting.status.succeeded(During::Begin);
                term(&lasting, beginning, &stopper).await;
                if !stopper.is_stopping() {
                    lasting.status.term_ended();
                    if lasting.careful.load(Ordering::Relaxed) {
                        // The next term may meet the same bug at once.
                        rest(&lasting, &stopper).await;
                    }
                }
            }
            // At the start an operator is looking; later none is, and the database may come back.
            Err(error) if first => return Err(error.into()),
            Err(error) => {
                let at = lasting.store.database().address();
                tracing::warn!(
                    error = error.in_full(),
                    at,
                    "the relay cannot begin a new term yet"
                );
                if error.is_away() {
                    lasting.status.is_away();
                }
                lasting.status.failed(During::Begin, mishap(&error));
                lasting.status.set_ready(Err(error.in_brief()));
                rest(&lasting, &stopper).await;
            }
        }
    }
    Ok(())
}

/// Waits before another term is begun.
async fn rest(lasting: &Lasting, stopper: &Stopper) {
    tokio::select! {
        () = tokio::time::sleep(lasting.config.relay.heartbeat) => {}
        () = stopper.stopping() => {}
    }
}

/// Takes the lease for a new term. The session for the bell is opened meanwhile.
async fn begin(lasting: &Lasting) -> Result<Beginning, StoreError> {
    let Lasting { store, config, .. } = lasting;
    let sessions = TaskTracker::new();
    let bell = match config.relay.wake {
        Mode::Listen => BellSession::opening(store.database(), &sessions),
        Mode::Poll => BellSession::default(),
    };
    let lease = async {
        let lease = Lease::take(store.database(), &sessions, &config.relay.name).await?;
        let found = lease.renew(0, config.relay.lease).await?;
        Ok((lease, found))
    };
    let ((lease, found), rules, webhook_ids) =
        tokio::try_join!(lease, rules::rules(store), Box::pin(webhook_ids::read(store)))?;
    let share = lease::share(lease.registration().relay, &found);
    Ok(Beginning { lease, share, rules, webhook_ids, bell, sessions })
}

async fn term(lasting: &Lasting, beginning: Beginning, stopper: &Stopper) {
    let relay = beginning.lease.registration().relay;
    let RelaySettings { name, grace, .. } = &lasting.config.relay;
    tracing::info!(relay, name, "the relay's term began");
    let broke = run_term(Stations::new(lasting, beginning), *grace, stopper).await;
    lasting.careful.store(broke, Ordering::Relaxed);
    tracing::info!(relay, "the relay's term ended");
}

/// One term: until the stop, or until the lease is lost. `grace` is for what is in flight then.
/// Returns whether a bug has ended it.
async fn run_term(parts: Stations, grace: Duration, stopper: &Stopper) -> bool {
    let term = Arc::clone(&parts.dispatcher.term);
    let (lanes, status) =
        (Arc::clone(&parts.dispatcher.lanes), parts.dispatcher.database.status.clone());
    let ends = StationEnds {
        status: status.clone(),
        metrics: Arc::clone(&parts.dispatcher.metrics),
        broke: AtomicBool::new(false),
    };
    // Each of these ends by itself when told to; the set only lets them use every core.
    let stations = &term.stations;
    let over = || term.over.clone();
    let dispatch = stations.spawn(guarded(over(), parts.dispatcher.run()));
    let brake = stations.spawn(guarded(over(), parts.brake.run()));
    let recorder = stations.spawn(guarded(over(), parts.recorder.run(parts.results)));
    let notes = stations.spawn(guarded(over(), parts.notes.run()));
    let upkeep = stations.spawn(guarded(over(), parts.upkeep.run()));
    let turns = stations.spawn(guarded(over(), parts.turns.run()));
    let heartbeats = stations.spawn(guarded(over(), parts.heartbeats.run(parts.lease)));

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
    if ends.of(dispatch, During::Route, patience(LAST_WORDS)).await.is_none() {
        // Its statement may go on in the server and claim for this relay.
        term.set_uncertain(true);
    }
    if ends.of(brake, During::Poll, patience(LAST_WORDS)).await.is_none() {
        // What it was giving back may still be claimed.
        term.set_uncertain(true);
    }
    lanes.dismiss().await;
    end_workers(&term, patience(Duration::ZERO)).await;
    // The results have as long as the requests had; a database that is away for longer hears of
    // them by the claims that are then released for this relay.
    if ends.of(recorder, During::Record, tokio::time::sleep(grace)).await.is_none() {
        term.over.cancel();
    }
    let last_words = || tokio::time::sleep(LAST_WORDS);
    ends.of(notes, During::Health, last_words()).await;
    ends.of(upkeep, During::Upkeep, last_words()).await;
    term.recorded.cancel();
    if ends.of(turns, During::Order, last_words()).await != Some(true) {
        // The relay that reaps this one looks at all lines.
        term.set_uncertain(true);
    }
    term.done.cancel();
    if let Some(TermEnd::Lost) = ends.of(heartbeats, During::Heartbeat, last_words()).await {
        tracing::warn!(
            relay = term.relay,
            "the lease was lost: what this relay held is made again by others"
        );
    }
    stations.close();
    term.sessions.close();
    ends.broke.load(Ordering::Relaxed)
}

/// Waits for the attempts in flight. Those that outlast `patience` are recorded as interrupted and
/// made again.
async fn end_workers(term: &Term, patience: impl Future<Output = ()>) {
    term.workers.close();
    tokio::select! {
        () = term.workers.wait() => {}
        () = patience => {
            term.abort.cancel();
            term.workers.wait().await;
        }
    }
    term.no_more_results.cancel();
}

/// How the stations of a term ended.
#[derive(Debug)]
struct StationEnds {
    status: Status,
    metrics: Arc<Metrics>,
    /// One of them by a bug.
    broke: AtomicBool,
}

impl StationEnds {
    /// Waits for the result of the station that does this work. `None`: it ended by a bug, or it
    /// was held up for longer than it is waited for, and was left.
    async fn of<T>(
        &self,
        mut station: JoinHandle<T>,
        work: During,
        patience: impl Future<Output = ()>,
    ) -> Option<T> {
        tokio::select! {
            biased;
            ended = &mut station => match ended {
                Ok(ended) => Some(ended),
                Err(error) => {
                    self.bug(work, error);
                    None
                }
            },
            () = patience => {
                station.abort();
                tracing::warn!(
                    station = work.word(),
                    "the database holds up the end of a station: it is not waited for"
                );
                None
            }
        }
    }

    fn bug(&self, work: During, error: JoinError) {
        let message = match error.try_into_panic() {
            Ok(panic) => in_words(panic.as_ref()),
            Err(error) => error.to_string(),
        };
        self.broke.store(true, Ordering::Relaxed);
        self.metrics.faults.increment(1);
        tracing::error!(
            station = work.word(),
            error = message,
            "a bug has ended the term; the next one begins with single events and results"
        );
        self.status.failed(work, Mishap { code: None, message });
    }
}
