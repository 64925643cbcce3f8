//! Whether the ways to the database are what the settings take them for.
//!
//! A pooler in transaction mode that we were not told of would lose our locks, hand our settings on to
//! others and forget our statements: better found out at the start.

use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::{Database, StoreError};

/// The process that serves the session, and nothing prepared.
const SERVED_BY: &str = "select pg_backend_pid()";
/// How often both are asked. By chance alone, four busy sessions of a pooler would be taken for ours
/// once in billions of starts.
const ROUNDS: usize = 4;
/// Refuses a second way that leads to another database than the first.
///
/// # Errors
/// As said, or when the database cannot be reached.
pub async fn is_one_database(database: &Database) -> Result<(), StoreError> {
    let direct = database.direct();
    if std::ptr::eq(database, direct) {
        return Ok(());
    }
    let mut drivers = JoinSet::new();
    connect(database, &mut drivers).await?;
    connect(direct, &mut drivers).await?;
    if database.known().identity() == direct.known().identity() {
        return Ok(());
    }
    Err(StoreError::Elsewhere { direct: direct.address(), url: database.address() })
}

/// Refuses a way to sessions on which they are not kept, as far as that shows.
///
/// On sessions of their own, two connections are served by two processes, and each by the same one
/// whenever it asks. A pooler that serves nobody else lends the session that was given back last, or
/// the next in turn: either shows. One that is busy shows by chance, which is nearly certain.
///
/// # Errors
/// As said, or when the database cannot be reached.
pub async fn keeps_sessions(database: &Database) -> Result<(), StoreError> {
    if !database.keeps_sessions() {
        // It is known, and nothing hangs on them.
        return Ok(());
    }
    let mut drivers = JoinSet::new();
    let direct = database.direct();
    let one = connect(direct, &mut drivers).await?;
    let other = connect(direct, &mut drivers).await?;
    let (first, second) = (served_by(&one).await?, served_by(&other).await?);
    let mut are_kept = first != second;
    for _ in 0..ROUNDS {
        for (client, before) in [(&one, first), (&one, first), (&other, second), (&other, second)] {
            are_kept &= served_by(client).await? == before;
        }
    }
    if are_kept {
        return Ok(());
    }
    let is_only_way = std::ptr::eq(database, direct);
    let setting = if is_only_way { "database.url" } else { "database.direct_url" };
    Err(StoreError::NoSessions { setting, address: direct.address() })
}

async fn served_by(client: &Client) -> Result<i32, StoreError> {
    let row = client.query_typed_one(SERVED_BY, &[]).await;
    Ok(row.map_err(StoreError::query("ask for the session's process"))?.get(0))
}

async fn connect(database: &Database, drivers: &mut JoinSet<()>) -> Result<Client, StoreError> {
    let (client, driver) = database.session(|_| {}).await?;
    // A connection that breaks shows as an error of the next statement.
    drivers.spawn(async move { drop(driver.await) });
    Ok(client)
}
