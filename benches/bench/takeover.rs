//! How long what a relay held lies still when the relay dies, with another one standing by: from
//! `kill -9` and from SIGSTOP to the other's first request for it, and until all of it has been
//! sent again.
//!
//! The signal comes at a random moment between two heartbeats. The relay that stands by has done so
//! for longer than it leaves others to come back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use posthaste::clock::Clock;

use super::PATIENCE;
use super::inbox::exactly_once;
use super::lab::{Bed, Lab};
use super::receiver::{HELD, HOLD, RELEASE};
use super::relay::Relay;
use super::report::busy;

/// The dead relay's claims: some in flight, the others queued.
const EVENTS: usize = 50;
/// Of these, in flight: as many as an endpoint gets that does not answer
/// (`delivery.initial_window`), and as it allows a relay.
const IN_FLIGHT: usize = 4;
/// A relay that has its session for less gives others time to come back, and two heartbeats to be
/// drawn from.
const SETTLED: Duration = Duration::from_millis(2_500);
const PHASE_MS: u64 = 2_000;
/// Between two looks; each moves what has arrived over to us.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A way to die.
struct Death {
    name: &'static str,
    signal: &'static str,
    /// How often, and how often in full.
    times: (usize, usize),
    /// Seconds within which another relay is to take over.
    within: f64,
}

const DEATHS: [Death; 2] = [
    Death { name: "crash (SIGKILL)", signal: "KILL", times: (6, 50), within: 2.0 },
    Death { name: "freeze (SIGSTOP)", signal: "STOP", times: (3, 20), within: 15.0 },
];

const FIRST: &str = "first request s";
const LAST: &str = "all sent again s";

pub(crate) async fn measure(lab: &mut Lab) -> Result<()> {
    let bed = lab.bed().await?;
    bed.add_endpoint(&lab.inbox.url(HELD)).await?;
    // Two relays share it.
    let narrow = format!("update posthaste.endpoints set max_concurrency = {}", 2 * IN_FLIGHT);
    bed.batch_execute(&narrow).await?;
    let mut pair = Pair {
        one: standing_by(lab, &bed, 1).await?,
        other: standing_by(lab, &bed, 2).await?,
        started: 2,
    };
    for Death { name, signal, times, within } in DEATHS {
        let times = if lab.in_full { times.1 } else { times.0 };
        let (mut firsts, mut lasts) = (Vec::new(), Vec::new());
        for _ in 0..times {
            let (first, last) = once(lab, &bed, &mut pair, signal).await?;
            firsts.push(first);
            lasts.push(last);
        }
        lab.results.keep((name, FIRST), 2, firsts);
        lab.results.keep((name, LAST), 2, lasts);
        lab.results.limit((name, FIRST), "what it is to take", within)?;
    }
    pair.one.kill().await?;
    pair.other.kill().await?;
    bed.drop(lab).await?;
    lab.results.show();
    println!(
        "\nMedians, from the signal, with {EVENTS} deliveries held; the lease is 13 s, the heartbeat 1.5 s; {}.",
        busy()
    );
    Ok(())
}

/// Two relays on one database.
struct Pair {
    one: Relay,
    other: Relay,
    started: u32,
}

async fn standing_by(lab: &Lab, bed: &Bed, number: u32) -> Result<Relay> {
    Relay::start_with(lab, bed, &[("RELAY__NAME", &name(number))]).await
}

fn name(number: u32) -> String {
    format!("relay {number}")
}

/// Seconds from the signal to the first request of the other relay, and to the last.
async fn once(lab: &Lab, bed: &Bed, pair: &mut Pair, signal: &str) -> Result<(f64, f64)> {
    tokio::time::sleep(SETTLED + Duration::from_millis(fastrand::u64(..PHASE_MS))).await;
    lab.inbox.tell(HOLD).await?;
    lab.inbox.take().await?;
    let many = format!(
        "insert into posthaste.outbox (event_type, payload) \
         select 'order.paid', '{{}}' from generate_series(1, {EVENTS})"
    );
    bed.batch_execute(&many).await?;
    // In one transaction, so that one of the two takes all of it.
    lab.inbox.filled(IN_FLIGHT).await?;
    lab.inbox.tell(RELEASE).await?;
    lab.inbox.take().await?;
    let holders = "select name, count(*) from posthaste.relays r \
         join posthaste.live_deliveries d on d.claimed_by = r.id group by 1";
    let holders = bed.query(holders, &[]).await?;
    ensure!(holders.len() == 1, "not one relay holds it all: {holders:?}");
    let (holder, held): (String, i64) = (holders[0].get(0), holders[0].get(1));
    ensure!(usize::try_from(held) == Ok(EVENTS), "the relay holds {held} of {EVENTS}");
    if pair.one.name != holder {
        std::mem::swap(&mut pair.one, &mut pair.other);
    }
    ensure!(pair.one.name == holder, "{holder} is neither of the two");

    let began = Clock.now().as_microsecond();
    pair.one.signal(signal)?;
    let mut arrivals = Vec::new();
    let waited = tokio::time::timeout(PATIENCE, async {
        while arrivals.len() < EVENTS {
            tokio::time::sleep(LOOK_EVERY).await;
            arrivals.extend(lab.inbox.take().await?);
        }
        Ok::<_, anyhow::Error>(())
    });
    waited.await.context("what was held is not sent again")??;
    exactly_once(&arrivals, EVENTS)?;
    bed.settled().await?;
    pair.started += 1;
    let next = standing_by(lab, bed, pair.started).await?;
    std::mem::replace(&mut pair.one, next).kill().await?;
    let seconds = |at: i64| (at - began) as f64 / 1e6;
    let times = || arrivals.iter().map(|arrival| seconds(arrival.at));
    Ok((times().fold(f64::INFINITY, f64::min), times().fold(0.0, f64::max)))
}
