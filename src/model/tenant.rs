//! What the endpoints of one tenant may take together, before it is divided among them.
//!
//! An endpoint without a tenant stands for itself, and all of this leaves it alone: an installation
//! without tenants has no level above the endpoint.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// A tenant, as far as a relay tells one from another: by a hash of its name, which costs a
/// delivery no text. Two that were one by chance would share what one may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tenant(u64);

impl Tenant {
    /// The tenant of this name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// A tenant may hold this many times what it leaves free, so one that takes all it can leaves a
/// fifth to the others, and two leave a ninth. (An endpoint may hold a quarter of it, see
/// `relay::limits`.)
const PER_FREE: usize = 4;

/// One part in so many is for tenants that hold nothing.
const RESERVE: usize = 16;

/// How much more a tenant may take that holds `held`, while `free` of `all` are free: requests,
/// claims or bytes alike.
///
/// The last sixteenth is kept for tenants that hold nothing; each of those may have one in any case
/// where one is free.
#[must_use]
pub fn share_of_tenant(all: usize, free: usize, held: usize) -> usize {
    let most = free.saturating_sub(all / RESERVE).saturating_mul(PER_FREE);
    let more = most.saturating_sub(held).div_ceil(PER_FREE + 1);
    if held == 0 { more.max(free.min(1)) } else { more }
}

/// How much of `left`, which a tenant may still take, one of its endpoints may take that holds
/// `held`.
///
/// An endpoint may hold three times what it leaves to the tenant's others, so a tenant's only
/// endpoint has as much as one without a tenant.
#[must_use]
pub fn share_in_tenant(left: usize, held: usize) -> usize {
    left.saturating_mul(3).saturating_sub(held).div_ceil(4).min(left)
}

/// What a tenant may still claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantRoom {
    pub tenant: Tenant,
    /// Deliveries.
    pub claims: usize,
    /// Bytes of payloads and headers; the last event may exceed them.
    pub bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes one at a time, in turns, until none may take more. Returns what each has.
    fn filled(all: usize, tenants: usize) -> Vec<usize> {
        let mut held = vec![0; tenants];
        loop {
            let before: usize = held.iter().sum();
            for n in 0..tenants {
                let free = all - held.iter().sum::<usize>();
                held[n] += share_of_tenant(all, free, held[n]).min(1);
            }
            if held.iter().sum::<usize>() == before {
                return held;
            }
        }
    }

    #[test]
    fn tenants_that_take_all_they_can_leave_something_to_the_next() {
        for (tenants, each, free) in [(1, 768, 256), (2, 426, 172), (8, 116, 96), (60, 15, 64)] {
            let held = filled(1024, tenants);
            assert!(held.iter().all(|held| held.abs_diff(each) <= 3), "{held:?}");
            let left = 1024 - held.iter().sum::<usize>();
            assert!(left.abs_diff(free) <= 60 && left >= 60, "{tenants} leave {left}");
        }
    }

    #[test]
    fn one_that_holds_nothing_has_what_is_kept_for_it() {
        assert_eq!((share_of_tenant(1024, 64, 0), share_of_tenant(1024, 64, 1)), (1, 0));
        assert_eq!((share_of_tenant(1024, 0, 0), share_of_tenant(2, 1, 0)), (0, 1));
    }

    #[test]
    fn a_step_takes_no_more_than_it_may_hold_afterwards() {
        let (all, mut held) = (4096, 0);
        for _ in 0..20 {
            held += share_of_tenant(all, all - held, held);
            assert!(held <= 4 * (all - held - all / 16) + 4, "{held}");
        }
        assert_eq!(held, 3072);
    }

    #[test]
    fn a_tenants_only_endpoint_has_half_of_all_and_its_first_leaves_some_to_the_next() {
        let (all, mut one) = (4096_usize, 0);
        loop {
            let left = share_of_tenant(all, all - one, one);
            let more = share_in_tenant(left, one).min((all - one).saturating_sub(one).div_ceil(2));
            if more == 0 {
                break;
            }
            one += more;
        }
        assert_eq!(one, 2048);
        assert!(share_in_tenant(share_of_tenant(all, all - one, one), 0) > 500);
        assert_eq!(
            (share_in_tenant(1, 0), share_in_tenant(0, 0), share_in_tenant(1, 9)),
            (1, 0, 0)
        );
    }

    #[test]
    fn a_name_is_always_the_same_tenant() {
        assert_eq!(Tenant::of("acme"), Tenant::of("acme"));
        assert_ne!(Tenant::of("acme"), Tenant::of("acme2"));
    }
}
