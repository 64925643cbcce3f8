//! Where statements are run: the one way from the functions of this folder to the database. A
//! connection is borrowed from a pool; [`run`](super::run) runs the statement on it.

use std::time::Duration;

use tokio_postgres::Row;

use super::StoreError;
use super::connect::Database;
use super::loan::Loan;
use super::pool::{Manager, Pool, unpooled};
use super::run::{Parameters, Sessions, StatementResult};

/// The wait for a free connection ends after this, with an error.
const WAIT_FOR_CONNECTION: Duration = Duration::from_secs(10);

/// A small pool whose connections run statements of `sql/queries`.
#[derive(Debug, Clone)]
pub(super) struct Statements {
    pool: Pool,
    sessions: Sessions,
    /// The longest wait for the answer to a statement.
    patience: Duration,
    /// After this the database ends a statement, if that is sooner than its sessions' settings say.
    bound: Option<Duration>,
}

impl Statements {
    /// A pool of at most `connections`, made when they are first needed; `settings` is a sequence
    /// of `set`. The wait for an answer ends after `patience`.
    pub(super) fn open(
        database: &Database,
        connections: usize,
        settings: &str,
        patience: Duration,
    ) -> Result<Self, StoreError> {
        let sessions = Sessions::of(database, settings);
        let manager = Manager::new(database.clone(), sessions.clone());
        let pool = Pool::builder(manager)
            .max_size(connections)
            // The one that was used last is warm: its plans and pages are in the caches.
            .queue_mode(deadpool::managed::QueueMode::Lifo)
            .wait_timeout(Some(WAIT_FOR_CONNECTION))
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(StoreError::Build)?;
        Ok(Self { pool, sessions, patience, bound: None })
    }

    /// The same connections, for statements that may take no longer than this.
    pub(super) fn within(&self, bound: Duration) -> Self {
        Self { bound: Some(bound), ..self.clone() }
    }

    /// The rows that a statement returns. `doing` names the operation in errors.
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
        self.run(sql, doing, parameters).await?.one(doing)
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
    ) -> Result<StatementResult, StoreError> {
        self.seat().await?.run(sql, doing, parameters).await
    }

    /// A connection for several statements, one after the other. Behind a pooler each of them may
    /// still run on another server.
    pub(super) async fn seat(&self) -> Result<Seat, StoreError> {
        let loan = Loan::new(self.pool.get().await.map_err(unpooled)?, self.patience);
        Ok(Seat { loan, sessions: self.sessions.clone(), bound: self.bound })
    }
}

/// One of the pool's connections, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    loan: Loan,
    sessions: Sessions,
    bound: Option<Duration>,
}

impl Seat {
    pub(super) async fn run(
        &self,
        sql: &'static str,
        doing: &'static str,
        parameters: &Parameters<'_>,
    ) -> Result<StatementResult, StoreError> {
        let client = self.loan.client();
        // A statement's own error is an answer as well.
        let answer = self.loan.bounded(async {
            Ok(match self.bound {
                Some(bound) => {
                    self.sessions.run_within(client, bound, sql, doing, parameters).await
                }
                None => self.sessions.run(client, sql, doing, parameters).await,
            })
        });
        answer.await.map_err(StoreError::query(doing))?
    }

    /// The same, if it takes no longer than `bound`.
    pub(super) async fn run_within(
        &self,
        bound: Duration,
        sql: &'static str,
        doing: &'static str,
        parameters: &Parameters<'_>,
    ) -> Result<StatementResult, StoreError> {
        let client = self.loan.client();
        let answer = self.loan.bounded(async {
            Ok(self.sessions.run_within(client, bound, sql, doing, parameters).await)
        });
        answer.await.map_err(StoreError::query(doing))?
    }
}
