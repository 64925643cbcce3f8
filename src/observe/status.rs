//! The state of this process as its parts report it: whether it is ready, and which parts still
//! move. The relay's loops write it, [`serve::admin`](crate::serve::admin) reads it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::clock::Clock;
use crate::model::standing::{During, FailureRun, Mishap, Standing, ToldMoment};
use crate::stopper::Stopper;

/// The reports of the parts of one process. Clones share them.
#[derive(Debug, Clone)]
pub struct Status(Arc<Reports>);

#[derive(Debug)]
struct Reports {
    clock: Clock,
    stopper: Stopper,
    /// `Err`: why not, for an operator to read.
    ready: Mutex<Result<(), String>>,
    parts: Mutex<Vec<PartMotion>>,
    standing: Mutex<Standing>,
    /// Since when the database has been away.
    away: Mutex<Option<Instant>>,
    /// The parts' own reports, by their names.
    told: Mutex<BTreeMap<&'static str, Value>>,
}

#[derive(Debug)]
struct PartMotion {
    /// Tells apart parts of the same name.
    id: u64,
    name: &'static str,
    bound: Duration,
    moved: Instant,
}

/// A part's sign that it moves. A part whose pulse is dropped has ended, and is not stuck.
#[derive(Debug)]
pub struct Pulse {
    reports: Arc<Reports>,
    id: u64,
}

/// A part that has not moved for longer than it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    pub part: &'static str,
    pub since: Duration,
}

impl Status {
    /// Not ready yet, and without parts. After a stop is asked for, the process is not ready again.
    #[must_use]
    pub fn new(clock: Clock, stopper: Stopper) -> Self {
        let ready = Mutex::new(Err("starting".to_owned()));
        Self(Arc::new(Reports {
            clock,
            stopper,
            ready,
            parts: Mutex::default(),
            standing: Mutex::default(),
            away: Mutex::default(),
            told: Mutex::default(),
        }))
    }

    /// `Ok` when connected and the schema is right; otherwise the reason. No secrets: it is served.
    pub fn set_ready(&self, ready: Result<(), String>) {
        *locked(&self.0.ready) = ready;
    }

    /// # Errors
    ///
    /// Why work should not be expected of this process now.
    pub fn ready(&self) -> Result<(), String> {
        if self.0.stopper.is_stopping() {
            return Err("stopping".to_owned());
        }
        if let Some(objection) = locked(&self.0.standing).objection(self.0.clock.instant()) {
            return Err(objection);
        }
        locked(&self.0.ready).clone()
    }

    /// Work in the database succeeded.
    pub fn succeeded(&self, during: During) {
        locked(&self.0.standing).succeeded(during, self.moment());
    }

    /// There is none of this work for this relay now.
    pub fn has_nothing(&self, during: During) {
        locked(&self.0.standing).has_nothing(during);
    }

    /// Work in the database failed.
    pub fn failed(&self, during: During, mishap: Mishap) {
        locked(&self.0.standing).failed(during, mishap, self.moment());
    }

    /// What the last failure of this work was about.
    pub fn concerns(&self, during: During, what: String) {
        locked(&self.0.standing).concerns(during, what);
    }

    /// The lease of this length was renewed by a statement that began at `at`.
    pub fn renewed(&self, lease: Duration, at: Instant) {
        locked(&self.0.standing).renewed(lease, at);
    }

    /// A term ended other than by a stop.
    pub fn term_ended(&self) {
        locked(&self.0.standing).term_ended(self.0.clock.instant());
    }

    fn moment(&self) -> ToldMoment {
        ToldMoment { at: self.0.clock.instant(), wall: self.0.clock.now() }
    }

    /// The database is away: from now on, unless it was before.
    pub fn is_away(&self) {
        locked(&self.0.away).get_or_insert_with(|| self.0.clock.instant());
    }

    /// The database answers. For how long it had been away, if it had.
    pub fn is_back(&self) -> Option<Duration> {
        let since = locked(&self.0.away).take()?;
        Some(self.0.clock.since(since))
    }

    /// A part of this name starts now. It is stuck when it has not moved for longer than the bound,
    /// which must leave room for its longest wait.
    #[must_use]
    pub fn pulse(&self, name: &'static str, bound: Duration) -> Pulse {
        let mut parts = locked(&self.0.parts);
        let id = parts.iter().map(|part| part.id + 1).max().unwrap_or(0);
        parts.push(PartMotion { id, name, bound, moved: self.0.clock.instant() });
        Pulse { reports: Arc::clone(&self.0), id }
    }

    /// Replaces a part's own report. No secrets: it is served.
    pub fn tell(&self, part: &'static str, said: Value) {
        locked(&self.0.told).insert(part, said);
    }

    /// The whole state, as `/status` serves it.
    #[must_use]
    pub fn report(&self) -> Value {
        let ready = self.ready();
        let stuck: Vec<_> = self.stuck().iter().map(ToString::to_string).collect();
        let mut report = json!({ "ready": ready.is_ok(), "why": ready.err(), "stuck": stuck });
        self.report_standing(&mut report);
        for (part, said) in &*locked(&self.0.told) {
            report[*part] = said.clone();
        }
        report
    }

    fn report_standing(&self, report: &mut Value) {
        let (standing, now) = (locked(&self.0.standing), self.0.clock.instant());
        let successes = standing.successes().map(|(during, at)| (during.word(), at.to_string()));
        report["last_success"] = json!(successes.collect::<BTreeMap<_, _>>());
        report["last_error"] = standing.last_error().map_or(Value::Null, told);
        report["lease_age_seconds"] = json!(standing.lease_age(now).map(|age| age.as_secs_f64()));
        report["terms_ended"] = json!(standing.terms_ended(now));
    }

    /// The parts that are stuck by now.
    #[must_use]
    pub fn stuck(&self) -> Vec<Stuck> {
        self.stuck_at(self.0.clock.instant())
    }

    fn stuck_at(&self, now: Instant) -> Vec<Stuck> {
        let parts = locked(&self.0.parts);
        parts
            .iter()
            .map(|part| (part, now.saturating_duration_since(part.moved)))
            .filter(|(part, since)| *since > part.bound)
            .map(|(part, since)| Stuck { part: part.name, since })
            .collect()
    }
}

impl Pulse {
    /// The part moves. Cheap enough for every turn of a loop, not for every delivery.
    pub fn beat(&self) {
        let now = self.reports.clock.instant();
        let mut parts = locked(&self.reports.parts);
        if let Some(part) = parts.iter_mut().find(|part| part.id == self.id) {
            part.moved = now;
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        locked(&self.reports.parts).retain(|part| part.id != self.id);
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has not moved for {} s", self.part, self.since.as_secs())
    }
}

fn told(run: &FailureRun) -> Value {
    json!({
        "code": run.mishap.code,
        "concerns": run.concerns,
        "during": run.during.word(),
        "message": run.mishap.message,
        "since": run.since.wall.to_string(),
        "last": run.last.wall.to_string(),
        "is_over": run.is_over,
    })
}

/// The values behind these locks are whole at every moment, so a panic elsewhere spoils nothing.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(30);
    const LATER: Duration = Duration::from_secs(31);

    #[test]
    fn a_part_that_does_not_move_is_stuck_until_it_moves_or_ends() {
        let status = Status::new(Clock, Stopper::new());
        let router = status.pulse("route", BOUND);
        let other = status.pulse("record", BOUND * 10);
        let started = Clock.instant();
        assert_eq!(status.stuck_at(started), []);
        let stuck = status.stuck_at(started + LATER);
        assert_eq!(stuck.len(), 1);
        assert_eq!(stuck[0].to_string(), "route has not moved for 31 s");
        router.beat();
        let beaten = Clock.instant();
        assert_eq!(status.stuck_at(beaten + BOUND - Duration::from_secs(1)), []);
        drop(router);
        assert_eq!(status.stuck_at(beaten + LATER), []);
        drop(other);
    }

    #[test]
    fn parts_of_one_name_are_told_apart() {
        let status = Status::new(Clock, Stopper::new());
        let pulses = [status.pulse("lane", BOUND), status.pulse("lane", BOUND)];
        assert_eq!(status.stuck_at(Clock.instant() + LATER).len(), 2);
        drop(pulses);
        assert_eq!(status.stuck_at(Clock.instant() + LATER).len(), 0);
    }

    #[test]
    fn a_process_is_ready_when_told_so_and_never_while_it_stops() {
        let stopper = Stopper::new();
        let status = Status::new(Clock, stopper.clone());
        assert_eq!(status.ready(), Err("starting".to_owned()));
        status.set_ready(Ok(()));
        assert_eq!(status.ready(), Ok(()));
        stopper.stop();
        assert_eq!(status.ready(), Err("stopping".to_owned()));
    }
}
