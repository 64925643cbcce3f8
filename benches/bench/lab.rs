//! Where it is measured: one private PostgreSQL for the whole run, a fresh migrated database for
//! each measurement, and one receiver.

use std::ops::Deref;
use std::time::Duration;

use anyhow::{Context as _, Result};
use posthaste::sandbox::postgres::{Cluster, ClusterError, ClusterOptions};
use posthaste::store::visit::Visit;
use posthaste::store::{Database, migrate};
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

use super::inbox::Inbox;
use super::results::Results;
use super::{PATIENCE, processes};

/// As on a small production server. No checkpoint falls into a measurement; each one that needs a
/// checkpoint makes its own.
pub(crate) const SETTINGS: [&str; 4] = [
    "shared_buffers = 512MB",
    "max_wal_size = 8GB",
    "checkpoint_timeout = 1h",
    "track_io_timing = off",
];

/// Counts calls, WAL and time per statement; part of contrib, and done without if it is missing.
const STATEMENTS: &str = "shared_preload_libraries = 'pg_stat_statements'";

#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) cluster: Cluster,
    pub(crate) inbox: Inbox,
    /// `section.key=value`, for every relay.
    pub(crate) settings: Vec<String>,
    /// Whether it may take long.
    pub(crate) in_full: bool,
    pub(crate) results: Results,
    databases: u32,
}

/// A fresh database with Posthaste's schema in it, and a session of the superuser.
#[derive(Debug)]
pub(crate) struct Bed {
    pub(crate) name: String,
    pub(crate) url: String,
    session: Session,
}

/// A client and the task that drives its connection.
#[derive(Debug)]
pub(crate) struct Session {
    client: Client,
    _driver: JoinSet<()>,
}

impl Lab {
    pub(crate) async fn open(settings: Vec<String>, in_full: bool) -> Result<Self> {
        let cluster = match start(&[STATEMENTS]).await {
            // It would not start: contrib is not installed.
            Err(ClusterError::Ended { .. }) => start(&[]).await?,
            started => started?,
        };
        let (inbox, results) = (Inbox::open().await?, Results::default());
        Ok(Self { cluster, inbox, settings, in_full, results, databases: 0 })
    }

    pub(crate) async fn bed(&mut self) -> Result<Bed> {
        self.databases += 1;
        let name = format!("bench_{}", self.databases);
        self.cluster.create_database(&name, None).await?;
        let url = self.cluster.url_for(&name);
        let database = Database::parse(&url, None, None, PATIENCE)?;
        migrate::run(&mut Visit::to(&database)).await?;
        let session = Session::open(&url).await?;
        for extension in ["pg_stat_statements", "pg_walinspect"] {
            let create = format!("create extension if not exists {extension}");
            // Done without where it is not installed.
            drop(session.batch_execute(&create).await);
        }
        Ok(Bed { name, url, session })
    }

    /// Processor time of the whole server so far.
    pub(crate) fn postgres_cpu(&self) -> Result<Duration> {
        processes::cpu_of_tree(self.cluster.pid().context("the server runs")?)
    }
}

async fn start(more: &[&str]) -> Result<Cluster, ClusterError> {
    let settings = SETTINGS.iter().chain(more).map(|&line| line.to_owned()).collect();
    Cluster::start(ClusterOptions { fsync: true, settings, ..ClusterOptions::default() }).await
}

/// Whether a part of contrib is there.
pub(crate) async fn installed(client: &Client, extension: &str) -> Result<bool> {
    let asked = "select exists (select from pg_extension where extname = $1)";
    Ok(client.query_one(asked, &[&extension]).await?.get(0))
}

impl Bed {
    /// Adds an endpoint that is owed every event; returns its number.
    pub(crate) async fn add_endpoint(&self, url: &str) -> Result<i64> {
        let add = "insert into posthaste.endpoints (url) values ($1) returning id";
        Ok(self.query_one(add, &[&url]).await?.get(0))
    }

    /// Waits until nothing is owed any more.
    pub(crate) async fn settled(&self) -> Result<()> {
        let empty = "select not exists (select from posthaste.live_deliveries)";
        let waited = tokio::time::timeout(PATIENCE, async {
            while !self.query_one(empty, &[]).await?.get::<_, bool>(0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        });
        waited.await.context("deliveries are left")?
    }

    pub(crate) async fn drop(self, lab: &Lab) -> Result<()> {
        lab.cluster.drop_database(&self.name).await?;
        Ok(())
    }
}

impl Deref for Bed {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.session
    }
}

impl Session {
    pub(crate) async fn open(url: &str) -> Result<Self> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // A connection that breaks shows as an error of the next statement.
            drop(connection.await);
        });
        Ok(Self { client, _driver: driver })
    }
}

/// Keeps the bell silent, as a relay that is awake does, until this is dropped.
pub(crate) async fn silence(url: &str) -> Result<JoinSet<()>> {
    const KEEP_SILENT: &str = "select posthaste_internal.keep_silent()";
    let session = Session::open(url).await?;
    session.batch_execute(KEEP_SILENT).await?;
    let mut keeper = JoinSet::new();
    keeper.spawn(async move {
        while session.batch_execute(KEEP_SILENT).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    Ok(keeper)
}

impl Deref for Session {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}
