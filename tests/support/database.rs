//! A database for one test: a copy of a migrated template, on one private cluster for the whole
//! run.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use posthaste::sandbox::postgres::{Cluster, ClusterOptions};
use posthaste::store::Database;
use posthaste::store::visit::Visit;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row};

use super::{PATIENCE, until};

/// Never dropped, as statics are: the cluster's watchdog ends it with the test process.
static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
static DATABASES: AtomicU64 = AtomicU64::new(1);
const TEMPLATE: &str = "posthaste_template";

/// A migrated, empty database, dropped with this value.
#[derive(Debug)]
pub struct TestDatabase {
    cluster: &'static Cluster,
    name: String,
    /// The tasks that drive the clients' connections.
    connections: Mutex<JoinSet<()>>,
}

impl TestDatabase {
    /// A copy of the migrated template.
    pub async fn new() -> Self {
        Self::copy_of(Some(TEMPLATE)).await
    }

    /// A database in which Posthaste was never installed.
    pub async fn empty() -> Self {
        Self::copy_of(None).await
    }

    /// The same, in another encoding than UTF-8.
    pub async fn encoded_in(encoding: &str) -> Self {
        let cluster = CLUSTER.get_or_init(start).await;
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let create = format!(
            "create database {name} encoding '{encoding}' template template0 lc_collate 'C' lc_ctype 'C'"
        );
        let database = Self { cluster, name, connections: Mutex::default() };
        let client = database.client_at(&cluster.url()).await;
        client.batch_execute(&create).await.expect("create the test's database");
        database
    }

    async fn copy_of(template: Option<&str>) -> Self {
        let cluster = CLUSTER.get_or_init(start).await;
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        cluster.create_database(&name, template).await.expect("create the test's database");
        let database = Self { cluster, name, connections: Mutex::default() };
        if template.is_some() {
            // Otherwise the ledger says, rightly, that it was made in another database.
            let here = "update posthaste.routing set database_oid = \
                 (select oid from pg_database where datname = current_database())";
            database.client().await.batch_execute(here).await.expect("adopt the ledger");
        }
        database
    }

    /// For the superuser.
    pub fn url(&self) -> String {
        self.cluster.url_for(&self.name)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster that other tests use too: not to be stopped.
    pub fn cluster(&self) -> &'static Cluster {
        self.cluster
    }

    /// A new connection. It lives as long as both the client and this database.
    pub async fn client(&self) -> Client {
        self.client_at(&self.url()).await
    }

    /// A new connection as another user or with other parameters.
    pub async fn client_at(&self, url: &str) -> Client {
        let (client, connection) =
            tokio_postgres::connect(url, NoTls).await.expect("connect to the test's database");
        let drive = async move {
            // A connection that breaks shows as an error of the client's next statement.
            drop(connection.await);
        };
        self.connections.lock().expect("no panic while spawning").spawn(drive);
        client
    }

    /// Asks until the statement returns a row: for what a relay will have written.
    #[track_caller]
    pub fn row<'a>(
        &'a self,
        statement: &'a str,
        parameters: &'a [&'a (dyn ToSql + Sync)],
    ) -> impl Future<Output = Row> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let client = self.client().await;
            let what = format!("a row from {statement:?} (asked at {caller})");
            until(&what, || async {
                client.query_opt(statement, parameters).await.expect("ask for a row")
            })
            .await
        }
    }
}

impl Drop for TestDatabase {
    /// Drops the database, so that a long run does not fill the disk.
    ///
    /// Not waited for: the server would wait for backends that are just being logged into, and
    /// a runtime that stood still here could not answer them. What is left behind goes with the
    /// cluster.
    fn drop(&mut self) {
        let (cluster, name) = (self.cluster, self.name.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            drop(runtime.map(|runtime| runtime.block_on(cluster.drop_database(&name))));
        });
    }
}

/// How a test's cluster is: of the server in the directory `POSTHASTE_TEST_POSTGRES`, where that is
/// set, so that the tests can be run on any version.
pub fn cluster_options() -> ClusterOptions {
    let given = std::env::var_os("POSTHASTE_TEST_POSTGRES").filter(|given| !given.is_empty());
    ClusterOptions { binaries: given.map(PathBuf::from), ..ClusterOptions::default() }
}

async fn start() -> Cluster {
    let settings = vec!["max_connections = 400".to_owned()];
    let options = ClusterOptions { settings, ..cluster_options() };
    let cluster = Cluster::start(options).await.expect("start the tests' cluster");
    cluster.create_database(TEMPLATE, None).await.expect("create the template");
    migrate(&cluster.url_for(TEMPLATE)).await;
    cluster
}

/// Brings a database to this version's schema.
pub async fn migrate(url: &str) {
    let database = Database::parse(url, None, None, PATIENCE).expect("the URL is ours");
    posthaste::store::migrate::run(&mut Visit::to(&database)).await.expect("migrate");
}
