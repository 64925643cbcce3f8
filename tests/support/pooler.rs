//! A private PgBouncer in front of the tests' cluster. In transaction mode each transaction is lent
//! one of a few sessions, and clients must not tell one from another.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use posthaste::sandbox::postgres::Cluster;
use posthaste::sandbox::watchdog::{self, Watchdog};
use tokio_postgres::NoTls;

use super::until;

/// Where packages put the program, besides the `PATH`: it counts as one for administrators.
const BESIDES_THE_PATH: [&str; 4] =
    ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin"];

/// A running pooler. Killed when dropped.
#[derive(Debug)]
pub struct Pooler {
    process: Child,
    watchdog: Watchdog,
    port: u16,
    /// The server's user, if we are root, which the pooler will not run as either.
    user: Option<(u32, u32)>,
    directory: tempfile::TempDir,
}

impl Pooler {
    /// A pooler that lends at most so many sessions of each database of the cluster, each for one
    /// transaction.
    ///
    /// # Panics
    /// If PgBouncer is not installed.
    pub async fn start(cluster: &Cluster, sessions: usize) -> Self {
        Self::start_in_mode("transaction", cluster, cluster.port(), sessions).await
    }

    /// The same, where it reaches the cluster by this port.
    ///
    /// # Panics
    /// If PgBouncer is not installed.
    pub async fn start_by_way_of(port: u16, cluster: &Cluster, sessions: usize) -> Self {
        Self::start_in_mode("transaction", cluster, port, sessions).await
    }

    /// The same, each for as long as the client stays.
    ///
    /// # Panics
    /// If PgBouncer is not installed.
    pub async fn start_in_session_mode(cluster: &Cluster, sessions: usize) -> Self {
        Self::start_in_mode("session", cluster, cluster.port(), sessions).await
    }

    async fn start_in_mode(mode: &str, cluster: &Cluster, of_server: u16, sessions: usize) -> Self {
        let directory = tempfile::tempdir().expect("make a directory for the pooler");
        let owner = fs::metadata(cluster.directory()).expect("look at the cluster's directory");
        let we = fs::metadata(directory.path()).expect("look at our directory").uid();
        let user = (we == 0).then_some((owner.uid(), owner.gid()));
        let port = free_port();
        fs::write(
            directory.path().join("pgbouncer.ini"),
            settings(mode, cluster, (of_server, port), sessions),
        )
        .expect("write the pooler's settings");
        if let Some((uid, gid)) = user {
            chown(directory.path(), Some(uid), Some(gid)).expect("hand over the directory");
        }
        let mut watchdog = Watchdog::start("KILL", None).expect("start a watchdog");
        let process = launch(directory.path(), user);
        watchdog.watch(process.id()).expect("tell the watchdog");
        let pooler = Self { process, watchdog, port, user, directory };
        pooler.ready().await;
        pooler
    }

    /// The way to a database through the pooler.
    pub fn url_for(&self, database: &str) -> String {
        format!("postgres://anyone@127.0.0.1:{}/{database}", self.port)
    }

    /// `kill -9`: every client and every server connection is cut.
    pub fn kill(&mut self) {
        watchdog::signal(self.process.id(), "KILL").expect("the pooler is there to be killed");
        self.process.wait().expect("wait for the pooler");
        self.watchdog.forget().expect("tell the watchdog");
    }

    /// Starts it again on its port.
    pub async fn start_again(&mut self) {
        self.process = launch(self.directory.path(), self.user);
        self.watchdog.watch(self.process.id()).expect("tell the watchdog");
        self.ready().await;
    }

    /// Waits until it takes clients: its console needs no server.
    async fn ready(&self) {
        until("the pooler to take clients", || async {
            tokio_postgres::connect(&self.url_for("pgbouncer"), NoTls).await.ok().map(drop)
        })
        .await;
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        drop(self.watchdog.forget());
        if std::thread::panicking() {
            let log = fs::read_to_string(self.directory.path().join("pgbouncer.log"));
            eprintln!("--- log of the pooler ---\n{}---", log.unwrap_or_default());
        }
    }
}

/// Every client is let in, and becomes the superuser: it listens on the loopback alone.
fn settings(
    mode: &str,
    cluster: &Cluster,
    (of_server, port): (u16, u16),
    sessions: usize,
) -> String {
    let url = cluster.url();
    let password = url.split([':', '@']).nth(2).expect("the cluster's URL has a password");
    format!(
        "[databases]\n\
         * = host=127.0.0.1 port={of_server} user=postgres password={password}\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = any\n\
         admin_users = anyone\n\
         pool_mode = {mode}\n\
         default_pool_size = {sessions}\n\
         max_client_conn = 200\n\
         server_login_retry = 1\n\
         logfile = pgbouncer.log\n"
    )
}

fn launch(directory: &Path, user: Option<(u32, u32)>) -> Child {
    let mut command = Command::new(program());
    command.args(["--quiet", "pgbouncer.ini"]).current_dir(directory);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some((uid, gid)) = user {
        use std::os::unix::process::CommandExt as _;
        command.uid(uid).gid(gid);
    }
    command.spawn().expect("start pgbouncer")
}

/// # Panics
/// If it is nowhere: a test that passes without it would prove nothing.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let besides = BESIDES_THE_PATH.iter().map(PathBuf::from);
    let found = std::env::split_paths(&path)
        .chain(besides)
        .map(|directory| directory.join("pgbouncer"))
        .find(|program| program.is_file());
    found.expect(
        "PgBouncer is not installed, and this test runs it; scripts/install-postgres pgbouncer \
         installs it on Debian and Ubuntu",
    )
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}
