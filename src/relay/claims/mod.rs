//! How much this relay may claim and has claimed, and when something unclaimed falls due.

pub(super) mod holdings;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use self::holdings::Holdings;
use super::limits::tenants::{TenantHeld, Tenants};
use super::term::Term;
use crate::clock::Present;
use crate::config::Config;
use crate::model::due::{Due, HORIZON};
use crate::model::endpoint::EndpointId;
use crate::model::tenant::{Tenant, TenantRoom, share_of_tenant};

/// Claims held at once for each request that may be in flight. Enough that workers do not wait for
/// statements; what is held beyond is memory, and possible duplicates after a crash.
const CLAIMS_PER_REQUEST: usize = 4;

/// How many claims a relay holds at most.
#[must_use]
pub fn most_claims(config: &Config) -> usize {
    config.relay.max_in_flight * CLAIMS_PER_REQUEST
}

/// The room for claims, and when something unclaimed falls due.
#[derive(Debug)]
pub(super) struct Claims {
    term: Arc<Term>,
    clock: Present,
    most: usize,
    most_bytes: usize,
    pub(super) holdings: Arc<Holdings>,
    pub(super) tenants: Tenants,
    /// Room for claims has become free.
    pub(super) room_freed: Notify,
    /// A delivery has ended that two relays in a row had ended with: another may be claimed.
    pub(super) suspect_ended: Notify,
    due: Mutex<Due>,
    /// The tenants of the endpoints that were owed something at the last poll.
    polled: Mutex<HashMap<EndpointId, Option<Tenant>>>,
    /// Something is due of endpoints that other relays serve.
    others_are_to_know: AtomicBool,
}

impl Claims {
    pub(super) fn new(config: &Config, term: &Arc<Term>, clock: Present) -> Self {
        Self {
            term: Arc::clone(term),
            clock,
            most: most_claims(config),
            most_bytes: config.relay.max_in_flight_bytes,
            holdings: Arc::default(),
            tenants: Tenants::default(),
            room_freed: Notify::new(),
            suspect_ended: Notify::new(),
            due: Mutex::default(),
            polled: Mutex::default(),
            others_are_to_know: AtomicBool::new(false),
        }
    }

    /// How many more deliveries may be claimed in all. None by a relay that may be taken for dead:
    /// it could not send them, and other relays can.
    pub(super) fn room(&self) -> usize {
        if !self.term.may_send() {
            return 0;
        }
        self.holdings.room(self.most, self.most_bytes)
    }

    /// How many more bytes of events may be held.
    pub(super) fn room_for_bytes(&self) -> usize {
        self.most_bytes.saturating_sub(self.holdings.bytes())
    }

    /// How much more the endpoints of a tenant may claim together.
    pub(super) fn room_of(&self, tenant: &TenantHeld) -> TenantRoom {
        let (room, bytes, held) = (self.room(), self.room_for_bytes(), &tenant.held);
        TenantRoom {
            tenant: tenant.tenant,
            claims: share_of_tenant(self.most, room, held.claims()).min(room),
            bytes: share_of_tenant(self.most_bytes, bytes, held.bytes()).min(bytes),
        }
    }

    /// The same of one that may have no lane.
    pub(super) fn room_of_any(&self, tenant: Tenant) -> TenantRoom {
        self.tenants.known(tenant).map_or_else(
            || TenantRoom {
                tenant,
                claims: share_of_tenant(self.most, self.room(), 0),
                bytes: share_of_tenant(self.most_bytes, self.room_for_bytes(), 0),
            },
            |held| self.room_of(&held),
        )
    }

    /// How many claims statements may make that know no tenants: a quarter of all is left to those
    /// that do.
    pub(super) fn room_without_tenants(&self) -> usize {
        self.room().saturating_sub(self.most / 4)
    }

    /// The same in bytes.
    pub(super) fn bytes_without_tenants(&self) -> usize {
        self.room_for_bytes().saturating_sub(self.most_bytes / 4)
    }

    pub(super) fn due(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The endpoint is owed something unclaimed, which falls due after `due_in`.
    pub(super) fn due_in(&self, endpoint: EndpointId, due_in: Duration) {
        self.due().put(endpoint, self.clock.instant() + due_in.min(HORIZON));
    }

    /// A poll has found that these are owed something.
    pub(super) fn polled(&self, tenants: HashMap<EndpointId, Option<Tenant>>) {
        *self.lock_polled() = tenants;
    }

    /// The tenant of an endpoint, if the last poll has found it.
    pub(super) fn polled_tenant(&self, endpoint: EndpointId) -> Option<Option<Tenant>> {
        self.lock_polled().get(&endpoint).copied()
    }

    fn lock_polled(&self) -> MutexGuard<'_, HashMap<EndpointId, Option<Tenant>>> {
        self.polled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is due of an endpoint that other relays serve, and they may not know.
    pub(super) fn let_others_know(&self) {
        self.others_are_to_know.store(true, Ordering::Relaxed);
        self.room_freed.notify_one();
    }

    pub(super) fn are_others_to_know(&self) -> bool {
        self.others_are_to_know.load(Ordering::Relaxed)
    }

    pub(super) fn others_know(&self) {
        self.others_are_to_know.store(false, Ordering::Relaxed);
    }
}
