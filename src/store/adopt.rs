//! A copy of a database: a dump that was restored, or a replica of rows in another cluster.
//!
//! Transaction numbers of the original mean nothing there, so routing has to begin anew; and the
//! copy sends to the same receivers as the original. No relay can know which of the two is meant to
//! send: an operator decides.

use super::run::Sessions;
use super::session::for_transaction;
use super::visit::Visit;
use super::{Database, StoreError, routing};

const CURSOR: &str = include_str!("../../sql/queries/cursor.sql");
const REBASE: &str = include_str!("../../sql/queries/rebase.sql");
const HOLD_ALL: &str = include_str!("../../sql/queries/hold_all.sql");
/// Why its endpoints are disabled.
const REASON: &str = "this database is a copy";
const DOING: &str = "take over a copy";
/// In a copy that nothing runs on, the heartbeats are as old as the copy.
const IS_SERVED: &str = "select exists (select from posthaste.relays where heartbeat_at > now() - interval '15 seconds')";

/// The result of [`adopt`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adopted {
    /// The database was a copy that had not been taken over yet.
    pub was_copy: bool,
    /// Events that had been neither delivered nor tried: they are routed again.
    pub events: i64,
    /// Endpoints that were disabled, with all that is owed to them kept.
    pub held: u64,
}

/// Refuses a copy that was not taken over.
///
/// # Errors
/// When the database is such a copy, or cannot be reached.
pub async fn is_own(visit: &mut Visit<'_>) -> Result<(), StoreError> {
    let session = visit.first().await?;
    // Whatever bounds the database or the role sets for statements are not for this one.
    let sessions = Sessions::for_transactions(visit.database(), "");
    let read = sessions.run_once(session.client(), CURSOR, "read the routing cursor", &[]);
    // Without a cursor there is nothing to belong elsewhere.
    read.await?.rows.first().map_or(Ok(()), routing::is_own)?;
    visit.keep(session);
    Ok(())
}

/// Makes a copy's ledger its own and, with `hold`, disables its endpoints; all or nothing. In a
/// database that is no copy, or was taken over, it only disables.
///
/// # Errors
/// When `hold` is asked for while a relay runs on the database; when the database fails. Then
/// nothing has been changed.
pub async fn adopt(database: &Database, hold: bool) -> Result<Adopted, StoreError> {
    let (mut client, driver) = database.direct().session(|_| {}).await?;
    let adopting = async move {
        let work = async {
            let transaction = client.transaction().await?;
            transaction.batch_execute(&for_transaction("")).await?;
            if hold && transaction.query_one(IS_SERVED, &[]).await?.get(0) {
                return Ok(None);
            }
            let held = if hold { transaction.execute(HOLD_ALL, &[&REASON]).await? } else { 0 };
            let before = transaction.query_one(CURSOR, &[]).await?;
            let row = transaction.query_one(REBASE, &[]).await?;
            transaction.commit().await?;
            Ok(Some(Adopted {
                was_copy: !before.get::<_, bool>("is_here"),
                events: row.get("events"),
                held,
            }))
        };
        work.await.map_err(StoreError::query(DOING))?.ok_or(StoreError::Served)
    };
    tokio::select! {
        result = adopting => result,
        _ = driver => Err(StoreError::SessionEnded),
    }
}
