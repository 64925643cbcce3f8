//! The bound on requests in flight over all lanes, how much of it one lane may take, and the bound
//! on connections that are kept.

use tokio::sync::{Semaphore, SemaphorePermit};

/// As many permits as there may be requests.
#[derive(Debug)]
pub(in crate::relay) struct Budget {
    most: usize,
    free: Semaphore,
    /// For connections that wait for a next request.
    kept: Semaphore,
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
        let semaphore = || Semaphore::new(most.max(1));
        Self { most, free: semaphore(), kept: semaphore() }
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

    /// Room for one more connection that waits for a next request, if there is any: as many are
    /// kept as there may be requests.
    pub(in crate::relay) fn keep(&self) -> Option<SemaphorePermit<'_>> {
        self.kept.try_acquire().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn as_many_connections_are_kept_as_there_may_be_requests() {
        let budget = Budget::new(2);
        let _requests = (budget.take().await, budget.take().await);
        let kept = [budget.keep(), budget.keep()];
        assert!(kept.iter().all(Option::is_some) && budget.keep().is_none());
        drop(kept);
        assert!(budget.keep().is_some());
    }
}
