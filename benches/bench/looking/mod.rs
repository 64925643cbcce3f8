//! What operators and consoles ask, when ten days of attempts are kept and a million deliveries are
//! live: the time and the pages of each question, of a table whose statistics are right. And what
//! the indexes that only they need cost each attempt.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::lab::{Bed, Lab};
use super::report::busy;
use super::results::Figure;

/// Procedures that make the rows, and the questions; the tests have them too.
const FILL: &str = include_str!("fill.sql");
const QUESTIONS: &str = include_str!("questions.sql");

/// Of ten days. Ten of eleven have an attempt, and the eleventh is live.
const EVENTS: i64 = 1_100_000;
const EVENTS_IN_FULL: i64 = 11_000_000;
const FEW: i64 = 200;
const MANY: i64 = 10_000;
/// Of the many, those that nearly all of it is owed to.
const DEEP: i64 = 100;
/// Each question is asked once more, first, which is not counted: it reads the catalogue.
const RUNS: usize = 5;

/// Attempts that are recorded to see what indexes cost, as many at once as a relay records.
const RECORDED: f64 = 200_000.0;
const AT_ONCE: f64 = 500.0;
const TURNS: usize = 3;

pub(crate) async fn measure(lab: &mut Lab) -> Result<()> {
    let events = if lab.in_full { EVENTS_IN_FULL } else { EVENTS };
    let bed = lab.bed().await?;
    fill(&bed, events).await?;
    for (endpoints, deep) in [(FEW, FEW), (MANY, DEEP)] {
        owe(&bed, endpoints, deep).await?;
        for (name, question) in questions(events) {
            let runs = ask(&bed, &question).await.context(name)?;
            let (ms, pages) = runs.into_iter().unzip();
            lab.results.keep((name, &format!("ms, {endpoints} endpoints")), 1, ms);
            lab.results.keep((name, &format!("buffers, {endpoints}")), 0, pages);
        }
    }
    lab.results.show();
    println!(
        "\nMedians of {RUNS} runs with {events} events of ten days, of which one in eleven is live, \
         owed to {FEW} endpoints, or to {DEEP} of {MANY}; {}.",
        busy()
    );
    bed.drop(lab).await?;
    indexes(lab).await
}

/// Makes the events and what became of them, a million at a time.
async fn fill(bed: &Bed, events: i64) -> Result<()> {
    bed.batch_execute(FILL).await?;
    // Each setting alone: a procedure that commits may not stand in a transaction.
    bed.batch_execute("set synchronous_commit = off").await?;
    bed.batch_execute(&format!("call looking.use_transactions({})", events / 50 + 10)).await?;
    bed.batch_execute("set session_replication_role = replica; set jit = off").await?;
    bed.batch_execute(&format!("select looking.begin({events}, {FEW})")).await?;
    let mut from = 1;
    while from < events {
        let until = events.min(from + 1_000_000);
        bed.batch_execute(&format!("call looking.fill({from}, {until})")).await?;
        from = until;
    }
    bed.batch_execute("select looking.finish()").await?;
    bed.batch_execute("vacuum (freeze, analyze)").await?;
    Ok(())
}

/// Owes what is live to this many endpoints, most of it to the first of them.
async fn owe(bed: &Bed, endpoints: i64, deep: i64) -> Result<()> {
    let missing = format!("({endpoints} - (select count(*) from posthaste.endpoints))::integer");
    bed.batch_execute(&format!("select looking.add_endpoints({missing})")).await?;
    bed.batch_execute(&format!("select looking.owe({endpoints}, {deep})")).await?;
    for table in ["deliveries", "claims", "endpoints", "endpoint_health"] {
        bed.batch_execute(&format!("vacuum analyze posthaste.{table}")).await?;
    }
    Ok(())
}

/// Each question with its name, asked about events of these.
fn questions(events: i64) -> impl Iterator<Item = (&'static str, String)> {
    QUESTIONS.split("\n\n").skip(1).filter_map(move |question| {
        let (name, text) = question.trim().split_once('\n')?;
        let numbered = text.replace("$recent", &(events - events / 44).to_string());
        let numbered = numbered.replace("$old", &(events / 12).to_string());
        Some((name.trim_start_matches("-- "), numbered))
    })
}

/// Milliseconds, planning included, and pages of each time that it is asked.
async fn ask(bed: &Bed, question: &str) -> Result<Vec<(f64, f64)>> {
    let explain = format!("explain (analyze, buffers, timing off, format json) {question}");
    let mut runs = Vec::new();
    for _ in 0..=RUNS {
        let plan: Value = bed.query_one(&explain, &[]).await?.get(0);
        let of = |of: &Value, key: &str| of.get(key).and_then(Value::as_f64).unwrap_or(0.0);
        let (whole, top) = (&plan[0], &plan[0]["Plan"]);
        runs.push((
            of(whole, "Planning Time") + of(whole, "Execution Time"),
            of(top, "Shared Hit Blocks") + of(top, "Shared Read Blocks"),
        ));
    }
    runs.remove(0);
    Ok(runs)
}

/// What recording an attempt costs.
struct Recorded {
    wal_bytes: f64,
    microseconds: f64,
}

const FIGURES: [Figure<Recorded>; 2] = [
    ("WAL B an attempt", 0, |run| run.wal_bytes),
    ("Postgres µs an attempt", 2, |run| run.microseconds),
];

async fn indexes(lab: &mut Lab) -> Result<()> {
    let conditions = [
        ("with attempts_by_time and attempts_failed_by_endpoint", ""),
        (
            "without them",
            "drop index posthaste.attempts_by_time, posthaste.attempts_failed_by_endpoint",
        ),
    ];
    let mut runs = conditions.map(|_| Vec::new());
    for _ in 0..TURNS {
        for (runs, (_, change)) in runs.iter_mut().zip(conditions) {
            runs.push(record(lab, change).await?);
        }
    }
    println!();
    for (runs, (name, _)) in runs.iter().zip(conditions) {
        lab.results.keep_all(name, runs, &FIGURES);
    }
    lab.results.show();
    println!(
        "\nMedians of {TURNS} turns of {RECORDED} delivered attempts, {AT_ONCE} in a statement; {}.",
        busy()
    );
    Ok(())
}

async fn record(lab: &mut Lab, change: &str) -> Result<Recorded> {
    let bed = lab.bed().await?;
    bed.batch_execute(FILL).await?;
    bed.batch_execute(change).await?;
    bed.batch_execute("set synchronous_commit = off").await?;
    bed.batch_execute("checkpoint").await?;
    let written = "select (pg_current_wal_insert_lsn() - '0/0')::float8";
    let (wal, cpu) = (bed.query_one(written, &[]).await?.get::<_, f64>(0), lab.postgres_cpu()?);
    let record = format!("call looking.record({}, {AT_ONCE})", RECORDED / AT_ONCE);
    bed.batch_execute(&record).await?;
    let microseconds = (lab.postgres_cpu()? - cpu).as_secs_f64() * 1e6 / RECORDED;
    let wal_bytes = (bed.query_one(written, &[]).await?.get::<_, f64>(0) - wal) / RECORDED;
    bed.drop(lab).await?;
    Ok(Recorded { wal_bytes, microseconds })
}
