//! Sessions for checks that follow one another: each way to the database is gone once, by the first
//! check that needs it. Opening a session takes the server longer than any of the checks.

use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::{Database, StoreError};

/// The sessions of some checks, kept from one check to the next.
#[derive(Debug)]
pub struct Visit<'a> {
    database: &'a Database,
    /// By the first way, and by the way to sessions that last.
    kept: [Option<VisitSession>; 2],
}

/// A session that its check has to itself, and that ends when it is dropped.
#[derive(Debug)]
pub(super) struct VisitSession {
    client: Client,
    place: usize,
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
        let place = session.place;
        self.kept[place] = Some(session);
    }

    async fn by(&mut self, place: usize) -> Result<VisitSession, StoreError> {
        match self.kept[place].take() {
            Some(session) if !session.client.is_closed() => Ok(session),
            _ if place == FIRST => VisitSession::open(self.database, place).await,
            _ => VisitSession::open(self.database.direct(), place).await,
        }
    }
}

impl VisitSession {
    /// A session beside those that are kept.
    pub(super) async fn beside(database: &Database) -> Result<Self, StoreError> {
        Self::open(database, FIRST).await
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    async fn open(database: &Database, place: usize) -> Result<Self, StoreError> {
        let (client, driver) = database.session(|_| {}).await?;
        let mut drivers = JoinSet::new();
        drivers.spawn(async move { drop(driver.await) });
        Ok(Self { client, place, _driver: drivers })
    }
}
