//! Decides what follows from an outcome. Runs after the client gave an
//! [`Outcome`](super::outcome::Outcome) and before the store records; knows nothing of HTTP,
//! Postgres or the clock. The one place where "retry" is decided.

use std::time::Duration;

/// What we do about an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub decision: Decision,
    /// What else follows for the endpoint.
    pub effect: Option<Effect>,
    /// Why, in words an operator reads in `attempts.reason`.
    pub reason: Option<String>,
}

/// What becomes of the delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Delivered,
    /// Try again this long after the attempt is recorded.
    Retry { after: Duration },
    Dead,
}

/// What a rule does to the endpoint besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Disable it: keep its configuration, hold what is pending.
    Disable,
    /// Delete it: what is pending is cancelled.
    Delete,
}
