//! Whether a transaction that stays open slows the relay down: rows that are deleted while a reader
//! still sees them cannot be cleaned up, so a queue grows as it is worked off. The rate of the last
//! tenth of a backlog beside that of the first, and what a bystander's queries take meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use posthaste::clock::Clock;
use tokio::task::JoinSet;

use super::drain::warm_up;
use super::inbox::{Arrival, exactly_once};
use super::lab::{Bed, Lab, Session};
use super::load;
use super::relay::Relay;
use super::report::busy;
use super::results::Figure;
use super::runs::{quantile, sorted};

const EVENTS: usize = 100_000;
const IN_FULL: usize = 500_000;
const RUNS: usize = 3;
/// How long a bystander looks on before.
const BEFORE: Duration = Duration::from_secs(1);
/// Between two of its queries.
const PAUSE: Duration = Duration::from_millis(5);
const ACCOUNTS: i64 = 100_000;

/// Figures of one run: deliveries a second, the server's processor time for each in microseconds,
/// and sorted milliseconds.
struct Run {
    first_tenth: f64,
    last_tenth: f64,
    first_cost: f64,
    last_cost: f64,
    before: Vec<f64>,
    during: Vec<f64>,
}

const NOBODY: &str = "no transaction open";
const PINNED: &str = "one open all the time";
const FIRST: &str = "deliveries/s, first tenth";
const LAST: &str = "deliveries/s, last tenth";
const DURING: &str = "bystander p99 ms, during";

const FIGURES: [Figure<Run>; 9] = [
    (FIRST, 0, |run| run.first_tenth),
    (LAST, 0, |run| run.last_tenth),
    ("last tenth of first", 2, |run| run.last_tenth / run.first_tenth),
    ("Postgres µs, first tenth", 1, |run| run.first_cost),
    ("Postgres µs, last tenth", 1, |run| run.last_cost),
    ("bystander p50 ms, before", 3, |run| quantile(&run.before, 0.5)),
    ("bystander p99 ms, before", 3, |run| quantile(&run.before, 0.99)),
    ("bystander p50 ms, during", 3, |run| quantile(&run.during, 0.5)),
    (DURING, 3, |run| quantile(&run.during, 0.99)),
];

pub(crate) async fn measure(lab: &mut Lab) -> Result<()> {
    let events = if lab.in_full { IN_FULL } else { EVENTS };
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        without.push(once(lab, events, false).await?);
        with.push(once(lab, events, true).await?);
    }
    lab.results.keep_all(NOBODY, &without, &FIGURES);
    lab.results.keep_all(PINNED, &with, &FIGURES);
    lab.results.show();
    println!("\nMedians of {RUNS} runs of {events} events; {}.", busy());
    lab.results.compare((PINNED, LAST), (PINNED, FIRST), "≥ 0.95")?;
    lab.results.compare((PINNED, LAST), (NOBODY, LAST), "")?;
    lab.results.compare((PINNED, DURING), (NOBODY, DURING), "")
}

async fn once(lab: &mut Lab, events: usize, pinned: bool) -> Result<Run> {
    let bed = lab.bed().await?;
    bed.add_endpoint(&lab.inbox.url("/pinned")).await?;
    let accounts = format!(
        "create table public.accounts (id bigint primary key, balance bigint not null);
         insert into public.accounts select n, 0 from generate_series(1, {ACCOUNTS}) n"
    );
    bed.batch_execute(&accounts).await?;
    let relay = Relay::start(lab, &bed).await?;
    warm_up(lab, &bed, 1).await?;
    bed.settled().await?;
    let bystander = Bystander::start(&bed).await?;
    tokio::time::sleep(BEFORE).await;
    let before = bystander.stop().await?;

    relay.freeze()?;
    lab.inbox.take().await?;
    let holder = Session::open(&bed.url).await?;
    if pinned {
        // The snapshot is taken by the first query.
        holder.batch_execute("begin isolation level repeatable read; select 1").await?;
    }
    load::backlog(&bed, events).await?;
    bed.batch_execute("checkpoint").await?;
    let bystander = Bystander::start(&bed).await?;
    let tenth = events / 10;
    relay.thaw()?;
    let first_cost = cost_until(lab, tenth, tenth).await?;
    lab.inbox.filled(events - tenth).await?;
    let last_cost = cost_until(lab, events, tenth).await?;
    let during = bystander.stop().await?;
    let arrivals = lab.inbox.take().await?;
    exactly_once(&arrivals, events)?;
    ensure!(
        is_pinned(&bed, events).await? == pinned,
        "the oldest snapshot is not what it should be"
    );
    relay.stop().await?;
    drop(holder);
    bed.drop(lab).await?;
    let (first_tenth, last_tenth) = tenths(&arrivals)?;
    Ok(Run { first_tenth, last_tenth, first_cost, last_cost, before, during })
}

/// The server's cost of the next `many` deliveries, up to `arrived`: microseconds of processor time
/// each.
async fn cost_until(lab: &Lab, arrived: usize, many: usize) -> Result<f64> {
    let before = lab.postgres_cpu()?;
    lab.inbox.filled(arrived).await?;
    Ok((lab.postgres_cpu()? - before).as_secs_f64() * 1e6 / many as f64)
}

/// Whether any session has a snapshot that is older than the backlog.
async fn is_pinned(bed: &Bed, events: usize) -> Result<bool> {
    let asked = "select coalesce(max(age(backend_xmin)), 0)::bigint from pg_stat_activity
                 where datname = current_database() and state = 'idle in transaction'";
    let age: i64 = bed.query_one(asked, &[]).await?.get(0);
    Ok(age >= i64::try_from(events)?)
}

/// Deliveries a second in the first and in the last tenth.
fn tenths(arrivals: &[Arrival]) -> Result<(f64, f64)> {
    let mut times: Vec<i64> = arrivals.iter().map(|arrival| arrival.at).collect();
    times.sort_unstable();
    let rate = |times: &[i64]| -> Result<f64> {
        let (first, last) = times.first().zip(times.last()).context("some arrived")?;
        Ok(times.len() as f64 * 1e6 / (last - first) as f64)
    };
    let tenth = times.len() / 10;
    Ok((rate(&times[..tenth])?, rate(&times[times.len() - tenth..])?))
}

/// An application of its own on the same database: reads a row by its key, now and then.
struct Bystander {
    over: Arc<AtomicBool>,
    task: JoinSet<Result<Vec<f64>>>,
}

impl Bystander {
    async fn start(bed: &Bed) -> Result<Self> {
        let session = Session::open(&bed.url).await?;
        let over = Arc::new(AtomicBool::new(false));
        let mut task = JoinSet::new();
        task.spawn(look_on(session, Arc::clone(&over)));
        Ok(Self { over, task })
    }

    /// The times of its queries, in milliseconds, sorted.
    async fn stop(mut self) -> Result<Vec<f64>> {
        self.over.store(true, Ordering::Relaxed);
        let took = self.task.join_next().await.context("a task was spawned")???;
        Ok(sorted(took))
    }
}

async fn look_on(session: Session, over: Arc<AtomicBool>) -> Result<Vec<f64>> {
    let point = session.prepare("select balance from public.accounts where id = $1").await?;
    let mut took = Vec::new();
    while !over.load(Ordering::Relaxed) {
        tokio::time::sleep(PAUSE).await;
        let began = Clock.instant();
        session.query_one(&point, &[&fastrand::i64(1..=ACCOUNTS)]).await?;
        took.push(Clock.since(began).as_secs_f64() * 1e3);
    }
    Ok(took)
}
