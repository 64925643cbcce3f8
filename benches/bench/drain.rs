//! How fast a backlog goes out, and what each delivery costs meanwhile.
//!
//! The relay has sent a little before, so that its sessions, connections and plans are warm; then
//! it is frozen while the backlog is written, and a checkpoint is made. What follows is delivering
//! alone. In full, it is also measured in a database through which a million deliveries have gone.

use std::time::Duration;

use anyhow::Result;
use tokio_postgres::Client;

use super::ceiling;
use super::inbox::{exactly_once, span};
use super::lab::{Bed, Lab};
use super::load;
use super::processes;
use super::relay::Relay;
use super::report::busy;
use super::results::Figure;
use super::statements::{self, Statement};
use super::wal::{self, Record};

/// Deliveries a run …
pub(crate) const DELIVERIES: usize = 50_000;
/// … and in full.
const IN_FULL: usize = 200_000;
/// Deliveries before it counts.
const WARM_UP: usize = 2_000;
/// Deliveries that have made a database old, with autovacuum on.
const AGEING: usize = 1_000_000;
const RUNS: usize = 3;
const ENDPOINTS: [usize; 3] = [1, 10, 100];

const RATE: &str = "deliveries/s";
pub(crate) const POSTGRES: &str = "Postgres µs";
pub(crate) const WAL: &str = "WAL B";
const STATEMENTS: &str = "statements";
const CEILING: &str = "bare client";
const AGED: &str = "1 endpoint, after 1,000,000 deliveries";

/// All but the first and the last are for each delivery; µs are processor time.
pub(crate) const FIGURES: [Figure<Drained>; 9] = [
    (RATE, 0, |run| run.per_second),
    (POSTGRES, 1, |run| run.each(run.postgres)),
    ("relay µs", 1, |run| run.each(run.relay)),
    ("receiver µs", 1, |run| run.each(run.receiver)),
    (WAL, 0, |run| run.wal_bytes / run.deliveries as f64),
    ("of it full pages", 0, |run| run.full_pages() / run.deliveries as f64),
    (STATEMENTS, 4, |run| run.calls() / run.deliveries as f64),
    ("writing transactions", 4, |run| run.transactions / run.deliveries as f64),
    ("peak RSS MiB", 1, Drained::peak_mib),
];

/// Figures of one run; times are processor time.
#[derive(Debug)]
pub(crate) struct Drained {
    deliveries: usize,
    per_second: f64,
    postgres: Duration,
    relay: Duration,
    receiver: Duration,
    wal_bytes: f64,
    /// Transactions that wrote.
    transactions: f64,
    /// The most memory the relay had, in KiB.
    peak_kib: u64,
    pub(crate) statements: Vec<Statement>,
    pub(crate) records: Vec<Record>,
}

pub(crate) async fn measure(lab: &mut Lab) -> Result<()> {
    let deliveries = if lab.in_full { IN_FULL } else { DELIVERIES };
    let (mut runs, mut ceilings) = (ENDPOINTS.map(|_| Vec::new()), Vec::new());
    // In turns, so that a neighbour on the machine disturbs all of them alike.
    for _ in 0..RUNS {
        ceilings.push(ceiling::rate(&lab.inbox, deliveries).await?);
        for (runs, endpoints) in runs.iter_mut().zip(ENDPOINTS) {
            runs.push(once(lab, endpoints, deliveries).await?);
        }
    }
    let [one, ten, hundred] = ENDPOINTS.map(named);
    for (name, runs) in [&one, &ten, &hundred].into_iter().zip(&runs) {
        lab.results.keep_all(name, runs, &FIGURES);
    }
    lab.results.keep((CEILING, RATE), 0, ceilings);
    if lab.in_full {
        let aged = in_an_old_database(lab).await?;
        lab.results.keep_all(AGED, &aged, &FIGURES);
    }
    lab.results.show();
    println!(
        "\nMedians of {RUNS} runs of {deliveries} deliveries; all but rate and memory are for each \
         delivery, µs are processor time; {}.",
        busy()
    );
    for name in [&one, &ten, &hundred] {
        lab.results.compare((name, RATE), (CEILING, RATE), "")?;
    }
    for name in [&ten, &hundred] {
        lab.results.compare((name, RATE), (&one, RATE), "≥ 0.90")?;
    }
    if lab.in_full {
        for figure in [POSTGRES, WAL, STATEMENTS] {
            lab.results.compare((AGED, figure), (&one, figure), "≤ 1.00")?;
        }
    }
    Ok(())
}

fn named(endpoints: usize) -> String {
    format!("{endpoints} endpoint{}", if endpoints == 1 { "" } else { "s" })
}

/// Drains a backlog that owes so many deliveries, in a database of its own.
pub(crate) async fn once(lab: &mut Lab, endpoints: usize, deliveries: usize) -> Result<Drained> {
    let bed = lab.bed().await?;
    for endpoint in 0..endpoints {
        bed.add_endpoint(&lab.inbox.url(&format!("/{endpoint}"))).await?;
    }
    let drained = drain(lab, &bed, endpoints, deliveries).await?;
    bed.drop(lab).await?;
    Ok(drained)
}

async fn in_an_old_database(lab: &mut Lab) -> Result<Vec<Drained>> {
    let bed = lab.bed().await?;
    bed.add_endpoint(&lab.inbox.url("/0")).await?;
    drain(lab, &bed, 1, AGEING).await?;
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(drain(lab, &bed, 1, IN_FULL).await?);
    }
    bed.drop(lab).await?;
    Ok(runs)
}

async fn drain(lab: &Lab, bed: &Bed, endpoints: usize, deliveries: usize) -> Result<Drained> {
    let relay = Relay::start(lab, bed).await?;
    warm_up(lab, bed, endpoints).await?;
    bed.settled().await?;

    relay.freeze()?;
    lab.inbox.take().await?;
    load::backlog(bed, deliveries / endpoints).await?;
    bed.batch_execute("checkpoint").await?;
    statements::begin(bed).await?;
    let before = Reading::take(lab, &relay, bed).await?;
    relay.thaw()?;
    lab.inbox.filled(deliveries).await?;
    bed.settled().await?;
    let after = Reading::take(lab, &relay, bed).await?;
    let statements = statements::end(bed).await?;
    let records = wal::between(bed, before.lsn, after.lsn).await?;

    let arrivals = lab.inbox.take().await?;
    exactly_once(&arrivals, deliveries)?;
    let peak_kib = processes::memory(relay.pid, "VmHWM")?;
    relay.stop().await?;
    Ok(Drained {
        deliveries,
        per_second: deliveries as f64 / span(&arrivals)?.as_secs_f64(),
        postgres: after.postgres - before.postgres,
        relay: after.relay - before.relay,
        receiver: after.receiver - before.receiver,
        wal_bytes: (after.lsn - before.lsn) as f64,
        transactions: (after.xid - before.xid) as f64,
        peak_kib,
        statements,
        records,
    })
}

/// Has a relay send a little to so many endpoints that are owed everything.
pub(crate) async fn warm_up(lab: &Lab, bed: &Bed, endpoints: usize) -> Result<()> {
    lab.inbox.take().await?;
    load::backlog(bed, WARM_UP / endpoints).await?;
    lab.inbox.filled(WARM_UP).await
}

impl Drained {
    pub(crate) fn peak_mib(&self) -> f64 {
        self.peak_kib as f64 / 1024.0
    }

    /// In microseconds for each delivery.
    fn each(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.deliveries as f64
    }

    fn calls(&self) -> f64 {
        self.statements.iter().map(|one| one.calls).sum()
    }

    fn full_pages(&self) -> f64 {
        self.records.iter().map(|one| one.full_pages).sum()
    }
}

/// The counters at one moment.
struct Reading {
    postgres: Duration,
    relay: Duration,
    receiver: Duration,
    /// Bytes of WAL since the cluster was made.
    lsn: i64,
    xid: i64,
}

impl Reading {
    async fn take(lab: &Lab, relay: &Relay, client: &Client) -> Result<Self> {
        let row = client
            .query_one(
                "select (pg_current_wal_insert_lsn() - '0/0')::bigint,
                        pg_snapshot_xmax(pg_current_snapshot())::text::bigint",
                &[],
            )
            .await?;
        Ok(Self {
            postgres: lab.postgres_cpu()?,
            relay: relay.cpu()?,
            receiver: lab.inbox.cpu()?,
            lsn: row.get(0),
            xid: row.get(1),
        })
    }
}
