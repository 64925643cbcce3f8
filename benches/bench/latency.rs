//! How long an event takes from the application to the receiver, at a steady rate, and what the
//! relay and the database use meanwhile.
//!
//! Events are inserted on a schedule, one a transaction and with fsync, whether or not the one
//! before has arrived. Two latencies are told: from sending the INSERT, which holds the
//! application's own round trip and fsync, and from having the commit confirmed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use posthaste::clock::Clock;
use tokio::task::JoinSet;

use super::inbox::{Arrival, exactly_once};
use super::lab::{Bed, Lab, Session};
use super::load;
use super::relay::Relay;
use super::report::busy;
use super::results::Figure;
use super::runs::{quantile, sorted};

const RATES: [usize; 2] = [100, 1_000];
const LASTING: Duration = Duration::from_secs(5);
/// … and in full.
const IN_FULL: Duration = Duration::from_secs(20);
const RUNS: usize = 3;
/// Sessions that insert: enough to keep the rate while each waits for the disk.
const WRITERS: usize = 32;

/// When an event was written, in microseconds of Unix time.
struct Written {
    id: i64,
    sent: i64,
    confirmed: i64,
}

/// Figures of one run. Latencies are in milliseconds, sorted; processor time is a share of one
/// core.
#[derive(Debug)]
pub(crate) struct Steady {
    pub(crate) from_sent: Vec<f64>,
    from_confirmed: Vec<f64>,
    /// Events a second; fewer than were asked for if the machine could not keep it up.
    pub(crate) rate: f64,
    postgres: f64,
    relay: f64,
}

const MEDIAN: &str = "p50 ms from commit confirmed";
const WORST: &str = "p99 ms from commit confirmed";

const FIGURES: [Figure<Steady>; 9] = [
    ("events/s in fact", 0, |run| run.rate),
    ("p50 ms from INSERT sent", 2, |run| quantile(&run.from_sent, 0.5)),
    ("p99 ms from INSERT sent", 2, |run| quantile(&run.from_sent, 0.99)),
    ("max ms from INSERT sent", 2, |run| quantile(&run.from_sent, 1.0)),
    (MEDIAN, 2, |run| quantile(&run.from_confirmed, 0.5)),
    (WORST, 2, |run| quantile(&run.from_confirmed, 0.99)),
    ("max ms from commit confirmed", 2, |run| quantile(&run.from_confirmed, 1.0)),
    ("relay CPU %", 1, |run| run.relay * 100.0),
    ("Postgres CPU %", 1, |run| run.postgres * 100.0),
];
pub(crate) async fn measure(lab: &mut Lab) -> Result<()> {
    let lasting = if lab.in_full { IN_FULL } else { LASTING };
    for rate in RATES {
        let (mut runs, mut alone) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            alone.push(inserts_alone(lab, rate, lasting).await? * 100.0);
            runs.push(once(lab, rate, lasting).await?);
        }
        let name = format!("{rate} events/s");
        lab.results.keep_all(&name, &runs, &FIGURES);
        lab.results.keep((&name, "Postgres CPU % of the inserts alone"), 1, alone);
        lab.results.mention((&name, MEDIAN))?;
        lab.results.mention((&name, WORST))?;
    }
    lab.results.show();
    println!("\nMedians of {RUNS} runs of {lasting:?}; CPU in percent of one core; {}.", busy());
    Ok(())
}

async fn once(lab: &mut Lab, rate: usize, lasting: Duration) -> Result<Steady> {
    let bed = lab.bed().await?;
    bed.add_endpoint(&lab.inbox.url("/steady")).await?;
    let relay = Relay::start(lab, &bed).await?;
    lab.inbox.take().await?;
    // Connections and plans are made once, not with every event.
    write(&bed, rate, rate).await?;
    lab.inbox.filled(rate).await?;
    bed.settled().await?;
    let steady = steadily(lab, &bed, &relay, rate, lasting).await?;
    relay.stop().await?;
    bed.drop(lab).await?;
    Ok(steady)
}

/// Inserts at a steady rate what one endpoint is owed.
pub(crate) async fn steadily(
    lab: &Lab,
    bed: &Bed,
    relay: &Relay,
    rate: usize,
    lasting: Duration,
) -> Result<Steady> {
    lab.inbox.take().await?;
    let (postgres, of_relay, began) = (lab.postgres_cpu()?, relay.cpu()?, Clock.instant());
    let written = write(bed, rate, count(rate, lasting)).await?;
    let rate = written.len() as f64 / Clock.since(began).as_secs_f64();
    lab.inbox.filled(written.len()).await?;
    let took = Clock.since(began);
    let postgres = (lab.postgres_cpu()? - postgres).div_duration_f64(took);
    let of_relay = (relay.cpu()? - of_relay).div_duration_f64(took);
    let arrivals = lab.inbox.take().await?;
    exactly_once(&arrivals, written.len())?;
    let (from_sent, from_confirmed) = latencies(&written, &arrivals, &events(bed).await?)?;
    Ok(Steady { from_sent, from_confirmed, rate, postgres, relay: of_relay })
}

/// The share of a core that the server needs for the same inserts with no relay there.
async fn inserts_alone(lab: &mut Lab, rate: usize, lasting: Duration) -> Result<f64> {
    let bed = lab.bed().await?;
    let (before, began) = (lab.postgres_cpu()?, Clock.instant());
    write(&bed, rate, count(rate, lasting)).await?;
    let share = (lab.postgres_cpu()? - before).div_duration_f64(Clock.since(began));
    bed.drop(lab).await?;
    Ok(share)
}

fn count(rate: usize, lasting: Duration) -> usize {
    rate * usize::try_from(lasting.as_secs()).unwrap_or_default()
}

/// Inserts events at a steady rate, or as fast as the machine can.
async fn write(bed: &Bed, rate: usize, events: usize) -> Result<Vec<Written>> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut sessions = Vec::new();
    for _ in 0..WRITERS {
        sessions.push(Session::open(&bed.url).await?);
    }
    let began = Clock.instant();
    let mut writers = JoinSet::new();
    for session in sessions {
        writers.spawn(write_some(session, Arc::clone(&next), began, rate, events));
    }
    let mut written = Vec::with_capacity(events);
    while let Some(some) = writers.join_next().await {
        written.extend(some??);
    }
    Ok(written)
}

async fn write_some(
    session: Session,
    next: Arc<AtomicUsize>,
    began: Instant,
    rate: usize,
    events: usize,
) -> Result<Vec<Written>> {
    let insert = session
        .prepare("insert into posthaste.outbox (event_type, payload) values ('order.paid', $1) returning id")
        .await?;
    let payload: serde_json::Value = serde_json::from_str(&load::payload())?;
    let mut written = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= events {
            return Ok(written);
        }
        let due = began + Duration::from_secs_f64(number as f64 / rate as f64);
        tokio::time::sleep_until(due.into()).await;
        let sent = Clock.now().as_microsecond();
        let row = session.query_one(&insert, &[&payload]).await?;
        written.push(Written { id: row.get(0), sent, confirmed: Clock.now().as_microsecond() });
    }
}

/// The events by their webhook-ids.
async fn events(bed: &Bed) -> Result<HashMap<String, i64>> {
    let statement = "select posthaste.webhook_id(id, created_at), id from posthaste.outbox";
    let rows = Session::open(&bed.url).await?.query(statement, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// From sending and from confirmation to the arrival, sorted. The second can be less than nothing,
/// when the receiver hears of an event before the application's own answer is read.
fn latencies(
    written: &[Written],
    arrivals: &[Arrival],
    events: &HashMap<String, i64>,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let mut arrived = HashMap::with_capacity(arrivals.len());
    for arrival in arrivals {
        let id = events.get(&arrival.id).context("a webhook-id")?;
        arrived.insert(*id, arrival.at);
    }
    let (mut from_sent, mut from_confirmed) = (Vec::new(), Vec::new());
    for Written { id, sent, confirmed } in written {
        let at = arrived.get(id).with_context(|| format!("event {id} arrived"))?;
        from_sent.push((at - sent) as f64 / 1e3);
        from_confirmed.push((at - confirmed) as f64 / 1e3);
    }
    Ok((sorted(from_sent), sorted(from_confirmed)))
}
