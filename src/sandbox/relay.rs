//! `posthaste` as a child process of the demo: the same binary and the same environment variables
//! as in a deployment, so that it can be killed for show.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};

use super::watchdog::{Watchdog, signal};
use crate::clock::Clock;
use crate::serve::probe;

const READY_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Nothing that the demo sends takes longer than the slow endpoint.
const STOPPED_WITHIN: Duration = Duration::from_secs(15);
/// Enough of the relay's log to tell why it would not start.
const LOG_SHOWN_LINES: usize = 20;

/// A running relay. It ends with this value, and with this process.
#[derive(Debug)]
pub struct RelayProcess {
    process: Child,
    pid: u32,
    address: SocketAddr,
    log: PathBuf,
    watchdog: Watchdog,
}

/// Why the relay process failed.
#[derive(Debug, thiserror::Error)]
pub enum RelayProcessError {
    #[error("find the path of this program")]
    ThisProgram(#[source] std::io::Error),
    #[error("start `posthaste {command}`")]
    Start { command: &'static str, source: std::io::Error },
    #[error("`posthaste migrate` failed:\n{0}")]
    Migrate(String),
    #[error("the relay was not ready within {READY_WITHIN:?}; its log ends with:\n{0}")]
    NotReady(String),
    #[error("signal the relay or wait for it")]
    Signal(#[source] std::io::Error),
    #[error("the relay did not stop within {STOPPED_WITHIN:?} after SIGTERM")]
    WouldNotStop,
    #[error("the relay stopped with {status}; its log ends with:\n{log}")]
    StoppedBadly { status: ExitStatus, log: String },
}

/// Runs `posthaste migrate` to its end.
///
/// # Errors
/// With its whole output, if it failed.
pub async fn migrate(database_url: &str, directory: &Path) -> Result<(), RelayProcessError> {
    let mut command = posthaste("migrate", database_url, directory)?;
    let start = |source| RelayProcessError::Start { command: "migrate", source };
    let output = command.output().await.map_err(start)?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(RelayProcessError::Migrate(String::from_utf8_lossy(&said).trim().to_owned()))
}

impl RelayProcess {
    /// Runs `posthaste run`; ready when this returns.
    ///
    /// # Errors
    /// If it cannot be started, or is not ready in time.
    pub async fn start(database_url: &str, directory: &Path) -> Result<Self, RelayProcessError> {
        let start = |source| RelayProcessError::Start { command: "run", source };
        let address = free_address().map_err(start)?;
        let log = directory.join("relay.log");
        let file = File::options().create(true).append(true).open(&log).map_err(start)?;
        let mut command = posthaste("run", database_url, directory)?;
        command.env("POSTHASTE_HTTP__LISTEN", address.to_string());
        // The demo's endpoints are on the loopback, which a relay does not dial by default.
        command.env("POSTHASTE_ADDRESSES__ALLOW", r#"["127.0.0.1/32"]"#);
        command.env("POSTHASTE_ADDRESSES__ALLOW_HTTP", r#"["127.0.0.1/32"]"#);
        command.stdout(file.try_clone().map_err(start)?).stderr(file).kill_on_drop(true);
        let process = command.process_group(0).spawn().map_err(start)?;
        let pid = process.id().unwrap_or_default();
        let mut watchdog = Watchdog::start("KILL", None).map_err(start)?;
        watchdog.watch(pid).map_err(start)?;
        let mut relay = Self { process, pid, address, log, watchdog };
        relay.ready().await?;
        Ok(relay)
    }

    /// `kill -9`, as by an out-of-memory killer or a power failure.
    ///
    /// # Errors
    /// If it has ended already.
    pub async fn kill(mut self) -> Result<(), RelayProcessError> {
        self.process.kill().await.map_err(RelayProcessError::Signal)?;
        self.watchdog.forget().map_err(RelayProcessError::Signal)
    }

    /// SIGTERM, and waits for the orderly end.
    ///
    /// # Errors
    /// If it does not end in time, or not with success.
    pub async fn stop(mut self) -> Result<(), RelayProcessError> {
        signal(self.pid, "TERM").map_err(RelayProcessError::Signal)?;
        let ended = tokio::time::timeout(STOPPED_WITHIN, self.process.wait()).await;
        let status = ended
            .map_err(|_elapsed| RelayProcessError::WouldNotStop)?
            .map_err(RelayProcessError::Signal)?;
        self.watchdog.forget().map_err(RelayProcessError::Signal)?;
        if status.success() {
            return Ok(());
        }
        Err(RelayProcessError::StoppedBadly { status, log: self.last_log_lines() })
    }

    async fn ready(&mut self) -> Result<(), RelayProcessError> {
        let began = Clock.instant();
        while !self.says_ready().await {
            let ended = self.process.try_wait().map_err(RelayProcessError::Signal)?.is_some();
            if ended || Clock.since(began) > READY_WITHIN {
                return Err(RelayProcessError::NotReady(self.last_log_lines()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn says_ready(&self) -> bool {
        let url = format!("http://{}/ready", self.address);
        probe::get(&url, READY_WITHIN).await.is_ok_and(|(status, _)| status.is_success())
    }

    fn last_log_lines(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_SHOWN_LINES)..].join("\n")
    }
}

/// This program with only the database in its environment, in a directory without `posthaste.toml`.
fn posthaste(
    command: &'static str,
    database_url: &str,
    directory: &Path,
) -> Result<Command, RelayProcessError> {
    let mut process =
        Command::new(std::env::current_exe().map_err(RelayProcessError::ThisProgram)?);
    process.arg(command).env_clear().env("DATABASE_URL", database_url);
    process.current_dir(directory).stdin(Stdio::null());
    Ok(process)
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
