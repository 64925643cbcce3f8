//! Where a delivery's cost in the database goes: by statement and by kind of WAL record.

use anyhow::Result;

use super::drain::{self, DELIVERIES, Drained, FIGURES, POSTGRES, WAL};
use super::lab::Lab;
use super::report::busy;
use super::results::Figure;
use super::statements::Statement;
use super::wal::Record;

const RUNS: usize = 3;
/// Lines of each table; the rest is small change.
const SHOWN: usize = 8;

/// For each delivery, but for the first two.
const OF_STATEMENTS: [Figure<Statement>; 6] = [
    ("calls", 0, |one| one.calls),
    ("rows a call", 1, |one| one.rows / one.calls),
    ("µs (wall)", 3, |one| one.milliseconds * 1e3 / DELIVERIES as f64),
    ("buffers", 3, |one| one.buffers / DELIVERIES as f64),
    ("WAL records", 3, |one| one.wal_records / DELIVERIES as f64),
    ("WAL B", 3, |one| one.wal_bytes / DELIVERIES as f64),
];
/// For each delivery.
const OF_RECORDS: [Figure<Record>; 3] = [
    ("count", 3, |one| one.count / DELIVERIES as f64),
    ("B", 3, |one| one.bytes / DELIVERIES as f64),
    ("full pages B", 3, |one| one.full_pages / DELIVERIES as f64),
];

pub(crate) async fn measure(lab: &mut Lab) -> Result<()> {
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(drain::once(lab, 1, DELIVERIES).await?);
    }
    let Some(first) = runs.first() else { return Ok(()) };
    for name in first.statements.iter().map(|one| &one.name).take(SHOWN) {
        let of_run = |run: &Drained| run.statements.iter().find(|one| one.name == *name).cloned();
        let of_runs: Vec<_> = runs.iter().filter_map(of_run).collect();
        lab.results.keep_all(name, &of_runs, &OF_STATEMENTS);
    }
    lab.results.show();
    println!("\nAll but calls and rows a call are for each delivery.\n");
    for kind in first.records.iter().map(|one| &one.kind).take(SHOWN) {
        let of_run = |run: &Drained| run.records.iter().find(|one| one.kind == *kind).cloned();
        let of_runs: Vec<_> = runs.iter().filter_map(of_run).collect();
        lab.results.keep_all(kind, &of_runs, &OF_RECORDS);
    }
    lab.results.show();
    println!("\nMedians of {RUNS} runs of {DELIVERIES} deliveries; {}.\n", busy());
    lab.results.keep_all("a delivery", &runs, &FIGURES);
    lab.results.show();
    lab.results.mention(("a delivery", POSTGRES))?;
    lab.results.mention(("a delivery", WAL))
}
