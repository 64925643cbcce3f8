//! Whether the ways to the database are what the settings take them for.
//!
//! A pooler in transaction mode that the settings do not name would lose locks, pass settings on to
//! other clients and forget prepared statements: the relay finds out at the start.

use std::net::{IpAddr, SocketAddr};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::visit::{Visit, VisitSession};
use super::{Database, Store, StoreError};

/// The process that serves the session, and nothing prepared.
const SERVED_BY: &str = "select pg_catalog.pg_backend_pid()";
/// How often both are asked. By chance alone, four busy sessions of a pooler would pass for lasting
/// ones once in billions of starts.
const ROUNDS: usize = 4;
/// Pgpool-II answers this itself.
const POOL_VERSION: &str = "show pool_version";
/// Where the server says that it is reached, and where it listens. Every role may ask; no setting
/// is needed.
const LISTENS: &str = "select pg_catalog.host(pg_catalog.inet_server_addr()), pg_catalog.inet_server_port(), \
     pg_catalog.current_setting('listen_addresses'), pg_catalog.current_setting('port')";

/// The addresses of the server, besides those that the URL names: a socket has none, and a proxy's
/// are not the server's. Names that it listens by are returned as they are, with the port.
///
/// # Errors
/// When the database cannot be reached.
pub async fn listens_at(
    store: &Store,
) -> Result<(Vec<SocketAddr>, Vec<(String, u16)>), StoreError> {
    let database = &store.database;
    let row = store.router.query_one(LISTENS, "ask where the server listens", &[]).await?;
    let address: Option<String> = row.get(0);
    let port: Option<i32> = row.get(1);
    let reached = address.and_then(|text| text.parse::<IpAddr>().ok());
    let reached = reached.zip(port.and_then(|port| u16::try_from(port).ok()));
    let mut addresses: Vec<SocketAddr> = reached.map(SocketAddr::from).into_iter().collect();
    let mut names = Vec::new();
    if database.is_local()
        && let Ok(port) = row.get::<_, String>(3).parse()
    {
        for listened in row.get::<_, String>(2).split(',').map(str::trim) {
            match (listened, listened.parse::<IpAddr>()) {
                ("", _) => {}
                ("*", _) => addresses.push(SocketAddr::from(([0, 0, 0, 0], port))),
                (_, Ok(address)) => addresses.push(SocketAddr::new(address, port)),
                (name, Err(_)) => names.push((name.to_owned(), port)),
            }
        }
    }
    Ok((addresses, names))
}

/// Refuses a second way that leads to another database than the first.
///
/// # Errors
/// As said, or when the database cannot be reached.
pub async fn is_one_database(visit: &mut Visit<'_>) -> Result<(), StoreError> {
    let database = visit.database();
    let direct = database.direct();
    if std::ptr::eq(database, direct) {
        return Ok(());
    }
    let first = visit.first().await?;
    visit.keep(first);
    let lasting = visit.direct().await?;
    visit.keep(lasting);
    if database.known().identity() == direct.known().identity() {
        return Ok(());
    }
    Err(StoreError::Elsewhere { direct: direct.address(), url: database.address() })
}

/// A second session for [`keeps_sessions`]. `None`: the settings say that sessions do not last, and
/// nothing relies on them.
///
/// # Errors
/// When it cannot be opened.
pub(super) async fn beside(database: &Database) -> Result<Option<VisitSession>, StoreError> {
    if !database.keeps_sessions() {
        return Ok(None);
    }
    VisitSession::beside(database.direct()).await.map(Some)
}

/// Refuses a way on which sessions do not last, as far as that shows by comparing with a session
/// [`beside`].
///
/// Without a pooler, two processes serve two connections, and each connection always the same one.
/// A pooler with no other client lends the session that was returned last, or the next in turn:
/// either shows. A busy pooler shows by chance, which is nearly certain.
///
/// # Errors
/// As said, or when the database cannot be reached.
pub(super) async fn keeps_sessions(
    visit: &mut Visit<'_>,
    beside: &VisitSession,
) -> Result<(), StoreError> {
    let database = visit.database();
    let direct = database.direct();
    let kept = visit.direct().await?;
    let (one, other) = (kept.client(), beside.client());
    let (first, second) = (served_by(one).await?, served_by(other).await?);
    let mut are_kept = first != second;
    for _ in 0..ROUNDS {
        for (client, before) in [(one, first), (one, first), (other, second), (other, second)] {
            are_kept &= served_by(client).await? == before;
        }
    }
    if are_kept {
        visit.keep(kept);
        return Ok(());
    }
    let is_only_way = std::ptr::eq(database, direct);
    let setting = if is_only_way { "database.url" } else { "database.direct_url" };
    Err(StoreError::NoSessions { setting, address: direct.address() })
}

/// The Pgpool-II that a way leads through: the setting, and the version that it reports.
///
/// # Errors
/// When the database cannot be reached.
pub(super) async fn pgpool(
    database: &Database,
) -> Result<Option<(&'static str, String)>, StoreError> {
    let direct = (!std::ptr::eq(database, database.direct()))
        .then_some(("database.direct_url", database.direct()));
    for (setting, way) in [("database.url", database)].into_iter().chain(direct) {
        let session = VisitSession::beside(way).await?;
        let answer = match session.client().simple_query(POOL_VERSION).await {
            Ok(said) => Ok(said.iter().find_map(|one| match one {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })),
            Err(error) => Err(error),
        };
        if let Some(version) = said_of_itself(answer)? {
            return Ok(Some((setting, version)));
        }
    }
    Ok(None)
}

/// PostgreSQL knows no such parameter, and PgBouncer passes the question on; that error means there
/// is no Pgpool-II. Any other is returned.
fn said_of_itself(
    answer: Result<Option<String>, tokio_postgres::Error>,
) -> Result<Option<String>, StoreError> {
    match answer {
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => Ok(None),
        answer => answer.map_err(StoreError::query("ask for a Pgpool-II in between")),
    }
}

async fn served_by(client: &Client) -> Result<i32, StoreError> {
    let row = client.query_typed_one(SERVED_BY, &[]).await;
    Ok(row.map_err(StoreError::query("ask for the session's process"))?.get(0))
}
