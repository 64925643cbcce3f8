//! Claims that a statement may have made although the relay was told of an error. The relay gives
//! them back; otherwise they would stay claimed, and no attempt would be made.

use std::time::{Duration, Instant};

/// Between two tries to give back.
const DISOWN_INTERVAL: Duration = Duration::from_secs(10);

/// Statements that claim and whose answer was lost.
#[derive(Debug, Clone, Default)]
pub struct UncertainClaims {
    /// Their tokens, and since when.
    tokens: Vec<(i64, Instant)>,
    /// When the last try was.
    tried_at: Option<Instant>,
}

impl UncertainClaims {
    /// The answer to the statement that claims under this token was lost.
    pub fn add(&mut self, token: i64, now: Instant) {
        self.tokens.push((token, now));
        self.tried_at = None;
    }

    /// Whether there are any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Their tokens.
    pub fn tokens(&self) -> impl Iterator<Item = i64> + '_ {
        self.tokens.iter().map(|(token, _)| *token)
    }

    /// Whether it is time to give them back.
    #[must_use]
    pub fn are_to_be_disowned(&self, now: Instant) -> bool {
        !self.is_empty() && self.tried_at.is_none_or(|at| now >= at + DISOWN_INTERVAL)
    }

    /// They were given back by a statement that began at `at`. That happens more than once: a
    /// statement whose connection is gone may run on in the server for as long as `patience`.
    pub fn disowned(&mut self, at: Instant, patience: Duration) {
        self.tried_at = Some(at);
        self.tokens.retain(|(_, since)| at.saturating_duration_since(*since) < patience);
    }
}
