//! The database and its sessions, as far as the bell is concerned, and what must hold.

use std::time::Instant;

use posthaste::clock::Clock;
use posthaste::model::dispatch::Dispatch;

use super::relay::{Doing, SETTINGS, relative};
use crate::models::explore::Protocol;
use crate::models::ledger::{Fate, Ledger, Snapshot, Xid};

pub const SLEEPS: &str = "a committed event waits for the poll, although a session hears the bell";
pub const PASSED_OVER: &str = "the cursor has passed over an event";

/// How much may happen.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Transactions that insert.
    pub transactions: usize,
    /// Of them, those that insert so many events that they keep a relay awake.
    pub bursts: u8,
    /// Whether they are rolled back, too.
    pub roll_back: bool,
    /// Whether the process may be stopped for longer than any timer takes.
    pub is_late: bool,
    /// A step of routing takes the events of so many.
    pub most: usize,
    /// Sessions that break.
    pub breaks: u8,
    /// Statements that fail.
    pub failures: u8,
    /// Times that another relay routes.
    pub others: u8,
    /// A relay that is dead has left a span unfinished.
    pub unfinished: bool,
    /// Put into the relay.
    pub fault: Option<Fault>,
}

/// A fault that the model is to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A new session listens only when the looks that follow it are over.
    LooksBeforeListening,
    /// It sleeps as soon as it has let go of the lock.
    ForgetsSkippers,
    /// It asks for the number above all who skipped the bell before it lets go of the lock.
    AsksBeforeLettingGo,
    /// It takes a snapshot's `xmax` for a number above all that were given.
    AsksForXmax,
    /// It takes the end of a span that another began for the end of all there is.
    TakesAnOldSpanForAll,
    /// The cursor's snapshot does not hold which transactions were open.
    ForgetsTheOpen,
}

/// What happens.
#[derive(Debug, Clone, Copy)]
#[expect(dead_code, reason = "a counterexample shows the fields")]
pub enum Event {
    Begins,
    Inserts {
        transaction: usize,
        events: u32,
    },
    Commits(usize),
    RollsBack(usize),
    /// The session hears the bell.
    Hears,
    SessionBreaks,
    RelayMissesItsSession,
    OtherReads,
    OtherWrites,
    /// The relay performs its step.
    Step(&'static str),
    Fails(&'static str),
    IsRung,
    TimerEnds,
    WakesLate,
}

/// The bell's lock, as the relay's session has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lock {
    Free,
    /// Behind inserters that hold it shared.
    Waits,
    Holds,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transaction {
    pub xid: Xid,
    /// 0: it has not inserted yet.
    pub events: u32,
    /// Whether it holds the bell's lock shared, and notifies when it commits.
    pub rings: bool,
    pub fate: Fate,
    pub is_routed: bool,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct World {
    pub limits: Limits,
    // The relay:
    pub dispatch: Dispatch,
    pub now: Instant,
    /// The end of its rest.
    pub until: Instant,
    pub doing: Doing,
    /// It has a session to hear with, as far as it knows.
    pub hears: bool,
    /// The permit of `Ears::rung`.
    pub rung: bool,
    /// For [`Fault::LooksBeforeListening`]: it is to listen while it rests.
    pub is_to_listen: bool,
    /// For [`Fault::AsksBeforeLettingGo`].
    pub asked: Option<Xid>,
    /// Polls since it last tried to look.
    pub polls: u8,
    // The database:
    pub session: Option<Lock>,
    /// A notification is on its way to the session.
    pub is_sent: bool,
    pub transactions: Vec<Transaction>,
    pub ledger: Ledger,
    /// Another relay: the snapshot it routes by, and whether it is to look again.
    pub other: Option<Ledger>,
    pub other_is_rung: bool,
    /// What a step has done wrong.
    pub wrong: Option<&'static str>,
}

impl World {
    /// The beginnings.
    pub fn all(limits: Limits) -> Vec<Self> {
        let now = Clock.instant();
        let mut world = Self {
            limits,
            dispatch: Dispatch::new(SETTINGS, 100, now),
            now,
            until: now,
            doing: Doing::Nothing,
            hears: false,
            rung: false,
            is_to_listen: false,
            asked: None,
            polls: 0,
            session: None,
            is_sent: false,
            transactions: Vec::new(),
            ledger: Ledger::new(),
            other: None,
            other_is_rung: false,
            wrong: None,
        };
        world.decide();
        if limits.unfinished {
            world = world.asleep();
            world.leave_unfinished();
        }
        vec![world]
    }

    /// All goes well until the relay sleeps.
    fn asleep(mut self) -> Self {
        while self.doing != Doing::Rests || !self.dispatch.is_asleep() {
            let mut all = Vec::new();
            self.of_relay(&mut all);
            self = all.swap_remove(0).1;
        }
        self
    }

    /// Two transactions have rung and committed, and another relay has routed the first; then it
    /// died.
    fn leave_unfinished(&mut self) {
        for _ in 0..2 {
            let xid = self.begin();
            self.ledger.end(xid, Fate::Committed);
        }
        for transaction in &mut self.transactions {
            (transaction.events, transaction.fate) = (1, Fate::Committed);
        }
        let read = self.ledger.read(1);
        self.ledger.write(&read);
        self.transactions[0].is_routed = true;
        self.limits.transactions += 2;
        self.is_sent = true;
    }

    fn begin(&mut self) -> Xid {
        let xid = self.ledger.begin();
        let fate = Fate::Open;
        self.transactions.push(Transaction {
            xid,
            events: 0,
            rings: false,
            fate,
            is_routed: false,
        });
        xid
    }

    /// `pg_try_advisory_xact_lock_shared`: a session that waits makes it fail already.
    fn insert(&mut self, transaction: usize, events: u32) {
        let rings = !matches!(self.session, Some(Lock::Waits | Lock::Holds));
        let one = &mut self.transactions[transaction];
        (one.events, one.rings) = (events, rings);
        self.limits.bursts -= u8::from(events > 1);
    }

    fn end(&mut self, transaction: usize, fate: Fate) {
        let one = &mut self.transactions[transaction];
        one.fate = fate;
        let rings = std::mem::take(&mut one.rings);
        self.ledger.end(one.xid, fate);
        if rings && fate == Fate::Committed {
            self.is_sent |= self.session.is_some() && !self.is_to_listen;
            self.other_is_rung |= self.limits.others > 0 || self.other.is_some();
        }
        self.grant();
    }

    /// The lock is the session's when no inserter holds it any more.
    pub fn grant(&mut self) {
        if self.session == Some(Lock::Waits) && !self.transactions.iter().any(|one| one.rings) {
            self.session = Some(Lock::Holds);
        }
    }

    /// Routes the events of these.
    pub fn route(&mut self, found: &[Xid]) {
        for one in self.transactions.iter_mut().filter(|one| found.contains(&one.xid)) {
            if std::mem::replace(&mut one.is_routed, true) {
                self.wrong = Some("an event is routed twice");
            }
        }
    }

    fn with(&self, event: Event, change: impl FnOnce(&mut Self)) -> (Event, Self) {
        let mut world = self.clone();
        change(&mut world);
        (event, world)
    }

    fn of_transactions(&self, all: &mut Vec<(Event, Self)>) {
        if self.transactions.len() < self.limits.transactions {
            all.push(self.with(Event::Begins, |world| {
                world.begin();
            }));
        }
        for (n, one) in self.transactions.iter().enumerate() {
            if one.fate != Fate::Open {
                continue;
            }
            if one.events == 0 {
                for events in [1, 16].into_iter().take(1 + usize::from(self.limits.bursts > 0)) {
                    let inserts = Event::Inserts { transaction: n, events };
                    all.push(self.with(inserts, |world| world.insert(n, events)));
                }
                continue;
            }
            all.push(self.with(Event::Commits(n), |world| world.end(n, Fate::Committed)));
            if self.limits.roll_back {
                all.push(self.with(Event::RollsBack(n), |world| world.end(n, Fate::Aborted)));
            }
        }
    }

    fn of_sessions(&self, all: &mut Vec<(Event, Self)>) {
        if self.is_sent {
            all.push(self.with(Event::Hears, |world| {
                (world.is_sent, world.rung) = (false, true);
            }));
        }
        if self.session.is_some() && self.limits.breaks > 0 {
            all.push(self.with(Event::SessionBreaks, |world| {
                world.limits.breaks -= 1;
                (world.session, world.is_sent) = (None, false);
            }));
        }
        if self.hears && self.session.is_none() {
            // Its driver ends: src/store/bell.rs.
            all.push(self.with(Event::RelayMissesItsSession, |world| {
                (world.hears, world.rung) = (false, true);
            }));
        }
    }

    /// Another relay hears the same bells, and looks for each.
    fn of_other(&self, all: &mut Vec<(Event, Self)>) {
        match &self.other {
            None if self.other_is_rung && self.limits.others > 0 => {
                all.push(self.with(Event::OtherReads, |world| {
                    world.limits.others -= 1;
                    world.other_is_rung = false;
                    world.other = Some(world.ledger.clone());
                }));
            }
            None => {}
            Some(then) => all.push(self.with(Event::OtherWrites, |world| {
                world.other = None;
                let read = then.read(world.limits.most);
                world.ledger.write(&read);
                world.route(&read.found);
                // A step that was full is followed by another.
                world.other_is_rung |= read.more;
            })),
        }
    }

    /// Whether the relay rests until its poll, though it can hear.
    fn sleeps(&self) -> bool {
        let asleep = self.doing == Doing::Rests && self.dispatch.is_asleep();
        asleep
            && self.hears
            && !self.is_to_listen
            && self.session.is_some()
            && !self.rung
            && !self.is_sent
    }
}

impl Protocol for World {
    type Event = Event;
    type Key = (String, Doing, [bool; 6], Option<Xid>, u8, Option<Lock>, Vec<Transaction>, Counts);

    fn key(&self) -> Self::Key {
        let flags = [
            self.hears,
            self.rung,
            self.is_to_listen,
            self.is_sent,
            self.other_is_rung,
            self.limits.unfinished,
        ];
        let Limits { breaks, failures, others, bursts, .. } = self.limits;
        let counts = (self.ledger.clone(), self.other.clone(), [breaks, failures, others, bursts]);
        (
            relative(&self.dispatch, self.now),
            self.doing,
            flags,
            self.asked,
            self.polls,
            self.session,
            self.transactions.clone(),
            counts,
        )
    }

    fn next(&self) -> Vec<(Event, Self)> {
        let mut all = Vec::new();
        self.of_transactions(&mut all);
        self.of_sessions(&mut all);
        self.of_other(&mut all);
        self.of_relay(&mut all);
        all
    }

    fn broken(&self) -> Option<String> {
        let committed = || self.transactions.iter().filter(|one| one.fate == Fate::Committed);
        let is_passed_over = |one: &Transaction| !one.is_routed && self.ledger.is_routed(one.xid);
        // Another relay that routes just now, or is to, is not asleep.
        let is_left_to_other = self.other.is_some() || self.other_is_rung;
        let wrong = if self.wrong.is_some() {
            self.wrong
        } else if self.polls > 1 {
            Some("a poll was not followed by a look")
        } else if committed().any(is_passed_over) {
            Some(PASSED_OVER)
        } else if self.sleeps() && !is_left_to_other && committed().any(|one| !one.is_routed) {
            Some(SLEEPS)
        } else {
            None
        };
        wrong.map(str::to_owned)
    }
}

type Counts = (Ledger, Option<Ledger>, [u8; 4]);

/// The snapshot that a relay with [`Fault::ForgetsTheOpen`] leaves.
pub fn forgetful(snapshot: &Snapshot) -> Snapshot {
    Snapshot { xmax: snapshot.xmax, open: Vec::new() }
}
