//! The real binary as a child process, so that it can be killed, frozen and stopped as in life.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use posthaste::sandbox::watchdog::{self, Watchdog};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::{TestDatabase, until, within};

/// Opens the loopback for deliveries, over plain HTTP too.
const LOOPBACK: &str = r#"["127.0.0.0/8", "::1/128", "localhost"]"#;

/// How a relay is to be started.
#[derive(Debug)]
pub struct RelayBuilder {
    database_url: String,
    settings: Vec<(String, String)>,
    log: Option<PathBuf>,
    arguments: Vec<&'static str>,
    files: Option<u32>,
    door: Option<SocketAddr>,
}

/// A running `posthaste run`. Killed when dropped; its log is shown if the test has failed.
#[derive(Debug)]
pub struct Relay {
    process: Child,
    pid: u32,
    address: SocketAddr,
    door: Option<SocketAddr>,
    log: PathBuf,
    _directory: tempfile::TempDir,
    /// For when the test process is itself killed.
    watchdog: Watchdog,
}

impl RelayBuilder {
    /// Another setting, by its key in `posthaste.toml`: `set("relay.grace", "2s")`.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        let variable = format!("POSTHASTE_{}", key.to_uppercase().replace('.', "__"));
        self.settings.push((variable, value.to_owned()));
        self
    }

    /// Adds its log to this file, which stays, instead of one that goes with the relay.
    pub fn log_to(self, file: PathBuf) -> Self {
        Self { log: Some(file), ..self }
    }

    /// As `posthaste run --migrate`.
    pub fn migrating(mut self) -> Self {
        self.arguments.push("--migrate");
        self
    }

    /// It takes in webhooks: of a source `shop`, which proves itself with the token `s3cret`.
    pub fn taking_in(self) -> Self {
        self.taking_in_at(free_address())
    }

    /// The same, where another one did.
    pub fn taking_in_at(self, door: SocketAddr) -> Self {
        let there = self.set("ingest.listen", &door.to_string());
        let there = there.set("ingest.sources.shop.secret", "s3cret");
        // A test that holds up the database lets go of it when all has come.
        Self { door: Some(door), ..there.set("ingest.commit_timeout", "1m") }
    }

    /// It may have no more files open at once, connections included.
    pub fn with_files(mut self, most: u32) -> Self {
        self.files = Some(most);
        self
    }

    /// Starts the relay and waits until it says that it is ready.
    pub async fn start(self) -> Relay {
        let mut relay = self.spawn();
        relay.ready().await;
        relay
    }

    /// Starts it without waiting: for a relay that is not expected to become ready.
    pub fn spawn(self) -> Relay {
        let address = std::iter::repeat_with(free_address)
            .find(|&free| Some(free) != self.door)
            .expect("there are other ports");
        let directory = tempfile::tempdir().expect("make a directory for the log");
        let log = self.log.clone().unwrap_or_else(|| directory.path().join("relay.log"));
        let file = File::options().create(true).append(true).open(&log).expect("open the log");
        let mut command = self.command();
        command.arg("run").args(self.arguments).env_clear().current_dir(directory.path());
        command.env("DATABASE_URL", &self.database_url);
        command.env("POSTHASTE_HTTP__LISTEN", address.to_string());
        command.env("POSTHASTE_ADDRESSES__ALLOW", LOOPBACK);
        command.env("POSTHASTE_ADDRESSES__ALLOW_HTTP", LOOPBACK);
        command.envs(self.settings);
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("share the log")).stderr(file);
        let process = command.kill_on_drop(true).spawn().expect("start posthaste");
        let pid = process.id().expect("a process just started has a number");
        let mut watchdog = Watchdog::start("KILL", None).expect("start a watchdog");
        watchdog.watch(pid).expect("tell the watchdog");
        let door = self.door;
        Relay { process, pid, address, door, log, _directory: directory, watchdog }
    }
}

impl RelayBuilder {
    fn command(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_posthaste");
        let Some(files) = self.files else { return Command::new(program) };
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!(r#"ulimit -n {files}; exec "$0" "$@""#)).arg(program);
        shell
    }
}

impl Relay {
    /// A relay with the defaults, but that it may dial the loopback.
    pub async fn start(database: &TestDatabase) -> Self {
        Self::on(&database.url()).start().await
    }

    /// A relay on a database given by its URL.
    pub fn on(database_url: &str) -> RelayBuilder {
        let (settings, arguments) = (Vec::new(), Vec::new());
        let database_url = database_url.to_owned();
        RelayBuilder { database_url, settings, arguments, files: None, log: None, door: None }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where it answers for health and metrics.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it takes in webhooks.
    pub fn door(&self) -> SocketAddr {
        self.door.expect("it was told to take in webhooks")
    }

    /// Waits until it takes in webhooks, ready or not.
    #[track_caller]
    pub fn lets_in(&self) -> impl Future<Output = ()> + '_ {
        until("the relay to take in webhooks", move || async move {
            TcpStream::connect(self.door()).await.ok().map(drop)
        })
    }

    /// Its spool, as `/status` has it.
    pub async fn spool(&self) -> serde_json::Value {
        let (_, body) = self.get("/status").await.expect("the relay answers");
        serde_json::from_str::<serde_json::Value>(&body).expect("it is JSON")["spool"].clone()
    }

    /// The status and body of a GET, or nothing if it does not answer.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await.ok()?;
        let (head, body) = response.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }

    /// A metric now, summed over its labels, or over those lines that hold `labels`.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let (_, text) = self.get("/metrics").await.expect("the relay answers");
        let line = |line: &str| -> Option<f64> {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
            let (said, value) = rest.rsplit_once(' ')?;
            said.contains(labels).then(|| value.parse().expect("a metric is a number"))
        };
        text.lines().filter_map(line).sum()
    }

    /// Waits until it sleeps: then it looks no more, and only the bell wakes it.
    #[track_caller]
    pub fn asleep(&self) -> impl Future<Output = ()> + '_ {
        until("the relay to sleep", move || async move {
            (self.metric("posthaste_asleep", "").await > 0.0).then_some(())
        })
    }

    /// Waits until `/ready` says 200.
    ///
    /// # Panics
    /// If the process ends first.
    #[track_caller]
    pub fn ready(&mut self) -> impl Future<Output = ()> + '_ {
        within("the relay to be ready", async move {
            loop {
                if let Some((200, _)) = self.get("/ready").await {
                    return;
                }
                if let Some(status) = self.process.try_wait().expect("look at the relay") {
                    panic!("the relay ended before it was ready: {status}");
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
    }

    /// Waits until its log holds a text, and returns the line.
    #[track_caller]
    pub fn logs<'a>(&'a self, text: &'a str) -> impl Future<Output = String> + 'a {
        until("a line in the relay's log", move || async move {
            self.log().lines().find(|line| line.contains(text)).map(str::to_owned)
        })
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `kill -9`, and waits until it is dead.
    pub async fn kill(&mut self) {
        self.signal("KILL");
        assert_eq!(self.exit().await.signal(), Some(9));
    }

    /// SIGSTOP: it stands still, and its connections stay open.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// SIGTERM, and waits for the exit.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.exit().await
    }

    /// Waits until the process ends by itself.
    #[track_caller]
    pub fn exit(&mut self) -> impl Future<Output = ExitStatus> + '_ {
        within("the relay to end", async move {
            let status = self.process.wait().await.expect("wait for the relay");
            self.watchdog.forget().expect("tell the watchdog");
            status
        })
    }

    /// Its status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.process.try_wait().expect("look at the relay");
        if status.is_some() {
            self.watchdog.forget().expect("tell the watchdog");
        }
        status
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        watchdog::signal(self.pid, name).expect("the relay is there to take a signal");
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of relay {} ---\n{}---", self.pid, self.log());
        }
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a free port");
    listener.local_addr().expect("a bound socket has an address")
}
