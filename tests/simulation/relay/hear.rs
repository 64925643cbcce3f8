//! What a simulated relay makes of the answer to a statement, or of an error.

use posthaste::model::verdict::Effect;

use super::{Micros, Relay, instant};
use crate::simulation::statement::{Answered, Done, Failure, Statement, Upkeep};

impl Relay {
    /// Takes in what a statement has answered.
    pub fn hear(&mut self, statement: &Statement, answered: Answered, now: Micros) {
        let done = match answered {
            Ok(done) => done,
            Err(failure) => return self.hear_an_error(statement, failure, now),
        };
        match (statement, done) {
            (_, Done::Floor(floor)) => self.floor_is(floor),
            (Statement::Look(look), Done::Unusual) => self.unusual(look.by, now),
            (_, Done::Full(cut)) => self.blocked(cut, now),
            (Statement::Look(look), Done::Routed(routed)) => self.routed(look.token, routed, now),
            (Statement::Claim { token, asked, .. }, Done::Claimed(claims)) => {
                self.claimed(*token, asked, claims, now);
            }
            (_, Done::Endpoints(known)) => self.opened(known, now),
            (_, Done::Due(due)) => self.polled(&due, now),
            (_, Done::Disowned(count)) => self.disowned(count, now),
            (Statement::TellOthers, _) => self.told_others(),
            (Statement::Release { .. }, _) => {
                self.released = true;
                if self.batch.iter().all(|ended| ended.attempt().is_none()) {
                    self.batch.clear();
                }
            }
            (Statement::Record { attempts, .. }, Done::Recorded(held)) => {
                self.recorded(attempts, &held, now);
            }
            (_, Done::Lines(found)) => {
                self.lines.walk = found.last().cloned();
                self.lines.found = found;
            }
            (_, Done::TurnsGiven(given)) => {
                for (endpoint, due_in) in given {
                    self.due.put(endpoint, instant(now) + due_in);
                }
            }
            (_, Done::Reaped(reaped)) if reaped.relays > 0 => {
                self.lines.all = true;
                // What they held is due now, for whichever relay serves its endpoint.
                self.let_others_know();
            }
            // The last of what it does there.
            (Statement::Upkeep(Upkeep::Orphans), _) => self.lines.all = true,
            _ => {}
        }
    }

    fn hear_an_error(&mut self, statement: &Statement, failure: Failure, now: Micros) {
        match statement {
            Statement::Endpoints { .. } => self.not_opened(),
            Statement::Lines { .. } => self.lines.look_at_all_again(),
            Statement::GiveTurns { .. } if self.lines.walk.is_some() => {
                self.lines.look_at_all_again();
            }
            Statement::GiveTurns { lines } => self.lines.these.extend(lines.iter().cloned()),
            // The whole batch is tried again.
            Statement::Release { .. } | Statement::Record { .. } => self.released = false,
            Statement::ApplyEffect { endpoint, delete, reason } => {
                let effect = if *delete { Effect::Delete } else { Effect::Disable };
                self.effects.push((*endpoint, effect, reason.clone()));
            }
            // Lost counts come again, and the lease and upkeep go on.
            Statement::Note { .. }
            | Statement::Reap { .. }
            | Statement::RecordAgain { .. }
            | Statement::Upkeep(_)
            | Statement::ReleaseOrphans { .. } => {}
            Statement::Floor
            | Statement::Look(_)
            | Statement::Claim { .. }
            | Statement::Due
            | Statement::TellOthers
            | Statement::Disown { .. } => self.turn_failed(statement, failure, now),
        }
    }
}
