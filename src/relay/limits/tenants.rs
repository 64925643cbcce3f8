//! What is held of the relay's bounds, by each endpoint and by each tenant.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::tenant::Tenant;

/// Claims, and the bytes that they take.
#[derive(Debug, Default)]
pub struct Held {
    claims: AtomicUsize,
    bytes: AtomicUsize,
}

/// What the endpoints of one tenant hold together.
#[derive(Debug)]
pub struct TenantHeld {
    pub(in crate::relay) tenant: Tenant,
    pub(in crate::relay) held: Held,
    /// Requests in flight, or about to be.
    pub(in crate::relay) requests: AtomicUsize,
}

/// The tenants whose endpoints have lanes.
#[derive(Debug, Default)]
pub(in crate::relay) struct Tenants(Mutex<HashMap<Tenant, Arc<TenantHeld>>>);

impl Held {
    /// How many claims.
    #[must_use]
    pub fn claims(&self) -> usize {
        self.claims.load(Ordering::Relaxed)
    }

    /// How many bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(in crate::relay) fn add(&self, bytes: usize) {
        self.claims.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(in crate::relay) fn remove(&self, bytes: usize) {
        self.claims.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A claim that took so many bytes takes as many now.
    pub(in crate::relay) fn resize(&self, before: usize, now: usize) {
        // Added first, so that it is never less than nothing.
        self.bytes.fetch_add(now, Ordering::Relaxed);
        self.bytes.fetch_sub(before, Ordering::Relaxed);
    }
}

impl Tenants {
    pub(in crate::relay) fn get(&self, tenant: Tenant) -> Arc<TenantHeld> {
        let new = || TenantHeld { tenant, held: Held::default(), requests: AtomicUsize::default() };
        Arc::clone(self.lock().entry(tenant).or_insert_with(|| Arc::new(new())))
    }

    /// What a tenant holds that has a lane, or had one lately.
    pub(in crate::relay) fn known(&self, tenant: Tenant) -> Option<Arc<TenantHeld>> {
        self.lock().get(&tenant).map(Arc::clone)
    }

    /// Forgets those of which there is neither lane nor claim any more.
    pub(in crate::relay) fn forget_idle(&self) {
        self.lock().retain(|_, held| Arc::strong_count(held) > 1);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Tenant, Arc<TenantHeld>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_known_as_long_as_it_is_used() {
        let (tenants, acme) = (Tenants::default(), Tenant::of("acme"));
        let held = tenants.get(acme);
        held.held.add(7);
        held.held.resize(7, 3);
        tenants.forget_idle();
        assert_eq!(tenants.get(acme).held.bytes(), 3);
        drop(held);
        tenants.forget_idle();
        assert!(tenants.known(acme).is_none());
    }
}
