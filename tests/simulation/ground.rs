//! The ground of the simulation: a PostgreSQL of its own, so that no other test's transactions are
//! in its snapshots, with a clock that stands still until it is moved, and gates at which a
//! statement can be stopped half done.

use std::collections::HashMap;
use std::sync::Mutex;

use jiff::Timestamp;
use posthaste::sandbox::postgres::{Cluster, ClusterOptions};
use posthaste::store::{Database, RelayId, Store};
use tokio::task::JoinSet;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row, Statement};
use tokio_util::task::TaskTracker;

use crate::support::database::cluster_options;
use crate::support::{PATIENCE, migrate, until};

const DATABASE: &str = "simulation";
/// How many statements can be slow at once.
pub const SLOW: usize = 3;
/// How many connections applications and people have.
pub const CONNECTIONS: usize = 3;
/// Statements of people and relays that meet another's lock give up: no session can let go of it
/// meanwhile. (Real ones wait for up to 30 s; then they fail as these do.)
const LOCK_TIMEOUT: &str = "30ms";

/// Microseconds since 1970, by the simulation's clock.
pub type Micros = i64;

pub const SECOND: Micros = 1_000_000;

/// One private cluster with one database, used for one list after the other.
#[derive(Debug)]
pub struct Ground {
    pub database: Database,
    /// For every statement that is not slow.
    pub store: Store,
    /// One for each statement that is.
    slow: Vec<Store>,
    /// Moves the clock, holds the gates, clears up, and sees what is there.
    admin: Client,
    statements: Mutex<HashMap<&'static str, Statement>>,
    pub applications: Vec<Client>,
    /// The tasks that drive the leases' sessions.
    pub sessions: TaskTracker,
    lists: u32,
    _connections: Mutex<JoinSet<()>>,
    _cluster: Cluster,
}

impl Ground {
    pub async fn prepare() -> Self {
        // Plans and snapshots are to be the same in every run of a list.
        let settings = vec!["autovacuum = off".to_owned(), "synchronous_commit = off".to_owned()];
        let options = ClusterOptions { settings, ..cluster_options() };
        let cluster = Cluster::start(options).await.expect("start the simulation's cluster");
        cluster.create_database(DATABASE, None).await.expect("create its database");
        let url = cluster.url_for(DATABASE);
        let connections = Mutex::new(JoinSet::new());
        let admin = connect(&connections, &url).await;
        admin.batch_execute(include_str!("ground.sql")).await.expect("set up the clock");
        let timeout = format!("alter database {DATABASE} set lock_timeout = '{LOCK_TIMEOUT}'");
        admin.batch_execute(&timeout).await.expect("bound the waits for locks");
        migrate(&url).await;
        admin.batch_execute(include_str!("gates.sql")).await.expect("set up the gates");
        let open = |url: &str| {
            let database = Database::parse(url, None, None, PATIENCE).expect("the URL is ours");
            let store = Store::open(database.clone(), 2, PATIENCE).expect("open a store");
            (database, store)
        };
        let (database, store) = open(&url);
        let slow = |n| open(&format!("{url}?options=-c%20simulation.slow%3D{n}")).1;
        let mut applications = Vec::new();
        for _ in 0..CONNECTIONS {
            applications.push(connect(&connections, &url).await);
        }
        Self {
            database,
            store,
            slow: (0..SLOW).map(slow).collect(),
            admin,
            statements: Mutex::default(),
            applications,
            sessions: TaskTracker::new(),
            lists: 0,
            _connections: connections,
            _cluster: cluster,
        }
    }

    /// Makes everything as it was in the beginning. No session has a lease or a transaction any
    /// more.
    pub async fn clear(&mut self) {
        /// Deletes leave dead rows, and autovacuum is off.
        const VACUUM_EVERY: u32 = 50;
        self.admin.batch_execute("select pg_advisory_unlock_all()").await.expect("open the gates");
        for application in &self.applications {
            application.batch_execute("rollback").await.expect("end its transaction");
        }
        if self.lists.is_multiple_of(VACUUM_EVERY) {
            self.admin.batch_execute("vacuum").await.expect("vacuum");
        }
        self.lists += 1;
        self.admin.batch_execute(include_str!("clear.sql")).await.expect("clear the tables");
    }

    /// Moves the clock ahead and says what it shows.
    pub async fn pass(&self, micros: Micros) -> Micros {
        let statement =
            "select setval('simulation.clock', (select last_value from simulation.clock) + $1)";
        self.ask(statement, &[&micros]).await.get(0)
    }

    pub fn slow_store(&self, lane: usize) -> &Store {
        &self.slow[lane]
    }

    pub async fn close_gate(&self, key: i32) {
        self.ask("select pg_advisory_lock(7777, $1)", &[&key]).await;
    }

    pub async fn open_gate(&self, key: i32) {
        self.ask("select pg_advisory_unlock(7777, $1)", &[&key]).await;
    }

    /// Whether a statement stands before this gate.
    pub async fn waits_at(&self, key: i32) -> bool {
        let statement = "select exists (select from pg_locks where locktype = 'advisory' \
             and classid = 7777 and objid = $1::integer::oid and not granted)";
        self.ask(statement, &[&key]).await.get(0)
    }

    /// Breaks off the statement of a slow session, as its time-out does.
    pub async fn break_off(&self, lane: usize) {
        let statement = "select pg_cancel_backend(pid) from pg_locks where locktype = 'advisory' \
             and classid = 7777 and objid::bigint / 10 = $1 and not granted";
        let lane = i64::try_from(lane).expect("there are three");
        self.read_with(statement, &[&lane]).await;
    }

    /// Ends the session that holds a relay's lease, from the server's side.
    pub async fn end_session(&self, relay: RelayId) {
        let statement =
            "select pg_terminate_backend(session_pid) from posthaste.relays where id = $1";
        self.read_with(statement, &[&relay]).await;
        self.session_is_gone(relay).await;
    }

    /// Waits until the server has noticed that a relay's lease session has ended.
    pub async fn session_is_gone(&self, relay: RelayId) {
        let statement = "select not exists (select from posthaste.relays r \
             join pg_stat_activity a on a.pid = r.session_pid where r.id = $1)";
        until("the lease's session to be gone", || async {
            let gone: bool = self.ask(statement, &[&relay]).await.get(0);
            gone.then_some(())
        })
        .await;
    }

    async fn ask(&self, statement: &'static str, parameters: &[&(dyn ToSql + Sync)]) -> Row {
        let mut rows = self.read_with(statement, parameters).await;
        rows.pop().expect("it answers with one row")
    }

    /// The committed rows, as a new session sees them.
    pub async fn read(&self, statement: &'static str) -> Vec<Row> {
        self.read_with(statement, &[]).await
    }

    pub async fn read_with(
        &self,
        statement: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Vec<Row> {
        let known = self.statements.lock().expect("nobody panics in here").get(statement).cloned();
        let prepared = match known {
            Some(prepared) => prepared,
            None => {
                let prepared = self.admin.prepare(statement).await.expect("prepare a statement");
                let mut statements = self.statements.lock().expect("nobody panics in here");
                statements.insert(statement, prepared.clone());
                prepared
            }
        };
        self.admin.query(&prepared, parameters).await.expect("ask the simulation's database")
    }
}

async fn connect(connections: &Mutex<JoinSet<()>>, url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
    let drive = async move { drop(connection.await) };
    connections.lock().expect("no panic while spawning").spawn(drive);
    client
}

pub fn timestamp(micros: Micros) -> Timestamp {
    Timestamp::from_microsecond(micros).expect("the simulation's clock is within its days")
}

pub fn seconds(seconds: u32) -> Micros {
    Micros::from(seconds) * SECOND
}
