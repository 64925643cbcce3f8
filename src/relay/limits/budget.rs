//! The bound on requests in flight over all lanes, how much of it one tenant and one lane may take,
//! and the bound on connections that are kept.

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::gate::{Admitted, Gate};
use super::tenants::TenantHeld;
use crate::model::tenant::share_of_tenant;

/// As many permits as there may be requests.
#[derive(Debug)]
pub(in crate::relay) struct Budget {
    most: usize,
    free: Semaphore,
    gate: Gate,
    /// For connections that wait for a next request.
    kept: Semaphore,
}

/// The right to have one more request in flight. Dropping it lets others go on.
#[derive(Debug)]
pub(in crate::relay) struct RequestPlace<'a> {
    budget: &'a Budget,
    permit: Option<SemaphorePermit<'a>>,
    admitted: Option<Admitted>,
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
        Self { most: most.max(1), free: semaphore(), gate: Gate::default(), kept: semaphore() }
    }

    /// How many requests one lane of this tenant may have in flight now; at least 1.
    pub(in crate::relay) fn share(&self, tenant: Option<&TenantHeld>) -> usize {
        let free = self.free.available_permits();
        let left = tenant.map_or(free, |tenant| {
            let held = tenant.requests.load(std::sync::atomic::Ordering::Relaxed);
            share_of_tenant(self.most, free, held).min(free)
        });
        // A lane alone has as much with a tenant as without: what that may take is three times the
        // free places and more.
        share_of_requests(free).min(left.max(1))
    }

    pub(in crate::relay) fn in_flight(&self) -> usize {
        self.most.saturating_sub(self.free.available_permits())
    }

    pub(in crate::relay) async fn take(
        &self,
        tenant: Option<&Arc<TenantHeld>>,
    ) -> Option<RequestPlace<'_>> {
        let free = || self.free.available_permits();
        // Made before it has a permit: one that is dropped while it waits for it lets others go on.
        let mut place = RequestPlace { budget: self, permit: None, admitted: None };
        if let Some(tenant) = tenant {
            place.admitted = Some(self.gate.admit(tenant, self.most, free).await);
        }
        place.permit = Some(self.free.acquire().await.ok()?);
        Some(place)
    }

    /// Room for one more connection that waits for a next request, if there is any: as many are
    /// kept as there may be requests.
    pub(in crate::relay) fn keep(&self) -> Option<SemaphorePermit<'_>> {
        self.kept.try_acquire().ok()
    }
}

impl Drop for RequestPlace<'_> {
    fn drop(&mut self) {
        drop(self.permit.take());
        drop(self.admitted.take());
        self.budget.gate.open(self.budget.most, || self.budget.free.available_permits());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::model::tenant::Tenant;
    use crate::relay::limits::tenants::Tenants;

    #[tokio::test]
    async fn as_many_connections_are_kept_as_there_may_be_requests() {
        let budget = Budget::new(2);
        let _requests = (budget.take(None).await, budget.take(None).await);
        let kept = [budget.keep(), budget.keep()];
        assert!(kept.iter().all(Option::is_some) && budget.keep().is_none());
        drop(kept);
        assert!(budget.keep().is_some());
    }

    /// Takes what a tenant gets without waiting.
    fn all_of<'a>(budget: &'a Budget, tenant: &Arc<TenantHeld>) -> Vec<Option<RequestPlace<'a>>> {
        std::iter::from_fn(|| budget.take(Some(tenant)).now_or_never()).collect()
    }

    // Without a runtime, which would have a task wait now and then.
    #[test]
    fn a_tenant_never_takes_all_places_and_another_has_its_part_at_once() {
        let (budget, tenants) = (Budget::new(1024), Tenants::default());
        let [one, two] = ["one", "two"].map(|name| tenants.get(Tenant::of(name)));
        let of_one = all_of(&budget, &one);
        assert_eq!(of_one.len(), 768);
        assert_eq!((budget.share(Some(&one)), budget.share(Some(&two))), (1, 64));
        let of_two = all_of(&budget, &two);
        assert!(of_two.len() > 150, "{}", of_two.len());
        // Those without a tenant have what is left.
        assert!(budget.take(None).now_or_never().is_some());
    }

    #[test]
    fn what_waits_for_its_tenants_places_goes_on_when_one_is_free() {
        let (budget, tenants) = (Budget::new(16), Tenants::default());
        let [one, two] = ["one", "two"].map(|name| tenants.get(Tenant::of(name)));
        let mut of_one = all_of(&budget, &one);
        let given_up = budget.take(Some(&one));
        let mut first = Box::pin(budget.take(Some(&one)));
        assert!((&mut first).now_or_never().is_none());
        {
            let mut given_up = Box::pin(given_up);
            assert!((&mut given_up).now_or_never().is_none());
        }
        // A place that another tenant gives back is not for one that has its part.
        drop(budget.take(Some(&two)).now_or_never());
        assert!((&mut first).now_or_never().is_none());
        of_one.pop();
        assert!((&mut first).now_or_never().is_some());
        drop(of_one);
        assert_eq!(budget.in_flight(), 0);
        assert_eq!(all_of(&budget, &one).len(), 12);
    }
}
