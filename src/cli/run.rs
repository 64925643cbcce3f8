//! `posthaste run`: puts the parts together and takes them apart in order. The listener starts first, so
//! that a taken port ends the start and probes are answered while the database is waited for; it ends last,
//! so that "stopping" can be read while requests in flight end.

use std::{sync::Arc, time::Duration};

use tokio::time;

use super::{CliError, database};
use crate::clock::{Clock, Present};
use crate::config::Config;
use crate::ingest::Ingest;
use crate::observe::metrics::Metrics;
use crate::observe::status::Status;
use crate::relay;
use crate::serve::admin::Admin;
use crate::serve::server::Server;
use crate::stopper::Stopper;
use crate::store::place::Place;
use crate::store::{Database, StoreError, adopt, migrate, place, reach, refill, roles};

/// Between two tries to reach a database that is away. Soon enough for one that starts together with us.
const BETWEEN_TRIES: Duration = Duration::from_millis(250);

pub(super) async fn run(config: &Config, migrate: bool, stopper: Stopper) -> Result<(), CliError> {
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, settings = %config.origin, "posthaste starts");
    if let Some((file, key)) = &config.open_secret {
        let file = file.display().to_string();
        tracing::warn!(
            file,
            key,
            "every user of this machine may read a secret in the settings; chmod o-r"
        );
    }
    let database = database(config)?;
    let metrics = Arc::new(Metrics::new());
    let status = Status::new(Clock, stopper.clone());
    let server = match config.http.listen {
        Some(address) => {
            let server = Server::bind(address).await?;
            tracing::info!(address = %server.address(), "serving /live, /ready and /metrics");
            Some(server)
        }
        None => None,
    };
    let ingest = Ingest::open(config, &database, &metrics, &status).await?;
    // What comes in is kept in the spool meanwhile, so there is a use in waiting.
    let patience = match &ingest {
        Some(ingest) if ingest.has_spool() => Duration::MAX,
        _ => config.database.startup_timeout,
    };
    let admin = Arc::new(Admin { status: status.clone(), metrics: Arc::clone(&metrics) });
    // asked for when the relay has ended, however it ended
    let closing = Stopper::new();

    let relaying = async {
        let waiting = Waiting { status: &status, stopper: &stopper, patience };
        let ended = relay(config, &database, migrate, &metrics, waiting).await;
        closing.stop();
        ended
    };
    let serving = async {
        if let Some(server) = server {
            server.serve(admin, &closing).await;
        }
    };
    let taking_in = async {
        if let Some(ingest) = ingest {
            tracing::info!(address = %ingest.address(), "taking in webhooks at /in/SOURCE");
            let ending = Stopper::new();
            let told = async {
                tokio::select! {
                    () = stopper.stopping() => {}
                    () = closing.stopping() => {}
                }
                ending.stop();
            };
            tokio::join!(Box::pin(ingest.run(&ending)), told);
        }
    };
    let (ended, (), (), ()) =
        tokio::join!(Box::pin(relaying), serving, taking_in, metrics.keep(&closing));
    if ended.is_ok() {
        tracing::info!("stopped");
    }
    ended
}

async fn relay(
    config: &Config,
    database: &Database,
    migrate: bool,
    metrics: &Arc<Metrics>,
    waiting: Waiting<'_>,
) -> Result<(), CliError> {
    let arrived = waiting.until_reached(async || place::arrive(database).await).await;
    let Some(place) = arrived.map_err(CliError::Reach)? else { return Ok(()) };
    let reached = waiting.until_reached(async || reach::is_one_database(database).await).await;
    if reached.map_err(CliError::Reach)?.is_none() {
        return Ok(());
    }
    if migrate {
        let refilled = waiting.until_reached(async || refill::run(database).await).await;
        let Some(refilled) = refilled.map_err(CliError::Migrate)? else { return Ok(()) };
        if refilled {
            tracing::info!("put back the rows of a schema that was loaded without them");
        }
        let applied = waiting.until_reached(async || migrate::run(database).await).await;
        let Some(applied) = applied.map_err(CliError::Migrate)? else { return Ok(()) };
        for migration in applied {
            tracing::info!(
                version = migration.version,
                name = migration.name,
                "migrated the schema"
            );
        }
    }
    if migrate {
        let lacking = waiting.until_reached(async || roles::lacking(database).await).await;
        let Some(lacking) = lacking.map_err(CliError::Migrate)? else { return Ok(()) };
        if !lacking.is_nothing() {
            let (found, sql) = (lacking.found(), lacking.sql().join(" "));
            tracing::warn!(found, sql, "roles are lacking, which an administrator can make");
        }
    }
    let checked = waiting.until_reached(async || migrate::check(database).await).await;
    let Some(schema) = checked.map_err(CliError::Schema)? else { return Ok(()) };
    let own = waiting.until_reached(async || adopt::is_own(database).await).await;
    if own.map_err(CliError::Schema)?.is_none() {
        return Ok(());
    }
    let Place { name, address, role, version, .. } = &place;
    tracing::info!(
        schema,
        postgresql = version,
        database = name,
        at = address,
        role,
        "on its database"
    );
    let reached = waiting.until_reached(async || reach::keeps_sessions(database).await).await;
    if reached.map_err(CliError::Reach)?.is_none() {
        return Ok(());
    }
    relay::run(
        config,
        database.clone(),
        Arc::clone(metrics),
        waiting.status.clone(),
        Present::default(),
        waiting.stopper.clone(),
    )
    .await?;
    Ok(())
}

/// Waiting a little for a database that starts together with us, ready to be told to stop.
struct Waiting<'a> {
    status: &'a Status,
    stopper: &'a Stopper,
    patience: Duration,
}

impl Waiting<'_> {
    /// Tries until the database can be reached or patience runs out. `None`: a stop was asked for before.
    async fn until_reached<T>(
        &self,
        attempt: impl AsyncFn() -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let since = Clock.instant();
        let mut told = false;
        loop {
            let tried = tokio::select! {
                tried = attempt() => tried,
                // a migration that is broken off here is rolled back with its session
                () = self.stopper.stopping() => return Ok(None),
            };
            let error = match tried {
                Ok(done) => return Ok(Some(done)),
                Err(error) if error.is_transient() && Clock.since(since) < self.patience => error,
                Err(error) => return Err(error),
            };
            self.status.set_ready(Err("the database cannot be reached".to_owned()));
            if !told {
                tracing::info!(error = error.in_full(), "waiting for the database");
                told = true;
            }
            tokio::select! {
                () = time::sleep(BETWEEN_TRIES) => {}
                () = self.stopper.stopping() => return Ok(None),
            }
        }
    }
}
