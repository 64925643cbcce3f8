//! Sessions that checks share: a check that succeeds hands its session to the next one, since
//! opening a session takes longer than most checks.

use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::{Database, StoreError};

/// A database, and the sessions that its checks so far have left open.
#[derive(Debug)]
pub struct Visit<'a> {
    database: &'a Database,
    /// One by the first way, and one by the way to sessions that last.
    kept: [Option<VisitSession>; 2],
}

/// A session that its check has to itself, and that ends when it is dropped.
#[derive(Debug)]
pub(super) struct VisitSession {
    client: Client,
    way: usize,
    /// Polls the connection. One that breaks shows as an error of the next statement.
    _driver: JoinSet<()>,
}

const FIRST: usize = 0;
const DIRECT: usize = 1;

impl<'a> Visit<'a> {
    /// Opens nothing yet.
    #[must_use]
    pub fn to(database: &'a Database) -> Self {
        Self { database, kept: [None, None] }
    }

    pub(super) fn database(&self) -> &'a Database {
        self.database
    }

    /// A session by the first way.
    pub(super) async fn first(&mut self) -> Result<VisitSession, StoreError> {
        self.by(FIRST).await
    }

    /// A session that lasts, if there is a way to one.
    pub(super) async fn direct(&mut self) -> Result<VisitSession, StoreError> {
        let is_first = std::ptr::eq(self.database, self.database.direct());
        self.by(if is_first { FIRST } else { DIRECT }).await
    }

    /// Keeps a session for the next check. A check that fails or is dropped keeps none: it may have
    /// left a transaction open.
    pub(super) fn keep(&mut self, session: VisitSession) {
        let way = session.way;
        self.kept[way] = Some(session);
    }

    async fn by(&mut self, way: usize) -> Result<VisitSession, StoreError> {
        match self.kept[way].take() {
            Some(session) if !session.client.is_closed() => Ok(session),
            _ if way == FIRST => VisitSession::open(self.database, way).await,
            _ => VisitSession::open(self.database.direct(), way).await,
        }
    }
}

impl VisitSession {
    /// A session beside those that a visit keeps.
    pub(super) async fn beside(database: &Database) -> Result<Self, StoreError> {
        Self::open(database, FIRST).await
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    async fn open(database: &Database, way: usize) -> Result<Self, StoreError> {
        let (client, driver) = database.session(|_| {}).await?;
        let mut drivers = JoinSet::new();
        drivers.spawn(async move { drop(driver.await) });
        Ok(Self { client, way, _driver: drivers })
    }
}
