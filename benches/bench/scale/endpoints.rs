//! The cost of ten thousand endpoints that are each owed something, beside ten that are
//! owed as much together: the statements one by one, and all of it delivered.

use anyhow::Result;

use crate::claims::{Caller, Cost};
use crate::inbox::{exactly_once, span};
use crate::lab::{Bed, Lab};
use crate::load;
use crate::relay::Relay;
use crate::report::busy;
use crate::results::Figure;

const FEW: usize = 10;
const MANY: usize = 10_000;
/// Deliveries that they are owed together.
const DUE: usize = 30_000;
/// That one claim takes, of as many endpoints as one claim may name.
const CLAIMED: usize = 500;
/// Events that are routed to one endpoint each.
const ROUTED: u32 = 500;
const RUNS: usize = 3;

struct Run {
    claim: Cost,
    due: Cost,
    route: Cost,
    per_second: f64,
}

const CLAIM: &str = "claim, buffers a delivery";
const ROUTE: &str = "route, buffers an event";
const DRAIN: &str = "all of it, deliveries/s";

const FIGURES: [Figure<Run>; 7] = [
    (CLAIM, 2, |run| run.claim.buffers / CLAIMED as f64),
    ("claim, ms a call", 1, |run| run.claim.milliseconds),
    (ROUTE, 2, |run| run.route.buffers / f64::from(ROUTED)),
    ("route, ms a call", 1, |run| run.route.milliseconds),
    ("due, buffers a call", 0, |run| run.due.buffers),
    ("due, ms a call", 1, |run| run.due.milliseconds),
    (DRAIN, 0, |run| run.per_second),
];

pub(super) async fn measure(lab: &mut Lab) -> Result<()> {
    let mut runs = [FEW, MANY].map(|count| (count, format!("{count} endpoints"), Vec::new()));
    for _ in 0..RUNS {
        for (count, _, runs) in &mut runs {
            runs.push(once(lab, *count).await?);
        }
    }
    for (_, name, runs) in &runs {
        lab.results.keep_all(name, runs, &FIGURES);
    }
    lab.results.show();
    println!(
        "\nMedians of {RUNS} runs with {DUE} deliveries due; a claim takes {CLAIMED}, a routing {ROUTED} events to one \
         endpoint each; {}.",
        busy()
    );
    let [(_, few, _), (_, many, _)] = &runs;
    for figure in [CLAIM, ROUTE, DRAIN] {
        lab.results.compare((many, figure), (few, figure), "")?;
    }
    Ok(())
}

async fn once(lab: &mut Lab, count: usize) -> Result<Run> {
    let bed = lab.bed().await?;
    let endpoints = endpoints(lab, &bed, count).await?;
    load::owed(&bed, &endpoints, i64::try_from(DUE)?).await?;
    let mut caller = Caller::new(&bed)?;
    let named = &endpoints[..count.min(CLAIMED)];
    let of_each = i32::try_from(CLAIMED / named.len())?;
    // A session's first read reads the catalogue too.
    caller.claim(named, 1).await?;
    let claim = caller.claim(named, of_each).await?;
    caller.due(count).await?;
    let due = caller.due(count).await?;
    publish(&bed, count).await?;
    caller.route(ROUTED).await?;
    publish(&bed, count).await?;
    let route = caller.route(ROUTED).await?;
    caller.give_back().await?;

    lab.inbox.take().await?;
    let relay = Relay::start(lab, &bed).await?;
    let owed = DUE + 2 * usize::try_from(ROUTED)?;
    lab.inbox.filled(owed).await?;
    let arrivals = lab.inbox.take().await?;
    exactly_once(&arrivals, owed)?;
    relay.stop().await?;
    bed.drop(lab).await?;
    Ok(Run { claim, due, route, per_second: owed as f64 / span(&arrivals)?.as_secs_f64() })
}

/// Endpoints that are each owed an event type of their own.
async fn endpoints(lab: &Lab, bed: &Bed, count: usize) -> Result<Vec<i64>> {
    let add = "insert into posthaste.endpoints (url, subscriptions)
               select $1::text || n, array['order.of' || n] from generate_series(1, $2::bigint) n
               returning id";
    let rows = bed.query(add, &[&lab.inbox.url("/"), &i64::try_from(count)?]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Writes events that one endpoint each is owed, spread over all of them.
async fn publish(bed: &Bed, count: usize) -> Result<()> {
    let write = "insert into posthaste.outbox (event_type, payload)
                 select 'order.of' || (1 + n * 7919 % $1::bigint), '{}' from generate_series(1, $2::bigint) n";
    bed.execute(write, &[&i64::try_from(count)?, &i64::from(ROUTED)]).await?;
    Ok(())
}
