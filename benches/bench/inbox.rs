//! The handle of the [`receiver`](super::receiver) process: what has arrived, and when.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use posthaste::clock::Clock;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, Command};

use super::receiver::{COUNT, TAKE};
use super::{PATIENCE, RECEIVER, processes};

/// Between two looks at how many have arrived; each costs the receiver one request.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running receiver. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Inbox {
    process: Child,
    _alive: Option<ChildStdin>,
    address: SocketAddr,
}

/// One request that the receiver took in.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) path: String,
    pub(crate) id: String,
    /// Microseconds of Unix time.
    pub(crate) at: i64,
    /// Requests that waited for an answer then, itself included.
    pub(crate) at_once: usize,
}

impl Inbox {
    pub(crate) async fn open() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(RECEIVER).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().context("start the receiver")?;
        let output = process.stdout.take().context("the receiver's output is piped")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).await?;
        let port = line.trim().parse().context("the receiver says its port")?;
        let alive = process.stdin.take();
        Ok(Self { process, _alive: alive, address: (Ipv4Addr::LOCALHOST, port).into() })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn cpu(&self) -> Result<Duration> {
        processes::cpu(self.process.id().context("the receiver runs")?)
    }

    /// Waits until this many have arrived, as long as there are more with every while.
    pub(crate) async fn filled(&self, count: usize) -> Result<()> {
        let (mut last, mut since) = (0, Clock.instant());
        loop {
            let arrived: usize = self.get(COUNT).await?.trim().parse()?;
            if arrived >= count {
                return Ok(());
            }
            if arrived > last {
                (last, since) = (arrived, Clock.instant());
            }
            ensure!(Clock.since(since) < PATIENCE, "of {count} only {arrived} have arrived");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Empties it.
    pub(crate) async fn take(&self) -> Result<Vec<Arrival>> {
        let text = self.get(TAKE).await?;
        text.lines()
            .map(|line| {
                let mut words = line.split(' ').map(str::to_owned);
                let mut word = || words.next().context("path, id, time and count");
                Ok(Arrival {
                    path: word()?,
                    id: word()?,
                    at: word()?.parse()?,
                    at_once: word()?.parse()?,
                })
            })
            .collect()
    }

    /// Has the receiver do as one of its paths says.
    pub(crate) async fn tell(&self, path: &str) -> Result<()> {
        self.get(path).await.map(drop)
    }

    async fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        let (_, body) = response.split_once("\r\n\r\n").context("an HTTP response")?;
        Ok(body.to_owned())
    }
}

/// Asserts that each event came exactly once to each path.
pub(crate) fn exactly_once(arrivals: &[Arrival], expected: usize) -> Result<()> {
    let different: HashSet<_> = arrivals.iter().map(|one| (&one.path, &one.id)).collect();
    ensure!(
        arrivals.len() == expected && different.len() == expected,
        "{} arrived, {} of them different; {expected} were owed",
        arrivals.len(),
        different.len()
    );
    Ok(())
}

/// From the first arrival to the last.
pub(crate) fn span(arrivals: &[Arrival]) -> Result<Duration> {
    let times = || arrivals.iter().map(|arrival| arrival.at);
    let (first, last) = times().min().zip(times().max()).context("something arrived")?;
    Ok(Duration::from_micros(u64::try_from(last - first)?))
}
