//! Whether an endpoint that takes requests and never answers costs the others anything: the time
//! until nine of ten have all they are owed, with the tenth hanging and without.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use posthaste::clock::Clock;

use super::PATIENCE;
use super::inbox::{Arrival, exactly_once};
use super::lab::Lab;
use super::load;
use super::receiver::HANG;
use super::relay::Relay;
use super::report::busy;
use super::tenants;

const EVENTS: usize = 500;
/// Endpoints that answer.
const WELL: usize = 9;
const RUNS: usize = 5;
const TIME: &str = "ms until the nine have all";
/// Between two looks; each moves what has arrived over to us.
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(crate) async fn measure(lab: &mut Lab) -> Result<()> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        without.push(once(lab, "/9").await?);
        with.push(once(lab, HANG).await?);
    }
    let (answers, hangs) = (("the tenth answers", TIME), ("the tenth hangs", TIME));
    lab.results.keep(answers, 0, without);
    lab.results.keep(hangs, 0, with);
    lab.results.show();
    println!(
        "\nMedians of {RUNS} runs of {EVENTS} events owed to each of 10 endpoints; {}.",
        busy()
    );
    lab.results.compare(hangs, answers, "≤ 1.10")?;
    println!();
    tenants::measure(lab).await
}

/// Milliseconds from the bell to the last arrival at the nine.
async fn once(lab: &mut Lab, tenth: &str) -> Result<f64> {
    let bed = lab.bed().await?;
    for path in (0..WELL).map(|n| format!("/{n}")).chain([tenth.to_owned()]) {
        bed.add_endpoint(&lab.inbox.url(&path)).await?;
    }
    let relay = Relay::start(lab, &bed).await?;
    relay.freeze()?;
    load::backlog(&bed, EVENTS).await?;
    lab.inbox.take().await?;
    relay.thaw()?;
    let began = Clock.now().as_microsecond();
    // As the last of the writers would have done; else the next poll would be what is measured.
    bed.batch_execute("notify posthaste").await?;
    let arrivals = nine_full(lab, tenth).await?;
    // One that hangs would hold up an orderly end for the grace.
    relay.kill().await?;
    bed.drop(lab).await?;
    exactly_once(&arrivals, WELL * EVENTS)?;
    let last = arrivals.iter().map(|arrival| arrival.at).max().unwrap_or(began);
    Ok((last - began) as f64 / 1e3)
}

/// All arrivals at the nine, once none is missing.
async fn nine_full(lab: &Lab, tenth: &str) -> Result<Vec<Arrival>> {
    let began = Clock.instant();
    let mut arrivals = Vec::new();
    while arrivals.len() < WELL * EVENTS {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for Arrival { path, .. } in &arrivals {
            *counts.entry(path).or_default() += 1;
        }
        ensure!(Clock.since(began) < PATIENCE, "of {EVENTS} each only {counts:?} arrived");
        tokio::time::sleep(LOOK_EVERY).await;
        arrivals.extend(lab.inbox.take().await?.into_iter().filter(|one| one.path != tenth));
    }
    Ok(arrivals)
}
