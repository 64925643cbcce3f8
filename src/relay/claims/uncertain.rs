//! Claims that may have been made although we were told of an error. They are given back, or nobody would
//! ever make their attempts: the database takes them for ours.

use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::relay::Shared;
use crate::store::StoreError;
use crate::store::deliveries::disown;

/// Between two tries to give back.
const DISOWN_INTERVAL: Duration = Duration::from_secs(10);

/// Statements that claim and whose answer was lost.
#[derive(Debug, Default)]
pub(in crate::relay) struct UncertainClaims {
    /// Their tokens, and since when.
    tokens: Vec<(i64, Instant)>,
    /// When the last try was.
    tried_at: Option<Instant>,
}

impl UncertainClaims {
    pub(in crate::relay) fn add(&mut self, token: i64) {
        self.tokens.push((token, Clock.instant()));
        self.tried_at = None;
    }

    /// Gives back what they may have claimed, and says how much that was. Does so more than once: a
    /// statement whose connection is gone may still be running.
    pub(in crate::relay) async fn disown(&mut self, shared: &Shared) -> Result<u64, StoreError> {
        let now = Clock.instant();
        let too_soon = self.tried_at.is_some_and(|at| now < at + DISOWN_INTERVAL);
        if self.tokens.is_empty() || too_soon {
            return Ok(0);
        }
        let tokens: Vec<_> = self.tokens.iter().map(|(token, _)| *token).collect();
        let released = disown(&shared.database.store, shared.term.relay, &tokens).await?;
        shared.metrics.claims_released.increment(released);
        self.tried_at = Some(now);
        let patience = shared.config.database.statement_timeout * 2;
        self.tokens.retain(|(_, since)| now.saturating_duration_since(*since) < patience);
        shared.term.set_uncertain(!self.tokens.is_empty());
        Ok(released)
    }
}
