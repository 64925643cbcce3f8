//! The brake of the lanes: one whose endpoint has changed sends nothing more that was claimed
//! before, and what was cancelled leaves its queue.
//!
//! The dispatcher reads and claims while changes are heard of, and what it has read may be the
//! older of the two. So a lane that is opened by what was read before the change is outdated from
//! its first moment on, and the dispatcher reads the endpoint again; and what is claimed by a
//! statement that began before a cancellation was heard of is compared with it.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::meanwhile::HeardMeanwhile;
use super::{Claim, Lane, Lanes, Staffed};
use crate::model::endpoint::EndpointId;
use crate::model::withdrawal::Withdrawal;

impl Lanes {
    /// The dispatcher is about to read endpoints: what has changed until now is not news to it.
    pub(in crate::relay) fn reading(&self) {
        self.heard_meanwhile().changed.clear();
    }

    /// The dispatcher is about to claim: what was cancelled until now cannot be claimed.
    pub(in crate::relay) fn claiming(&self) {
        self.heard_meanwhile().withdrawn.clear();
    }

    /// What was cancelled since the dispatcher began to claim.
    pub(in crate::relay) fn withdrawn_meanwhile(&self) -> Vec<Withdrawal> {
        self.heard_meanwhile().withdrawn.clone()
    }

    /// Takes out what is queued and was cancelled, each with the reason.
    pub(in crate::relay) fn withdraw(&self, new: &[Withdrawal]) -> Vec<(Claim, String)> {
        self.heard_meanwhile().withdrawn.extend_from_slice(new);
        let mut withdrawn = Vec::new();
        for one in new {
            for lane in self.all() {
                let claims = lane.lock().state.withdraw(|claim| one.is_of(&claim.delivery));
                withdrawn.extend(claims.into_iter().map(|claim| (claim, one.reason.clone())));
            }
        }
        withdrawn
    }

    /// Whether the endpoint has changed since the dispatcher began to read.
    pub(in crate::relay) fn is_outdated_meanwhile(&self, id: EndpointId) -> bool {
        self.heard_meanwhile().changed.contains(&id)
    }

    /// Endpoints have changed: nothing more is sent by what was read of them. Returns the lanes in
    /// which something is queued.
    pub(in crate::relay) fn outdate(&self, changed: &HashSet<EndpointId>) -> Vec<Arc<Lane>> {
        let lanes = self.lock();
        self.heard_meanwhile().changed.extend(changed);
        let known = changed.iter().filter_map(|id| lanes.get(id));
        let is_queued = |lane: &&Arc<Lane>| {
            let mut staffed = lane.lock();
            staffed.outdate();
            staffed.state.queued() > 0
        };
        known.filter(is_queued).cloned().collect()
    }

    /// The lanes in which something is queued.
    pub(in crate::relay) fn queued(&self) -> Vec<Arc<Lane>> {
        let is_queued = |lane: &Arc<Lane>| lane.lock().state.queued() > 0;
        self.all().into_iter().filter(is_queued).collect()
    }

    pub(super) fn heard_meanwhile(&self) -> MutexGuard<'_, HeardMeanwhile> {
        self.heard_meanwhile.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    /// The endpoint is now at this revision, `None` if it is gone or disabled. Takes out what was
    /// claimed under another one, to be given back; otherwise the lane sends on.
    pub(in crate::relay) fn brake(self: &Arc<Self>, now_at: Option<i64>) -> Vec<Claim> {
        let mut staffed = self.lock();
        let Some(revision) = now_at.filter(|revision| staffed.state.confirm(*revision)) else {
            staffed.outdate();
            return staffed.state.drain();
        };
        staffed.ready.is_outdated.store(false, Ordering::Relaxed);
        self.staff(&mut staffed);
        // It was read again since, with these in its queue.
        staffed.state.withdraw(|claim| claim.delivery.endpoint_revision < revision)
    }
}

impl Staffed {
    /// Sends nothing more by what was read of the endpoint, until it is read again or found to be
    /// as it was.
    pub(super) fn outdate(&mut self) {
        self.state.outdate();
        // For an attempt that has been taken out and waits for a connection.
        self.ready.is_outdated.store(true, Ordering::Relaxed);
    }
}
