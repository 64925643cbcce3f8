//! A relay's footprint: how soon it is ready, memory and work at rest, memory when it is busy.

use std::time::Duration;

use anyhow::Result;

use super::drain;
use super::lab::{Bed, Lab};
use super::relay::{self, Relay};
use super::report::busy;
use super::results::Figure;
use super::{processes, statements};

const RUNS: usize = 3;
/// Until it has gone to sleep.
const CALMING_DOWN: Duration = Duration::from_secs(1);
/// Long enough for polls, heartbeats and a round of upkeep's smaller kin.
const REST: Duration = Duration::from_secs(7);
/// In full: enough for what is done once a minute.
const REST_IN_FULL: Duration = Duration::from_secs(70);
/// The work of a busy relay.
const DELIVERIES: usize = 20_000;
const ENDPOINTS: usize = 10;

/// A relay that has nothing to do.
struct Resting {
    start_ms: f64,
    mib: f64,
    /// Share of a core, the server's part included.
    processor: f64,
    /// A second.
    statements: f64,
}

const RELAY: &str = "a relay";

const AT_REST: [Figure<Resting>; 4] = [
    ("start to ready ms", 0, |run| run.start_ms),
    ("RSS at rest MiB", 1, |run| run.mib),
    ("CPU at rest %, Postgres included", 2, |run| run.processor * 100.0),
    ("statements/s at rest", 1, |run| run.statements),
];

pub(crate) async fn measure(lab: &mut Lab) -> Result<()> {
    let rest = if lab.in_full { REST_IN_FULL } else { REST };
    let bed = lab.bed().await?;
    let (mut resting, mut busiest) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        resting.push(at_rest(lab, &bed, rest).await?);
        busiest.push(drain::once(lab, ENDPOINTS, DELIVERIES).await?.peak_mib());
    }
    bed.drop(lab).await?;
    let size = std::fs::metadata(relay::BINARY)?.len() as f64 / 1024.0 / 1024.0;
    lab.results.keep_all(RELAY, &resting, &AT_REST);
    lab.results.keep((RELAY, "RSS when busy MiB"), 1, busiest);
    lab.results.keep((RELAY, "binary MiB"), 1, vec![size]);
    lab.results.show();
    println!(
        "\nMedians of {RUNS} starts on a migrated database, {rest:?} of rest each; busy is the most while {DELIVERIES} \
         deliveries go to {ENDPOINTS} endpoints; {}.",
        busy()
    );
    for (figure, ..) in AT_REST {
        lab.results.mention((RELAY, figure))?;
    }
    lab.results.mention((RELAY, "RSS when busy MiB"))
}

async fn at_rest(lab: &Lab, bed: &Bed, rest: Duration) -> Result<Resting> {
    let relay = Relay::start(lab, bed).await?;
    tokio::time::sleep(CALMING_DOWN).await;
    statements::begin(bed).await?;
    let before = (relay.cpu()?, lab.postgres_cpu()?);
    tokio::time::sleep(rest).await;
    let used = (relay.cpu()? - before.0) + (lab.postgres_cpu()? - before.1);
    let calls: f64 = statements::end(bed).await?.iter().map(|one| one.calls).sum();
    let mib = processes::memory(relay.pid, "VmRSS")? as f64 / 1024.0;
    let start_ms = relay.took.as_secs_f64() * 1e3;
    relay.stop().await?;
    let processor = used.div_duration_f64(rest);
    Ok(Resting { start_ms, mib, processor, statements: calls / rest.as_secs_f64() })
}
