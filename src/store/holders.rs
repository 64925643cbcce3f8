//! Names the sessions that hold up a statement. PostgreSQL's own error, when a lock was not to be
//! had in time, says only that.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::visit::VisitSession;
use super::{Database, StoreError};

/// A statement that takes longer may be waiting.
const PATIENCE: Duration = Duration::from_millis(500);
const INTERVAL: Duration = Duration::from_millis(250);
const DOING: &str = "ask who holds a lock";
/// A role that may not know when another's transaction began is not told.
const HOLDERS: &str = "select string_agg(format('process %s (role %s, application %s%s)', b.pid, \
       coalesce(a.usename::text, 'unknown'), coalesce(nullif(a.application_name, ''), 'without a name'), \
       ', in a transaction since ' || date_trunc('second', a.xact_start)::text), '; ') \
     from unnest(pg_blocking_pids($1)) b(pid) left join pg_stat_activity a on a.pid = b.pid";

/// A session whose statements may have to wait for others, and the way to its database.
#[derive(Debug)]
pub(super) struct Waiter<'a> {
    client: &'a Client,
    database: &'a Database,
    pid: i32,
}

/// A statement failed; these sessions held it up to the end, if it waited.
pub(super) type HeldUp = (tokio_postgres::Error, Option<String>);

impl<'a> Waiter<'a> {
    /// The session is in the transaction that may have to wait.
    pub(super) async fn of(client: &'a Client, database: &'a Database) -> Result<Self, StoreError> {
        let asked = client.query_typed_one("select pg_catalog.pg_backend_pid()", &[]).await;
        let pid = asked.map_err(StoreError::query(DOING))?.get(0);
        Ok(Self { client, database, pid })
    }

    /// Runs statements.
    pub(super) async fn run(&self, sql: &str) -> Result<(), HeldUp> {
        let seen = Mutex::new(None);
        let watching = async {
            // Without an answer the error is told as it is.
            drop(self.watch(&seen).await);
            std::future::pending::<Infallible>().await
        };
        let ran = tokio::select! {
            biased;
            ran = self.client.batch_execute(sql) => ran,
            never = watching => match never {},
        };
        ran.map_err(|error| {
            let waited = error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE);
            let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
            (error, seen.filter(|_| waited))
        })
    }

    /// Asks again and again who is in the way, from another session: this one waits.
    async fn watch(&self, seen: &Mutex<Option<String>>) -> Result<Infallible, StoreError> {
        tokio::time::sleep(PATIENCE).await;
        let beside = VisitSession::beside(self.database).await?;
        let begin =
            "begin; set local search_path = pg_catalog, pg_temp; set local timezone = 'UTC'";
        beside.client().batch_execute(begin).await.map_err(StoreError::query(DOING))?;
        loop {
            let row = beside.client().query_one(HOLDERS, &[&self.pid]).await;
            if let Some(found) = row.map_err(StoreError::query(DOING))?.get(0) {
                *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

/// The error with the names of those that held the statement up, or as `otherwise` has it.
pub(super) fn named<'a>(
    doing: &'a str,
    otherwise: impl FnOnce(tokio_postgres::Error) -> StoreError + 'a,
) -> impl FnOnce(HeldUp) -> StoreError + 'a {
    move |(source, holders)| match holders {
        Some(holders) => StoreError::HeldUp { doing: doing.to_owned(), holders, source },
        None => otherwise(source),
    }
}
