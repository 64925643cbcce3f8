//! The lease: a relay's row and the session that it names, which say that it lives.
//!
//! Also the release of a dead relay's claims. Where sessions do not last, the row names none and
//! lives by its heartbeat alone.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Client;
use tokio_util::task::TaskTracker;

use super::connect::answered;
use super::error::in_full;
use super::run::{Parameters, Sessions, StatementResult};
use super::{Database, RelayId, Store, StoreError};

const REGISTER: &str = include_str!("../../sql/queries/register.sql");
const RETAKE: &str = include_str!("../../sql/queries/retake.sql");
const RENEW: &str = include_str!("../../sql/queries/renew.sql");
const REAP: &str = include_str!("../../sql/queries/reap.sql");
const DEREGISTER: &str = include_str!("../../sql/queries/deregister.sql");

/// The session that keeps a relay's lease. When it ends, other relays may take the relay for dead.
/// Behind a pooler it is only a connection for heartbeats, which no other statement holds up.
#[derive(Debug)]
pub struct Lease {
    client: Client,
    sessions: Sessions,
    registration: Registration,
}

/// A relay's row. After a failover that lost rows, a number may be used again; `started_at` tells
/// the two apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registration {
    pub relay: RelayId,
    started_at: Timestamp,
}

#[cfg(test)]
impl Registration {
    /// Of a relay that no database knows.
    pub(crate) fn nowhere() -> Self {
        Self { relay: 1, started_at: Timestamp::UNIX_EPOCH }
    }
}

/// A heartbeat that takes longer is of no use: Postgres ends it, and the relay gives up 1 s later.
const BOUND: &str = "set statement_timeout = '5s';";
const ANSWER_WITHIN: Duration = Duration::from_secs(6);

/// The answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// `false`: another relay took this one for dead and released its claims.
    pub held: bool,
    /// The other live relays.
    pub others: Vec<RelayId>,
    /// Whether another relay is dead, and is to be reaped.
    pub somebody_is_dead: bool,
    /// Moves with every change of the rules.
    pub rules_revision: i64,
}

impl Lease {
    /// Registers a relay, with this session as the one that it lives by.
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
        let registered = sessions.run_once(&client, REGISTER, doing, parameters);
        let row = answered(doing, ANSWER_WITHIN, registered).await?.one(doing)?;
        let registration = Registration { relay: row.get("id"), started_at: row.get("started_at") };
        Ok(Self { client, sessions, registration })
    }

    /// Takes a lease up again after its connection was lost. `None`: another relay took this one
    /// for dead.
    ///
    /// # Errors
    /// When the session cannot be opened or the statement fails.
    pub async fn retake(
        database: &Database,
        tasks: &TaskTracker,
        registration: Registration,
    ) -> Result<Option<Self>, StoreError> {
        let (client, sessions) = connect(database, tasks).await?;
        let lease = Self { client, sessions, registration };
        let Registration { relay, started_at } = registration;
        let doing = "take this relay's lease again";
        let mine = lease.run(RETAKE, doing, &[&relay, &started_at]).await?.rows;
        Ok((!mine.is_empty()).then_some(lease))
    }

    #[must_use]
    pub fn registration(&self) -> Registration {
        self.registration
    }

    /// Reports that this relay lives, and how many claims it has; a relay that has not reported for
    /// `lease` is dead.
    ///
    /// # Errors
    /// When the connection is gone or does not answer.
    pub async fn renew(&self, claims: usize, lease: Duration) -> Result<Heartbeat, StoreError> {
        let claims = i32::try_from(claims).unwrap_or(i32::MAX);
        let Registration { relay, started_at } = self.registration;
        let doing = "renew this relay's lease";
        let parameters: &Parameters<'_> = &[&relay, &started_at, &claims, &lease.as_secs_f64()];
        let row = self.run(RENEW, doing, parameters).await?.one(doing)?;
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
    /// When the connection is gone.
    pub async fn end(self) -> Result<(), StoreError> {
        let Registration { relay, started_at } = self.registration;
        self.run(DEREGISTER, "deregister this relay", &[&relay, &started_at]).await?;
        Ok(())
    }

    async fn run(
        &self,
        sql: &'static str,
        doing: &'static str,
        parameters: &Parameters<'_>,
    ) -> Result<StatementResult, StoreError> {
        let ran = self.sessions.run_once(&self.client, sql, doing, parameters);
        answered(doing, ANSWER_WITHIN, ran).await
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
            tracing::warn!(error = in_full(&error), "the lease's session ended");
        }
    });
    let sessions = Sessions::of(database, BOUND);
    let doing = "prepare the lease's session";
    answered(doing, ANSWER_WITHIN, async {
        sessions.greet(&client).await.map_err(StoreError::query(doing))
    })
    .await?;
    Ok((client, sessions))
}

/// The result of reaping dead relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reaped {
    pub relays: i64,
    /// Claims released, each with an `interrupted` attempt.
    pub claims: i64,
}

/// Releases the claims of relays whose session has ended or whose heartbeat is older than `lease`,
/// and appends an interrupted attempt for each.
///
/// # Errors
/// When the statement fails.
pub async fn reap(store: &Store, me: RelayId, lease: Duration) -> Result<Reaped, StoreError> {
    let doing = "release the claims of dead relays";
    let row = store.upkeep.query_one(REAP, doing, &[&me, &lease.as_secs_f64()]).await?;
    Ok(Reaped { relays: row.get("relays"), claims: row.get("claims") })
}
