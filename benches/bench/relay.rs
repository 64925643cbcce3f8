//! The relay as it is in life: the release binary in a process of its own, with default settings
//! but that it may dial the loopback.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use posthaste::clock::Clock;
use posthaste::sandbox::watchdog::{self, Watchdog};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::lab::{Bed, Lab};
use super::{PATIENCE, processes};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_posthaste");
const LOOPBACK: &str = r#"["127.0.0.0/8"]"#;
/// Between two looks at whether it is ready: as exact as the start is measured.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A running `posthaste run`, killed when dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    process: Child,
    /// `relay.name`, where it was given one.
    pub(crate) name: String,
    pub(crate) pid: u32,
    address: SocketAddr,
    log: PathBuf,
    watchdog: Watchdog,
    _directory: tempfile::TempDir,
    /// From the start of the process to the first 200 of `/ready`.
    pub(crate) took: Duration,
}

impl Relay {
    pub(crate) async fn start(lab: &Lab, bed: &Bed) -> Result<Self> {
        // It is frozen while a backlog is written, and must not take itself for dead after that.
        Self::start_with(lab, bed, &[("RELAY__LEASE", "10m")]).await
    }

    /// With these settings in its environment.
    pub(crate) async fn start_with(lab: &Lab, bed: &Bed, with: &[(&str, &str)]) -> Result<Self> {
        let address = free_address()?;
        let directory = tempfile::tempdir()?;
        let log = directory.path().join("relay.log");
        let file = File::create(&log)?;
        let mut command = Command::new(BINARY);
        command.arg("run").env_clear().current_dir(directory.path());
        command.args(lab.settings.iter().map(|setting| format!("--set={setting}")));
        command.env("DATABASE_URL", &bed.url);
        command.env("POSTHASTE_HTTP__LISTEN", address.to_string());
        command.env("POSTHASTE_ADDRESSES__ALLOW", LOOPBACK);
        command.env("POSTHASTE_ADDRESSES__ALLOW_HTTP", LOOPBACK);
        for (setting, value) in with {
            command.env(format!("POSTHASTE_{setting}"), value);
        }
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
        let mut watchdog = Watchdog::start("KILL", None)?;
        let began = Clock.instant();
        let process = command.spawn().context("start posthaste")?;
        let pid = process.id().context("a process just started has a number")?;
        watchdog.watch(pid)?;
        let took = Duration::ZERO;
        let name = with.iter().find(|(setting, _)| *setting == "RELAY__NAME");
        let name = name.map_or_else(String::new, |(_, name)| (*name).to_owned());
        let mut relay =
            Self { process, name, pid, address, log, watchdog, _directory: directory, took };
        relay.ready().await?;
        relay.took = Clock.since(began);
        Ok(relay)
    }

    pub(crate) fn cpu(&self) -> Result<Duration> {
        processes::cpu(self.pid)
    }

    /// Stands still: what is written meanwhile waits.
    pub(crate) fn freeze(&self) -> Result<()> {
        Ok(watchdog::signal(self.pid, "STOP")?)
    }

    pub(crate) fn thaw(&self) -> Result<()> {
        Ok(watchdog::signal(self.pid, "CONT")?)
    }

    /// A signal by its name.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        Ok(watchdog::signal(self.pid, name)?)
    }

    /// SIGTERM, and waits for the orderly end.
    pub(crate) async fn stop(mut self) -> Result<()> {
        watchdog::signal(self.pid, "TERM")?;
        let ended = tokio::time::timeout(PATIENCE, self.process.wait()).await;
        let status = ended.context("the relay would not stop")??;
        self.watchdog.forget()?;
        ensure!(status.success(), "the relay ended badly ({status}):\n{}", self.log());
        Ok(())
    }

    /// SIGKILL, for one whose requests hang.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.process.kill().await?;
        Ok(self.watchdog.forget()?)
    }

    async fn ready(&mut self) -> Result<()> {
        let began = Clock.instant();
        while !self.says_ready().await {
            if self.process.try_wait()?.is_some() || Clock.since(began) > PATIENCE {
                bail!("the relay is not ready:\n{}", self.log());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn says_ready(&self) -> bool {
        self.get("/ready").await.is_ok_and(|response| response.starts_with("HTTP/1.1 200"))
    }

    /// All it counts.
    pub(crate) async fn metrics(&self) -> Result<String> {
        Ok(self.get("/metrics").await?)
    }

    async fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        Ok(response)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
