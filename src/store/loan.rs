//! A pooled connection on loan, with a bound on the wait. Postgres ends a statement that takes too
//! long, but a server that hangs ends nothing, nor does a network that has forgotten the
//! connection. So a caller gives up after longer than any statement may take; and a connection on
//! which an answer may still come is closed, not returned to the pool.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use tokio_postgres::Error;

use super::pool::Pooled;

/// See the module.
#[derive(Debug)]
pub(super) struct Loan {
    /// `None` only while it is dropped.
    client: Option<Pooled>,
    patience: Duration,
    /// An answer is outstanding.
    waiting: AtomicBool,
}

impl Loan {
    pub(super) fn new(client: Pooled, patience: Duration) -> Self {
        Self { client: Some(client), patience, waiting: AtomicBool::new(false) }
    }

    pub(super) fn client(&self) -> &ClientWrapper {
        self.client.as_ref().expect("it is only taken when this is dropped")
    }

    /// Waits for an answer on this connection, at most `patience`.
    pub(super) async fn bounded<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.waiting.store(true, Ordering::Relaxed);
        let done = tokio::time::timeout(self.patience, work).await;
        // The driver has such an error, but no other way to make one.
        let done = done.map_err(|_| Error::__private_api_timeout())?;
        self.waiting.store(false, Ordering::Relaxed);
        done
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        // Also when the caller's future was dropped while it waited.
        if self.waiting.load(Ordering::Relaxed) {
            drop(self.client.take().map(Pooled::take));
        }
    }
}
