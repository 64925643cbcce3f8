//! The session that hears the bell.
//!
//! A relay that is awake holds the bell's lock, so inserters do not ring. Before it sleeps it
//! releases the lock and learns which transactions may have skipped the bell. See
//! `sql/schema/01_outbox.sql` for the other side.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_util::task::TaskTracker;

use super::connect::answered;
use super::error::in_full;
use super::session::for_session;
use super::{Database, StoreError};
use crate::model::endpoint::EndpointId;

const LISTEN: &str = "listen posthaste";
/// The payload that `posthaste_internal.wake` sends; the bell itself sends none.
const STEERED: &str = "deliveries";
/// The payload of a relay that found due deliveries which other relays are to make.
const DUE: &str = "due";
/// The payload of a cancellation that found deliveries claimed.
const WITHDRAWN: &str = "withdrawals";
/// The payload of a changed or deleted endpoint begins so; its number follows.
const CHANGED: &str = "endpoint ";
/// Waits behind the inserters that hold it shared; while a session waits, new tries fail.
const SILENCE: &str = "select pg_advisory_lock(1886352244, 1)";
const ARM: &str = "select pg_advisory_unlock_all()";
/// Every transaction that skipped the bell has a number below this one: it had it before it tried.
/// (A snapshot's `xmax` is above those that have ended, and open ones may be above it.)
const SKIPPERS: &str = "select pg_current_xact_id()::text::bigint";

/// Notified of what the session hears.
#[derive(Debug, Clone, Default)]
pub struct Ears {
    /// Events were inserted.
    pub rung: Arc<Notify>,
    /// An operator has called a function that makes deliveries due.
    pub steered: Arc<Notify>,
    /// Another relay has found deliveries that are due.
    pub due: Arc<Notify>,
    /// Endpoints have changed, or deliveries that are claimed were cancelled.
    pub changes: Arc<Changes>,
}

/// What has changed for deliveries that are claimed, and was not looked at since.
#[derive(Debug, Default)]
pub struct Changes {
    heard: Mutex<HeardChanges>,
    /// Notified when there is one.
    pub some: Notify,
}

/// See [`Changes`].
#[derive(Debug, Default)]
pub struct HeardChanges {
    /// Endpoints that have changed.
    pub of: HashSet<EndpointId>,
    /// Any other may have changed as well: there was no session to hear of it.
    pub of_any: bool,
    /// Deliveries were cancelled.
    pub withdrawn: bool,
}

impl Changes {
    /// All that was heard of since the last call.
    pub fn take(&self) -> HeardChanges {
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Anything may have changed.
    pub fn of_any(&self) {
        self.put(|heard| (heard.of_any, heard.withdrawn) = (true, true));
    }

    fn put(&self, note: impl FnOnce(&mut HeardChanges)) {
        note(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner));
        self.some.notify_one();
    }
}

impl Ears {
    fn hear(&self, said: &str) {
        let changed = said.strip_prefix(CHANGED).map(str::parse);
        match (said, changed) {
            (_, Some(Ok(endpoint))) => self.changes.put(|heard| {
                heard.of.insert(endpoint);
            }),
            (WITHDRAWN, _) => self.changes.put(|heard| heard.withdrawn = true),
            (STEERED, _) => self.steered.notify_one(),
            (DUE, _) => self.due.notify_one(),
            _ => self.rung.notify_one(),
        }
    }
}

/// A session that listens.
#[derive(Debug)]
pub struct Bell {
    client: Arc<Client>,
    database: Database,
    tasks: TaskTracker,
    silencing: Option<JoinHandle<Result<(), tokio_postgres::Error>>>,
}

impl Bell {
    /// Opens the session and listens. Every bell notifies `ears.rung`, and so does the session's
    /// end.
    ///
    /// # Errors
    /// When the session cannot be opened.
    pub async fn listen(
        database: &Database,
        tasks: &TaskTracker,
        ears: &Ears,
    ) -> Result<Self, StoreError> {
        let (client, driver) = {
            let ears = ears.clone();
            database.direct().session(move |said: &str| ears.hear(said)).await?
        };
        let rung = Arc::clone(&ears.rung);
        tasks.spawn(async move {
            if let Err(error) = driver.await {
                tracing::warn!(error = in_full(&error), "the bell's session ended");
            }
            rung.notify_one();
        });
        let doing = "listen for the bell";
        answered(doing, database.connect_timeout(), async {
            let listen = async {
                client.batch_execute(&for_session("")).await?;
                client.batch_execute(LISTEN).await
            };
            listen.await.map_err(StoreError::query(doing))
        })
        .await?;
        Ok(Self {
            client: Arc::new(client),
            database: database.direct().clone(),
            tasks: tasks.clone(),
            silencing: None,
        })
    }

    /// Whether the session has ended and another one is needed.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.client.is_closed()
    }

    /// The relay is awake, so inserters need not ring. Takes the lock in the background.
    pub fn silence(&mut self) {
        if self.silencing.is_none() {
            let client = Arc::clone(&self.client);
            self.silencing =
                Some(self.tasks.spawn(async move { client.batch_execute(SILENCE).await }));
        }
    }

    /// The relay is about to sleep: every insert from now on rings. Returns the number below which
    /// transactions may have skipped the bell; look until all of them have ended.
    ///
    /// # Errors
    /// When the session is gone; then so is the lock.
    pub async fn arm(&mut self) -> Result<i64, StoreError> {
        if let Some(silencing) = self.silencing.take() {
            if !silencing.is_finished() {
                // An inserter's transaction stays open and the session still waits behind it. If
                // the lock arrives at this moment, there is nothing left to cancel.
                self.database.cancel(&self.client.cancel_token()).await?;
            }
            match silencing.await {
                Ok(Ok(())) => {}
                Ok(Err(error))
                    if error.code() == Some(&tokio_postgres::error::SqlState::QUERY_CANCELED) => {}
                Ok(Err(source)) => {
                    return Err(StoreError::Query { doing: "take the bell's lock", source });
                }
                Err(_) => return Err(StoreError::SessionEnded),
            }
            self.batch(ARM).await?;
        }
        let row = match self.client.query_one(SKIPPERS, &[]).await {
            // A cancellation that came late hits the next statement, which is simply repeated.
            Err(error)
                if error.code() == Some(&tokio_postgres::error::SqlState::QUERY_CANCELED) =>
            {
                self.client.query_one(SKIPPERS, &[]).await
            }
            other => other,
        };
        row.map(|row| row.get(0)).map_err(StoreError::query("ask which transactions are open"))
    }

    async fn batch(&self, sql: &str) -> Result<(), StoreError> {
        match self.client.batch_execute(sql).await {
            Err(error)
                if error.code() == Some(&tokio_postgres::error::SqlState::QUERY_CANCELED) =>
            {
                self.client.batch_execute(sql).await
            }
            other => other,
        }
        .map_err(StoreError::query("let go of the bell's lock"))
    }

    /// Asks the server for a sign of life.
    ///
    /// # Errors
    /// When there is none.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.client.batch_execute("").await.map_err(StoreError::query("check the bell's session"))
    }
}

/// Turns the bell on or off in the schema: `wake = "poll"` does without.
///
/// # Errors
/// When the statement fails.
pub async fn install(store: &super::Store, on: bool) -> Result<(), StoreError> {
    let sql = include_str!("../../sql/queries/install_bell.sql");
    store.upkeep.execute(sql, "turn the bell on or off", &[&on]).await?;
    Ok(())
}
