//! The lease: a relay's row and session lock, which say that it lives; and what becomes of the
//! claims of one that does not. Where no session is kept, the row says so and lives by its heartbeat
//! alone.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_util::task::TaskTracker;

use super::statements::{Answer, Parameters, Sessions};
use super::{Database, RelayId, Store, StoreError};

const REGISTER: &str = include_str!("../../sql/queries/register.sql");
const RETAKE: &str = include_str!("../../sql/queries/retake.sql");
const RENEW: &str = include_str!("../../sql/queries/renew.sql");
const BURY: &str = include_str!("../../sql/queries/bury.sql");
const DEREGISTER: &str = include_str!("../../sql/queries/deregister.sql");

/// The session that holds a relay's lock. When it ends, others may take the relay for dead. Behind a
/// pooler it is only a connection for heartbeats, which no statement of the pools holds up.
#[derive(Debug)]
pub struct Lease {
    client: Client,
    sessions: Sessions,
    relay: RelayId,
}

/// A heartbeat that takes longer is of no use any more; the next one may be.
const BOUND: &str = "set statement_timeout = '5s';";

/// What a renewal found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    Held,
    /// Another relay took us for dead and released our claims.
    Lost,
}

impl Lease {
    /// Registers a relay: its row becomes visible when its lock is already held.
    ///
    /// # Errors
    /// When the session cannot be opened or the statement fails.
    pub async fn take(
        database: &Database,
        tasks: &TaskTracker,
        name: &str,
    ) -> Result<Self, StoreError> {
        let (client, sessions) = connect(database, tasks).await?;
        let (doing, version) = ("register this relay", env!("CARGO_PKG_VERSION"));
        let parameters: &Parameters<'_> = &[&name, &version, &database.keeps_sessions()];
        let row = sessions.run_once(&client, REGISTER, doing, parameters).await?.one(doing)?;
        Ok(Self { client, sessions, relay: row.get("id") })
    }

    /// Takes a lease up again after its connection was lost. `None`: somebody took us for dead.
    ///
    /// # Errors
    /// When the session cannot be opened, or the server has not noticed yet that the old one is gone.
    pub async fn retake(
        database: &Database,
        tasks: &TaskTracker,
        relay: RelayId,
    ) -> Result<Option<Self>, StoreError> {
        let (client, sessions) = connect(database, tasks).await?;
        let doing = "take this relay's lease again";
        let mine = sessions.run_once(&client, RETAKE, doing, &[&relay]).await?.rows;
        Ok((!mine.is_empty()).then_some(Self { client, sessions, relay }))
    }

    #[must_use]
    pub fn relay(&self) -> RelayId {
        self.relay
    }

    /// Says that we live, and how many claims we hold.
    ///
    /// # Errors
    /// When the connection is gone or does not answer.
    pub async fn renew(&self, claims: usize) -> Result<(Renewal, i64), StoreError> {
        let claims = i32::try_from(claims).unwrap_or(i32::MAX);
        let doing = "renew this relay's lease";
        let row = self.run(RENEW, doing, &[&self.relay, &claims]).await?.one(doing)?;
        let renewal = if row.get::<_, bool>("held") { Renewal::Held } else { Renewal::Lost };
        Ok((renewal, row.get("rules_revision")))
    }

    /// Ends the registration; the claims must have been released.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn end(self) -> Result<(), StoreError> {
        self.run(DEREGISTER, "deregister this relay", &[&self.relay]).await?;
        Ok(())
    }

    async fn run(
        &self,
        sql: &'static str,
        doing: &'static str,
        parameters: &Parameters<'_>,
    ) -> Result<Answer, StoreError> {
        self.sessions.run_once(&self.client, sql, doing, parameters).await
    }
}

async fn connect(
    database: &Database,
    tasks: &TaskTracker,
) -> Result<(Client, Sessions), StoreError> {
    let database = database.direct();
    let (client, driver) = database.session(|_| {}).await?;
    tasks.spawn(async move {
        if let Err(error) = driver.await {
            tracing::warn!(%error, "the lease's session ended");
        }
    });
    let sessions = Sessions::of(database, BOUND);
    sessions.greet(&client).await.map_err(StoreError::query("prepare the lease's session"))?;
    Ok((client, sessions))
}

/// What was found when looking for dead relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Buried {
    pub relays: i64,
    /// Claims released, each with an `interrupted` attempt.
    pub claims: i64,
}

/// Releases the claims of relays whose lock is free or whose heartbeat is older than `lease`, and
/// appends an interrupted attempt for each.
///
/// # Errors
/// When the statement fails.
pub async fn bury(store: &Store, me: RelayId, lease: Duration) -> Result<Buried, StoreError> {
    let doing = "release the claims of dead relays";
    let row = store.router.query_one(BURY, doing, &[&me, &lease.as_secs_f64()]).await?;
    Ok(Buried { relays: row.get("relays"), claims: row.get("claims") })
}
