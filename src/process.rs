//! One process of `posthaste run`: composes its parts, and takes them apart in order.
//!
//! The server starts first, so that a taken port ends the start, and probes are answered while the
//! process waits for the database; it ends last, so that "stopping" can be read while requests in
//! flight end.

use std::sync::Arc;
use std::time::Duration;

use tokio::time;

use crate::clock::{Clock, Present};
use crate::config::Config;
use crate::ingest::{Ingest, IngestError};
use crate::observe::metrics::Metrics;
use crate::observe::status::Status;
use crate::outbound::client;
use crate::relay::{self, RelayError};
use crate::serve::admin::Admin;
use crate::serve::server::{AdminServer, ServerError};
use crate::stopper::Stopper;
use crate::store::Database;
use crate::store::preflight::{Preflight, PreflightError};

/// Between two tries to reach a database that is away. Soon enough for one that starts with the
/// relay.
const BETWEEN_TRIES: Duration = Duration::from_millis(250);

/// A process that could not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("take in webhooks")]
    Ingest(#[from] IngestError),
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error("run the relay")]
    Relay(#[from] RelayError),
}

/// The things that the parts of a process share: its relays, its server and its ingest.
struct Process<'a> {
    config: &'a Config,
    database: Database,
    metrics: Arc<Metrics>,
    status: Status,
    /// Asks the relay and ingest to end.
    stopper: Stopper,
    /// Ends the others, when the relay has ended, in order or not.
    closing: Stopper,
}

/// Runs until the stop. With `migrate` it brings the schema up to date before it delivers.
///
/// # Errors
/// If a part cannot start. Once the relay runs, it waits for a database that goes away.
pub async fn run(
    config: &Config,
    database: Database,
    migrate: bool,
    stopper: Stopper,
) -> Result<(), ProcessError> {
    let process = Process {
        config,
        database,
        metrics: Arc::new(Metrics::new()),
        status: Status::new(Clock, stopper.clone()),
        stopper,
        closing: Stopper::new(),
    };
    let server = process.bind().await?;
    let ingest = Ingest::open(config, &process.database, &process.metrics, &process.status).await?;
    // With a spool the process keeps webhooks while the database is away, so it waits without end.
    let longest = match &ingest {
        Some(ingest) if ingest.has_spool() => Duration::MAX,
        _ => config.database.startup_timeout,
    };
    let (ended, (), (), ()) = tokio::join!(
        Box::pin(process.relay(migrate, longest)),
        process.serve(server),
        Box::pin(process.take_in(ingest)),
        process.metrics.keep(&process.closing),
    );
    if ended.is_ok() {
        tracing::info!("stopped");
    }
    ended
}

impl Process<'_> {
    async fn bind(&self) -> Result<Option<AdminServer>, ServerError> {
        let Some(address) = self.config.http.listen else { return Ok(None) };
        let server = AdminServer::bind(address).await?;
        tracing::info!(address = %server.address(), "serving /live, /ready, /status and /metrics");
        Ok(Some(server))
    }

    async fn relay(&self, migrate: bool, longest: Duration) -> Result<(), ProcessError> {
        let ended = self.deliver(migrate, longest).await;
        self.closing.stop();
        ended
    }

    async fn deliver(&self, migrate: bool, longest: Duration) -> Result<(), ProcessError> {
        let (checked, ()) = tokio::join!(self.preflight(migrate, longest), client::read_system());
        checked?;
        if self.stopper.is_stopping() {
            return Ok(());
        }
        relay::run(
            self.config,
            self.database.clone(),
            Arc::clone(&self.metrics),
            self.status.clone(),
            Present::default(),
            self.stopper.clone(),
        )
        .await?;
        Ok(())
    }

    async fn serve(&self, server: Option<AdminServer>) {
        let Some(server) = server else { return };
        let admin = Admin { status: self.status.clone(), metrics: Arc::clone(&self.metrics) };
        server.serve(admin.router(), &self.closing).await;
    }

    async fn take_in(&self, ingest: Option<Ingest>) {
        let Some(ingest) = ingest else { return };
        tracing::info!(address = %ingest.address(), "taking in webhooks at /in/SOURCE");
        let ending = Stopper::new();
        let told = async {
            tokio::select! {
                () = self.stopper.stopping() => {}
                () = self.closing.stopping() => {}
            }
            ending.stop();
        };
        tokio::join!(ingest.run(&ending), told);
    }

    /// Makes the checks before the relay starts, each as soon as the database can be reached and
    /// for no longer than that. A stop ends it early.
    async fn preflight(&self, migrate: bool, longest: Duration) -> Result<(), PreflightError> {
        let mut preflight = Preflight::new(&self.database, migrate);
        while !preflight.is_over() && !self.stopper.is_stopping() {
            tokio::select! {
                checked = self.until_reached(&mut preflight, longest) => checked?,
                () = self.stopper.stopping() => {}
            }
        }
        Ok(())
    }

    /// Makes the next check, again and again while the database is away.
    async fn until_reached(
        &self,
        preflight: &mut Preflight<'_>,
        longest: Duration,
    ) -> Result<(), PreflightError> {
        let since = Clock.instant();
        let mut told = false;
        while let Err(error) = preflight.advance().await {
            if !error.cause().is_transient() || Clock.since(since) >= longest {
                return Err(error);
            }
            self.status.set_ready(Err("the database cannot be reached".to_owned()));
            if !told {
                tracing::info!(error = error.cause().in_full(), "waiting for the database");
                told = true;
            }
            time::sleep(BETWEEN_TRIES).await;
        }
        Ok(())
    }
}
