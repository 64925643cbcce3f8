//! The session that hears the bell.
//!
//! A relay that is awake keeps the bell silent, so inserters do not ring. Before it sleeps it ends
//! the silence and learns which transactions may have skipped the bell. See
//! `sql/schema/01_outbox.sql` for the other side.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
/// The bell itself sends no payload.
const BELL: &str = "";
/// The payload that `posthaste_internal.wake` sends.
const STEERED: &str = "deliveries";
/// The payload of a relay that found due deliveries which other relays are to make.
const DUE: &str = "due";
/// The payload of a cancellation that found deliveries claimed.
const WITHDRAWN: &str = "withdrawals";
/// The payload of a changed or deleted endpoint begins so; its number follows.
const CHANGED: &str = "endpoint ";
/// Beyond this many changed endpoints all of them are looked at.
const MOST_HEARD: usize = 10_000;
const KEEP_SILENT: &str = "select posthaste_internal.keep_silent()";
/// Each time it is kept for a second.
const KEEP_INTERVAL: Duration = Duration::from_millis(300);
/// The silence ends by itself then.
const LAST_WORD_WITHIN: Duration = Duration::from_secs(1);
const END_SILENCE: &str = "select posthaste_internal.end_silence()";
/// What a session before this one has said may hold for a second more, and its inserts would not be
/// heard. Another relay that is awake says it again.
const RING: &str = "select setval('posthaste.silence', 1, false)";
/// Nothing is written in this session but until when it is silent, which need not outlast a crash.
const SETTINGS: &str = "set synchronous_commit = off;";
/// Every transaction that skipped the bell has a number below this one: it had it before it looked.
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
        // Any role that may log in can send notices, however odd and many.
        match (said, changed) {
            (_, Some(Ok(endpoint))) => self.changes.put(|heard| {
                if heard.of.len() < MOST_HEARD {
                    heard.of.insert(endpoint);
                } else {
                    heard.of_any = true;
                }
            }),
            (WITHDRAWN, _) => self.changes.put(|heard| heard.withdrawn = true),
            (STEERED, _) => self.steered.notify_one(),
            (DUE, _) => self.due.notify_one(),
            (BELL, _) => self.rung.notify_one(),
            _ => {}
        }
    }
}

/// A session that listens.
#[derive(Debug)]
pub struct Bell {
    client: Arc<Client>,
    tasks: TaskTracker,
    /// Keeps inserts from ringing.
    silence: Option<JoinHandle<Result<(), tokio_postgres::Error>>>,
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
                client.batch_execute(&for_session(SETTINGS)).await?;
                // A look follows, so what does not ring in between is found.
                client.batch_execute(RING).await?;
                client.batch_execute(LISTEN).await
            };
            listen.await.map_err(StoreError::query(doing))
        })
        .await?;
        Ok(Self { client: Arc::new(client), tasks: tasks.clone(), silence: None })
    }

    /// Whether the session has ended and another one is needed.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.client.is_closed()
    }

    /// The relay is awake, so inserters need not ring, until [`arm`](Self::arm). In the background.
    pub fn silence(&mut self) {
        if self.silence.is_none() {
            let client = Arc::clone(&self.client);
            self.silence = Some(self.tasks.spawn(async move {
                loop {
                    client.batch_execute(KEEP_SILENT).await?;
                    tokio::time::sleep(KEEP_INTERVAL).await;
                }
            }));
        }
    }

    /// The relay is about to sleep: every insert from now on rings. Returns the number below which
    /// transactions may have skipped the bell; look until all of them have ended.
    ///
    /// # Errors
    /// When the session is gone, or inserts could not be kept from ringing.
    pub async fn arm(&mut self) -> Result<i64, StoreError> {
        if let Some(silence) = self.silence.take() {
            // What it has sent is carried out before what follows on this connection.
            silence.abort();
            if let Ok(Err(source)) = silence.await {
                return Err(StoreError::Query { doing: "keep the bell silent", source });
            }
            let ended = self.client.batch_execute(END_SILENCE).await;
            ended.map_err(StoreError::query("let the bell ring"))?;
        }
        let row = self.client.query_one(SKIPPERS, &[]).await;
        row.map(|row| row.get(0)).map_err(StoreError::query("ask which transactions are open"))
    }

    /// Asks the server for a sign of life.
    ///
    /// # Errors
    /// When there is none.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.client.batch_execute("").await.map_err(StoreError::query("check the bell's session"))
    }
}

impl Drop for Bell {
    /// Inserts ring again for the others, if the database still hears of it.
    fn drop(&mut self) {
        if let Some(silence) = self.silence.take() {
            silence.abort();
            let client = Arc::clone(&self.client);
            self.tasks.spawn(async move {
                let ended = client.batch_execute(END_SILENCE);
                drop(tokio::time::timeout(LAST_WORD_WITHIN, ended).await);
            });
        }
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
