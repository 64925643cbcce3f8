//! The server's cost of the relay's statements, by name (`pg_stat_statements`). That is part of
//! contrib; where it is not installed nothing is known.

use anyhow::Result;
use tokio_postgres::Client;

use super::lab::installed;

/// All calls of one statement.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    pub(crate) name: String,
    pub(crate) calls: f64,
    pub(crate) rows: f64,
    /// On the wall's clock, waits for a core included.
    pub(crate) milliseconds: f64,
    pub(crate) buffers: f64,
    pub(crate) wal_records: f64,
    pub(crate) wal_bytes: f64,
}

/// From now on it counts.
pub(crate) async fn begin(client: &Client) -> Result<()> {
    if installed(client, "pg_stat_statements").await? {
        client.execute("select pg_stat_statements_reset()", &[]).await?;
    }
    Ok(())
}

/// Statements counted since in this database, the longest first. The relay's own have the name that
/// their first line says; ours, which look on, are left out.
pub(crate) async fn end(client: &Client) -> Result<Vec<Statement>> {
    if !installed(client, "pg_stat_statements").await? {
        return Ok(Vec::new());
    }
    let rows = client
        .query(
            "select coalesce(substring(query from '^\\s*-- (\\w+):'), left(query, 40)),
                    calls::float8, rows::float8, total_exec_time,
                    (shared_blks_hit + shared_blks_read)::float8,
                    wal_records::float8, wal_bytes::float8
             from pg_stat_statements s
             join pg_database d on d.oid = s.dbid and d.datname = current_database()
             where toplevel
               and (query ~ '^\\s*-- \\w+:'
                    or query !~ 'pg_stat_statements|not exists|pg_current_wal|pg_extension')
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

/// Of one of them, each call; nothing if it was not called.
pub(crate) fn each_call(statements: &[Statement], name: &str, value: fn(&Statement) -> f64) -> f64 {
    let found = statements.iter().find(|one| one.name == name);
    found.map_or(0.0, |one| value(one) / one.calls)
}
