//! The write-ahead log, by kind of record (`pg_walinspect`). That is part of
//! contrib; where it is not installed nothing is known.

use anyhow::Result;
use tokio_postgres::Client;

use super::lab::installed;

/// All WAL records of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) kind: String,
    pub(crate) count: f64,
    /// Without the images of full pages.
    pub(crate) bytes: f64,
    pub(crate) full_pages: f64,
}

/// Records between two positions, the most first.
pub(crate) async fn between(client: &Client, from: i64, to: i64) -> Result<Vec<Record>> {
    if !installed(client, "pg_walinspect").await? {
        return Ok(Vec::new());
    }
    // Only what is on the disk can be read: this puts what is before it there.
    client.execute("select pg_logical_emit_message(true, 'bench', '')", &[]).await?;
    let rows = client
        .query(
            "select \"resource_manager/record_type\", count::float8, record_size::float8, fpi_size::float8
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
