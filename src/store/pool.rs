//! Makes and recycles a pool's connections. They are opened as every other session is, so that a
//! statement's error says what kept it from running.

use deadpool::managed::{self, Metrics, PoolError, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;

use super::connect::answered;
use super::run::Sessions;
use super::{Database, StoreError};

/// Connections that wait for the next statement.
pub(super) type Pool = managed::Pool<Manager>;
/// One of them, on loan.
pub(super) type Pooled = managed::Object<Manager>;

/// Makes connections.
#[derive(Debug)]
pub(super) struct Manager {
    database: Database,
    sessions: Sessions,
}

impl Manager {
    pub(super) fn new(database: Database, sessions: Sessions) -> Self {
        Self { database, sessions }
    }

    async fn connect(&self) -> Result<ClientWrapper, StoreError> {
        let (client, driver) = self.database.session(|_| {}).await?;
        #[expect(clippy::disallowed_methods, reason = "the wrapper ends it with the connection")]
        let driving = tokio::spawn(async {
            // A connection that breaks shows as an error of its next statement.
            drop(driver.await);
        });
        let client = ClientWrapper::new(client, driving);
        let doing = "prepare a session";
        answered(doing, self.database.connect_timeout(), async {
            self.sessions.greet(&client).await.map_err(StoreError::query(doing))
        })
        .await?;
        Ok(client)
    }
}

impl managed::Manager for Manager {
    type Type = ClientWrapper;
    type Error = StoreError;

    async fn create(&self) -> Result<ClientWrapper, StoreError> {
        // Rare, and large: boxed, so that a statement's future needs no room for it.
        Box::pin(self.connect()).await
    }

    /// Replaces a connection that ended while it was idle. No warning is due: the bell and the
    /// lease notice what ended it, and so does the next connection if it cannot be made.
    async fn recycle(&self, client: &mut ClientWrapper, _: &Metrics) -> RecycleResult<StoreError> {
        if client.is_closed() {
            tracing::debug!("a pooled session had ended; opening another");
            return Err(RecycleError::Backend(StoreError::SessionEnded));
        }
        Ok(())
    }
}

/// Why there is no connection.
pub(super) fn unpooled(error: PoolError<StoreError>) -> StoreError {
    match error {
        PoolError::Backend(error) => error,
        PoolError::Timeout(_)
        | PoolError::Closed
        | PoolError::NoRuntimeSpecified
        | PoolError::PostCreateHook(_) => StoreError::NoConnection,
    }
}
