//! The throughput of several relays on one database, with endpoints that answer at once and with
//! some that take their time. All of them share this machine's cores with the server and the
//! receiver.

use anyhow::Result;

use crate::inbox::{exactly_once, span};
use crate::lab::Lab;
use crate::load;
use crate::receiver::{SLOW, SLOW_FOR};
use crate::relay::Relay;
use crate::report::busy;

const RELAYS: [usize; 3] = [1, 2, 4];
/// Together they may be sent more than one relay has in flight.
const ENDPOINTS: usize = 20;
const DELIVERIES: usize = 40_000;
const IN_FULL: usize = 200_000;
const RUNS: usize = 3;

pub(super) async fn measure(lab: &mut Lab) -> Result<()> {
    let deliveries = if lab.in_full { IN_FULL } else { DELIVERIES };
    let kinds = [
        ("", "deliveries/s, answered at once".to_owned()),
        (SLOW, format!("deliveries/s, answered after {SLOW_FOR:?}")),
    ];
    for (path, figure) in &kinds {
        let mut runs = RELAYS.map(|_| Vec::new());
        for _ in 0..RUNS {
            for (runs, relays) in runs.iter_mut().zip(RELAYS) {
                runs.push(once(lab, relays, path, deliveries).await?);
            }
        }
        for (runs, relays) in runs.into_iter().zip(RELAYS) {
            lab.results.keep((&named(relays), figure), 0, runs);
        }
        for relays in &RELAYS[1..] {
            lab.results.compare((&named(*relays), figure), (&named(RELAYS[0]), figure), "")?;
        }
    }
    lab.results.show();
    println!(
        "\nMedians of {RUNS} runs of {deliveries} deliveries to {ENDPOINTS} endpoints; {}.",
        busy()
    );
    Ok(())
}

fn named(relays: usize) -> String {
    format!("{relays} relay{}", if relays == 1 { "" } else { "s" })
}

/// Deliveries a second of all together.
async fn once(lab: &mut Lab, count: usize, path: &str, deliveries: usize) -> Result<f64> {
    let bed = lab.bed().await?;
    for endpoint in 0..ENDPOINTS {
        bed.add_endpoint(&lab.inbox.url(&format!("{path}/{endpoint}"))).await?;
    }
    let mut relays = Vec::new();
    for _ in 0..count {
        relays.push(Relay::start(lab, &bed).await?);
    }
    for relay in &relays {
        relay.freeze()?;
    }
    load::backlog(&bed, deliveries / ENDPOINTS).await?;
    bed.batch_execute("checkpoint").await?;
    lab.inbox.take().await?;
    for relay in &relays {
        relay.thaw()?;
    }
    lab.inbox.filled(deliveries).await?;
    let arrivals = lab.inbox.take().await?;
    exactly_once(&arrivals, deliveries)?;
    for relay in relays {
        relay.stop().await?;
    }
    bed.drop(lab).await?;
    Ok(deliveries as f64 / span(&arrivals)?.as_secs_f64())
}
