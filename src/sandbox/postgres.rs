//! A private PostgreSQL cluster, gone when it is dropped or when this process ends in any way.
//!
//! It is made in a temporary directory and reached on a free port of the loopback. The demo, the
//! tests and the benchmark run on it. It uses the server's own programs
//! ([`binaries`](super::binaries)) and is never the database of an application.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio_postgres::NoTls;

use super::binaries::{self, Binaries};
use super::user::{self, User};
use super::watchdog::Watchdog;
use crate::clock::Clock;

/// After a crash, a server on a busy machine replays its log first.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at whether it is ready.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long `pg_ctl` waits for the server to stop, in seconds.
const STOP_WITHIN_S: &str = "30";
/// The chosen port is free when it is looked up and may be taken when the server binds it.
const PORTS_TRIED: u32 = 5;
/// `sun_path` holds 108 bytes on Linux and 104 on the BSDs; the file's own name takes 15 of them.
const SOCKET_DIRECTORY_MAX: usize = 85;
/// Enough of the server's log to tell why it would not start.
const LOG_SHOWN_LINES: usize = 20;

/// Options of a cluster.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    /// The directory of `initdb`, `postgres` and `pg_ctl`; searched for if not given.
    pub binaries: Option<PathBuf>,
    /// Whether commits reach the disk. Without, the cluster is faster, and as safe against anything
    /// but a crash of the machine.
    pub fsync: bool,
    /// Lines added to `postgresql.conf`; they override the defaults here.
    pub settings: Vec<String>,
    /// The parent of the cluster's own directory (the system's temporary directory if not given).
    pub inside: Option<PathBuf>,
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Sessions are cut off, and everything is written out.
    Fast,
    /// As in a crash: nothing is written, the next start replays the log.
    Immediate,
}

/// Why there is no cluster, or why an operation on it failed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(transparent)]
    Binaries(#[from] binaries::BinariesError),
    #[error("prepare {}", path.display())]
    Prepare { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    User(#[from] user::UserError),
    #[error("draw a password")]
    Random,
    #[error("run {program}")]
    Run { program: &'static str, source: std::io::Error },
    #[error("{program} failed ({status}):\n{output}")]
    Failed { program: &'static str, status: std::process::ExitStatus, output: String },
    #[error("PostgreSQL ended while starting ({status}); its log ends with:\n{log}")]
    Ended { status: std::process::ExitStatus, log: String },
    #[error("PostgreSQL was not ready within {READY_WITHIN:?}; its log ends with:\n{log}")]
    NotReady { log: String, source: Box<tokio_postgres::Error> },
    #[error("tell the cluster's watchdog")]
    Watchdog(#[source] std::io::Error),
    #[error("connect to the private cluster")]
    Connect(#[source] tokio_postgres::Error),
    #[error("run an administrative statement")]
    Statement(#[source] tokio_postgres::Error),
}

/// A running (or stopped) private server. Its superuser is `postgres`, with a random password.
#[derive(Debug)]
pub struct Cluster {
    binaries: Binaries,
    /// The private directory: data, sockets and log.
    directory: PathBuf,
    /// The user that the server runs as, if it is another than this process's.
    user: Option<User>,
    password: String,
    port: u16,
    server: Option<Child>,
    watchdog: Watchdog,
}

impl Cluster {
    /// Makes a cluster and starts it; ready for connections when this returns (about a second).
    ///
    /// # Errors
    /// If the server's programs are not installed, or do not run; the message says what to do.
    pub async fn start(options: ClusterOptions) -> Result<Self, ClusterError> {
        let binaries = Binaries::find(options.binaries.as_deref())?;
        let inside = options.inside.clone().unwrap_or_else(std::env::temp_dir);
        let directory = inside.join(format!("posthaste-{}", random_hex(6)?));
        // Before the directory is made, so that no error can leave it behind.
        let watchdog = Watchdog::start("QUIT", Some(&directory)).map_err(ClusterError::Watchdog)?;
        let user = prepare_directory(&directory)?;
        let password = random_hex(16)?;
        let mut cluster =
            Self { binaries, directory, user, password, port: 0, server: None, watchdog };
        cluster.initialise().await?;
        cluster.write_settings(&options)?;
        cluster.start_on_a_free_port().await?;
        Ok(cluster)
    }

    /// A connection string for the superuser and the database `postgres`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_for("postgres")
    }

    /// The same for another database.
    #[must_use]
    pub fn url_for(&self, database: &str) -> String {
        let Self { password, port, .. } = self;
        format!("postgres://postgres:{password}@127.0.0.1:{port}/{database}")
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The postmaster's process number, if the server runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// The server's programs, for callers that need `psql` or `pgbench` of the same version.
    #[must_use]
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The private directory, for files that are to be removed with the cluster.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The server's log since the cluster was made.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn log(&self) -> Result<String, ClusterError> {
        let path = self.log_path();
        let bytes = fs::read(&path).map_err(|source| ClusterError::Prepare { path, source })?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Makes a database, a copy of `template` if given, to which no session may be connected.
    ///
    /// # Errors
    /// If the server is away or refuses, for instance because the database exists.
    pub async fn create_database(
        &self,
        name: &str,
        template: Option<&str>,
    ) -> Result<(), ClusterError> {
        let template = quoted(template.unwrap_or("template1"));
        self.execute(&format!("create database {} template {template}", quoted(name))).await
    }

    /// Drops a database and ends the sessions that are connected to it.
    ///
    /// # Errors
    /// If the server is away or refuses.
    pub async fn drop_database(&self, name: &str) -> Result<(), ClusterError> {
        self.execute(&format!("drop database if exists {} with (force)", quoted(name))).await
    }

    /// Stops the server. Its data stay: see [`start_again`](Self::start_again).
    ///
    /// # Errors
    /// If it did not stop within half a minute.
    pub async fn stop(&mut self, mode: StopMode) -> Result<(), ClusterError> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        let stopping = tokio::process::Command::from(self.stop_command(mode)).output().await;
        let stopped = finished("pg_ctl", stopping);
        if stopped.is_err() {
            // It did not end by itself; a killed postmaster takes its sessions along.
            drop(server.kill());
        }
        // `pg_ctl` returns when the server has removed its pid file, which is its last act.
        drop(server.wait());
        self.watchdog.forget().map_err(ClusterError::Watchdog)?;
        stopped
    }

    /// Starts a stopped server on the port it had.
    ///
    /// # Errors
    /// If it does not start, or the port has been taken meanwhile.
    pub async fn start_again(&mut self) -> Result<(), ClusterError> {
        if self.server.is_none() { self.launch().await } else { Ok(()) }
    }

    /// Stops the server and starts it on the same port.
    ///
    /// # Errors
    /// As for [`stop`](Self::stop) and [`start_again`](Self::start_again).
    pub async fn restart(&mut self, mode: StopMode) -> Result<(), ClusterError> {
        self.stop(mode).await?;
        self.launch().await
    }

    async fn initialise(&self) -> Result<(), ClusterError> {
        let password_file = self.directory.join("password");
        write_private(&password_file, &self.password, self.user)?;
        let mut initdb = self.command("initdb");
        initdb.arg("--pgdata").arg(self.data_path()).arg("--pwfile").arg(&password_file);
        initdb.args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8"]);
        initdb.args(["--no-locale", "--no-sync", "--no-instructions"]);
        let made = finished("initdb", tokio::process::Command::from(initdb).output().await);
        fs::remove_file(&password_file)
            .map_err(|source| ClusterError::Prepare { path: password_file, source })?;
        made
    }

    fn write_settings(&self, options: &ClusterOptions) -> Result<(), ClusterError> {
        let path = self.data_path().join("postgresql.conf");
        let sockets = self.directory.to_string_lossy();
        let sockets = if sockets.len() > SOCKET_DIRECTORY_MAX { "" } else { &sockets };
        let mut lines = vec![
            "listen_addresses = '127.0.0.1'".to_owned(),
            format!("unix_socket_directories = '{}'", sockets.replace('\'', "''")),
            "max_connections = 200".to_owned(),
            "timezone = 'UTC'".to_owned(),
            "log_timezone = 'UTC'".to_owned(),
        ];
        if !options.fsync {
            lines.push("fsync = off".to_owned());
            lines.push("full_page_writes = off".to_owned());
        }
        lines.extend(options.settings.iter().cloned());
        let text = lines.join("\n") + "\n";
        File::options()
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|source| ClusterError::Prepare { path, source })
    }

    async fn start_on_a_free_port(&mut self) -> Result<(), ClusterError> {
        let mut tried = 1;
        loop {
            self.port = free_port().map_err(|source| ClusterError::Prepare {
                path: PathBuf::from("a port of 127.0.0.1"),
                source,
            })?;
            match self.launch().await {
                // The log says "Address already in use"; any other reason shows again at once.
                Err(ClusterError::Ended { .. }) if tried < PORTS_TRIED => tried += 1,
                done => return done,
            }
        }
    }

    /// Starts the server and waits until it takes connections.
    async fn launch(&mut self) -> Result<(), ClusterError> {
        let log_path = self.log_path();
        let log = File::options().create(true).append(true).open(&log_path);
        let (log, also_log) = log
            .and_then(|log| Ok((log.try_clone()?, log)))
            .map_err(|source| ClusterError::Prepare { path: log_path, source })?;
        let mut postgres = self.command("postgres");
        postgres.arg("-D").arg(self.data_path()).args(["-p", &self.port.to_string()]);
        // A group of its own: this process acts on a Ctrl-C at the terminal.
        postgres.stdin(Stdio::null()).stdout(log).stderr(also_log).process_group(0);
        let server =
            postgres.spawn().map_err(|source| ClusterError::Run { program: "postgres", source })?;
        self.watchdog.watch(server.id()).map_err(ClusterError::Watchdog)?;
        self.server = Some(server);
        self.ready().await
    }

    /// Waits for the first connection; the server's log tells of errors before it.
    async fn ready(&mut self) -> Result<(), ClusterError> {
        let began = Clock.instant();
        loop {
            let Err(refused) = tokio_postgres::connect(&self.url(), NoTls).await else {
                return Ok(());
            };
            if let Some(status) = self.ended() {
                self.server = None;
                self.watchdog.forget().map_err(ClusterError::Watchdog)?;
                return Err(ClusterError::Ended { status, log: self.last_log_lines() });
            }
            if Clock.since(began) > READY_WITHIN {
                let log = self.last_log_lines();
                return Err(ClusterError::NotReady { log, source: Box::new(refused) });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.server.as_mut().and_then(|server| server.try_wait().ok().flatten())
    }

    async fn execute(&self, statement: &str) -> Result<(), ClusterError> {
        let (client, connection) =
            tokio_postgres::connect(&self.url(), NoTls).await.map_err(ClusterError::Connect)?;
        let done = async move {
            // The connection ends when the client is dropped, after the statement.
            client.batch_execute(statement).await
        };
        let (done, _closed) = tokio::join!(done, connection);
        done.map_err(ClusterError::Statement)
    }

    fn stop_command(&self, mode: StopMode) -> Command {
        let mut pg_ctl = self.command("pg_ctl");
        let mode = match mode {
            StopMode::Fast => "--mode=fast",
            StopMode::Immediate => "--mode=immediate",
        };
        pg_ctl.args(["stop", "--wait", "--timeout", STOP_WITHIN_S, mode, "--pgdata"]);
        pg_ctl.arg(self.data_path());
        pg_ctl
    }

    /// One of the server's programs, run as the server's user, with English messages.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.path(program));
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command.current_dir(&self.directory).env("LC_ALL", "C").env_remove("PGDATA");
        command
    }

    fn data_path(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("postgres.log")
    }

    fn last_log_lines(&self) -> String {
        let log = self.log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_SHOWN_LINES)..].join("\n")
    }
}

impl Drop for Cluster {
    /// Crashes the server, which is the fastest way to end it, and removes its directory. Blocks
    /// for a fraction of a second.
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            if !matches!(self.stop_command(StopMode::Immediate).output(), Ok(o) if o.status.success())
            {
                drop(server.kill());
            }
            drop(server.wait());
            drop(self.watchdog.forget());
        }
        // The watchdog, dropped next, removes the directory.
    }
}

/// Makes the private directory, and gives it to the user that the server must run as.
fn prepare_directory(directory: &Path) -> Result<Option<User>, ClusterError> {
    let prepare = |source| ClusterError::Prepare { path: directory.to_owned(), source };
    fs::DirBuilder::new().mode(0o700).create(directory).map_err(prepare)?;
    let user = user::for_server(fs::metadata(directory).map_err(prepare)?.uid())?;
    if let Some(User { uid, gid }) = user {
        std::os::unix::fs::chown(directory, Some(uid), Some(gid)).map_err(prepare)?;
    }
    Ok(user)
}

fn write_private(path: &Path, text: &str, owner: Option<User>) -> Result<(), ClusterError> {
    let prepare = |source| ClusterError::Prepare { path: path.to_owned(), source };
    let mut file =
        File::options().write(true).create_new(true).mode(0o600).open(path).map_err(prepare)?;
    file.write_all(text.as_bytes()).map_err(prepare)?;
    if let Some(User { uid, gid }) = owner {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(prepare)?;
    }
    Ok(())
}

fn finished(
    program: &'static str,
    ran: std::io::Result<std::process::Output>,
) -> Result<(), ClusterError> {
    let output = ran.map_err(|source| ClusterError::Run { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    let output_text = String::from_utf8_lossy(&text).trim().to_owned();
    Err(ClusterError::Failed { program, status: output.status, output: output_text })
}

fn random_hex(bytes: usize) -> Result<String, ClusterError> {
    let mut drawn = vec![0; bytes];
    SystemRandom::new().fill(&mut drawn).map_err(|_unspecified| ClusterError::Random)?;
    Ok(drawn.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Options with the server that the tests are to run on.
    fn options() -> ClusterOptions {
        let given = std::env::var_os("POSTHASTE_TEST_POSTGRES").filter(|given| !given.is_empty());
        ClusterOptions { binaries: given.map(PathBuf::from), ..ClusterOptions::default() }
    }

    async fn answer(url: &str, statement: &str) -> String {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        let asked = async move {
            let row = client.query_one(statement, &[]).await.unwrap();
            row.get::<_, String>(0)
        };
        tokio::join!(asked, connection).0
    }

    #[tokio::test]
    async fn a_cluster_serves_until_it_is_dropped_and_leaves_nothing() {
        let cluster = Cluster::start(options()).await.unwrap();
        let (directory, pid) = (cluster.directory.clone(), cluster.pid().unwrap());
        assert_eq!(answer(&cluster.url(), "show fsync").await, "off");
        drop(cluster);
        assert!(!directory.exists());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[tokio::test]
    async fn a_crash_loses_no_commit_and_the_port_stays() {
        let options = ClusterOptions {
            fsync: true,
            settings: vec!["work_mem = '5MB'".to_owned()],
            ..options()
        };
        let mut cluster = Cluster::start(options).await.unwrap();
        assert_eq!(answer(&cluster.url(), "show work_mem").await, "5MB");
        cluster.create_database("shop", None).await.unwrap();
        let shop = cluster.url_for("shop");
        answer(&shop, "with t as (select 1) select 'x'").await;
        cluster.execute("create table kept as select 'still here'::text as word").await.unwrap();
        cluster.restart(StopMode::Immediate).await.unwrap();
        assert_eq!(answer(&cluster.url(), "select word from kept").await, "still here");
        assert_eq!(answer(&shop, "select current_database()::text").await, "shop");
        cluster.stop(StopMode::Fast).await.unwrap();
        assert_eq!(cluster.pid(), None);
        assert!(tokio_postgres::connect(&shop, NoTls).await.is_err());
    }

    #[tokio::test]
    async fn a_wrong_password_is_refused() {
        let cluster = Cluster::start(options()).await.unwrap();
        let url = cluster.url().replace(&cluster.password, "wrong");
        let refused = tokio_postgres::connect(&url, NoTls).await.err().unwrap();
        assert_eq!(refused.code().unwrap().code(), "28P01");
    }

    #[tokio::test]
    async fn a_setting_that_does_not_exist_is_told_from_the_log() {
        let settings = vec!["no_such_setting = 1".to_owned()];
        let options = ClusterOptions { settings, ..options() };
        let error = Cluster::start(options).await.unwrap_err();
        assert!(error.to_string().contains("no_such_setting"), "{error}");
    }

    #[test]
    fn identifiers_are_quoted() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
