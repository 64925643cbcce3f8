//! The benchmark: what a delivery costs, measured on a private PostgreSQL with fsync on, the real
//! `posthaste run`, and a receiver in a process of its own, all on this machine and in one run.
//!
//! `cargo bench` runs every measurement, `cargo bench -- drain insert` those named; a word such as
//! `relay.batch=200` is a setting for every relay, to see what it changes, and `full` asks for the
//! sizes and lengths that take an hour in place of about ten minutes. Each measurement prints a
//! table with the medians of its runs and how far they lie apart; at the end a summary sets figures
//! beside their ceiling or baseline, which were measured in the same run, and a file has every
//! figure of every run. What is asserted is that every event arrived exactly once; times are shown
//! and never judged. RESULTS.md keeps figures.

#![expect(clippy::print_stdout, reason = "the tables are what this program is for")]

mod burst;
mod ceiling;
mod claims;
mod conditions;
mod cost;
mod dead;
mod drain;
mod footprint;
mod inbox;
mod ingest;
mod insert;
mod isolation;
mod lab;
mod latency;
mod load;
mod looking;
mod pinned;
mod processes;
mod receiver;
mod relay;
mod report;
mod results;
mod runs;
mod scale;
mod statements;
mod takeover;
mod tenants;
mod wal;

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use posthaste::clock::Clock;

use lab::Lab;

/// The hidden argument with which this program starts itself as the receiver.
const RECEIVER: &str = "receiver";

/// Asks for sizes and lengths that take long.
const IN_FULL: &str = "full";

/// Name and what it measures, in the order in which they run.
const MEASUREMENTS: [(&str, &str); 13] = [
    ("drain", "deliveries a second from a backlog, against a bare client"),
    ("cost", "what a delivery costs, by statement and kind of WAL record"),
    ("latency", "from an insert to its arrival, at a steady rate"),
    ("insert", "what the bell costs the application"),
    ("ingest", "webhooks taken in, beside a bare server and the same inserts"),
    ("burst", "many events at once for one idle endpoint, and what its window makes of it"),
    (
        "isolation",
        "what a hanging endpoint costs nine others, and one tenant's load another tenant",
    ),
    ("dead", "whether a dead endpoint with a long queue costs a healthy one anything"),
    ("pinned", "whether a transaction that stays open slows the relay down"),
    ("scale", "many rows, many endpoints, several relays"),
    (
        "looking",
        "what views and lists cost beside ten days of attempts and a million live deliveries",
    ),
    ("takeover", "how long what a dead relay held lies still"),
    ("footprint", "start, rest, memory and size"),
];

/// Nothing that is waited for takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    // cargo bench passes --bench.
    let named: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if named == [RECEIVER] {
        return receiver::run();
    }
    let (settings, named): (Vec<_>, Vec<_>) =
        named.into_iter().partition(|word| word.contains('='));
    let (full, named): (Vec<_>, Vec<_>) = named.into_iter().partition(|word| word == IN_FULL);
    let known = MEASUREMENTS.map(|(name, _)| name);
    if let Some(unknown) = named.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no measurement {unknown:?}; there are {}", known.join(", "));
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut lab = Lab::open(settings, !full.is_empty()).await?;
        lab.results.conditions = conditions::look(&lab).await?;
        let mut failed = Vec::new();
        for (name, what) in MEASUREMENTS {
            if named.is_empty() || named.iter().any(|wanted| wanted == name) {
                println!("\n## {name}: {what}\n");
                let began = Clock.instant();
                lab.results.begin(name);
                // One that fails takes no other's figures along.
                if let Err(error) = Box::pin(measure(name, &mut lab)).await {
                    println!("{name} failed: {error:#}");
                    failed.push(name);
                }
                lab.results.end(Clock.since(began))?;
            }
        }
        lab.results.sum_up();
        ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
        Ok(())
    })
}

async fn measure(name: &str, lab: &mut Lab) -> Result<()> {
    match name {
        "drain" => drain::measure(lab).await,
        "cost" => cost::measure(lab).await,
        "latency" => latency::measure(lab).await,
        "insert" => insert::measure(lab).await,
        "ingest" => ingest::measure(lab).await,
        "burst" => burst::measure(lab).await,
        "isolation" => isolation::measure(lab).await,
        "dead" => dead::measure(lab).await,
        "pinned" => pinned::measure(lab).await,
        "scale" => scale::measure(lab).await,
        "looking" => looking::measure(lab).await,
        "takeover" => takeover::measure(lab).await,
        "footprint" => footprint::measure(lab).await,
        other => bail!("{other} is listed and not made"),
    }
}
