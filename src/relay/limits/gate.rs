//! Where requests of tenants wait that have as many in flight as they may. Those of endpoints
//! without a tenant never come here.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::tenants::TenantHeld;
use crate::model::tenant::{Tenant, share_of_tenant};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// The first to come is the first that may go on, if its tenant may have one more.
    waiting: Mutex<VecDeque<Waiting>>,
    /// How many wait, or are about to.
    count: AtomicUsize,
}

#[derive(Debug)]
struct Waiting {
    tenant: Arc<TenantHeld>,
    admitted: oneshot::Sender<Admitted>,
}

/// Counts a request for its tenant until it is dropped; the gate is to be [opened](Gate::open)
/// then.
#[derive(Debug)]
pub(super) struct Admitted(Arc<TenantHeld>);

impl Gate {
    /// Waits until the tenant may have one more in flight; `free` says how many of `all` are free
    /// at a moment. May be dropped meanwhile.
    pub(super) async fn admit(
        &self,
        tenant: &Arc<TenantHeld>,
        all: usize,
        free: impl Fn() -> usize,
    ) -> Admitted {
        loop {
            let call = {
                let mut waiting = self.lock();
                // Before the look: a request that ends after it then finds that one waits.
                self.count.fetch_add(1, Ordering::SeqCst);
                if let Some(admitted) = Admitted::of(tenant, all, free()) {
                    self.count.fetch_sub(1, Ordering::SeqCst);
                    return admitted;
                }
                let (sender, call) = oneshot::channel();
                waiting.push_back(Waiting { tenant: Arc::clone(tenant), admitted: sender });
                call
            };
            if let Ok(admitted) = call.await {
                return admitted;
            }
        }
    }

    /// A request has ended: admits those that wait and may go on now.
    pub(super) fn open(&self, all: usize, free: impl Fn() -> usize) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut waiting = self.lock();
        let mut refused: Vec<Tenant> = Vec::new();
        let mut at = 0;
        while at < waiting.len() {
            let tenant = &waiting[at].tenant;
            if waiting[at].admitted.is_closed() {
                self.leave(&mut waiting, at);
            } else if refused.contains(&tenant.tenant) {
                at += 1;
            } else if let Some(admitted) = Admitted::of(tenant, all, free()) {
                // One that is dropped in this moment is counted no more with what it was sent.
                drop(self.leave(&mut waiting, at).admitted.send(admitted));
            } else {
                refused.push(tenant.tenant);
                at += 1;
            }
        }
    }

    fn leave(&self, waiting: &mut VecDeque<Waiting>, at: usize) -> Waiting {
        self.count.fetch_sub(1, Ordering::SeqCst);
        waiting.remove(at).expect("the place is below the length, seen above")
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admitted {
    /// Called by one at a time, so no two take the same place.
    fn of(tenant: &Arc<TenantHeld>, all: usize, free: usize) -> Option<Self> {
        let held = tenant.requests.load(Ordering::SeqCst);
        // One that has none waits for a place at most, and never here.
        (held == 0 || share_of_tenant(all, free, held) > 0).then(|| {
            tenant.requests.fetch_add(1, Ordering::SeqCst);
            Self(Arc::clone(tenant))
        })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::SeqCst);
    }
}
