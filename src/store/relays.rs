//! The lease: a relay's row and session lock, which say that it lives; and what becomes of the
//! claims of one that does not.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_util::task::TaskTracker;

use super::{Database, RelayId, Store, StoreError};

const REGISTER: &str = include_str!("../../sql/queries/register.sql");
const RETAKE: &str = include_str!("../../sql/queries/retake.sql");
const RENEW: &str = include_str!("../../sql/queries/renew.sql");
const BURY: &str = include_str!("../../sql/queries/bury.sql");
const DEREGISTER: &str = include_str!("../../sql/queries/deregister.sql");

/// The session that holds a relay's lock. When it ends, others may take the relay for dead.
#[derive(Debug)]
pub struct Lease {
    client: Client,
    relay: RelayId,
}

/// What a heartbeat found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// `false`: another relay took us for dead and released our claims.
    pub held: bool,
    /// The other relays that live.
    pub others: Vec<RelayId>,
    /// Whether one of the others is dead, and to be buried.
    pub somebody_is_dead: bool,
    /// Moves with every change of the rules.
    pub rules_revision: i64,
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
        let client = session(database, tasks).await?;
        let relay = client
            .query_one(REGISTER, &[&name, &env!("CARGO_PKG_VERSION")])
            .await
            .map_err(StoreError::query("register this relay"))?
            .get(0);
        Ok(Self { client, relay })
    }

    /// Takes a lease up again after its session was lost. `None`: somebody took us for dead.
    ///
    /// # Errors
    /// When the session cannot be opened, or the server has not noticed yet that the old one is gone.
    pub async fn retake(
        database: &Database,
        tasks: &TaskTracker,
        relay: RelayId,
    ) -> Result<Option<Self>, StoreError> {
        let client = session(database, tasks).await?;
        let mine = client
            .query_opt(RETAKE, &[&relay])
            .await
            .map_err(StoreError::query("take this relay's lease again"))?;
        Ok(mine.map(|_| Self { client, relay }))
    }

    #[must_use]
    pub fn relay(&self) -> RelayId {
        self.relay
    }

    /// Says that we live, and how many claims we hold; a relay that has not said so for `lease` is
    /// dead.
    ///
    /// # Errors
    /// When the session is gone or does not answer.
    pub async fn renew(&self, claims: usize, lease: Duration) -> Result<Heartbeat, StoreError> {
        let claims = i32::try_from(claims).unwrap_or(i32::MAX);
        let row = self
            .client
            .query_one(RENEW, &[&self.relay, &claims, &lease.as_secs_f64()])
            .await
            .map_err(StoreError::query("renew this relay's lease"))?;
        Ok(Heartbeat {
            held: row.get("held"),
            others: row.get("others"),
            somebody_is_dead: row.get("somebody_is_dead"),
            rules_revision: row.get("rules_revision"),
        })
    }

    /// Ends the registration; the claims must have been released.
    ///
    /// # Errors
    /// When the session is gone.
    pub async fn end(self) -> Result<(), StoreError> {
        self.client
            .execute(DEREGISTER, &[&self.relay])
            .await
            .map_err(StoreError::query("deregister this relay"))?;
        Ok(())
    }
}

async fn session(database: &Database, tasks: &TaskTracker) -> Result<Client, StoreError> {
    let (client, driver) = database.session(|_| {}).await?;
    tasks.spawn(async move {
        if let Err(error) = driver.await {
            tracing::warn!(%error, "the lease's session ended");
        }
    });
    client
        .batch_execute(&format!("{} set statement_timeout = '5s';", super::connect::SESSION))
        .await
        .map_err(StoreError::query("prepare the lease's session"))?;
    Ok(client)
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
    let client = store.router().await?;
    let statement = client
        .prepare_cached(BURY)
        .await
        .map_err(StoreError::query("release the claims of dead relays"))?;
    let row = client
        .query_one(&statement, &[&me, &lease.as_secs_f64()])
        .await
        .map_err(StoreError::query("release the claims of dead relays"))?;
    Ok(Buried { relays: row.get("relays"), claims: row.get("claims") })
}
