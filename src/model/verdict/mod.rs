//! Decides what follows from an outcome: the one place where "retry" is decided.
//!
//! Runs after the client gave an [`Outcome`] and before the store records; knows nothing of HTTP,
//! Postgres or the clock. [`health`](super::health) decides about the endpoint's flow.

use std::time::Duration;

use jiff::Timestamp;

use super::outcome::{Answer, Outcome, Refusal};
use super::rules::{Action, RuleSet};
use super::schedule::{Schedule, retry_after};

/// The decision about an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub decision: Decision,
    /// A rule's effect on the endpoint.
    pub effect: Option<Effect>,
    /// Why, in words an operator reads in `attempts.reason`.
    pub reason: Option<String>,
}

/// Attempts, of which the last was not judged, before a delivery is dead: as many as the default
/// schedule has, an hour apart.
const UNJUDGED_MAX: u32 = 11;
const UNJUDGED_PAUSE: Duration = Duration::from_secs(60 * 60);

/// The fate of the delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Delivered,
    /// Try again this long after the attempt is recorded.
    Retry {
        after: Duration,
    },
    Dead,
    /// Ended without an attempt, as it is not wanted any more. Never the result of an outcome.
    Cancelled,
}

impl Decision {
    /// The word stored in `attempts.verdict`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retry { .. } => "retry",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A rule's effect on the endpoint, besides the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Disable it: keep its configuration, hold its deliveries.
    Disable,
    /// Delete it: its deliveries are cancelled.
    Delete,
}

/// The rules and settings that outcomes are judged by.
#[derive(Debug, Clone, Copy)]
pub struct VerdictPolicy<'a> {
    pub rules: &'a RuleSet,
    /// The endpoint's, see [`Schedule::for_endpoint`].
    pub schedule: &'a Schedule,
    /// The longest that a receiver's `Retry-After` is followed.
    pub retry_after_cap: Duration,
}

/// The attempt that had the outcome.
#[derive(Debug, Clone, Copy)]
pub struct AttemptFacts<'a> {
    /// Counted from 1, over the whole life of the delivery.
    pub number: u32,
    /// Time since the event was due: created, or `deliver_at` if that was later.
    pub age: Duration,
    /// Of the endpoint's URL.
    pub host: &'a str,
    pub event_type: &'a str,
}

/// Decides about the outcome of an attempt.
///
/// 2xx is delivered; then the first rule that matches decides; else it is tried again until
/// attempts or age run out, and then dead. `draw` is from 0 to 1 and decides the jitter.
///
/// An event that cannot be sent is dead: nothing about it ever changes.
///
/// An interrupted request is made again at once, under its number and however often: the receiver
/// did nothing wrong, no rule is about it, and it spends no attempt. Nor does a request that the
/// relay's own settings refuse, unless a rule ends it: it waits for other settings, or for its
/// endpoint to change, and the pause that begins with it keeps it from being tried without rest.
#[must_use]
pub fn judge(
    outcome: &Outcome,
    policy: &VerdictPolicy<'_>,
    attempt: &AttemptFacts<'_>,
    now: Timestamp,
    draw: f64,
) -> Verdict {
    if outcome.answer().is_some_and(Answer::accepted) {
        return Verdict { decision: Decision::Delivered, effect: None, reason: None };
    }
    if *outcome == Outcome::Interrupted {
        return retry(Duration::ZERO, Some("interrupted, so it may arrive twice".to_owned()));
    }
    if let Outcome::Refused { why: Refusal::BadEvent, detail } = outcome {
        return dead(format!("the event cannot be sent: {detail}"));
    }
    let is_held = matches!(outcome, Outcome::Refused { why, .. } if why.is_standing());
    let Some(rule) = policy.rules.first_match(attempt.host, attempt.event_type, outcome) else {
        return if is_held {
            retry(Duration::ZERO, Some("held, without spending an attempt".to_owned()))
        } else {
            policy.retry(outcome, attempt, now, draw, None)
        };
    };
    let reason = format!("rule '{}': {outcome}", rule.name);
    match rule.action {
        Action::Retry if is_held => retry(Duration::ZERO, Some(reason)),
        Action::Retry => policy.retry(outcome, attempt, now, draw, Some(reason)),
        Action::Dead => dead(reason),
        Action::DisableEndpoint => Verdict { effect: Some(Effect::Disable), ..dead(reason) },
        Action::DeleteEndpoint => Verdict { effect: Some(Effect::Delete), ..dead(reason) },
        Action::Delivered => {
            Verdict { decision: Decision::Delivered, effect: None, reason: Some(reason) }
        }
    }
}

/// The verdict about an attempt that cannot be judged, as judging it meets a bug of the relay. By
/// number alone: what an endpoint's schedule says may be what the bug is about.
#[must_use]
pub fn unjudged(number: u32) -> Verdict {
    if number >= UNJUDGED_MAX {
        return dead(format!("gave up after {UNJUDGED_MAX} attempts, the last not judged"));
    }
    retry(UNJUDGED_PAUSE, Some("not judged, as that met a bug of the relay".to_owned()))
}

impl VerdictPolicy<'_> {
    /// Tries again, if attempts and age allow it.
    fn retry(
        &self,
        outcome: &Outcome,
        attempt: &AttemptFacts<'_>,
        now: Timestamp,
        draw: f64,
        reason: Option<String>,
    ) -> Verdict {
        if let Some(dead) = self.out_of_attempts(attempt) {
            return dead;
        }
        let planned = self.schedule.delay(attempt.number, draw);
        let asked = asked_to_wait(outcome, now).unwrap_or_default().min(self.retry_after_cap);
        let after = planned.max(asked);
        if let Some(max_age) = self.schedule.max_age
            && attempt.age.saturating_add(after) > max_age
        {
            let limit = in_words(max_age);
            return dead(if attempt.age > max_age {
                format!("older than {limit}")
            } else {
                format!("would be older than {limit} at the next attempt")
            });
        }
        let asked_for_more =
            || (asked > planned).then(|| format!("asked to wait for {}", in_words(asked)));
        retry(after, reason.or_else(asked_for_more))
    }

    fn out_of_attempts(&self, attempt: &AttemptFacts<'_>) -> Option<Verdict> {
        (attempt.number >= self.schedule.attempts()).then(|| {
            let s = if attempt.number == 1 { "" } else { "s" };
            dead(format!("gave up after {} attempt{s}", attempt.number))
        })
    }
}

/// Only 429 and 503 promise that waiting helps; on a redirect the header means something else.
fn asked_to_wait(outcome: &Outcome, now: Timestamp) -> Option<Duration> {
    let answer = outcome.answer().filter(|answer| matches!(answer.status, 429 | 503))?;
    retry_after(answer.header("retry-after")?, now)
}

fn retry(after: Duration, reason: Option<String>) -> Verdict {
    Verdict { decision: Decision::Retry { after }, effect: None, reason }
}

fn dead(reason: String) -> Verdict {
    Verdict { decision: Decision::Dead, effect: None, reason: Some(reason) }
}

/// A duration in the largest unit that says it in a whole number: `3 days`, `36 hours`, `90
/// seconds`. Parts of a second are left out.
pub(super) fn in_words(duration: Duration) -> String {
    const UNITS: [(u64, &str); 3] = [(86_400, "day"), (3_600, "hour"), (60, "minute")];
    let seconds = duration.as_secs();
    let fits = |(size, _): &(u64, &str)| seconds >= *size && seconds.is_multiple_of(*size);
    let (size, unit) = UNITS.into_iter().find(fits).unwrap_or((1, "second"));
    let count = seconds / size;
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests;
