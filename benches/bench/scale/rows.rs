//! Pages that a claim and the question for what is due read when much is due, beside when little
//! is.

use anyhow::Result;

use crate::claims::{Caller, Cost};
use crate::lab::Lab;
use crate::load;
use crate::report::busy;
use crate::results::Figure;

const FEW: i64 = 10_000;
const MANY: i64 = 1_000_000;
const MANY_IN_FULL: i64 = 10_000_000;
const ENDPOINTS: usize = 10;
/// That one claim takes.
const CLAIMED: i32 = 500;
const OF_EACH: i32 = 50;
const RUNS: usize = 5;

struct Run {
    claim: Cost,
    due: Cost,
}

const CLAIM: &str = "claim, buffers a delivery";
const DUE: &str = "due, buffers a call";

const FIGURES: [Figure<Run>; 4] = [
    (CLAIM, 2, |run| run.claim.buffers / f64::from(CLAIMED)),
    ("claim, ms a call", 1, |run| run.claim.milliseconds),
    (DUE, 0, |run| run.due.buffers),
    ("due, ms a call", 2, |run| run.due.milliseconds),
];

pub(super) async fn measure(lab: &mut Lab) -> Result<()> {
    let many = if lab.in_full { MANY_IN_FULL } else { MANY };
    let [few, many] = [FEW, many].map(|due| (due, format!("{due} due")));
    for (due, name) in [&few, &many] {
        let runs = with(lab, *due).await?;
        lab.results.keep_all(name, &runs, &FIGURES);
    }
    lab.results.show();
    println!(
        "\nMedians of {RUNS} calls one after the other, each claiming {CLAIMED} deliveries of {ENDPOINTS} endpoints; {}.",
        busy()
    );
    for figure in [CLAIM, DUE] {
        lab.results.compare((&many.1, figure), (&few.1, figure), "≤ 1.20")?;
    }
    Ok(())
}

async fn with(lab: &mut Lab, due: i64) -> Result<Vec<Run>> {
    let bed = lab.bed().await?;
    let mut endpoints = Vec::new();
    for number in 0..ENDPOINTS {
        endpoints.push(bed.add_endpoint(&lab.inbox.url(&format!("/{number}"))).await?);
    }
    load::owed(&bed, &endpoints, due).await?;
    let mut caller = Caller::new(&bed)?;
    // A session's first read reads the catalogue too.
    caller.claim(&endpoints, 1).await?;
    caller.due(ENDPOINTS).await?;
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let claim = caller.claim(&endpoints, OF_EACH).await?;
        runs.push(Run { claim, due: caller.due(ENDPOINTS).await? });
    }
    bed.drop(lab).await?;
    Ok(runs)
}
