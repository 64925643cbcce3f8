//! How fast a backlog goes out, and what each delivery costs meanwhile.
//!
//! The relay has sent a little before, so that its sessions, connections and plans are warm; then it is
//! frozen while the backlog is written, and a checkpoint is made. What follows is delivering alone.

use std::time::Duration;

use anyhow::Result;
use tokio_postgres::Client;

use super::ceiling;
use super::cost::{self, Breakdown};
use super::inbox::{exactly_once, span};
use super::lab::Lab;
use super::load;
use super::processes;
use super::relay::Relay;
use super::report::{busy, median, row, table, whole};

/// Deliveries a run.
pub(crate) const DELIVERIES: usize = 50_000;
/// Deliveries before it counts.
const WARM_UP: usize = 2_000;
const RUNS: usize = 3;
const ENDPOINTS: [usize; 2] = [1, 10];

/// What one run showed; times are processor time.
#[derive(Debug)]
pub(crate) struct Drained {
    pub(crate) deliveries: usize,
    pub(crate) per_second: f64,
    pub(crate) postgres: Duration,
    pub(crate) relay: Duration,
    pub(crate) receiver: Duration,
    pub(crate) wal_bytes: f64,
    /// Transactions that wrote.
    pub(crate) transactions: f64,
    /// The most memory the relay had, in KiB.
    pub(crate) peak_kib: u64,
    pub(crate) breakdown: Breakdown,
}

pub(crate) async fn measure(lab: &mut Lab) -> Result<()> {
    let head = [
        "endpoints",
        "deliveries/s",
        "bare client/s",
        "ratio",
        "Postgres µs",
        "relay µs",
        "receiver µs",
        "WAL B",
        "of it full pages",
        "statements",
        "writing transactions",
        "peak RSS MiB",
    ];
    let mut rows = vec![row(&head)];
    for endpoints in ENDPOINTS {
        let (mut runs, mut ceilings) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            ceilings.push(ceiling::rate(&lab.inbox, DELIVERIES).await?);
            runs.push(once(lab, endpoints, DELIVERIES).await?);
        }
        let ceiling = median(ceilings);
        let of = |value: fn(&Drained) -> f64| median(runs.iter().map(value).collect());
        let rate = of(|run| run.per_second);
        rows.push(vec![
            endpoints.to_string(),
            whole(rate),
            whole(ceiling),
            format!("{:.2}", rate / ceiling),
            format!("{:.1}", of(|run| run.each(run.postgres))),
            format!("{:.1}", of(|run| run.each(run.relay))),
            format!("{:.1}", of(|run| run.each(run.receiver))),
            whole(of(|run| run.wal_bytes / run.deliveries as f64)),
            whole(of(|run| run.breakdown.full_pages() / run.deliveries as f64)),
            format!("{:.4}", of(|run| run.breakdown.calls() / run.deliveries as f64)),
            format!("{:.4}", of(|run| run.transactions / run.deliveries as f64)),
            format!("{:.1}", of(|run| run.peak_kib as f64 / 1024.0)),
        ]);
    }
    table(&rows);
    println!(
        "\nMedians of {RUNS} runs of {DELIVERIES} deliveries; µs are processor time each; {}.",
        busy()
    );
    Ok(())
}

/// Drains a backlog that owes so many deliveries, in a database of its own.
pub(crate) async fn once(lab: &mut Lab, endpoints: usize, deliveries: usize) -> Result<Drained> {
    let bed = lab.bed().await?;
    for endpoint in 0..endpoints {
        bed.add_endpoint(&lab.inbox.url(&format!("/{endpoint}"))).await?;
    }
    let relay = Relay::start(lab, &bed).await?;
    lab.inbox.take().await?;
    load::backlog(&bed, WARM_UP / endpoints).await?;
    lab.inbox.filled(WARM_UP).await?;
    bed.settled().await?;

    relay.freeze()?;
    lab.inbox.take().await?;
    load::backlog(&bed, deliveries / endpoints).await?;
    bed.batch_execute("checkpoint").await?;
    cost::begin(&bed).await?;
    let before = Reading::take(lab, &relay, &bed).await?;
    relay.thaw()?;
    lab.inbox.filled(deliveries).await?;
    bed.settled().await?;
    let after = Reading::take(lab, &relay, &bed).await?;
    let breakdown = cost::end(&bed, before.lsn, after.lsn).await?;

    let arrivals = lab.inbox.take().await?;
    exactly_once(&arrivals, deliveries)?;
    let peak_kib = processes::memory(relay.pid, "VmHWM")?;
    relay.stop().await?;
    bed.drop(lab).await?;
    Ok(Drained {
        deliveries,
        per_second: deliveries as f64 / span(&arrivals)?.as_secs_f64(),
        postgres: after.postgres - before.postgres,
        relay: after.relay - before.relay,
        receiver: after.receiver - before.receiver,
        wal_bytes: (after.lsn - before.lsn) as f64,
        transactions: (after.xid - before.xid) as f64,
        peak_kib,
        breakdown,
    })
}

impl Drained {
    /// In microseconds for each delivery.
    pub(crate) fn each(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.deliveries as f64
    }
}

/// What the counters stand at.
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
