//! Where a delivery's cost in the database goes: by statement (`pg_stat_statements`) and by kind of WAL
//! record (`pg_walinspect`). Both are part of contrib; what is not installed is not shown.

use anyhow::Result;
use tokio_postgres::Client;

use super::drain::{self, DELIVERIES};
use super::lab::Lab;
use super::report::{busy, row, table};

/// Lines of each table; the rest is small change.
const SHOWN: usize = 14;

#[derive(Debug, Default)]
pub(crate) struct Breakdown {
    statements: Vec<Statement>,
    records: Vec<Record>,
}

/// All calls of one statement.
#[derive(Debug)]
struct Statement {
    name: String,
    calls: i64,
    rows: i64,
    /// On the wall's clock, waits for a core included.
    milliseconds: f64,
    buffers: i64,
    wal_records: i64,
    wal_bytes: f64,
}

/// All WAL records of one kind.
#[derive(Debug)]
struct Record {
    kind: String,
    count: i64,
    /// Without the images of full pages.
    bytes: f64,
    full_pages: f64,
}

pub(crate) async fn measure(lab: &mut Lab) -> Result<()> {
    let run = drain::once(lab, 1, DELIVERIES).await?;
    let each = |value: f64| format!("{:.3}", value / run.deliveries as f64);
    println!(
        "Postgres {:.1} µs, relay {:.1} µs, WAL {} B a delivery; {}.\n",
        run.each(run.postgres),
        run.each(run.relay),
        each(run.wal_bytes),
        busy()
    );
    let head =
        ["statement", "calls", "rows a call", "µs (wall)", "buffers", "WAL records", "WAL B"];
    let mut rows = vec![row(&head)];
    rows.extend(run.breakdown.statements.iter().take(SHOWN).map(|one| {
        vec![
            one.name.clone(),
            one.calls.to_string(),
            format!("{:.1}", one.rows as f64 / one.calls as f64),
            each(one.milliseconds * 1e3),
            each(one.buffers as f64),
            each(one.wal_records as f64),
            each(one.wal_bytes),
        ]
    }));
    table(&rows);
    println!("\nAll but calls and rows a call are for each delivery.\n");
    let mut rows = vec![row(&["WAL record", "count", "B", "full pages B"])];
    rows.extend(run.breakdown.records.iter().take(SHOWN).map(|one| {
        vec![one.kind.clone(), each(one.count as f64), each(one.bytes), each(one.full_pages)]
    }));
    table(&rows);
    Ok(())
}

impl Breakdown {
    pub(crate) fn calls(&self) -> f64 {
        self.statements.iter().map(|one| one.calls as f64).sum()
    }

    pub(crate) fn full_pages(&self) -> f64 {
        self.records.iter().map(|one| one.full_pages).sum()
    }
}

/// From now on it counts.
pub(crate) async fn begin(client: &Client) -> Result<()> {
    if installed(client, "pg_stat_statements").await? {
        client.execute("select pg_stat_statements_reset()", &[]).await?;
    }
    Ok(())
}

/// What was counted since, and the WAL between two positions.
pub(crate) async fn end(client: &Client, from: i64, to: i64) -> Result<Breakdown> {
    let mut breakdown = Breakdown::default();
    if installed(client, "pg_stat_statements").await? {
        breakdown.statements = statements(client).await?;
    }
    if installed(client, "pg_walinspect").await? {
        breakdown.records = records(client, from, to).await?;
    }
    Ok(breakdown)
}

async fn installed(client: &Client, extension: &str) -> Result<bool> {
    let asked = "select exists (select from pg_extension where extname = $1)";
    Ok(client.query_one(asked, &[&extension]).await?.get(0))
}

/// The relay's own, by the name that its first line says.
async fn statements(client: &Client) -> Result<Vec<Statement>> {
    let rows = client
        .query(
            "select coalesce(substring(query from '^\\s*-- (\\w+):'), left(query, 40)),
                    calls, rows, total_exec_time, shared_blks_hit + shared_blks_read,
                    wal_records, wal_bytes::float8
             from pg_stat_statements s
             join pg_database d on d.oid = s.dbid and d.datname = current_database()
             where toplevel and query !~ 'pg_stat_statements|not exists|pg_current_wal|pg_extension'
             order by total_exec_time desc",
            &[],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| Statement {
            name: row.get(0),
            calls: row.get(1),
            rows: row.get(2),
            milliseconds: row.get(3),
            buffers: row.get(4),
            wal_records: row.get(5),
            wal_bytes: row.get(6),
        })
        .collect())
}

async fn records(client: &Client, from: i64, to: i64) -> Result<Vec<Record>> {
    // Only what is on the disk can be read: this puts what is before it there.
    client.execute("select pg_logical_emit_message(true, 'bench', '')", &[]).await?;
    let rows = client
        .query(
            "select \"resource_manager/record_type\", count, record_size::float8, fpi_size::float8
             from pg_get_wal_stats('0/0'::pg_lsn + $1::bigint::numeric, '0/0'::pg_lsn + $2::bigint::numeric, true)
             where count > 0
             order by combined_size desc",
            &[&from, &to],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| Record {
            kind: row.get(0),
            count: row.get(1),
            bytes: row.get(2),
            full_pages: row.get(3),
        })
        .collect())
}
