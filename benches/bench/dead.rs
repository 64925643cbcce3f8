//! Whether a dead endpoint with a long queue costs a healthy one anything: a steady rate and a
//! backlog of the healthy one, in three databases. In one there is no dead endpoint, in one it has
//! been paused for an hour, and in one it refuses connections, and the relay finds that out and
//! pauses it itself.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::TcpSocket;

use super::PATIENCE;
use super::claims::{Caller, Cost};
use super::drain::warm_up;
use super::inbox::{exactly_once, span};
use super::lab::{Bed, Lab};
use super::latency::{Steady, steadily};
use super::load;
use super::relay::Relay;
use super::report::busy;
use super::results::Figure;
use super::runs::quantile;
use super::statements::{self, Statement, each_call};

/// Due deliveries of the dead endpoint …
const DUE: i64 = 200_000;
/// … and in full.
const DUE_IN_FULL: i64 = 1_000_000;
/// Events a second of the healthy one.
const RATE: usize = 500;
const LASTING: Duration = Duration::from_secs(4);
/// In full.
const LASTING_IN_FULL: Duration = Duration::from_secs(20);
const BACKLOG: usize = 30_000;
/// That one claim takes of the healthy one.
const CLAIMED: i32 = 500;
const RUNS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dead {
    Missing,
    Paused,
    Refusing,
}

const KINDS: [(Dead, &str); 3] = [
    (Dead::Missing, NONE),
    (Dead::Paused, "one that is paused"),
    (Dead::Refusing, "one that refuses connections"),
];
const NONE: &str = "no dead endpoint";

/// The healthy endpoint's figures of one run.
struct Run {
    steady: Steady,
    /// Meanwhile.
    statements: Vec<Statement>,
    backlog_per_second: f64,
    claim: Cost,
}

const THROUGHPUT: &str = "backlog, deliveries/s";
const WORST: &str = "steadily, p99 ms from INSERT sent";
const CLAIM: &str = "claim, buffers a delivery";

const BUFFERS: fn(&Statement) -> f64 = |one| one.buffers;

const FIGURES: [Figure<Run>; 9] = [
    (THROUGHPUT, 0, |run| run.backlog_per_second),
    ("steadily, events/s in fact", 0, |run| run.steady.rate),
    ("steadily, p50 ms from INSERT sent", 2, |run| quantile(&run.steady.from_sent, 0.5)),
    (WORST, 2, |run| quantile(&run.steady.from_sent, 0.99)),
    (CLAIM, 2, |run| run.claim.buffers / f64::from(CLAIMED)),
    ("steadily, route buffers an event", 1, |run| run.an_event("route")),
    ("steadily, record buffers an event", 1, |run| run.an_event("record")),
    ("steadily, due buffers a call", 1, |run| each_call(&run.statements, "due", BUFFERS)),
    ("steadily, claim buffers a call", 1, |run| each_call(&run.statements, "claim", BUFFERS)),
];

pub(crate) async fn measure(lab: &mut Lab) -> Result<()> {
    let (due, lasting) = if lab.in_full { (DUE_IN_FULL, LASTING_IN_FULL) } else { (DUE, LASTING) };
    // Bound and never listened to: connections are refused, and no other process gets the port.
    let closed = TcpSocket::new_v4()?;
    closed.bind((std::net::Ipv4Addr::LOCALHOST, 0).into())?;
    let dead_url = format!("http://{}/", closed.local_addr()?);
    let mut grounds = Vec::new();
    for (kind, name) in KINDS {
        grounds.push((kind, name, ground(lab, kind, &dead_url, due).await?, Vec::new()));
    }
    // In turns, so that a neighbour on the machine disturbs all of them alike.
    for _ in 0..RUNS {
        for (kind, _, bed, runs) in &mut grounds {
            runs.push(once(lab, bed, *kind, lasting).await?);
        }
    }
    for (_, name, bed, runs) in grounds {
        lab.results.keep_all(name, &runs, &FIGURES);
        bed.drop(lab).await?;
    }
    lab.results.show();
    println!(
        "\nMedians of {RUNS} runs: {RATE} events/s for {lasting:?}, then a backlog of {BACKLOG}; the dead endpoint has \
         {due} deliveries due; {}.",
        busy()
    );
    for (_, name) in KINDS.into_iter().skip(1) {
        lab.results.compare((name, THROUGHPUT), (NONE, THROUGHPUT), "≥ 0.90")?;
        lab.results.compare((name, WORST), (NONE, WORST), "≤ 1.10")?;
        // None of its rows is read, but the indexes may be a level deeper.
        lab.results.compare((name, CLAIM), (NONE, CLAIM), "")?;
    }
    Ok(())
}

/// A database with a healthy endpoint, its number 1, and the dead one behind it.
async fn ground(lab: &mut Lab, kind: Dead, dead_url: &str, due: i64) -> Result<Bed> {
    let bed = lab.bed().await?;
    bed.add_endpoint(&lab.inbox.url("/well")).await?;
    if kind == Dead::Missing {
        return Ok(bed);
    }
    let add = "insert into posthaste.endpoints (url, subscriptions) values ($1, '{nothing.more}') returning id";
    let dead: i64 = bed.query_one(add, &[&dead_url]).await?.get(0);
    load::owed(&bed, &[dead], due).await?;
    // They lie there for hours: what follows upon writing them is over.
    for tidied in
        ["vacuum analyze posthaste.outbox", "vacuum analyze posthaste.deliveries", "checkpoint"]
    {
        bed.batch_execute(tidied).await?;
    }
    if kind == Dead::Paused {
        let pause = "insert into posthaste.endpoint_health
              (endpoint_id, state, consecutive_failures, failing_since, pauses, paused_until, last_failure_at)
            values ($1, 'paused', 20, now() - interval '2 hours', 7, now() + interval '1 hour', now())";
        bed.execute(pause, &[&dead]).await?;
    }
    Ok(bed)
}

async fn once(lab: &Lab, bed: &Bed, kind: Dead, lasting: Duration) -> Result<Run> {
    let relay = Relay::start(lab, bed).await?;
    if kind == Dead::Refusing {
        paused(bed).await?;
    }
    warm_up(lab, bed, 1).await?;
    statements::begin(bed).await?;
    let steady = steadily(lab, bed, &relay, RATE, lasting).await?;
    let statements = statements::end(bed).await?;

    relay.freeze()?;
    load::backlog(bed, BACKLOG).await?;
    bed.batch_execute("checkpoint").await?;
    relay.thaw()?;
    lab.inbox.filled(BACKLOG).await?;
    let arrivals = lab.inbox.take().await?;
    exactly_once(&arrivals, BACKLOG)?;
    relay.stop().await?;
    let backlog_per_second = BACKLOG as f64 / span(&arrivals)?.as_secs_f64();
    Ok(Run { steady, statements, backlog_per_second, claim: claim(bed).await? })
}

/// Waits until the relay has paused an endpoint.
async fn paused(bed: &Bed) -> Result<()> {
    let asked = "select exists (select from posthaste.endpoint_health where state = 'paused')";
    let waited = tokio::time::timeout(PATIENCE, async {
        while !bed.query_one(asked, &[]).await?.get::<_, bool>(0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    });
    waited.await.context("the dead endpoint is not paused")?
}

/// Claims of the healthy endpoint alone, as a relay does when it has paused the other.
async fn claim(bed: &Bed) -> Result<Cost> {
    // A session's first read reads the catalogue too.
    load::owed(bed, &[1], 2 * i64::from(CLAIMED)).await?;
    let mut caller = Caller::new(bed)?;
    caller.claim(&[1], CLAIMED).await?;
    let cost = caller.claim(&[1], CLAIMED).await?;
    bed.execute("delete from posthaste.deliveries where endpoint_id = 1", &[]).await?;
    Ok(cost)
}

impl Run {
    /// Buffers of a statement for each event that was sent steadily: how many go into one call is
    /// chance.
    fn an_event(&self, name: &str) -> f64 {
        let calls = self.statements.iter().filter(|one| one.name == name);
        calls.map(|one| one.buffers).sum::<f64>() / self.steady.from_sent.len() as f64
    }
}
