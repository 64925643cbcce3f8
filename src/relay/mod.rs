//! The running relay: one file or folder per station, in the order in which an event meets them.
//!
//! `dispatch` (wake, route, claim, assign), `lane`, `attempt`, `record`; then what goes on beside:
//! `ordering`, `lease`, `health`, `history`, `upkeep`. `stations` hands each of them what it uses.
//!
//! A relay's **term** lasts as long as its lease. A relay that was taken for dead (frozen, cut off)
//! has lost its claims: its term ends, what it still had in flight is dropped, and it begins anew
//! under another number.

mod attempt;
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
mod upkeep;

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use self::client::client;
use self::stations::{Beginning, Lasting, Stations};
use crate::clock::Present;
use crate::config::{Config, RelaySettings, Wake as Mode};
use crate::observe::metrics::Metrics;
use crate::observe::status::Status;
use crate::stopper::Stopper;
use crate::store::relays::Lease;
use crate::store::{Database, Store, StoreError, bell, rules};

pub use self::attempt::JudgedAttempt;
pub use self::claims::holdings::{Booked, Claim, ClaimTokens, Holdings};
pub use self::claims::most_claims;
pub use self::client::RelayError;
pub use self::ended::Ended;
pub use self::judged::{Judged, judge};
pub use self::limits::budget::share_of_requests;

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
    let config = config.clone();
    let store =
        Store::open(database, config.database.pool_size, config.database.statement_timeout)?
            .in_present(present.clone());
    let client = client(&config, store.database()).await?;
    bell::install(&store, config.relay.wake == Mode::Listen).await?;
    let history = Arc::default();
    let lasting = Lasting { config, store, client, clock: present, metrics, status, history };
    let mut first = true;
    while !stopper.is_stopping() {
        match begin(&lasting).await {
            Ok(beginning) => {
                first = false;
                term(&lasting, beginning, &stopper).await;
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
                if error.is_transient() {
                    lasting.status.is_away();
                }
                lasting.status.set_ready(Err(error.in_brief()));
                tokio::select! {
                    () = tokio::time::sleep(lasting.config.relay.heartbeat) => {}
                    () = stopper.stopping() => {}
                }
            }
        }
    }
    Ok(())
}

/// Takes the lease for a new term.
async fn begin(lasting: &Lasting) -> Result<Beginning, StoreError> {
    let Lasting { store, config, .. } = lasting;
    let sessions = TaskTracker::new();
    let lease = Lease::take(store.database(), &sessions, &config.relay.name).await?;
    let found = lease.renew(0, config.relay.lease).await?;
    let share = lease::share(lease.registration().relay, &found);
    let rules = rules::rules(store).await?;
    Ok(Beginning { lease, share, rules, sessions })
}

async fn term(lasting: &Lasting, beginning: Beginning, stopper: &Stopper) {
    let relay = beginning.lease.registration().relay;
    let RelaySettings { name, grace, .. } = &lasting.config.relay;
    tracing::info!(relay, name, "the relay's term began");
    Stations::new(lasting, beginning).run(*grace, stopper).await;
    tracing::info!(relay, "the relay's term ended");
}
