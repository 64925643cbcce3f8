//! Where statements are run: the one way from the functions of this folder to the database.

use std::pin::pin;

use deadpool_postgres::Pool;
use futures_util::TryStreamExt as _;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, RowStream};

use super::StoreError;

/// What a statement is given for `$1`, `$2` and so on.
pub(super) type Parameters<'a> = [&'a (dyn ToSql + Sync)];

/// A small pool whose connections run statements of `sql/queries`.
#[derive(Debug, Clone)]
pub(super) struct Statements {
    pool: Pool,
}

/// What came of a statement.
struct Answer {
    rows: Vec<Row>,
    /// How many rows it wrote, or returned.
    affected: u64,
}

impl Statements {
    pub(super) fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// The rows that a statement returns. `doing` says in an error what it was for.
    pub(super) async fn query(
        &self,
        sql: &'static str,
        doing: &'static str,
        parameters: &Parameters<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        Ok(self.run(sql, doing, parameters).await?.rows)
    }

    /// The row of a statement that always returns one.
    pub(super) async fn query_one(
        &self,
        sql: &'static str,
        doing: &'static str,
        parameters: &Parameters<'_>,
    ) -> Result<Row, StoreError> {
        let mut rows = self.run(sql, doing, parameters).await?.rows;
        rows.pop().ok_or(StoreError::NoRow { doing })
    }

    /// How many rows a statement writes.
    pub(super) async fn execute(
        &self,
        sql: &'static str,
        doing: &'static str,
        parameters: &Parameters<'_>,
    ) -> Result<u64, StoreError> {
        Ok(self.run(sql, doing, parameters).await?.affected)
    }

    async fn run(
        &self,
        sql: &'static str,
        doing: &'static str,
        parameters: &Parameters<'_>,
    ) -> Result<Answer, StoreError> {
        let client = self.pool.get().await.map_err(StoreError::Pool)?;
        let prepared = client.prepare_cached(sql).await.map_err(StoreError::query(doing))?;
        let answer =
            async { gather(client.query_raw(&prepared, parameters.iter().copied()).await?).await };
        answer.await.map_err(StoreError::query(doing))
    }
}

async fn gather(stream: RowStream) -> Result<Answer, tokio_postgres::Error> {
    let mut stream = pin!(stream);
    let mut rows = Vec::new();
    while let Some(row) = stream.try_next().await? {
        rows.push(row);
    }
    Ok(Answer { rows, affected: stream.rows_affected().unwrap_or(0) })
}
