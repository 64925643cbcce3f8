//! One attempt: make the body, sign, send, judge. The heart of the relay, and one screen of it.
//!
//! Runs in a lane's worker. How it ended goes to the recorder; nothing here touches the database,
//! and nothing waits but the request itself.

mod endpoint;
mod headers;
mod request;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tracing::Instrument as _;

pub(super) use self::endpoint::ReadyEndpoint;
use self::endpoint::{Defaults, Sending};
use super::fault;
use super::limits::files::{File, Files};
use super::policy::Policy;
use super::term::Term;
use crate::clock::Present;
use crate::config::DeliverySettings;
use crate::model::delivery::Delivery;
use crate::model::endpoint::OnDead;
use crate::model::outcome::{Outcome, Phases, Refusal};
use crate::model::rules::RuleSet;
use crate::model::verdict::{self, Decision, Verdict};
use crate::observe::metrics::Metrics;
use crate::observe::trace;
use crate::outbound::client::{Client, Connection, Exchange};

/// Makes the attempts of one term.
#[derive(Debug)]
pub(super) struct Attempts {
    pub(super) client: Client,
    pub(super) files: Files,
    pub(super) settings: DeliverySettings,
    /// The longest that a receiver's `Retry-After` is followed.
    pub(super) retry_after_cap: Duration,
    pub(super) policy: Arc<Policy>,
    pub(super) term: Arc<Term>,
    pub(super) clock: Present,
    pub(super) metrics: Arc<Metrics>,
}

/// A worker's connection, if it has one, and its right to have one.
#[derive(Debug, Default)]
pub(super) struct ConnectionSlot {
    connection: Option<Connection>,
    pub(super) file: Option<File>,
}

/// An attempt that has ended, judged.
#[derive(Debug)]
pub struct JudgedAttempt {
    pub began: Instant,
    pub took: Duration,
    pub phases: Phases,
    pub outcome: Outcome,
    pub verdict: Verdict,
    pub on_dead: OnDead,
}

/// An attempt that ended by a panic.
#[derive(Debug)]
pub(super) struct Panicked {
    began: Instant,
    detail: String,
}

impl Attempts {
    /// Settings for an endpoint that has none of its own.
    pub(super) fn defaults(&self) -> Defaults<'_> {
        Defaults { settings: &self.settings, schedule: &self.policy.schedule }
    }

    /// Makes the next attempt of a delivery.
    ///
    /// A bug that it meets ends this attempt and nothing else: the connection may be half written
    /// and is not used again.
    pub(super) fn make<'a>(
        &'a self,
        ready: &'a ReadyEndpoint,
        delivery: &'a Delivery,
        slot: &'a mut ConnectionSlot,
    ) -> impl Future<Output = Result<JudgedAttempt, Panicked>> + 'a {
        let began = self.clock.instant();
        let number = delivery.attempt_count + 1;
        let span = trace::attempt(delivery.event_id, delivery.endpoint_id, number);
        // Not `async`: that would keep room for the attempt twice.
        fault::caught(self.attempt(ready, delivery, slot)).instrument(span).map(move |sent| {
            sent.map_err(|detail| {
                tracing::error!(
                    event = delivery.event_id,
                    endpoint = delivery.endpoint_id,
                    attempt = delivery.attempt_count + 1,
                    "a bug: {detail}; the attempt is refused, others go on"
                );
                self.metrics.faults.increment(1);
                Panicked { began, detail }
            })
        })
    }

    /// The end of an attempt that panicked. No rule is asked: the bug may be about one of them. Nor
    /// is anything else, where judging panics as well.
    pub(super) fn refused(
        &self,
        panicked: Panicked,
        ready: &ReadyEndpoint,
        delivery: &Delivery,
    ) -> JudgedAttempt {
        let Panicked { began, detail } = panicked;
        let outcome = Outcome::Refused { why: Refusal::Fault, detail };
        let judged = fault::caught_at_once(|| {
            let refused = unfinished(outcome.clone());
            self.judged(ready, delivery, began, refused, &RuleSet::default())
        });
        judged.unwrap_or_else(|_| JudgedAttempt {
            began,
            took: self.clock.since(began),
            phases: Phases::default(),
            outcome,
            verdict: verdict::unjudged(delivery.attempt_count + 1),
            on_dead: ready.endpoint.on_dead,
        })
    }

    async fn attempt(
        &self,
        ready: &ReadyEndpoint,
        delivery: &Delivery,
        slot: &mut ConnectionSlot,
    ) -> JudgedAttempt {
        let mut began = self.clock.instant();
        let mut is_sent_again = false;
        #[cfg(test)]
        fault::inject("sending", &delivery.event_type);
        let exchange = match &ready.sending {
            Ok(sending) => {
                let send = async {
                    if slot.file.is_none() {
                        slot.file = Some(self.files.take().await);
                        began = self.clock.instant();
                    }
                    // The attempt may have waited for long, here or for its turn.
                    if !self.is_wanted(ready) {
                        return unfinished(Outcome::Interrupted);
                    }
                    let first = self.send(ready, sending, delivery, slot, ready.timeout).await;
                    if !first.unheard || !self.is_wanted(ready) {
                        return first;
                    }
                    // The receiver closes connections that it has answered on, and was a moment
                    // later than the relay. Or it fell over this very request, which then comes
                    // twice: as it would by the retry.
                    is_sent_again = true;
                    self.metrics.sent_again.increment(1);
                    let left = ready.timeout.saturating_sub(self.clock.since(began));
                    self.send(ready, sending, delivery, slot, left).await
                };
                tokio::select! {
                    exchange = send => exchange,
                    // The grace is over. The request may have arrived.
                    () = self.term.abort.cancelled() => unfinished(Outcome::Interrupted),
                }
            }
            Err(why) => unfinished(why.clone()),
        };
        if slot.connection.is_none() {
            slot.file = None;
        }
        let mut sent = self.judged(ready, delivery, began, exchange, &self.policy.rules());
        if is_sent_again {
            let reason = sent.verdict.reason.take().map(|reason| format!("; {reason}"));
            sent.verdict.reason = Some(format!("{SENT_AGAIN}{}", reason.unwrap_or_default()));
        }
        sent
    }

    /// Whether requests may begin still: not under a lease that others may have taken over, nor by
    /// what was read of an endpoint that has changed.
    fn is_wanted(&self, ready: &ReadyEndpoint) -> bool {
        self.term.may_send() && !ready.is_outdated.load(Ordering::Relaxed)
    }

    /// Sends the delivery once.
    async fn send(
        &self,
        ready: &ReadyEndpoint,
        sending: &Sending,
        delivery: &Delivery,
        slot: &mut ConnectionSlot,
        timeout: Duration,
    ) -> Exchange {
        let source = &self.settings.cloudevents_source;
        match request::request(ready, sending, delivery, source, self.clock.now()) {
            Ok(request) => {
                let (connection, target) = (&mut slot.connection, &sending.target);
                let is_wanted = || self.is_wanted(ready);
                self.client.send(connection, target, request, timeout, &is_wanted).await
            }
            Err(too_many) => {
                let detail = too_many.to_string();
                unfinished(Outcome::Refused { why: Refusal::BadEvent, detail })
            }
        }
    }

    fn judged(
        &self,
        ready: &ReadyEndpoint,
        delivery: &Delivery,
        began: Instant,
        exchange: Exchange,
        rules: &RuleSet,
    ) -> JudgedAttempt {
        #[cfg(test)]
        fault::inject("judging", &delivery.event_type);
        let now = self.clock.now();
        let policy = verdict::VerdictPolicy {
            rules,
            schedule: &ready.schedule,
            retry_after_cap: self.retry_after_cap,
        };
        let attempt = verdict::AttemptFacts {
            number: delivery.attempt_count + 1,
            age: Duration::try_from(now.duration_since(delivery.due_at)).unwrap_or_default(),
            host: ready.host(),
            event_type: &delivery.event_type,
        };
        // Chance decides the jitter.
        let verdict = verdict::judge(&exchange.outcome, &policy, &attempt, now, fastrand::f64());
        let mut outcome = exchange.outcome;
        if !self.settings.keep_responses.keeps(verdict.decision == Decision::Delivered) {
            outcome.forget_response();
        }
        JudgedAttempt {
            began,
            took: self.clock.since(began),
            phases: exchange.phases,
            outcome,
            verdict,
            on_dead: ready.endpoint.on_dead,
        }
    }
}

/// Tells the operator, in `attempts.reason`, that the event may have arrived twice by this attempt.
const SENT_AGAIN: &str = "sent twice, since the kept connection was closed without an answer";

fn unfinished(outcome: Outcome) -> Exchange {
    Exchange { outcome, phases: Phases::default(), reused: false, unheard: false }
}

#[cfg(test)]
pub(super) mod tests;
