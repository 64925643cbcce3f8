//! The cost of taking a webhook in, beside what it cannot do without: an HTTP server that only
//! answers, and a database that only inserts.
//!
//! The server is a bare hyper in a process of its own, one thread, which reads the body and answers
//! 204. The door is the relay's, with GitHub's signature checked over each body, and answers when
//! the commit is on the disk. The database is driven by pgbench with the door's own statement, one
//! webhook in each, as many clients as there are connections. No endpoint is there: what becomes of
//! an event once it is stored is measured elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use posthaste::clock::Clock;
use posthaste::store::{ROUTER_PLANS, SESSION};
use ring::hmac;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::insert::pgbench;
use super::lab::{Bed, Lab, silence};
use super::load;
use super::receiver::BARE;
use super::relay::{Relay, free_address};
use super::report::busy;
use super::results::Figure;
use super::runs::{quantile, sorted};

/// As many connections as a few busy senders keep open; each waits for its answer before it sends
/// again.
const CONNECTIONS: usize = 64;
/// Webhooks a second where they come on a schedule, whether or not those before were answered.
const STEADY: u32 = 500;
const LASTING: Duration = Duration::from_secs(3);
/// … and in full.
const IN_FULL: Duration = Duration::from_secs(20);
const RUNS: usize = 3;

const SECRET: &str = "It's a Secret to Everybody";
/// The writer's statement.
const RECEIVE: &str = include_str!("../../sql/queries/receive.sql");

const BARE_SERVER: &str = "a bare server that answers 204";
const DOOR: &str = "the door, verified and committed";
const DATABASE: &str = "pgbench, the same statement";
const RATE: &str = "requests/s";
const WORST: &str = "p99 ms";

/// When the next is sent.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// As soon as the one before is answered.
    Closed,
    /// On a schedule of so many a second.
    Steady(u32),
}

/// Figures of one run: milliseconds sorted, from when each was due; microseconds of processor time
/// a request.
#[derive(Debug)]
struct Knocked {
    rate: f64,
    milliseconds: Vec<f64>,
    server: f64,
    postgres: f64,
    together: f64,
}

const OF_BARE: [Figure<Knocked>; 4] = [
    (RATE, 0, |run| run.rate),
    ("p50 ms", 2, |run| quantile(&run.milliseconds, 0.5)),
    (WORST, 2, |run| quantile(&run.milliseconds, 0.99)),
    ("its CPU µs a request", 1, |run| run.server),
];
const OF_DOOR: [Figure<Knocked>; 6] = [
    OF_BARE[0],
    OF_BARE[1],
    OF_BARE[2],
    OF_BARE[3],
    ("Postgres CPU µs a request", 1, |run| run.postgres),
    ("requests a commit", 1, |run| run.together),
];

pub(crate) async fn measure(lab: &mut Lab) -> Result<()> {
    let lasting = if lab.in_full { IN_FULL } else { LASTING };
    let (mut bare, mut door, mut database, mut steady) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // In turns, so that a neighbour on the machine disturbs all of them alike.
    for _ in 0..RUNS {
        bare.push(at_bare_server(lab, lasting).await?);
        door.push(at_door(lab, Pace::Closed, lasting).await?);
        database.push(at_database(lab, lasting).await?);
        steady.push(at_door(lab, Pace::Steady(STEADY), lasting).await?);
    }
    lab.results.keep_all(BARE_SERVER, &bare, &OF_BARE);
    lab.results.keep_all(DOOR, &door, &OF_DOOR);
    lab.results.keep((DATABASE, RATE), 0, database.iter().map(|(rate, _)| *rate).collect());
    let cpu = database.iter().map(|(_, cpu)| *cpu).collect();
    lab.results.keep((DATABASE, "Postgres CPU µs a request"), 1, cpu);
    let at_a_rate = format!("the door at {STEADY} a second");
    lab.results.keep_all(&at_a_rate, &steady, &OF_DOOR);
    lab.results.show();
    println!(
        "\nMedians of {RUNS} runs of {lasting:?} over {CONNECTIONS} connections, taken in turns; pgbench's \
         processor time holds none of its own; {}.",
        busy()
    );
    lab.results.compare((DOOR, RATE), (BARE_SERVER, RATE), "")?;
    lab.results.compare((DOOR, RATE), (DATABASE, RATE), "")?;
    lab.results.mention((DOOR, WORST))?;
    lab.results.mention((&at_a_rate, WORST))
}

async fn at_bare_server(lab: &Lab, lasting: Duration) -> Result<Knocked> {
    let address = lab.inbox.address();
    knock(address, BARE, Pace::Closed, Duration::from_millis(500)).await?;
    let before = lab.inbox.cpu()?;
    let answered = knock(address, BARE, Pace::Closed, lasting).await?;
    let requests = answered.milliseconds.len() as f64;
    let server = (lab.inbox.cpu()? - before).as_secs_f64() * 1e6 / requests;
    Ok(Knocked { server, ..answered })
}

async fn at_door(lab: &mut Lab, pace: Pace, lasting: Duration) -> Result<Knocked> {
    let bed = lab.bed().await?;
    let address = free_address()?;
    let settings = [
        ("INGEST__LISTEN", address.to_string()),
        ("INGEST__SOURCES__GITHUB__VERIFY", "github".to_owned()),
        ("INGEST__SOURCES__GITHUB__SECRET", SECRET.to_owned()),
    ];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let relay = Relay::start_with(lab, &bed, &settings).await?;
    // Connections and plans are made once, not with every webhook.
    let before = knock(address, "/in/github", pace, Duration::from_millis(500)).await?;
    let (cpu, postgres) = (relay.cpu()?, lab.postgres_cpu()?);
    let together = Together::read(&relay).await?;
    let answered = knock(address, "/in/github", pace, lasting).await?;
    let requests = answered.milliseconds.len() as f64;
    let a_request = |cpu: Duration| cpu.as_secs_f64() * 1e6 / requests;
    let server = a_request(relay.cpu()? - cpu);
    let postgres = a_request(lab.postgres_cpu()? - postgres);
    let together = Together::read(&relay).await?.since(&together);
    let stored: i64 = bed.query_one("select count(*) from posthaste.outbox", &[]).await?.get(0);
    let sent = before.milliseconds.len() + answered.milliseconds.len();
    ensure!(usize::try_from(stored)? == sent, "{stored} events of {sent} webhooks");
    relay.stop().await?;
    bed.drop(lab).await?;
    Ok(Knocked { server, postgres, together, ..answered })
}

/// How many webhooks the door has stored, and in how many statements.
struct Together {
    webhooks: f64,
    statements: f64,
}

impl Together {
    async fn read(relay: &Relay) -> Result<Self> {
        let text = relay.metrics().await?;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.map_or(Ok(0.0), str::parse).context("a metric is a number")
        };
        Ok(Self {
            webhooks: value("posthaste_ingest_batch_size_sum")?,
            statements: value("posthaste_ingest_batch_size_count")?,
        })
    }

    fn since(&self, before: &Self) -> f64 {
        (self.webhooks - before.webhooks) / (self.statements - before.statements)
    }
}

/// The rate at which pgbench has the door's statement done, and what a webhook costs the server.
async fn at_database(lab: &mut Lab, lasting: Duration) -> Result<(f64, f64)> {
    let bed = lab.bed().await?;
    // As where a relay is awake, which need not be rung for.
    let silent = silence(&bed.url).await?;
    let script = script();
    run(lab, &bed, &script, Duration::from_secs(1)).await?;
    let count = "select count(*) from posthaste.outbox";
    let (warm, cpu) = (bed.query_one(count, &[]).await?.get::<_, i64>(0), lab.postgres_cpu()?);
    let rate = run(lab, &bed, &script, lasting).await?;
    let cpu = lab.postgres_cpu()? - cpu;
    let stored = bed.query_one(count, &[]).await?.get::<_, i64>(0) - warm;
    drop(silent);
    bed.drop(lab).await?;
    Ok((rate, cpu.as_secs_f64() * 1e6 / stored as f64))
}

async fn run(lab: &Lab, bed: &Bed, script: &str, lasting: Duration) -> Result<f64> {
    // The same plans as the relay's.
    let settings = format!("{SESSION} {ROUTER_PLANS}");
    let options: String = settings
        .split(';')
        .filter_map(|set| set.trim().strip_prefix("set ")?.split_once(" = "))
        .map(|(name, value)| {
            let value = value.trim_matches('\'').replace(' ', "\\ ");
            format!("-c {name}={value} ")
        })
        .collect();
    pgbench(lab, bed, script, CONNECTIONS, lasting, &options).await
}

/// The door's statement with one webhook in it, as the load has them.
fn script() -> String {
    let quoted = |text: &str| text.replace('\'', "''");
    let headers = r#"{"content-type": "application/json", "x-github-event": "push"}"#;
    let columns = [
        "array['github']".to_owned(),
        "array[:a::text || '-' || :b::text]".to_owned(),
        "array['github.push']".to_owned(),
        format!("array['{}']", quoted(&load::payload())),
        "array[null]".to_owned(),
        "array[null]".to_owned(),
        format!("array['{headers}']"),
    ];
    let mut statement: String = RECEIVE
        .lines()
        .filter(|line| !line.starts_with("--"))
        .map(|line| line.split("  --").next().unwrap_or_default().to_owned() + "\n")
        .collect();
    for (n, column) in columns.iter().enumerate() {
        statement = statement.replace(&format!("${}", n + 1), column);
    }
    let draw = "random(0, 1000000000)";
    format!("\\set a {draw}\n\\set b {draw}\n{};\n", statement.trim_end().trim_end_matches(';'))
}

/// Sends webhooks for so long, over all connections; every one must be taken.
async fn knock(
    address: std::net::SocketAddr,
    path: &'static str,
    pace: Pace,
    lasting: Duration,
) -> Result<Knocked> {
    let body = Bytes::from(load::payload());
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), &body);
    let hex: String = mac.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let sender = Arc::new(Sender {
        path,
        host: address.to_string(),
        body,
        signature: format!("sha256={hex}"),
        run: format!("{:08x}", fastrand::u32(..)),
        pace,
        next: AtomicUsize::new(0),
    });
    let mut lines = Vec::new();
    let mut drivers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (line, connection) = http1::handshake(TokioIo::new(stream)).await?;
        drivers.spawn(connection);
        lines.push(line);
    }
    let began = Clock.instant();
    let mut knocking = JoinSet::new();
    for line in lines {
        knocking.spawn(Arc::clone(&sender).send(line, began, lasting));
    }
    let mut milliseconds = Vec::new();
    while let Some(sent) = knocking.join_next().await {
        milliseconds.extend(sent??);
    }
    let rate = milliseconds.len() as f64 / Clock.since(began).as_secs_f64();
    let milliseconds = sorted(milliseconds);
    Ok(Knocked { rate, milliseconds, server: 0.0, postgres: 0.0, together: 0.0 })
}

/// The requests that all connections send.
struct Sender {
    path: &'static str,
    host: String,
    body: Bytes,
    signature: String,
    /// Tells the webhooks of one run from those of another.
    run: String,
    pace: Pace,
    next: AtomicUsize,
}

impl Sender {
    async fn send(
        self: Arc<Self>,
        mut line: SendRequest<Full<Bytes>>,
        began: Instant,
        lasting: Duration,
    ) -> Result<Vec<f64>> {
        let mut milliseconds = Vec::new();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let due = match self.pace {
                Pace::Closed => Clock.instant(),
                Pace::Steady(rate) => {
                    let due = began + Duration::from_secs(1) / rate * u32::try_from(number)?;
                    tokio::time::sleep_until(due.min(began + lasting).into()).await;
                    due
                }
            };
            if due >= began + lasting {
                return Ok(milliseconds);
            }
            let request = Request::post(self.path)
                .header("host", &self.host)
                .header("content-type", "application/json")
                .header("user-agent", "GitHub-Hookshot/044aadd")
                .header("x-github-event", "push")
                .header("x-github-delivery", format!("{}-{number}", self.run))
                .header("x-hub-signature-256", &self.signature)
                .body(Full::new(self.body.clone()))?;
            line.ready().await?;
            let answer = line.send_request(request).await?;
            let status = answer.status();
            let said = answer.into_body().collect().await?.to_bytes();
            let is_taken = status == StatusCode::OK || status == StatusCode::NO_CONTENT;
            ensure!(is_taken, "answered {status}: {}", String::from_utf8_lossy(&said));
            milliseconds.push(Clock.since(due).as_secs_f64() * 1e3);
        }
    }
}
