//! What a relay is before it has done anything: how soon it is ready, what it takes at rest.

use std::time::Duration;

use anyhow::Result;

use super::lab::Lab;
use super::processes;
use super::relay::{self, Relay};
use super::report::{busy, median, row, table};

const RUNS: usize = 5;
/// Long enough to have gone to sleep, polled, and sent a heartbeat.
const REST: Duration = Duration::from_secs(3);

pub(crate) async fn measure(lab: &mut Lab) -> Result<()> {
    let bed = lab.bed().await?;
    let (mut starts, mut memory, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let relay = Relay::start(lab, &bed).await?;
        starts.push(relay.took.as_secs_f64() * 1e3);
        let before = (relay.cpu()?, lab.postgres_cpu()?);
        tokio::time::sleep(REST).await;
        let used = (relay.cpu()? - before.0) + (lab.postgres_cpu()? - before.1);
        cpu.push(used.div_duration_f64(REST) * 100.0);
        memory.push(processes::memory(relay.pid, "VmRSS")? as f64 / 1024.0);
        relay.stop().await?;
    }
    bed.drop(lab).await?;
    let size = std::fs::metadata(relay::BINARY)?.len() as f64 / 1024.0 / 1024.0;
    table(&[
        row(&[
            "start to ready ms",
            "RSS at rest MiB",
            "CPU at rest, Postgres included",
            "binary MiB",
        ]),
        vec![
            format!("{:.0}", median(starts)),
            format!("{:.1}", median(memory)),
            format!("{:.1} %", median(cpu)),
            format!("{size:.1}"),
        ],
    ]);
    println!("\nMedians of {RUNS} starts on a migrated database; {}.", busy());
    Ok(())
}
