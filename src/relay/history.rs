//! Remembers which step of routing this process has seen committed, and notices when that is gone:
//! a standby took over that never had it, or an old primary was brought back over a new one. The
//! tables of such a database agree with one another and say nothing; but events of the lost time
//! have been sent, and no row tells of them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::database::Link;
use crate::observe::metrics::Metrics;
use crate::store::StoreError;
use crate::store::routing::{RoutingStep, history};

/// The last step seen. It outlasts the terms of one process.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<Committed>);

#[derive(Debug, Default)]
struct Committed {
    last: Option<RoutingStep>,
    /// How many sessions had been opened when the database was last asked.
    sessions: Option<u64>,
    went_back: u32,
}

impl History {
    /// A look has found routing here.
    pub(super) fn take_in(&self, found: RoutingStep, database: &Link, metrics: &Metrics) {
        if let Some((before, times)) = self.stands_at(found, false) {
            tell(database, metrics, before, found, times);
        }
    }

    /// Asks whether the last step that was seen is there still, if sessions were opened since: a
    /// session may be in a server that has taken over, where another relay has routed on and
    /// reached that number again.
    pub(super) async fn check(&self, database: &Link, metrics: &Metrics) -> Result<(), StoreError> {
        let opened = database.store.database().opened();
        let last = {
            let seen = self.seen();
            match seen.last {
                Some(last) if seen.sessions != Some(opened) => last,
                _ => return Ok(()),
            }
        };
        let (found, of_step) = history(&database.store, last.number).await?;
        self.seen().sessions = Some(opened);
        // A step that is not there may have been trimmed; then routing has gone on for long.
        let is_another = of_step.is_some_and(|routed_at| routed_at != last.routed_at);
        if let Some((before, times)) = self.stands_at(found, is_another) {
            tell(database, metrics, before, found, times);
        }
        Ok(())
    }

    /// Something failed: the database is to be asked again.
    pub(super) fn doubt(&self) {
        self.seen().sessions = None;
    }

    /// Takes in where routing stands. Returns the step that was seen committed, if it is gone.
    fn stands_at(&self, found: RoutingStep, is_known_gone: bool) -> Option<(RoutingStep, u32)> {
        let mut seen = self.seen();
        let before = seen.last.replace(found)?;
        if !is_known_gone && found.number >= before.number {
            return None;
        }
        seen.went_back += 1;
        Some((before, seen.went_back))
    }

    fn seen(&self) -> MutexGuard<'_, Committed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(database: &Link, metrics: &Metrics, before: RoutingStep, found: RoutingStep, times: u32) {
    let said = |step: RoutingStep| -> Value {
        json!({ "step": step.number, "routed_at": step.routed_at.to_string() })
    };
    tracing::error!(
        seen_step = before.number,
        seen_at = %before.routed_at,
        found_step = found.number,
        found_at = %found.routed_at,
        "the database went back: a step of routing that was committed is gone, and what was committed with and after it; some of those events have been sent"
    );
    metrics.database_went_back.increment(1);
    let told = json!({ "went_back": times, "seen": said(before), "found": said(found) });
    database.status.tell("history", told);
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn step(number: i64) -> RoutingStep {
        RoutingStep { number, routed_at: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn history_that_goes_on_is_no_news_and_what_is_lost_is_told_once() {
        let history = History::default();
        assert_eq!(history.stands_at(step(7), false), None);
        assert_eq!(history.stands_at(step(7), false), None);
        assert_eq!(history.stands_at(step(9), false), None);
        assert_eq!(history.stands_at(step(4), false), Some((step(9), 1)));
        assert_eq!(history.stands_at(step(5), false), None);
        // Its number was reached again by another relay.
        assert_eq!(history.stands_at(step(8), true), Some((step(5), 2)));
    }
}
