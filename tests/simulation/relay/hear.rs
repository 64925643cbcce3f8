//! What a simulated relay makes of the answer to a statement, or of an error.

use super::{
    DISOWN_INTERVAL, DISOWN_PATIENCE, Decision, Done, Effect, Finished, Micros, RecordedDeliveries,
    Relay, Statement, Upkeep, timestamp, unsent,
};

impl Relay {
    /// Takes in what a statement has answered; `None`: an error.
    pub fn hear(&mut self, statement: &Statement, done: Option<Done>, now: Micros) {
        let Some(done) = done else { return self.hear_an_error(statement, now) };
        match (statement, done) {
            (_, Done::Floor(floor)) => self.floor = Some(floor),
            (_, Done::Routed(Some(routed))) => {
                self.lines.these.extend(routed.lines);
                self.lines.all |= routed.closes_span;
                self.floor = Some(routed.floor);
                self.fresh = routed.claimed;
            }
            (_, Done::Claimed(claimed)) => self.fresh = claimed,
            (_, Done::Endpoints(known)) => {
                self.open(known);
                self.assign(now);
            }
            (_, Done::Due(due)) => {
                let present = timestamp(now);
                let changed = due.iter().filter(|owed| {
                    let lane = self.lanes.get(&owed.endpoint_id);
                    lane.is_some_and(|lane| !lane.is_current(owed.revision, present))
                });
                self.changed = changed.map(|owed| owed.endpoint_id).collect();
            }
            (Statement::Disown { .. }, _) => {
                self.disown_at = now + DISOWN_INTERVAL;
                self.doubtful.retain(|(_, since)| now - since < DISOWN_PATIENCE);
            }
            (Statement::Release { .. }, _) => {
                self.released = true;
                if self.batch.iter().all(|finished| finished.attempt.is_none()) {
                    self.settle();
                }
            }
            (Statement::Record { attempts, .. }, Done::Recorded(held)) => {
                self.move_on(&held);
                for attempt in attempts {
                    if let Some(effect) = attempt.verdict.effect {
                        let reason = attempt.verdict.reason.clone().unwrap_or_default();
                        self.strikes.push((attempt.endpoint_id, effect, reason));
                    }
                }
                self.settle();
            }
            (_, Done::Lines(found)) => {
                self.lines.walk = found.last().cloned();
                self.lines.found = found;
            }
            (_, Done::Reaped(reaped)) => self.lines.all |= reaped.relays > 0,
            // The last of what it does there.
            (Statement::Upkeep(Upkeep::Orphans), _) => self.lines.all = true,
            _ => {}
        }
    }

    fn hear_an_error(&mut self, statement: &Statement, now: Micros) {
        if let Some(token) = statement.token() {
            self.doubtful.push((token, now));
            self.disown_at = now;
        }
        match statement {
            // What it has claimed stays its own until it is in a lane, unless it stops.
            Statement::Endpoints { .. } if self.stopping => {
                let fresh = std::mem::take(&mut self.fresh);
                self.results.extend(fresh.iter().map(|claimed| unsent(&claimed.delivery)));
            }
            Statement::Lines { .. } => self.lines.look_at_all_again(),
            Statement::GiveTurns { .. } if self.lines.walk.is_some() => {
                self.lines.look_at_all_again();
            }
            Statement::GiveTurns { lines } => self.lines.these.extend(lines.iter().cloned()),
            // The whole batch is tried again.
            Statement::Release { .. } | Statement::Record { .. } => self.released = false,
            Statement::Strike { endpoint, delete, reason } => {
                let effect = if *delete { Effect::Delete } else { Effect::Disable };
                self.strikes.push((*endpoint, effect, reason.clone()));
            }
            _ => {}
        }
    }

    fn settle(&mut self) {
        for finished in self.batch.drain(..) {
            if let Some(lane) = self.lanes.get_mut(&finished.claim.endpoint_id) {
                lane.claimed = lane.claimed.saturating_sub(1);
            }
        }
    }

    /// Has lines looked at whose head has ended, and that did not move on.
    fn move_on(&mut self, held: &RecordedDeliveries) {
        for Finished { claim, line, attempt } in &self.batch {
            let (Some(key), Some(attempt)) = (line, attempt) else { continue };
            let retried = matches!(attempt.verdict.decision, Decision::Retry { .. });
            let next = held.get(&(claim.event_id, claim.endpoint_id));
            if next == Some(&None) && !attempt.blocks && !retried {
                self.lines.these.insert((claim.endpoint_id, key.clone()));
            }
        }
    }
}
