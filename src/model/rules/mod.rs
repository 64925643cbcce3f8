//! The operators' rules about certain outcomes: "410 from any endpoint: disable it".
//!
//! A rule is a row of `posthaste.rules`, checked here when it is read, so that judging cannot fail.
//! [`verdict`](super::verdict) asks for the first rule that matches an outcome and does what it
//! says; 2xx answers and interrupted requests never come before a rule.

use std::ops::RangeInclusive;

use regex::bytes::{Regex, RegexBuilder};

use super::outcome::{Cause, Outcome, Phase, Refusal};
use super::subscription;

/// A compiled body pattern may take this many bytes. Most take a few thousand; whatever
/// `posthaste_internal.check_rule` takes, by its length and repetitions, fits.
const PATTERN_BYTES: usize = 32 * 1024 * 1024;
/// Bytes that matching may take besides, for each thread that matches. With less it is slower.
const CACHE_BYTES: usize = 256 * 1024;

/// A row of `posthaste.rules`. `None`: the rule has no such condition.
#[derive(Debug, Clone, Default)]
pub struct RuleRow {
    pub id: i64,
    pub name: String,
    /// The lowest number comes first; then the lowest id.
    pub priority: i32,
    /// Host names and `*.suffix` patterns, parted by commas.
    pub host: Option<String>,
    pub status: Option<RangeInclusive<u16>>,
    /// One of [`Outcome::KINDS`].
    pub outcome: Option<String>,
    /// A cause, or the first words of several: `tls` also stands for `tls_expired`.
    pub cause: Option<String>,
    /// A regular expression that is found in the kept part of the body.
    pub body: Option<String>,
    /// A subscription pattern.
    pub event_type: Option<String>,
    /// One of [`Action`]'s words.
    pub action: String,
}

/// An action for outcomes that meet every given condition.
#[derive(Debug, Clone)]
pub struct Rule {
    pub id: i64,
    pub name: String,
    pub action: Action,
    priority: i32,
    hosts: Option<Vec<HostPattern>>,
    status: Option<RangeInclusive<u16>>,
    outcome: Option<String>,
    cause: Option<String>,
    body: Option<Regex>,
    event_type: Option<String>,
}

/// The action of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Try again by the schedule, as without a rule: an exception from a rule that comes later.
    Retry,
    /// Give the delivery up.
    Dead,
    /// Give it up and disable the endpoint.
    DisableEndpoint,
    /// Give it up and delete the endpoint.
    DeleteEndpoint,
    /// Count it as delivered.
    Delivered,
}

/// The rules in the order in which they are evaluated.
#[derive(Debug, Clone, Default)]
pub struct RuleSet(Vec<Rule>);

/// A row is not a valid rule; the source says why.
#[derive(Debug, thiserror::Error)]
#[error("rule `{name}` cannot be used")]
pub struct RuleError {
    pub name: String,
    #[source]
    pub fault: RuleFault,
}

impl RuleError {
    /// The rule, its fault and the cause of that, on one line.
    #[must_use]
    pub fn in_full(&self) -> String {
        let causes = std::iter::successors(Some(self as &dyn std::error::Error), |e| e.source());
        let said: Vec<_> = causes.map(ToString::to_string).collect();
        said.join(": ").split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// The fault of a rule.
#[derive(Debug, thiserror::Error)]
pub enum RuleFault {
    #[error("it has no condition and would match everything; to mean that, write event type `*`")]
    NoCondition,
    #[error("`{0}` is neither a host name nor `*.` and a host name")]
    Host(String),
    #[error("its status range is empty")]
    Status,
    #[error("`{0}` is no outcome a rule can be about: answered, timed_out, unreachable, refused")]
    Outcome(String),
    #[error("no cause begins with `{0}`")]
    Cause(String),
    #[error("its body pattern is no regular expression, or too large a one")]
    Body(#[source] regex::Error),
    #[error("`{0}` is no action: retry, dead, disable_endpoint, delete_endpoint, delivered")]
    Action(String),
}

impl RuleSet {
    #[must_use]
    pub fn new(mut rules: Vec<Rule>) -> Self {
        rules.sort_by_key(|rule| (rule.priority, rule.id));
        Self(rules)
    }

    /// The first rule whose conditions all hold; none for an interrupted request, whose end is
    /// unknown.
    #[must_use]
    pub fn first_match(&self, host: &str, event_type: &str, outcome: &Outcome) -> Option<&Rule> {
        if *outcome == Outcome::Interrupted {
            return None;
        }
        self.0.iter().find(|rule| rule.holds(host, event_type, outcome))
    }
}

impl Rule {
    /// Checks a row.
    ///
    /// # Errors
    /// The first fault of the row.
    pub fn new(row: RuleRow) -> Result<Self, RuleError> {
        let name = row.name.clone();
        Self::check(row).map_err(|fault| RuleError { name, fault })
    }

    fn check(row: RuleRow) -> Result<Self, RuleFault> {
        let rule = Self {
            id: row.id,
            name: row.name,
            action: Action::parse(&row.action).ok_or(RuleFault::Action(row.action))?,
            priority: row.priority,
            hosts: row.host.as_deref().map(HostPattern::parse_list).transpose()?,
            status: row.status,
            outcome: row.outcome,
            cause: row.cause,
            body: row.body.as_deref().map(body_pattern).transpose()?,
            event_type: row.event_type,
        };
        if rule.status.as_ref().is_some_and(RangeInclusive::is_empty) {
            return Err(RuleFault::Status);
        }
        if let Some(kind) = &rule.outcome
            && (!Outcome::KINDS.contains(&kind.as_str()) || *kind == Outcome::Interrupted.kind())
        {
            return Err(RuleFault::Outcome(kind.clone()));
        }
        if let Some(cause) = &rule.cause
            && !causes().any(|known| begins_with_words(known, cause))
        {
            return Err(RuleFault::Cause(cause.clone()));
        }
        if rule.asks_nothing() {
            return Err(RuleFault::NoCondition);
        }
        Ok(rule)
    }

    fn asks_nothing(&self) -> bool {
        self.hosts.is_none()
            && self.status.is_none()
            && self.outcome.is_none()
            && self.cause.is_none()
            && self.body.is_none()
            && self.event_type.is_none()
    }

    /// Cheap conditions first, the body last.
    fn holds(&self, host: &str, event_type: &str, outcome: &Outcome) -> bool {
        let answer = outcome.answer();
        self.outcome.as_ref().is_none_or(|kind| kind == outcome.kind())
            && self
                .status
                .as_ref()
                .is_none_or(|range| answer.is_some_and(|answer| range.contains(&answer.status)))
            && self.cause.as_ref().is_none_or(|words| {
                outcome.cause().is_some_and(|cause| begins_with_words(cause, words))
            })
            && self.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(|h| h.matches(host)))
            && self
                .event_type
                .as_ref()
                .is_none_or(|pattern| subscription::matches(pattern, event_type))
            && self
                .body
                .as_ref()
                .is_none_or(|regex| answer.is_some_and(|answer| regex.is_match(&answer.body)))
    }
}

impl Action {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "retry" => Self::Retry,
            "dead" => Self::Dead,
            "disable_endpoint" => Self::DisableEndpoint,
            "delete_endpoint" => Self::DeleteEndpoint,
            "delivered" => Self::Delivered,
            _ => return None,
        })
    }
}

fn body_pattern(pattern: &str) -> Result<Regex, RuleFault> {
    // As PostgreSQL, which has checked the pattern, reads it: a dot matches a line break too.
    RegexBuilder::new(pattern)
        .dot_matches_new_line(true)
        .size_limit(PATTERN_BYTES)
        .dfa_size_limit(CACHE_BYTES)
        .build()
        .map_err(RuleFault::Body)
}

fn causes() -> impl Iterator<Item = &'static str> {
    let phases = Phase::ALL.into_iter().map(Phase::as_str);
    let causes = Cause::ALL.into_iter().map(Cause::as_str);
    phases.chain(causes).chain(Refusal::ALL.into_iter().map(Refusal::as_str))
}

/// Whether `cause` is `words` or goes on after them with an underscore.
fn begins_with_words(cause: &str, words: &str) -> bool {
    cause.strip_prefix(words).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

/// In lower case.
#[derive(Debug, Clone)]
enum HostPattern {
    Exactly(String),
    /// With the dot before: `.ngrok.io` for `*.ngrok.io`, which `ngrok.io` itself is not under.
    Under(String),
}

impl HostPattern {
    fn parse_list(list: &str) -> Result<Vec<Self>, RuleFault> {
        list.split(',').map(|pattern| Self::parse(pattern.trim())).collect()
    }

    fn parse(pattern: &str) -> Result<Self, RuleFault> {
        let name = pattern.strip_prefix("*.").unwrap_or(pattern);
        let odd = |c: char| c.is_whitespace() || matches!(c, '*' | '/' | '@');
        if name.is_empty() || name.starts_with('.') || name.contains(odd) {
            return Err(RuleFault::Host(pattern.to_owned()));
        }
        let name = name.to_ascii_lowercase();
        Ok(if pattern.starts_with('*') {
            Self::Under(format!(".{name}"))
        } else {
            Self::Exactly(name)
        })
    }

    fn matches(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host); // a fully qualified name is the same host
        match self {
            Self::Exactly(name) => host.eq_ignore_ascii_case(name),
            Self::Under(suffix) => host
                .len()
                .checked_sub(suffix.len())
                .and_then(|start| host.get(start..))
                .is_some_and(|end| end.eq_ignore_ascii_case(suffix)),
        }
    }
}

#[cfg(test)]
mod tests;
