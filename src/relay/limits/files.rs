//! The files that connections to receivers may take: as many as this process may open, less a
//! reserve for the database, the process's own listeners and name servers. Beyond that a request
//! waits, and connections that are only kept for a next request make room for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Those of the database (`database.pool_size` and `CONNECTIONS_BESIDE_POOL`), some for the runtime
/// and the listener's probes, the rest for lookups.
const RESERVE: usize = 32;

/// See the module.
#[derive(Debug)]
pub(in crate::relay) struct Files {
    free: Arc<Semaphore>,
    /// Requests that wait for one.
    waiting: AtomicUsize,
    needed: Notify,
    said: AtomicBool,
}

/// The right to have one more connection open.
pub(in crate::relay) type File = OwnedSemaphorePermit;

impl Files {
    /// As many as the system allows, once it was asked for the most, less those that senders may
    /// take.
    pub(in crate::relay) fn of_this_process(of_senders: usize) -> Self {
        Self::new(raised_limit().saturating_sub(RESERVE + of_senders).max(1))
    }

    pub(in crate::relay) fn new(most: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            waiting: AtomicUsize::new(0),
            needed: Notify::new(),
            said: AtomicBool::new(false),
        }
    }

    /// Takes one; waits for it if need be. May be dropped meanwhile.
    pub(in crate::relay) async fn take(&self) -> File {
        if let Ok(file) = Arc::clone(&self.free).try_acquire_owned() {
            return file;
        }
        if !self.said.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "as many connections are open as the limit of files allows (ulimit -n): requests wait for one another"
            );
        }
        let _waiting = WaitsForFile::begin(&self.waiting);
        self.needed.notify_waiters();
        Arc::clone(&self.free).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Waits until a request waits for one.
    pub(in crate::relay) async fn needed(&self) {
        loop {
            // Made before the look, so that no request is missed in between.
            let needed = self.needed.notified();
            if self.waiting.load(Ordering::Relaxed) > 0 {
                return;
            }
            needed.await;
        }
    }
}

/// Counts a request for as long as it waits.
struct WaitsForFile<'a>(&'a AtomicUsize);

impl<'a> WaitsForFile<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for WaitsForFile<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Many systems start a process with a soft limit of 1024 files for the sake of old programs, and
/// allow it a hundred times as many if it asks.
fn raised_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, ..limit };
    let current =
        if setrlimit(Resource::Nofile, most).is_ok() { limit.maximum } else { limit.current };
    current.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_that_waits_for_a_file_is_known_until_it_has_it() {
        let files = Files::new(1);
        let first = files.take().await;
        let idle = async {
            files.needed().await;
            drop(first);
        };
        let (_second, ()) = tokio::join!(files.take(), idle);
        let needed = tokio::time::timeout(std::time::Duration::from_millis(1), files.needed());
        assert!(needed.await.is_err(), "no request waits");
    }
}
