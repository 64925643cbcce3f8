//! The bound on requests in flight over all lanes, and how much of it one lane may take.

use tokio::sync::{Semaphore, SemaphorePermit};

/// As many permits as there may be requests.
#[derive(Debug)]
pub(in crate::relay) struct Budget {
    most: usize,
    free: Semaphore,
}

/// A lane may take a quarter of what is free (dynamic thresholds, Choudhury and Hahne 1998): one
/// lane alone gets a fifth of all, many hanging lanes never get everything.
const SHARE: usize = 4;

/// How many requests one lane may have in flight while `free` of all are free; at least one.
#[must_use]
pub fn share_of_requests(free: usize) -> usize {
    (free / SHARE).max(1)
}

impl Budget {
    pub(in crate::relay) fn new(most: usize) -> Self {
        Self { most, free: Semaphore::new(most.max(1)) }
    }

    /// How many requests one lane may have in flight now; at least 1.
    pub(in crate::relay) fn share(&self) -> usize {
        share_of_requests(self.free.available_permits())
    }

    pub(in crate::relay) fn in_flight(&self) -> usize {
        self.most.saturating_sub(self.free.available_permits())
    }

    pub(in crate::relay) async fn take(&self) -> Option<SemaphorePermit<'_>> {
        self.free.acquire().await.ok()
    }
}
