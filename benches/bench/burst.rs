//! Many events at once for an endpoint that was idle: how long they take beside 64 requests at
//! once, the most that a relay sends one by default, and what the window makes of an endpoint that
//! does one thing after the other, that becomes slower, and of a hundred that answer at once.

use std::time::Duration;

use anyhow::Result;

use super::inbox::{Arrival, exactly_once, span};
use super::lab::{Bed, Lab};
use super::load;
use super::processes;
use super::receiver::{PACE, PACED, SERIAL};
use super::relay::Relay;
use super::report::busy;

/// How many events, and milliseconds for an answer.
const BURSTS: [(usize, u32); 4] = [(200, 30), (500, 100), (500, 300), (300, 1_000)];
/// Milliseconds for each of the events, one after the other.
const SERIALS: [u32; 2] = [20, 100];
const SERIAL_EVENTS: usize = 200;
/// Milliseconds for an answer, until it changes and after.
const CHANGE: (u32, u32) = (100, 300);
/// More than are sent meanwhile.
const CHANGE_EVENTS: usize = 20_000;
/// Before the change, and from the change until the rate is measured, for as long again.
const SETTLES_IN: Duration = Duration::from_secs(10);
const ENDPOINTS: usize = 100;
const EVENTS_FOR_EACH: usize = 500;
/// `delivery.max_concurrency`.
const AT_ONCE: f64 = 64.0;
const RUNS: usize = 3;

const SPAN: &str = "s";
const ROUNDS: &str = "times 64 at once";
const AGAIN: &str = "again, after its lane has ended";
const MOST: &str = "at once";
const RATE: &str = "deliveries/s";
const CONNECTIONS: &str = "connections";

pub(crate) async fn measure(lab: &mut Lab) -> Result<()> {
    for (events, ms) in BURSTS {
        let (mut first, mut again) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let (one, other) = bursts(lab, events, ms).await?;
            first.push(one);
            again.push(other);
        }
        let name = format!("{events} × {ms} ms");
        let ideal = events as f64 / AT_ONCE * f64::from(ms) / 1e3;
        let of = |spans: &[f64]| spans.iter().map(|span| span / ideal).collect();
        lab.results.keep((&name, ROUNDS), 2, of(&first));
        lab.results.keep((&name, AGAIN), 2, of(&again));
        lab.results.keep((&name, SPAN), 2, first);
        lab.results.limit((&name, ROUNDS), "twice 64 at once", 2.0)?;
    }
    lab.results.show();
    for ms in SERIALS {
        let most = serial(lab, ms).await?;
        lab.results.keep((&format!("one after the other, {ms} ms"), MOST), 0, vec![most]);
    }
    let rate = change(lab).await?;
    let (before, after) = CHANGE;
    let name = format!("{before} ms, and {after} ms since 10 s");
    lab.results.keep((&name, RATE), 0, vec![rate]);
    let (mut rates, mut connections) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let (rate, open) = hundred(lab).await?;
        rates.push(rate);
        connections.push(open);
    }
    let name = format!("{ENDPOINTS} that answer at once");
    lab.results.keep((&name, RATE), 0, rates);
    lab.results.keep((&name, CONNECTIONS), 0, connections);
    lab.results.show();
    println!("\nFrom the first arrival to the last; medians of {RUNS} runs; {}.", busy());
    Ok(())
}

/// Seconds of a burst, and of a second one when the relay has forgotten the endpoint's lane.
async fn bursts(lab: &mut Lab, events: usize, ms: u32) -> Result<(f64, f64)> {
    /// Longer than a connection is kept, and than the poll that forgets what is idle.
    const IDLE: Duration = Duration::from_secs(3);
    let bed = prepared(lab, PACED, ms).await?;
    let with = [
        ("RELAY__LEASE", "10m"),
        ("DELIVERY__IDLE_TIMEOUT", "500ms"),
        ("RELAY__POLL_INTERVAL", "500ms"),
    ];
    let relay = Relay::start_with(lab, &bed, &with).await?;
    let first = span(&sent(lab, &bed, &relay, events, 1).await?)?;
    bed.settled().await?;
    tokio::time::sleep(IDLE).await;
    let again = span(&sent(lab, &bed, &relay, events, 1).await?)?;
    relay.stop().await?;
    bed.drop(lab).await?;
    Ok((first.as_secs_f64(), again.as_secs_f64()))
}

/// The most requests that waited for an answer at once.
async fn serial(lab: &mut Lab, ms: u32) -> Result<f64> {
    let bed = prepared(lab, SERIAL, ms).await?;
    let relay = Relay::start(lab, &bed).await?;
    let arrivals = sent(lab, &bed, &relay, SERIAL_EVENTS, 1).await?;
    relay.stop().await?;
    bed.drop(lab).await?;
    Ok(arrivals.iter().map(|arrival| arrival.at_once).max().unwrap_or(0) as f64)
}

/// Arrivals a second from 10 s after the change.
async fn change(lab: &mut Lab) -> Result<f64> {
    let (before, after) = CHANGE;
    let bed = prepared(lab, PACED, before).await?;
    let relay = Relay::start(lab, &bed).await?;
    load::backlog(&bed, CHANGE_EVENTS).await?;
    bed.batch_execute("notify posthaste").await?;
    tokio::time::sleep(SETTLES_IN).await;
    lab.inbox.tell(&format!("{PACE}{after}")).await?;
    tokio::time::sleep(SETTLES_IN).await;
    lab.inbox.take().await?;
    tokio::time::sleep(SETTLES_IN).await;
    let arrived = lab.inbox.take().await?.len();
    relay.kill().await?;
    bed.drop(lab).await?;
    Ok(arrived as f64 / SETTLES_IN.as_secs_f64())
}

/// The rate of a drain, and the connections that are open at its end: each is kept for a minute.
async fn hundred(lab: &mut Lab) -> Result<(f64, f64)> {
    let bed = lab.bed().await?;
    for endpoint in 0..ENDPOINTS {
        bed.add_endpoint(&lab.inbox.url(&format!("/{endpoint}"))).await?;
    }
    let relay = Relay::start(lab, &bed).await?;
    let arrivals = sent(lab, &bed, &relay, EVENTS_FOR_EACH, ENDPOINTS).await?;
    let connections = processes::connections_to(lab.inbox.address().port())?;
    relay.stop().await?;
    bed.drop(lab).await?;
    Ok((arrivals.len() as f64 / span(&arrivals)?.as_secs_f64(), connections as f64))
}

/// A database with one endpoint, that answers at this pace.
async fn prepared(lab: &mut Lab, path: &str, ms: u32) -> Result<Bed> {
    let bed = lab.bed().await?;
    bed.add_endpoint(&lab.inbox.url(path)).await?;
    lab.inbox.tell(&format!("{PACE}{ms}")).await?;
    Ok(bed)
}

/// All arrivals of so many events, which are there when the relay hears of the first.
async fn sent(
    lab: &Lab,
    bed: &Bed,
    relay: &Relay,
    events: usize,
    endpoints: usize,
) -> Result<Vec<Arrival>> {
    relay.freeze()?;
    load::backlog(bed, events).await?;
    lab.inbox.take().await?;
    relay.thaw()?;
    // As the last of the writers would have done; else the next poll would be waited for.
    bed.batch_execute("notify posthaste").await?;
    lab.inbox.filled(events * endpoints).await?;
    let arrivals = lab.inbox.take().await?;
    exactly_once(&arrivals, events * endpoints)?;
    Ok(arrivals)
}
