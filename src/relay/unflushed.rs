//! Results that are recorded and may not be on the server's disk yet.
//!
//! A few results are recorded without waiting for the disk, and kept here. Whatever waits for the
//! disk when it commits waits for all that was committed before it as well, and for the standbys
//! that the operator has commits wait for. So they are let go of when such a statement has
//! succeeded that was sent after their answer: a step of routing, a heartbeat.
//!
//! A server that crashes loses what was not on its disk, and ends every session. So where no
//! session was opened since before they were recorded, no crash lies in between; otherwise they are
//! in doubt, and are recorded once more. The claim tells whether they were lost: it is there again.
//! Their tokens are held so long, or the claims would be taken for forgotten.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::claims::holdings::HeldToken;
use crate::store::attempts::Attempt;

/// A recorded attempt, and the token that it was claimed under.
pub(super) type Recorded = (Box<Attempt>, HeldToken);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unflushed {
    kept: Mutex<UnflushedStatements>,
    /// Some of them are in doubt.
    pub(super) doubted: Notify,
}

/// By the number of the statement that recorded them.
#[derive(Debug, Default)]
struct UnflushedStatements {
    last: u64,
    statements: VecDeque<RecordedUnflushed>,
}

/// What one statement has recorded.
#[derive(Debug)]
struct RecordedUnflushed {
    number: u64,
    /// How many sessions had been opened before it was sent.
    sessions: u64,
    results: Vec<Recorded>,
}

/// Everything that has been recorded before a statement is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before(u64);

impl Unflushed {
    fn kept(&self) -> MutexGuard<'_, UnflushedStatements> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a statement has recorded before which `sessions` had been opened.
    pub(super) fn keep(&self, results: impl Iterator<Item = Recorded>, sessions: u64) {
        let results: Vec<_> = results.collect();
        if results.is_empty() {
            return;
        }
        let mut kept = self.kept();
        kept.last += 1;
        let number = kept.last;
        kept.statements.push_back(RecordedUnflushed { number, sessions, results });
    }

    /// To be taken before a statement is sent that commits and waits.
    pub(super) fn before(&self) -> Before {
        Before(self.kept().last)
    }

    /// A statement that was sent after these has written something, committed, and waited; by now
    /// `sessions` have been opened.
    pub(super) fn flushed(&self, Before(number): Before, sessions: u64) {
        let is_flushed = |one: &RecordedUnflushed| one.number <= number && one.sessions == sessions;
        self.kept().statements.retain(|one| !is_flushed(one));
        self.doubt(sessions);
    }

    /// By now `sessions` have been opened.
    pub(super) fn doubt(&self, sessions: u64) {
        if self.kept().statements.iter().any(|one| one.sessions != sessions) {
            self.doubted.notify_one();
        }
    }

    /// Takes out what is in doubt.
    pub(super) fn take_doubted(&self, sessions: u64) -> Vec<Recorded> {
        let mut kept = self.kept();
        let (doubted, sure) = std::mem::take(&mut kept.statements)
            .into_iter()
            .partition::<VecDeque<_>, _>(|one| one.sessions != sessions);
        kept.statements = sure;
        doubted.into_iter().flat_map(|one| one.results).collect()
    }

    /// How many results are kept.
    pub(super) fn count(&self) -> usize {
        self.kept().statements.iter().map(|one| one.results.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;
    use crate::relay::claims::holdings::Holdings;
    use crate::relay::ended::Ended;
    use crate::relay::fault::tests::delivery;
    use crate::store::routing::Claimed;

    /// Keeps a result of a claim under this token.
    fn keep(unflushed: &Unflushed, holdings: &Arc<Holdings>, token: i64, sessions: u64) {
        let delivery = delivery("order.paid");
        let booked = holdings.book(token, vec![Claimed { delivery, cancelled: None }]);
        let now = Clock.instant();
        let ended = booked.into_iter().map(|one| Ended::cancelled(one.claim, String::new(), now));
        unflushed.keep(ended.filter_map(Ended::into_recorded), sessions);
    }

    fn held(holdings: &Holdings) -> Vec<i64> {
        let mut held: Vec<_> = holdings.tokens_now().held.into_iter().collect();
        held.sort_unstable();
        held
    }

    #[tokio::test]
    async fn what_is_recorded_is_kept_and_its_token_held_until_a_later_statement_has_waited() {
        let (unflushed, holdings) = (Unflushed::default(), Arc::<Holdings>::default());
        keep(&unflushed, &holdings, 1, 5);
        let before = unflushed.before();
        keep(&unflushed, &holdings, 2, 5);
        assert_eq!((held(&holdings), holdings.count()), (vec![1, 2], 0), "their room is free");
        unflushed.flushed(before, 5);
        assert_eq!((held(&holdings), unflushed.count()), (vec![2], 1), "2 was recorded later");
        unflushed.flushed(unflushed.before(), 5);
        assert_eq!((held(&holdings), unflushed.count()), (vec![], 0));
    }

    #[tokio::test]
    async fn what_was_recorded_before_a_session_was_opened_is_in_doubt() {
        let (unflushed, holdings) = (Unflushed::default(), Arc::<Holdings>::default());
        keep(&unflushed, &holdings, 1, 5);
        keep(&unflushed, &holdings, 2, 6);
        unflushed.flushed(unflushed.before(), 6);
        assert_eq!(held(&holdings), [1]);
        unflushed.doubted.notified().await;
        let doubted = unflushed.take_doubted(6);
        assert_eq!((doubted.len(), unflushed.count()), (1, 0));
        assert_eq!(held(&holdings), [1], "until it is recorded again");
        drop(doubted);
        assert_eq!(held(&holdings), [0; 0]);
    }
}
