//! How claims end: with an attempt, without one, or given back. On the way from the lanes and the
//! dispatch to the [recorder](super::record).

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::attempt::JudgedAttempt;
use super::claims::holdings::{Claim, HeldToken};
use crate::model::endpoint::OnDead;
use crate::model::outcome::{Outcome, Phases};
use crate::model::verdict::{Decision, Verdict};
use crate::store::attempts::Attempt;
use crate::store::deliveries::ClaimKey;

/// The way to the recorder.
#[derive(Debug, Clone)]
pub(super) struct Results(mpsc::Sender<Ended>);

/// A claim that this relay is done with. Its room is free when this is dropped, recorded.
#[derive(Debug)]
pub struct Ended {
    pub claim: Claim,
    end: End,
}

#[derive(Debug)]
enum End {
    Attempted(Box<Attempt>),
    /// Ended without an attempt.
    Cancelled(Box<Attempt>),
    /// Not begun: it may be claimed again.
    Unsent {
        /// Other relays could send it at once, and may not know.
        others_serve: bool,
    },
}

impl Results {
    /// A way that holds `most` results, and its end for the recorder.
    pub(super) fn new(most: usize) -> (Self, mpsc::Receiver<Ended>) {
        let (sender, receiver) = mpsc::channel(most);
        (Self(sender), receiver)
    }

    /// Hands an ended claim to the recorder. Never waits for long: there is a place for every claim
    /// that may be held.
    pub(super) async fn report(&self, ended: Ended) {
        if self.0.send(ended).await.is_err() {
            tracing::error!(
                "a result came after the recorder had ended; its claim will be released"
            );
        }
    }

    /// How many wait to be recorded.
    pub(super) fn waiting(&self) -> usize {
        self.0.max_capacity() - self.0.capacity()
    }
}

impl Ended {
    /// An attempt was made.
    #[must_use]
    pub fn attempted(claim: Claim, sent: JudgedAttempt) -> Self {
        let delivery = &claim.delivery;
        let attempt = Attempt {
            event_id: delivery.event_id,
            endpoint_id: delivery.endpoint_id,
            claim_token: delivery.claim_token,
            batch: delivery.batch,
            event_created_at: delivery.event_created_at,
            number: delivery.attempt_count + 1,
            began: sent.began,
            took: sent.took,
            phases: sent.phases,
            outcome: Some(sent.outcome),
            is_of_a_line: delivery.ordering_key.is_some(),
            blocks: sent.verdict.decision == Decision::Dead
                && delivery.ordering_key.is_some()
                && sent.on_dead == OnDead::Block,
            verdict: sent.verdict,
        };
        Self { claim, end: End::Attempted(Box::new(attempt)) }.without_event()
    }

    /// Ended without an attempt, for this reason.
    #[must_use]
    pub fn cancelled(claim: Claim, reason: String, now: Instant) -> Self {
        let delivery = &claim.delivery;
        let attempt = Attempt {
            event_id: delivery.event_id,
            endpoint_id: delivery.endpoint_id,
            claim_token: delivery.claim_token,
            batch: delivery.batch,
            event_created_at: delivery.event_created_at,
            number: 0,
            began: now,
            took: Duration::ZERO,
            phases: Phases::default(),
            outcome: None,
            verdict: Verdict { decision: Decision::Cancelled, effect: None, reason: Some(reason) },
            is_of_a_line: delivery.ordering_key.is_some(),
            blocks: false,
        };
        Self { claim, end: End::Cancelled(Box::new(attempt)) }.without_event()
    }

    /// No attempt was begun.
    #[must_use]
    pub fn unsent(claim: Claim) -> Self {
        Self { claim, end: End::Unsent { others_serve: false } }
    }

    /// No attempt was begun, and other relays can begin one sooner.
    #[must_use]
    pub fn left_to_others(claim: Claim) -> Self {
        Self { claim, end: End::Unsent { others_serve: true } }
    }

    /// Whether other relays are to know once it is given back.
    #[must_use]
    pub fn is_left_to_others(&self) -> bool {
        matches!(self.end, End::Unsent { others_serve: true })
    }

    /// Recording needs nothing of the event, and may wait for as long as the database is away.
    fn without_event(mut self) -> Self {
        self.claim.delivery.payload = Bytes::new();
        self.claim.delivery.headers = Vec::new();
        // What is kept of the answer takes its place.
        let outcome = self.attempt().and_then(|attempt| attempt.outcome.as_ref());
        self.claim.now_takes(outcome.map_or(0, Outcome::bytes));
        self
    }

    /// The attempt to be recorded; `None`: the claim is released.
    #[must_use]
    pub fn attempt(&self) -> Option<&Attempt> {
        match &self.end {
            End::Attempted(attempt) | End::Cancelled(attempt) => Some(attempt),
            End::Unsent { .. } => None,
        }
    }

    /// What is kept of it when it is recorded and its room is free. `None`: it is given back.
    pub(super) fn into_recorded(self) -> Option<(Box<Attempt>, HeldToken)> {
        let token = self.claim.held_token();
        match self.end {
            End::Attempted(attempt) | End::Cancelled(attempt) => Some((attempt, token)),
            End::Unsent { .. } => None,
        }
    }

    /// The same end of the same claim, with another record of it.
    #[must_use]
    pub fn with_attempt(&self, attempt: Attempt) -> Self {
        let end = match &self.end {
            End::Cancelled(_) => End::Cancelled(Box::new(attempt)),
            _ => End::Attempted(Box::new(attempt)),
        };
        Self { claim: self.claim.again(), end }
    }

    /// By which it is released.
    #[must_use]
    pub fn key(&self) -> ClaimKey {
        ClaimKey::of(&self.claim.delivery)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;
    use crate::model::delivery::Delivery;
    use crate::model::outcome::Answer;
    use crate::model::verdict::unjudged;
    use crate::relay::claims::holdings::Holdings;
    use crate::relay::fault::tests::delivery;
    use crate::store::routing::Claimed;

    #[tokio::test]
    async fn a_claim_takes_the_bytes_of_its_event_and_then_those_that_are_kept_of_the_answer() {
        let holdings = Arc::<Holdings>::default();
        let payload = Bytes::from(vec![b'x'; 5_000]);
        let delivery = Delivery { payload, ..delivery("order.paid") };
        let booked = holdings.book(1, vec![Claimed { delivery, cancelled: None }]);
        assert_eq!(holdings.bytes(), 5_000);
        let claim = booked.into_iter().next().unwrap().claim;
        let answer = Answer { status: 500, body: vec![b'x'; 700], ..Answer::default() };
        let sent = JudgedAttempt {
            began: Clock.instant(),
            took: Duration::ZERO,
            phases: Phases::default(),
            outcome: Outcome::Answered(answer),
            verdict: unjudged(1),
            on_dead: OnDead::Skip,
        };
        let ended = Ended::attempted(claim, sent);
        assert_eq!((holdings.count(), holdings.bytes()), (1, 700));
        drop(ended);
        assert_eq!((holdings.count(), holdings.bytes()), (0, 0));
    }
}
