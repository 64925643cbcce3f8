//! What one tenant's load costs another: the time from a victim's commits to their arrivals, while
//! another tenant floods, hangs, sends large events, or fans out, and with no other tenant there.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use posthaste::clock::Clock;

use super::inbox::Arrival;
use super::lab::{Bed, Lab};
use super::receiver::{HANG, SLOW};
use super::relay::Relay;
use super::report::busy;
use super::results::Figure;
use super::runs::{quantile, sorted};

const RUNS: usize = 3;
/// Events of the victim, and how far they are apart.
const EVENTS: usize = 150;
const EVERY: Duration = Duration::from_millis(20);
/// The victim's events that are sent before anything else is there.
const WARM: usize = 20;
const VICTIM: &str = "/victim";
/// What has not arrived after this is counted as having arrived then.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks at what has arrived.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The other tenant's load is there when for so long nothing of it has come that had not before.
const SETTLED_FOR: Duration = Duration::from_millis(300);
/// Its load is there after this, whatever comes.
const BUSY_AFTER: Duration = Duration::from_secs(2);

/// A tenant's load.
struct Load {
    name: &'static str,
    endpoints: i32,
    path: &'static str,
    /// Transactions, and events in each.
    writes: [i32; 2],
    bytes: i32,
    /// Whether the victim waits until the load is under way; else it follows at once.
    is_awaited: bool,
}

const ALONE: &str = "no other tenant";

const LOADS: [Load; 5] = [
    Load { name: ALONE, endpoints: 0, path: "", writes: [0, 0], bytes: 0, is_awaited: false },
    Load {
        name: "400,000 events for an endpoint that takes 50 ms",
        endpoints: 1,
        path: SLOW,
        writes: [20, 20_000],
        bytes: 100,
        is_awaited: false,
    },
    Load {
        name: "1,500 hanging endpoints",
        endpoints: 1_500,
        path: HANG,
        writes: [1, 20],
        bytes: 100,
        is_awaited: true,
    },
    Load {
        name: "a hanging endpoint, events of 1 MiB",
        endpoints: 1,
        path: HANG,
        writes: [20, 10],
        bytes: 1_048_000,
        is_awaited: true,
    },
    Load {
        name: "100 events to each of 1,000 endpoints that take 50 ms",
        endpoints: 1_000,
        path: SLOW,
        writes: [10, 10],
        bytes: 100,
        is_awaited: false,
    },
];

/// Milliseconds from the commit to the arrival of each event of the victim, sorted.
struct Run(Vec<f64>);

const MEDIAN: &str = "victim, p50 ms";
const WORST: &str = "victim, p99 ms";
const FIGURES: [Figure<Run>; 3] = [
    (MEDIAN, 2, |run| quantile(&run.0, 0.5)),
    (WORST, 2, |run| quantile(&run.0, 0.99)),
    ("victim, max ms", 2, |run| quantile(&run.0, 1.0)),
];

pub(crate) async fn measure(lab: &mut Lab) -> Result<()> {
    let mut runs: HashMap<&str, Vec<Run>> = HashMap::new();
    for _ in 0..RUNS {
        for load in &LOADS {
            let run = once(lab, load).await.with_context(|| load.name)?;
            runs.entry(load.name).or_default().push(run);
        }
    }
    for load in &LOADS {
        lab.results.keep_all(load.name, &runs[load.name], &FIGURES);
    }
    lab.results.show();
    println!("\nMedians of {RUNS} runs of {EVENTS} events of the victim; {}.", busy());
    for load in &LOADS[1..] {
        lab.results.compare((load.name, MEDIAN), (ALONE, MEDIAN), "≤ 1.10")?;
        lab.results.limit((load.name, WORST), "a second", 1_000.0)?;
    }
    Ok(())
}

async fn once(lab: &mut Lab, load: &Load) -> Result<Run> {
    let bed = lab.bed().await?;
    add(&bed, "victim", 1, &lab.inbox.url(VICTIM)).await?;
    add(&bed, "other", load.endpoints, &lab.inbox.url(load.path)).await?;
    let relay = Relay::start(lab, &bed).await?;
    lab.inbox.take().await?;
    write(&bed, WARM).await?;
    lab.inbox.filled(WARM).await?;
    for _ in 0..load.writes[0] {
        let insert = "insert into posthaste.outbox (event_type, tenant, payload) \
             select 'order.paid', 'other', to_json(repeat('x', $2)) from generate_series(1, $1)";
        bed.execute(insert, &[&load.writes[1], &load.bytes]).await?;
    }
    if load.is_awaited {
        under_way(lab).await?;
    }
    lab.inbox.take().await?;
    let written = write(&bed, EVENTS).await?;
    let arrived = arrived(lab, &written).await?;
    let end = Clock.now().as_microsecond();
    // Requests that hang would hold up an orderly end for the grace.
    relay.kill().await?;
    bed.drop(lab).await?;
    let took = |(id, at): &(i64, i64)| (arrived.get(id).unwrap_or(&end) - at) as f64 / 1e3;
    Ok(Run(sorted(written.iter().map(took).collect())))
}

async fn add(bed: &Bed, tenant: &str, count: i32, url: &str) -> Result<()> {
    let add = "insert into posthaste.endpoints (url, tenant) \
               select $1, $2 from generate_series(1, $3)";
    bed.execute(add, &[&url, &tenant, &count]).await?;
    Ok(())
}

/// Writes events of the victim, one after the other. Returns which, and when each was committed.
async fn write(bed: &Bed, events: usize) -> Result<Vec<(i64, i64)>> {
    let insert = "insert into posthaste.outbox (event_type, tenant, payload) \
                  values ('order.paid', 'victim', '{\"order\": 1}') returning id";
    let insert = bed.prepare(insert).await?;
    let mut written = Vec::with_capacity(events);
    for _ in 0..events {
        let row = bed.query_one(&insert, &[]).await?;
        written.push((row.get(0), Clock.now().as_microsecond()));
        tokio::time::sleep(EVERY).await;
    }
    Ok(written)
}

/// Waits until the other tenant has as many requests in flight as it is to have.
async fn under_way(lab: &Lab) -> Result<()> {
    let (began, mut last) = (Clock.instant(), Clock.instant());
    while Clock.since(last) < SETTLED_FOR && Clock.since(began) < BUSY_AFTER {
        tokio::time::sleep(LOOK_EVERY).await;
        if !lab.inbox.take().await?.is_empty() {
            last = Clock.instant();
        }
    }
    Ok(())
}

/// When each event of the victim arrived, of those that did in time.
async fn arrived(lab: &Lab, written: &[(i64, i64)]) -> Result<HashMap<i64, i64>> {
    let (began, mut arrived) = (Clock.instant(), HashMap::new());
    while arrived.len() < written.len() && Clock.since(began) < PATIENCE {
        tokio::time::sleep(LOOK_EVERY).await;
        for Arrival { path, id, at, .. } in lab.inbox.take().await? {
            if path == VICTIM {
                // evt_<event id>_<creation>
                let id = id.split('_').nth(1).context("a webhook-id")?.parse()?;
                arrived.entry(id).or_insert(at);
            }
        }
    }
    Ok(arrived)
}
