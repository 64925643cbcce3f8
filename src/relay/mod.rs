//! The running relay: one file per station, in the order in which an event meets them.
//!
//! `wake`, `dispatch` (route and claim), `lanes`, `deliver`, `record`; then what goes on beside:
//! `lines`, `lease`, `health`, `history`, `upkeep`.
//!
//! A relay's **term** lasts as long as its lease. One that was taken for dead (frozen, cut off)
//! has lost its claims: its term ends, what it still had in flight is dropped, and it begins anew
//! under another number.

mod attempt;
mod claims;
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
mod shared;
mod term;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::clock::Present;
use crate::config::{Config, Wake as Mode};
use crate::observe::metrics::Metrics;
use crate::observe::status::Status;
use crate::outbound::addresses::AddressRules;
use crate::outbound::client::{Client, ClientError, ClientSettings};
use crate::outbound::resolve::{Resolver, ResolverError};
use crate::stopper::Stopper;
use crate::store::relays::Lease;
use crate::store::{Database, Store, StoreError, bell, reach, rules};

use ended::Results;
use fault::guarded;
use history::History;
pub use attempt::JudgedAttempt;
pub use claims::holdings::{Booked, Claim, ClaimTokens, Holdings};
pub use claims::most_claims;
pub use ended::Ended;
pub use judged::{Judged, judge};
pub use limits::budget::share_of_requests;
use shared::{Parts, Shared};

/// Why a relay cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("set up the HTTP client")]
    Client(#[from] ClientError),
    #[error("set up the resolver")]
    Resolver(#[from] ResolverError),
    #[error("read delivery.ca_file {path}")]
    CaFile { path: String, source: std::io::Error },
}

/// Delivers what the outbox holds until it is stopped.
///
/// # Errors
/// When it cannot start: the settings cannot be used, or the database is not there. Once it runs, it
/// waits for a database that goes away.
pub async fn run(
    config: &Config,
    database: Database,
    metrics: Arc<Metrics>,
    status: Status,
    present: Present,
    stopper: Stopper,
) -> Result<(), RelayError> {
    let config = Arc::new(config.clone());
    let store =
        Store::open(database, config.database.pool_size, config.database.statement_timeout)?
            .in_present(present.clone());
    let client = client(&config, store.database()).await?;
    bell::install(&store, config.relay.wake == Mode::Listen).await?;
    let mut first = true;
    let history = Arc::<History>::default();
    while !stopper.is_stopping() {
        let sessions = TaskTracker::new();
        let begun = async {
            let lease = Lease::take(store.database(), &sessions, &config.relay.name).await?;
            let found = lease.renew(0, config.relay.lease).await?;
            let share = lease::share(lease.registration().relay, &found);
            Ok::<_, StoreError>((lease, share, rules::rules(&store).await?))
        };
        let (lease, share, rules) = match begun.await {
            Ok(begun) => begun,
            // At the start a person is looking; later nobody is, and the database may come back.
            Err(error) if first => return Err(error.into()),
            Err(error) => {
                let at = store.database().address();
                tracing::warn!(error = error.in_full(), at, "cannot begin anew yet");
                if error.is_transient() {
                    status.is_away();
                }
                status.set_ready(Err(error.in_brief()));
                tokio::select! {
                    () = tokio::time::sleep(config.relay.heartbeat) => continue,
                    () = stopper.stopping() => break,
                }
            }
        };
        first = false;
        let (results, receiver) = Results::new(most_claims(&config) + config.relay.batch);
        let shared = Arc::new(Shared::new(Parts {
            config: Arc::clone(&config),
            store: store.clone(),
            client: client.clone(),
            clock: present.clone(),
            metrics: Arc::clone(&metrics),
            status: status.clone(),
            history: Arc::clone(&history),
            registration: lease.registration(),
            share,
            rules,
            results,
            sessions,
        }));
        term(&shared, lease, receiver, &stopper).await;
    }
    Ok(())
}

/// What is still to be written at the end takes milliseconds, or the database is blocked.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// One term: until the stop, or until the lease is lost.
async fn term(
    shared: &Arc<Shared>,
    lease: Lease,
    results: mpsc::Receiver<Ended>,
    stopper: &Stopper,
) {
    tracing::info!(relay = shared.term.relay, name = shared.config.relay.name, "began");
    // Each of these ends by itself when told to; the set only lets them use every core.
    let stations = &shared.term.stations;
    let over = || shared.term.over.clone();
    let dispatch = stations.spawn(guarded(over(), dispatch::run(Arc::clone(shared))));
    let recorder = stations.spawn(guarded(over(), shared.recorder().run(results)));
    let noting = stations.spawn(guarded(over(), shared.health_notes().run()));
    let upkeep = stations.spawn(guarded(over(), upkeep::keep_up(Arc::clone(shared))));
    let lines = stations.spawn(guarded(over(), ordering::keep_moving(Arc::clone(shared))));
    let keeper = stations.spawn(guarded(over(), lease::keep(Arc::clone(shared), lease)));

    tokio::select! {
        () = stopper.stopping() => {}
        () = shared.term.over.cancelled() => {}
    }
    shared.term.ending.cancel();
    shared.database.status.set_ready(Err("stopping".to_owned()));
    let grace = shared.config.relay.grace;
    let over_at = tokio::time::Instant::now() + grace;
    let patience = async |after: Duration| {
        tokio::select! {
            () = tokio::time::sleep_until(over_at) => {}
            () = async { shared.term.over.cancelled().await; tokio::time::sleep(after).await } => {}
        }
    };
    if ended(dispatch, "dispatch", patience(LAST_WORDS)).await.is_none() {
        // Its statement may go on in the server and claim for us.
        shared.term.set_uncertain(true);
    }
    shared.lanes.dismiss().await;
    shared.term.workers.close();
    tokio::select! {
        () = shared.term.workers.wait() => {}
        () = patience(Duration::ZERO) => {
            // What is still in flight is recorded as interrupted and made again.
            shared.term.abort.cancel();
            shared.term.workers.wait().await;
        }
    }
    shared.term.no_more_results.cancel();
    // The results have as long as the requests had; a database that is away for longer hears of them
    // by the claims that are then released for us.
    if ended(recorder, "record", tokio::time::sleep(grace)).await.is_none() {
        shared.term.over.cancel();
    }
    let last_words = || tokio::time::sleep(LAST_WORDS);
    ended(noting, "health", last_words()).await;
    ended(upkeep, "upkeep", last_words()).await;
    shared.term.recorded.cancel();
    if ended(lines, "lines", last_words()).await != Some(true) {
        // Whoever reaps us looks at all lines.
        shared.term.set_uncertain(true);
    }
    shared.term.done.cancel();
    if let Some(lease::Ended::Lost) = ended(keeper, "lease", last_words()).await {
        tracing::warn!(
            relay = shared.term.relay,
            "the lease was lost: what it held is made again by others"
        );
    }
    stations.close();
    shared.term.sessions.close();
    tracing::info!(relay = shared.term.relay, "ended");
}

/// What a station ends with. `None`: it ended by a bug, or it was held up for longer than anybody waits,
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
            tracing::warn!(station = name, "the database holds up the end: it is not waited for");
            None
        }
    }
}

/// The HTTP client, with what it may dial.
async fn client(config: &Config, database: &Database) -> Result<Client, RelayError> {
    let resolver = Resolver::system()?;
    let listeners = [config.http.listen, config.ingest.listen];
    let mut own: Vec<std::net::SocketAddr> = listeners.into_iter().flatten().collect();
    // The start has been waiting for the database already.
    let (listened, names) = reach::listens_at(database).await?;
    own.extend(listened);
    for (host, port) in database.hosts().into_iter().chain(names) {
        let addresses = match host.parse() {
            Ok(address) => vec![address],
            Err(_) => resolver.lookup(&host).await.unwrap_or_default(),
        };
        own.extend(addresses.into_iter().map(|address| std::net::SocketAddr::new(address, port)));
    }
    let rules = AddressRules::new(&config.addresses.allow, &config.addresses.allow_http, own);
    let delivery = &config.delivery;
    let mut settings = ClientSettings::new(rules, resolver);
    settings.resolve_time = delivery.resolve_timeout;
    settings.connect_time = delivery.connect_timeout;
    settings.tls_time = delivery.tls_timeout;
    settings.response_body_limit = delivery.response_body_limit;
    settings.body_timeout = delivery.body_timeout;
    settings.idle_kept = delivery.idle_timeout;
    if let Some(path) = &delivery.ca_file {
        settings.extra_ca =
            Some(std::fs::read(path).map_err(|source| RelayError::CaFile {
                path: path.display().to_string(),
                source,
            })?);
    }
    settings.proxy.clone_from(&delivery.proxy);
    Ok(Client::new(settings)?)
}
