//! The lease: a relay's row and session lock, which say that it lives; and what becomes of the
//! claims of one that does not.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use tokio_util::task::TaskTracker;

use super::error::in_full;
use super::{Database, RelayId, Store, StoreError, answered};

const REGISTER: &str = include_str!("../../sql/queries/register.sql");
const EVICT: &str = include_str!("../../sql/queries/evict.sql");
const RETAKE: &str = include_str!("../../sql/queries/retake.sql");
const RENEW: &str = include_str!("../../sql/queries/renew.sql");
const BURY: &str = include_str!("../../sql/queries/bury.sql");
const DEREGISTER: &str = include_str!("../../sql/queries/deregister.sql");

/// The session that holds a relay's lock. When it ends, others may take the relay for dead.
#[derive(Debug)]
pub struct Lease {
    client: Client,
    registration: Registration,
}

/// A relay's row. After a failover that lost rows, a number may be given again; the moment tells the
/// two apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registration {
    pub relay: RelayId,
    started_at: Timestamp,
}

/// A heartbeat that takes longer is of no use: Postgres ends it, and a little later so do we.
const BOUND: &str = "set statement_timeout = '5s';";
const ANSWER_WITHIN: Duration = Duration::from_secs(6);

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
        let doing = "register this relay";
        let registered = answered(doing, ANSWER_WITHIN, async {
            let row = client.query_one(REGISTER, &[&name, &env!("CARGO_PKG_VERSION")]).await;
            row.map_err(StoreError::query(doing))
        });
        let row = registered.await?;
        let registration = Registration { relay: row.get("id"), started_at: row.get("started_at") };
        Ok(Self { client, registration })
    }

    /// Takes a lease up again after its session was lost. `None`: somebody took us for dead.
    ///
    /// The server may not have noticed that the old session is gone, and would keep our lock for it
    /// until it does, which takes hours where a network forgets connections. So that session is ended.
    ///
    /// # Errors
    /// When the session cannot be opened, or the old one does not end.
    pub async fn retake(
        database: &Database,
        tasks: &TaskTracker,
        registration: Registration,
    ) -> Result<Option<Self>, StoreError> {
        let client = session(database, tasks).await?;
        let Registration { relay, started_at } = registration;
        let doing = "take this relay's lease again";
        let retaken = answered(doing, ANSWER_WITHIN, async {
            client
                .execute(EVICT, &[&relay, &started_at])
                .await
                .map_err(StoreError::query(doing))?;
            let row = client.query_opt(RETAKE, &[&relay, &started_at]).await;
            row.map_err(StoreError::query(doing))
        });
        Ok(retaken.await?.map(|_| Self { client, registration }))
    }

    #[must_use]
    pub fn registration(&self) -> Registration {
        self.registration
    }

    /// Says that we live, and how many claims we hold; a relay that has not said so for `lease` is
    /// dead.
    ///
    /// # Errors
    /// When the session is gone or does not answer.
    pub async fn renew(&self, claims: usize, lease: Duration) -> Result<Heartbeat, StoreError> {
        let claims = i32::try_from(claims).unwrap_or(i32::MAX);
        let Registration { relay, started_at } = self.registration;
        let doing = "renew this relay's lease";
        let row = answered(doing, ANSWER_WITHIN, async {
            let parameters: [&(dyn ToSql + Sync); 4] =
                [&relay, &started_at, &claims, &lease.as_secs_f64()];
            self.client.query_one(RENEW, &parameters).await.map_err(StoreError::query(doing))
        })
        .await?;
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
        let Registration { relay, started_at } = self.registration;
        let doing = "deregister this relay";
        let ended = answered(doing, ANSWER_WITHIN, async {
            let done = self.client.execute(DEREGISTER, &[&relay, &started_at]).await;
            done.map_err(StoreError::query(doing))
        });
        ended.await?;
        Ok(())
    }
}

async fn session(database: &Database, tasks: &TaskTracker) -> Result<Client, StoreError> {
    let (client, driver) = database.session(|_| {}).await?;
    tasks.spawn(async move {
        if let Err(error) = driver.await {
            tracing::warn!(error = in_full(&error), "the lease's session ended");
        }
    });
    let doing = "prepare the lease's session";
    answered(doing, ANSWER_WITHIN, async {
        let settings = format!("{}{BOUND}", super::connect::SESSION);
        client.batch_execute(&settings).await.map_err(StoreError::query(doing))
    })
    .await?;
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
