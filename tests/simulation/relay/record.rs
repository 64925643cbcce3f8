//! What goes on beside the dispatcher in a simulated relay: recording, lines, noting and upkeep,
//! each one statement at a time.

use std::collections::BTreeSet;

use posthaste::model::endpoint::EndpointId;
use posthaste::model::verdict::{Decision, Effect};
use posthaste::store::attempts::{Attempt, RecordedDeliveries};
use posthaste::store::health::Note;
use posthaste::store::ordering::Line;

use super::{Micros, Relay, instant};
use crate::simulation::lane::Lane;
use crate::simulation::statement::{Statement, Upkeep};

/// The lines that are to be looked at.
#[derive(Debug)]
pub struct Lines {
    pub these: BTreeSet<Line>,
    pub all: bool,
    /// While it looks at all of them: those after this one are still to be looked at.
    pub walk: Option<Line>,
    /// … and these have been found.
    pub found: Vec<Line>,
}

impl Lines {
    pub fn all() -> Self {
        Self { these: BTreeSet::new(), all: true, walk: None, found: Vec::new() }
    }

    pub fn are_to_be_looked_at(&self) -> bool {
        self.all || self.walk.is_some() || !self.these.is_empty()
    }

    pub fn look_at_all_again(&mut self) {
        self.walk = None;
        self.found.clear();
        self.all = true;
    }

    /// As `relay::ordering` looks: at all lines if that is asked for, then at those that were
    /// named.
    fn next(&mut self) -> Option<Statement> {
        if std::mem::take(&mut self.all) {
            self.walk = Some((EndpointId::MIN, String::new()));
            self.found.clear();
        }
        if !self.found.is_empty() {
            return Some(Statement::GiveTurns { lines: std::mem::take(&mut self.found) });
        }
        if let Some(after) = self.walk.clone() {
            return Some(Statement::Lines { after });
        }
        let these: Vec<Line> = std::mem::take(&mut self.these).into_iter().collect();
        (!these.is_empty()).then_some(Statement::GiveTurns { lines: these })
    }
}

impl Relay {
    /// As `relay::record`: what was not begun is released, then the attempts are written down.
    /// Where there is nothing else, what was written down is in doubt.
    pub(super) fn record(&mut self, most: u8, now: Micros) -> Option<Statement> {
        if self.batch.is_empty() {
            let most = usize::from(most).min(self.results.len());
            self.batch = self.results.drain(..most).collect();
            self.released = false;
        }
        if self.batch.is_empty() && !self.doubted.is_empty() {
            let attempts = std::mem::take(&mut self.doubted);
            return Some(Statement::RecordAgain { attempts, now: instant(now) });
        }
        let unsent = self.batch.iter().filter(|ended| ended.attempt().is_none());
        let claims: Vec<_> = unsent.map(posthaste::relay::Ended::key).collect();
        if !claims.is_empty() && !self.released {
            return Some(Statement::Release { claims });
        }
        let attempts: Vec<Attempt> =
            self.batch.iter().filter_map(|ended| ended.attempt().cloned()).collect();
        (!attempts.is_empty()).then(|| Statement::Record { attempts, now: instant(now) })
    }

    /// The batch is written down: what of it is due again, which lines have no head, and the room
    /// it took.
    pub(super) fn recorded(
        &mut self,
        attempts: &[Attempt],
        held: &RecordedDeliveries,
        now: Micros,
    ) {
        for ended in &self.batch {
            let delivery = &ended.claim.delivery;
            let endpoint = delivery.endpoint_id;
            let (Some(key), Some(attempt)) = (&delivery.ordering_key, ended.attempt()) else {
                continue;
            };
            let stays =
                attempt.blocks || matches!(attempt.verdict.decision, Decision::Retry { .. });
            if let Some(due_in) = held.next_due_in(attempt) {
                self.due.put(endpoint, instant(now) + due_in);
            } else if !stays && held.has(attempt) {
                self.lines.these.insert((endpoint, key.clone()));
            }
        }
        for attempt in attempts {
            let is_held = held.has(attempt);
            if let (true, Decision::Retry { after }) = (is_held, attempt.verdict.decision) {
                self.due.put(attempt.endpoint_id, instant(now) + after);
            }
            // Also where the claim was lost: the receiver did say so.
            if let Some(effect) = attempt.verdict.effect {
                let reason = attempt.verdict.reason.clone().unwrap_or_default();
                self.effects.push((attempt.endpoint_id, effect, reason));
            }
        }
        self.batch.clear();
        self.doubted.extend_from_slice(attempts);
    }

    pub(super) fn look_at_lines(&mut self) -> Option<Statement> {
        self.lines.next()
    }

    /// What is to be done to an endpoint comes first.
    pub(super) fn note(&mut self) -> Option<Statement> {
        if let Some((endpoint, effect, reason)) = self.effects.pop() {
            return Some(Statement::ApplyEffect {
                endpoint,
                delete: effect == Effect::Delete,
                reason,
            });
        }
        let notes: Vec<Note> = self.lanes.values_mut().filter_map(Lane::note).collect();
        (!notes.is_empty()).then_some(Statement::Note { notes })
    }

    /// One of its statements after the other.
    pub(super) fn upkeep(&mut self) -> Statement {
        self.kept_up += 1;
        let tokens = self.holdings.tokens_now();
        match self.kept_up % 5 {
            1 => Statement::ReleaseOrphans {
                held: tokens.held.into_iter().collect(),
                newest: tokens.newest,
            },
            2 => Statement::Upkeep(Upkeep::Orphans),
            3 => Statement::Upkeep(Upkeep::Drop),
            4 => Statement::Upkeep(Upkeep::Make),
            _ => Statement::Upkeep(Upkeep::Trim),
        }
    }
}
