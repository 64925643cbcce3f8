//! Claims under a lease: of two relays that believe to own one, one records it, once; and no
//! delivery is lost.
//!
//! No clock is in it: a relay may be taken for dead at any moment, may stand still for as long
//! as it likes, and a statement may run as late as it likes, also after its answer was given up. So
//! whatever `posthaste::model::lease` says of time is allowed, and much more; only what is said of
//! duplicates rests on it. The claims that a relay is not certain of are the crate's own
//! [`UncertainClaims`].

mod process;

use std::collections::BTreeSet;
use std::time::Instant;

use posthaste::clock::Clock;

use self::process::{Process, Statement};
use crate::models::explore::{Explored, Protocol, explore};
use crate::models::statements::{Attempted, Claim, Fence, Tables};

const TWICE: &str = "a claim is recorded twice";
const BY_ANOTHER: &str = "a claim is recorded by a relay that had lost it";
const LOST: &str = "a delivery is claimed, and no relay knows of it";

/// How much may happen.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Terms of relays, over both processes.
    terms: u8,
    /// Statements that claim.
    tokens: u8,
    /// Answers that are lost, and statements that are.
    errors: u8,
    /// Statements that run after they were given up.
    delays: u8,
    /// Two events are to be routed, and claimed in a batch; otherwise one waits in a row.
    is_batch: bool,
    fence: Fence,
    /// Whether upkeep looks for claims that no relay knows of.
    has_upkeep: bool,
}

/// What becomes of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    AnswerLost,
    Lost,
    /// The relay is told of an error, and it runs later.
    Delayed,
}

/// What happens; the number is the process.
#[derive(Debug, Clone)]
#[expect(dead_code, reason = "a counterexample shows the fields")]
enum Event {
    Makes(usize, Statement, Fate),
    RunsLate(Statement),
    Begins(usize),
    Dies(usize),
    LosesItsSession(usize),
    TakesTheLeaseAgain(usize),
    Renews(usize),
    Stops(usize),
}

/// See the module.
#[derive(Debug, Clone)]
struct World {
    limits: Limits,
    now: Instant,
    tables: Tables,
    processes: [Process; 2],
    /// Given up by the relays that made them.
    late: Vec<Statement>,
    next_relay: u8,
    next_token: u8,
    are_routed: bool,
    /// Claims that were recorded, and those that were taken away.
    recorded: BTreeSet<(u8, Claim)>,
    taken: BTreeSet<(u8, Claim)>,
    ended: BTreeSet<u8>,
    wrong: Option<&'static str>,
}

impl World {
    fn new(limits: Limits) -> Self {
        let mut tables = Tables { fence: limits.fence, ..Tables::default() };
        if !limits.is_batch {
            tables.deliveries.insert(0, None);
        }
        Self {
            limits,
            now: Clock.instant(),
            tables,
            processes: [Process::default(), Process::default()],
            late: Vec::new(),
            next_relay: 1,
            next_token: 1,
            are_routed: !limits.is_batch,
            recorded: BTreeSet::new(),
            taken: BTreeSet::new(),
            ended: BTreeSet::new(),
            wrong: None,
        }
    }

    /// The server runs a statement. Returns what was claimed.
    fn run(&mut self, statement: &Statement) -> Vec<u8> {
        let before = self.tables.claimed();
        let tables = &mut self.tables;
        match statement {
            Statement::Claim(by) => return tables.claim(*by, 2),
            Statement::Route(by) => {
                // The ledger's primary key lets one in.
                let is_first = !std::mem::replace(&mut self.are_routed, true);
                if is_first {
                    tables.write_step(*by, &[0, 1]);
                }
                return if is_first { vec![0, 1] } else { Vec::new() };
            }
            Statement::Record(relay, attempts) => {
                for one in tables.record(*relay, attempts) {
                    self.note_record(*relay, one);
                }
                return Vec::new();
            }
            Statement::Release(relay, claims) => {
                tables.release(*relay, claims);
            }
            Statement::Disown(relay, tokens) => {
                tables.disown(*relay, tokens);
            }
            Statement::Reap(relay) => {
                tables.reap(*relay);
            }
            Statement::ReleaseOrphans { relay, held, newest } => {
                tables.release_orphans(*relay, held, *newest);
            }
        }
        let after = self.tables.claimed();
        self.taken.extend(before.into_iter().filter(|claim| !after.contains(claim)));
        Vec::new()
    }

    fn note_record(&mut self, relay: u8, one: Attempted) {
        let claim = (one.delivery, Claim { relay, token: one.token });
        if self.taken.contains(&claim) {
            self.wrong = Some(BY_ANOTHER);
        } else if !self.recorded.insert(claim) {
            self.wrong = Some(TWICE);
        }
        if !one.again {
            self.ended.insert(one.delivery);
        }
    }

    fn fates(&self) -> impl Iterator<Item = Fate> {
        let Limits { errors, delays, .. } = self.limits;
        let errors = [Fate::AnswerLost, Fate::Lost].into_iter().filter(move |_| errors > 0);
        let delay = (delays > 0).then_some(Fate::Delayed);
        [Fate::Done].into_iter().chain(errors).chain(delay)
    }

    /// A process makes a statement.
    fn make(&self, n: usize, statement: &Statement, all: &mut Vec<(Event, Self)>) {
        for fate in self.fates() {
            let mut world = self.clone();
            let answer = match fate {
                Fate::Done => Some(world.run(statement)),
                Fate::AnswerLost => {
                    world.limits.errors -= 1;
                    world.run(statement);
                    None
                }
                Fate::Lost => {
                    world.limits.errors -= 1;
                    None
                }
                Fate::Delayed => {
                    world.limits.delays -= 1;
                    world.late.push(statement.clone());
                    None
                }
            };
            if let Statement::Claim(by) | Statement::Route(by) = statement {
                world.next_token = by.token + 1;
            }
            let now = world.now;
            world.processes[n].hears(statement, answer.as_deref(), now);
            all.push((Event::Makes(n, statement.clone(), fate), world));
        }
    }

    fn with(&self, event: Event, change: impl FnOnce(&mut Self)) -> (Event, Self) {
        let mut world = self.clone();
        change(&mut world);
        (event, world)
    }

    fn of_process(&self, n: usize, all: &mut Vec<(Event, Self)>) {
        let Some(relay) = self.processes[n].relay else {
            // Which process is the first makes no difference.
            if self.next_relay <= self.limits.terms && (n == 0 || self.next_relay > 1) {
                all.push(self.with(Event::Begins(n), |world| world.begin(n)));
            }
            return;
        };
        let token = (self.next_token <= self.limits.tokens).then_some(self.next_token);
        for statement in self.processes[n].statements(relay, token, self.limits.has_upkeep) {
            self.make(n, &statement, all);
        }
        self.of_lease(n, relay, all);
    }

    fn begin(&mut self, n: usize) {
        let relay = self.next_relay;
        self.next_relay += 1;
        self.tables.register(relay);
        self.processes[n] = Process::default();
        self.processes[n].relay = Some(relay);
    }

    fn of_lease(&self, n: usize, relay: u8, all: &mut Vec<(Event, Self)>) {
        let row = self.tables.relays.iter().find(|row| row.relay == relay);
        all.push(self.with(Event::Dies(n), |world| {
            world.tables.lock(relay, false);
            world.processes[n] = Process::default();
        }));
        // Both find out when the row is gone: the term is over, and all that it held is dropped.
        let renew = |world: &mut Self| {
            if world.tables.renew(relay) {
                world.tables.lock(relay, true);
            } else {
                world.processes[n] = Process::default();
            }
        };
        let is_locked = row.is_some_and(|row| row.is_locked);
        let event = if is_locked { Event::Renews(n) } else { Event::TakesTheLeaseAgain(n) };
        all.push(self.with(event, renew));
        if is_locked {
            // To the others it is the same if its heartbeat is too old.
            let lose = |world: &mut Self| world.tables.lock(relay, false);
            all.push(self.with(Event::LosesItsSession(n), lose));
        }
        if self.processes[n].leaves_nothing() {
            all.push(self.with(Event::Stops(n), |world| {
                world.tables.deregister(relay);
                world.processes[n] = Process::default();
            }));
        }
    }

    /// Whether a relay holds this claim, as it believes, or a statement records it.
    fn may_record(&self, delivery: u8, claim: Claim) -> bool {
        let is_it = |one: &Attempted| (one.delivery, one.token) == (delivery, claim.token);
        let is_late = |one: &Statement| match one {
            Statement::Record(relay, claims) => *relay == claim.relay && claims.iter().any(is_it),
            _ => false,
        };
        let owner = self.processes.iter().find(|one| one.relay == Some(claim.relay));
        owner.is_some_and(|owner| owner.holds_claim(delivery, claim.token))
            || self.late.iter().any(is_late)
    }

    /// Whether this claim will be recorded or released.
    fn is_known(&self, delivery: u8, claim: Claim) -> bool {
        if !self.tables.relays.iter().any(|row| row.relay == claim.relay) {
            return self.limits.has_upkeep;
        }
        let owner = self.processes.iter().find(|process| process.relay == Some(claim.relay));
        // Without a process its lock is free: it is reaped.
        owner.is_none_or(|owner| owner.knows(delivery, claim.token, self.limits.has_upkeep))
    }
}

impl Protocol for World {
    type Event = Event;
    type Key = (
        (Tables, Vec<process::Key>, Vec<Statement>),
        ([u8; 4], bool),
        [BTreeSet<(u8, Claim)>; 2],
        BTreeSet<u8>,
    );

    fn key(&self) -> Self::Key {
        // The attempts are a history, of which nothing depends.
        let tables = Tables { attempts: Vec::new(), ..self.tables.clone() };
        // A claim of which no process and no statement knows any more is never recorded.
        let past = |of: &BTreeSet<(u8, Claim)>| {
            of.iter()
                .copied()
                .filter(|(delivery, claim)| self.may_record(*delivery, *claim))
                .collect()
        };
        let counts = [self.next_relay, self.next_token, self.limits.errors, self.limits.delays];
        (
            (tables, self.processes.iter().map(Process::key).collect(), self.late.clone()),
            (counts, self.are_routed),
            [past(&self.recorded), past(&self.taken)],
            self.ended.clone(),
        )
    }

    fn next(&self) -> Vec<(Event, Self)> {
        let mut all = Vec::new();
        for n in 0..2 {
            self.of_process(n, &mut all);
        }
        for (n, statement) in self.late.iter().enumerate() {
            all.push(self.with(Event::RunsLate(statement.clone()), |world| {
                let statement = world.late.remove(n);
                world.run(&statement);
            }));
        }
        all
    }

    fn broken(&self) -> Option<String> {
        let claimed = self.tables.claimed();
        let routed: &[u8] = if !self.are_routed {
            &[]
        } else if self.limits.is_batch {
            &[0, 1]
        } else {
            &[0]
        };
        let places = |one: u8| {
            let waits = usize::from(self.tables.deliveries.get(&one).is_some_and(Option::is_none));
            let claims = claimed.iter().filter(|(delivery, _)| *delivery == one).count();
            waits + claims + usize::from(self.ended.contains(&one))
        };
        let wrong = if self.wrong.is_some() {
            self.wrong
        } else if routed.iter().any(|one| places(*one) != 1) {
            Some("a delivery is not at one place: waiting, claimed or ended")
        } else if !claimed.iter().all(|(delivery, claim)| self.is_known(*delivery, *claim)) {
            Some(LOST)
        } else {
            None
        };
        wrong.map(str::to_owned)
    }
}

const ROW: Limits = Limits {
    terms: 2,
    tokens: 2,
    errors: 1,
    delays: 0,
    is_batch: false,
    fence: Fence::Whole,
    has_upkeep: true,
};
const BATCH: Limits = Limits { is_batch: true, ..ROW };

fn explored(limits: Limits) -> Explored<Event> {
    explore(vec![World::new(limits)])
}

#[test]
fn a_claim_is_recorded_once_by_the_relay_that_holds_it_and_no_delivery_is_lost() {
    explored(ROW).holds(2_000);
}

#[test]
fn a_statement_that_runs_after_its_relay_was_reaped_does_no_harm() {
    explored(Limits { errors: 0, delays: 1, ..ROW }).holds(10_000);
}

#[test]
fn each_delivery_of_a_batch_is_recorded_once_and_none_is_lost() {
    explored(BATCH).holds(15_000);
}

#[test]
fn a_statement_about_a_batch_that_runs_late_does_no_harm() {
    explored(Limits { errors: 0, delays: 1, ..BATCH }).holds(100_000);
}

#[test]
fn the_model_finds_a_record_that_is_not_fenced_by_its_token() {
    let found = explored(Limits { fence: Fence::WithoutToken, ..ROW });
    assert!([TWICE, BY_ANOTHER].contains(&found.fails()), "{}", found.fails());
}

#[test]
fn the_model_finds_a_batch_whose_bits_are_not_looked_at() {
    let found = explored(Limits { fence: Fence::WithoutBits, ..BATCH });
    assert!([TWICE, BY_ANOTHER].contains(&found.fails()), "{}", found.fails());
}

#[test]
fn the_model_finds_that_late_claims_are_lost_without_upkeep() {
    let found = explored(Limits { errors: 0, delays: 1, has_upkeep: false, ..ROW });
    assert_eq!(found.fails(), LOST);
}
