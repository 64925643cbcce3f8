//! How much of what the relay has claimed is not recorded yet, and under which tokens. A [`Claim`]
//! frees its part when it is dropped.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::delivery::Delivery;
use crate::relay::limits::tenants::{Held, TenantHeld};
use crate::store::routing::Claimed;

/// The claims of this relay that are not recorded yet.
#[derive(Debug, Default)]
pub struct Holdings {
    held: Held,
    /// Deliveries that two relays in a row have ended with. One at most is claimed at a time.
    suspects: AtomicUsize,
    tokens: Mutex<ClaimTokens>,
}

/// Under which tokens it is held.
#[derive(Debug, Clone, Default)]
pub struct ClaimTokens {
    /// Those that still hold something.
    pub held: HashSet<i64>,
    /// Of the statement that claims now or claimed last; its claims are not booked yet.
    pub newest: i64,
}

/// A delivery that this relay has claimed, and the room that it takes: in the relay and, once it is
/// in one, in its lane. Dropping it frees both.
#[derive(Debug)]
pub struct Claim {
    /// Boxed, so that a claim is moved from queue to queue for little.
    pub delivery: Box<Delivery>,
    bytes: usize,
    statement: Arc<Statement>,
    /// What its lane holds.
    lane: Option<Arc<Held>>,
    /// What its tenant holds.
    tenant: Option<Arc<TenantHeld>>,
}

/// Keeps the token of a claim held when the claim's room is free.
#[derive(Debug)]
pub(in crate::relay) struct HeldToken {
    _statement: Arc<Statement>,
}

/// A claim that has come, and why its delivery is to be ended without an attempt, if it is.
#[derive(Debug)]
pub struct Booked {
    pub claim: Claim,
    pub cancelled: Option<String>,
}

/// A statement that has claimed: its token is held until the last of its claims is dropped.
#[derive(Debug)]
struct Statement {
    token: i64,
    holdings: Arc<Holdings>,
}

impl Holdings {
    /// A statement is about to claim under this token; all before it have been
    /// [booked](Self::book).
    pub fn begin(&self, token: i64) {
        self.tokens().newest = token;
    }

    /// Books all that one statement has claimed.
    pub fn book(self: &Arc<Self>, token: i64, claimed: Vec<Claimed>) -> Vec<Booked> {
        if claimed.is_empty() {
            return Vec::new();
        }
        self.tokens().held.insert(token);
        let statement = Arc::new(Statement { token, holdings: Arc::clone(self) });
        claimed
            .into_iter()
            .map(|Claimed { delivery, cancelled }| {
                let claim = Claim::new(delivery, Arc::clone(&statement));
                Booked { claim, cancelled }
            })
            .collect()
    }

    /// The tokens at this moment. No claim may be dropped while they are locked.
    fn tokens(&self) -> MutexGuard<'_, ClaimTokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tokens as they are at this moment.
    #[must_use]
    pub fn tokens_now(&self) -> ClaimTokens {
        self.tokens().clone()
    }

    /// How many more deliveries may be claimed where there may be `most`, of `most_bytes`; none
    /// while no byte is left. The statements that claim see to it that their events fit.
    #[must_use]
    pub fn room(&self, most: usize, most_bytes: usize) -> usize {
        if self.bytes() < most_bytes { most.saturating_sub(self.count()) } else { 0 }
    }

    /// Claims that are held.
    #[must_use]
    pub fn count(&self) -> usize {
        self.held.claims()
    }

    /// Whether one of them is a delivery that two relays in a row have ended with.
    #[must_use]
    pub fn has_suspect(&self) -> bool {
        self.suspects.load(Ordering::Relaxed) > 0
    }

    /// Bytes of their events and answers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.held.bytes()
    }
}

impl Claim {
    fn new(delivery: Delivery, statement: Arc<Statement>) -> Self {
        let bytes = delivery.bytes();
        statement.holdings.held.add(bytes);
        statement.holdings.suspects.fetch_add(delivery.is_suspect.into(), Ordering::Relaxed);
        Self { delivery: Box::new(delivery), bytes, statement, lane: None, tenant: None }
    }

    /// Its token, to be held for longer than its room.
    pub(in crate::relay) fn held_token(&self) -> HeldToken {
        HeldToken { _statement: Arc::clone(&self.statement) }
    }

    /// The same claim once more, for as long as this one lasts.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::new((*self.delivery).clone(), Arc::clone(&self.statement))
    }

    /// Takes room in a lane that counts what it holds here, and of its tenant's.
    pub fn enter(&mut self, lane: &Arc<Held>, tenant: Option<&Arc<TenantHeld>>) {
        lane.add(self.bytes);
        if let Some(before) = self.lane.replace(Arc::clone(lane)) {
            before.remove(self.bytes);
        }
        if let Some(tenant) = tenant {
            tenant.held.add(self.bytes);
        }
        if let Some(before) = std::mem::replace(&mut self.tenant, tenant.map(Arc::clone)) {
            before.held.remove(self.bytes);
        }
    }

    /// Takes so many bytes from now on.
    pub(in crate::relay) fn now_takes(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        for held in self.counted_in() {
            held.resize(before, bytes);
        }
    }

    /// All that counts it: the relay, its lane, and its tenant.
    fn counted_in(&self) -> impl Iterator<Item = &Held> {
        let tenant = self.tenant.as_ref().map(|tenant| &tenant.held);
        [Some(&self.statement.holdings.held), self.lane.as_deref(), tenant].into_iter().flatten()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let suspects = &self.statement.holdings.suspects;
        suspects.fetch_sub(self.delivery.is_suspect.into(), Ordering::Relaxed);
        for held in self.counted_in() {
            held.remove(self.bytes);
        }
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        self.holdings.tokens().held.remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tenant::Tenant;
    use crate::relay::fault::tests::delivery;
    use crate::relay::limits::tenants::Tenants;

    fn claimed(payloads: &[usize]) -> Vec<Claimed> {
        let claimed = |size: &usize| {
            let payload = bytes::Bytes::from(vec![b'x'; *size]);
            let delivery = Delivery { payload, ..delivery("order.paid") };
            Claimed { delivery, cancelled: None }
        };
        payloads.iter().map(claimed).collect()
    }

    fn held(holdings: &Holdings) -> (usize, usize, Vec<i64>) {
        let mut tokens: Vec<_> = holdings.tokens_now().held.into_iter().collect();
        tokens.sort_unstable();
        (holdings.count(), holdings.bytes(), tokens)
    }

    #[test]
    fn a_claim_takes_room_until_it_is_dropped_and_its_token_is_held_as_long_as_one_is_left() {
        let holdings = Arc::<Holdings>::default();
        holdings.begin(1);
        let mut first = holdings.book(1, claimed(&[100, 50]));
        holdings.begin(2);
        let second = holdings.book(2, claimed(&[7]));
        assert_eq!(held(&holdings), (3, 157, vec![1, 2]));
        drop(first.pop());
        assert_eq!(held(&holdings), (2, 107, vec![1, 2]));
        drop(second);
        assert_eq!(held(&holdings), (1, 100, vec![1]));
        drop(first);
        assert_eq!(held(&holdings), (0, 0, vec![]));
        assert_eq!(holdings.tokens_now().newest, 2);
    }

    #[test]
    fn a_statement_that_claimed_nothing_holds_no_token() {
        let holdings = Arc::<Holdings>::default();
        assert!(holdings.book(1, Vec::new()).is_empty());
        assert_eq!(held(&holdings), (0, 0, vec![]));
    }

    #[test]
    fn a_claim_is_counted_by_the_lane_that_it_is_in_and_by_no_other() {
        let holdings = Arc::<Holdings>::default();
        let (one, other) = (Arc::default(), Arc::default());
        let tenant = Tenants::default().get(Tenant::of("acme"));
        let mut booked = holdings.book(1, claimed(&[10])).pop().unwrap();
        let held = |held: &Held| (held.claims(), held.bytes());
        let counts = || (held(&one), held(&other), held(&tenant.held));
        booked.claim.enter(&one, Some(&tenant));
        assert_eq!(counts(), ((1, 10), (0, 0), (1, 10)));
        booked.claim.enter(&other, None);
        assert_eq!(counts(), ((0, 0), (1, 10), (0, 0)));
        booked.claim.enter(&other, Some(&tenant));
        booked.claim.now_takes(4);
        assert_eq!((counts(), holdings.bytes()), (((0, 0), (1, 4), (1, 4)), 4));
        drop(booked);
        assert_eq!((counts(), holdings.bytes()), (((0, 0), (0, 0), (0, 0)), 0));
    }

    #[test]
    fn there_is_room_for_claims_while_a_byte_is_left() {
        let holdings = Arc::<Holdings>::default();
        let held = holdings.book(1, claimed(&[99]));
        assert_eq!([98, 99, 100].map(|bytes| holdings.room(5, bytes)), [0, 0, 4]);
        drop(held);
        assert_eq!(holdings.room(5, 1), 5);
    }
}
