//! The session that hears the bell. The [dispatcher's state](crate::model::dispatch::Sleep) says
//! when it is opened, silenced and armed.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::store::bell::{Bell, Changes, Ears};
use crate::store::{Database, StoreError};

/// A session that gives no sign of life for this long is given up.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// The session, if there is one, and what it has heard.
#[derive(Debug, Default)]
pub(in crate::relay) struct BellSession {
    bell: Option<Bell>,
    /// Opens the first session while the term begins.
    opening: Option<JoinHandle<Result<Bell, StoreError>>>,
    pub(super) ears: Ears,
}

impl BellSession {
    /// Begins to open a session, beside what the caller does: [`open`](Self::open) takes it over.
    pub(in crate::relay) fn opening(database: &Database, sessions: &TaskTracker) -> Self {
        let ears = Ears::default();
        let opening = {
            let (database, tracker, ears) = (database.clone(), sessions.clone(), ears.clone());
            sessions.spawn(async move { Bell::listen(&database, &tracker, &ears).await })
        };
        Self { bell: None, opening: Some(opening), ears }
    }

    /// Whether there is a session to hear the bell with, as far as the relay knows.
    pub(super) fn hears(&self) -> bool {
        self.bell.as_ref().is_some_and(|bell| !bell.is_broken())
    }

    /// The endpoints that are said to have changed.
    pub(in crate::relay) fn changes(&self) -> Arc<Changes> {
        Arc::clone(&self.ears.changes)
    }

    /// Opens a session in place of the one there was.
    pub(super) async fn open(
        &mut self,
        database: &Database,
        sessions: &TaskTracker,
    ) -> Result<(), StoreError> {
        self.bell = None;
        let opened = match self.opening.take() {
            Some(opening) => opening.await.map_err(|_| StoreError::SessionEnded)?,
            None => Bell::listen(database, sessions, &self.ears).await,
        };
        self.bell = Some(opened?);
        Ok(())
    }

    /// Gives up a session that silently died.
    pub(super) async fn check(&mut self) {
        if let Some(bell) = &self.bell
            && !matches!(tokio::time::timeout(CHECK_TIMEOUT, bell.check()).await, Ok(Ok(())))
        {
            self.bell = None;
        }
    }

    /// Keeps the bell silent, in the background.
    pub(super) fn silence(&mut self) {
        if let Some(bell) = &mut self.bell {
            bell.silence();
        }
    }

    /// Ends the bell's silence. Returns the number below which transactions may have skipped the
    /// bell; `None`: the session is gone.
    pub(super) async fn arm(&mut self) -> Option<i64> {
        let bell = self.bell.as_mut()?;
        match tokio::time::timeout(CHECK_TIMEOUT, bell.arm()).await {
            Ok(Ok(skippers)) => Some(skippers),
            Ok(Err(_)) | Err(_) => {
                self.bell = None;
                None
            }
        }
    }
}
