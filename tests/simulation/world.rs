//! The world that a list runs in, and how relays come and go in it. It sees everything: where a
//! relay is told of an error, the world knows what the statement did.

use std::collections::BTreeMap;

use posthaste::model::endpoint::EndpointId;
use posthaste::store::RelayId;
use posthaste::store::relays::Lease;
use posthaste::store::routing::FEW;

use super::application::Transaction;
use super::ground::{CONNECTIONS, Ground, Micros};
use super::issue::Slow;
use super::operations::{Fate, Notice, Operation, Size};
use super::relay::{Relay, Step};
use super::settings;
use super::truth::{Held, Truth};

pub const RELAYS: usize = 3;
/// Between two operations, so that no two things happen at the same moment.
pub const TICK: Micros = 1_000;

/// See the module.
#[derive(Debug)]
pub struct World<'g> {
    pub ground: &'g Ground,
    pub now: Micros,
    pub began: Micros,
    /// How far the database's clock is behind `now`.
    behind: Micros,
    /// So many endpoints there have been.
    pub endpoints: EndpointId,
    pub truth: Truth,
    pub relays: [Option<Relay>; RELAYS],
    pub transactions: [Option<Transaction>; CONNECTIONS],
    pub slow: Vec<Slow>,
    /// What has been done, and what went wrong, for the report.
    pub counts: BTreeMap<String, u64>,
}

impl<'g> World<'g> {
    pub async fn new(ground: &'g mut Ground) -> Self {
        ground.clear().await;
        let ground: &'g Ground = ground;
        let now = ground.pass(0).await;
        let mut world = Self {
            ground,
            now,
            began: now,
            behind: 0,
            endpoints: 0,
            truth: Truth::default(),
            relays: Default::default(),
            transactions: Default::default(),
            slow: Vec::new(),
            counts: BTreeMap::new(),
        };
        world.add_endpoints().await;
        world
    }

    pub fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }

    /// Lets an operation happen.
    pub async fn happen(&mut self, operation: Operation) -> Held {
        if !self.can_happen(operation) {
            return Ok(());
        }
        // What asks the database nothing needs not tell it the time.
        (self.now, self.behind) = (self.now + TICK, self.behind + TICK);
        if !matches!(
            operation,
            Operation::Send { .. } | Operation::Answer { .. } | Operation::Hear { .. }
        ) {
            self.now = self.ground.pass(self.behind).await;
            self.behind = 0;
        }
        let did = match operation {
            Operation::Begin { on } => self.begin(on).await,
            Operation::Insert { on, count, event } => self.insert(on, count, event).await?,
            Operation::Savepoint { on } => self.savepoint(on).await,
            Operation::RollBackToSavepoint { on } => self.roll_back_to_savepoint(on).await,
            Operation::Commit { on } => self.commit(on).await?,
            Operation::RollBack { on } => self.roll_back(on).await,
            Operation::Steer { on, what } => self.steer(on, what).await?,
            Operation::Start { relay, size } => self.start(relay, size).await,
            Operation::Beat { relay, fate } => self.beat(relay, fate).await?,
            Operation::Turn { relay, fate } => {
                self.step(relay, Step::Turn { most: FEW }, fate).await?
            }
            Operation::Look { relay, most, fate } => {
                self.hear(relay, Notice::Rung);
                self.step(relay, Step::Turn { most: most.max(1) }, fate).await?
            }
            Operation::Hear { relay, notice } => self.hear(relay, notice),
            Operation::Reap { relay, fate } => self.step(relay, Step::Reap, fate).await?,
            Operation::Record { relay, most, fate } => {
                self.step(relay, Step::Record { most }, fate).await?
            }
            Operation::Lines { relay, fate } => self.step(relay, Step::Lines, fate).await?,
            Operation::Note { relay, fate } => self.step(relay, Step::Note, fate).await?,
            Operation::Upkeep { relay, fate } => self.step(relay, Step::Upkeep, fate).await?,
            Operation::Send { relay, which } => self.send(relay, which).await?,
            Operation::Answer { relay, which, answer } => self.answer(relay, which, answer),
            Operation::Stop { relay } => self.stop(relay).await,
            Operation::Crash { relay } => self.crash(relay).await,
            Operation::Freeze { relay } => self.freeze(relay),
            Operation::Thaw { relay } => self.thaw(relay),
            Operation::LoseSession { relay } => self.lose_session(relay).await,
            Operation::Finish { which } => self.finish(which).await?,
            Operation::BreakOff { which } => self.break_off(which),
            Operation::Pass { seconds } => self.pass(seconds).await?,
            Operation::Check => self.check_in_passing().await?,
        };
        if did {
            self.count(&operation.name());
        }
        Ok(())
    }

    /// Whether there is what it is about. It may do nothing all the same.
    fn can_happen(&self, operation: Operation) -> bool {
        let is_open = |on: u8| self.transactions[usize::from(on) % CONNECTIONS].is_some();
        let slot = |relay: u8| self.relays[usize::from(relay) % RELAYS].as_ref();
        match operation {
            Operation::Begin { on } => !is_open(on),
            Operation::Savepoint { on }
            | Operation::RollBackToSavepoint { on }
            | Operation::Commit { on }
            | Operation::RollBack { on } => is_open(on),
            Operation::Start { relay, .. } => slot(relay).is_none(),
            Operation::Crash { relay } | Operation::LoseSession { relay } => slot(relay).is_some(),
            Operation::Thaw { relay } => slot(relay).is_some_and(|relay| relay.frozen),
            Operation::Beat { relay, .. }
            | Operation::Reap { relay, .. }
            | Operation::Turn { relay, .. }
            | Operation::Look { relay, .. }
            | Operation::Hear { relay, .. }
            | Operation::Record { relay, .. }
            | Operation::Lines { relay, .. }
            | Operation::Note { relay, .. }
            | Operation::Upkeep { relay, .. }
            | Operation::Send { relay, .. }
            | Operation::Answer { relay, .. }
            | Operation::Stop { relay }
            | Operation::Freeze { relay } => slot(relay).is_some_and(|relay| !relay.frozen),
            Operation::Finish { .. } | Operation::BreakOff { .. } => !self.slow.is_empty(),
            Operation::Insert { .. }
            | Operation::Steer { .. }
            | Operation::Pass { .. }
            | Operation::Check => true,
        }
    }

    pub fn relay(&mut self, relay: u8) -> Option<&mut Relay> {
        let relay = self.relays[usize::from(relay) % RELAYS].as_mut();
        relay.filter(|relay| !relay.frozen)
    }

    pub fn numbered(&mut self, number: RelayId) -> Option<&mut Relay> {
        self.relays.iter_mut().flatten().find(|relay| relay.number == number)
    }

    fn hear(&mut self, relay: u8, notice: Notice) -> bool {
        let now = self.now;
        let Some(relay) = self.relay(relay) else { return false };
        relay.notice(notice, now);
        true
    }

    // ── the lease ──

    pub async fn start(&mut self, relay: u8, size: Size) -> bool {
        let slot = usize::from(relay) % RELAYS;
        if self.relays[slot].is_some() {
            return false;
        }
        let lease = Lease::take(&self.ground.database, &self.ground.sessions, "one").await;
        let lease = lease.expect("register a relay");
        let config = settings::of(size);
        let found = lease.renew(0, config.relay.lease).await.expect("look who else is there");
        let mut relay = Relay::new(lease, config, self.now);
        relay.renewed(self.now, &found);
        self.relays[slot] = Some(relay);
        true
    }

    /// As `relay::lease::beat`.
    pub async fn beat(&mut self, relay: u8, fate: Fate) -> Held<bool> {
        let (ground, now) = (self.ground, self.now);
        let Some(relay) = self.relay(relay) else { return Ok(false) };
        let number = relay.number;
        if fate == Fate::NotRun {
            relay.lease = None;
            relay.has_session = false;
            ground.session_is_gone(number).await;
            return Ok(true);
        }
        let Some(lease) = &relay.lease else {
            let again = Lease::retake(&ground.database, &ground.sessions, relay.registration).await;
            match again {
                // Somebody is just reaping it; it tries again.
                Err(error) => self.forgive(&error)?,
                Ok(None) => self.remove(number).await,
                Ok(Some(lease)) if fate == Fate::AnswerLost => {
                    drop(lease);
                    ground.session_is_gone(number).await;
                }
                Ok(Some(lease)) => relay.retaken(lease, now),
            }
            return Ok(true);
        };
        match lease.renew(relay.claims(), relay.lease_length()).await {
            Ok(found) if fate != Fate::AnswerLost && found.held => relay.renewed(now, &found),
            Ok(_) if fate != Fate::AnswerLost => self.remove(number).await,
            // An error: the session may be broken, and another one is taken.
            _ => {
                relay.lease = None;
                relay.has_session = false;
                ground.session_is_gone(number).await;
            }
        }
        Ok(true)
    }

    /// A relay is gone, with its session and all that it knew.
    pub async fn remove(&mut self, number: RelayId) {
        for slow in &mut self.slow {
            slow.awaited &= slow.relay != number;
        }
        for relay in &mut self.relays {
            relay.take_if(|relay| relay.number == number);
        }
        self.ground.session_is_gone(number).await;
    }

    pub async fn crash(&mut self, relay: u8) -> bool {
        // A frozen one can be killed too.
        let number = self.relays[usize::from(relay) % RELAYS].as_ref().map(|relay| relay.number);
        if let Some(number) = number {
            self.remove(number).await;
        }
        number.is_some()
    }

    fn freeze(&mut self, relay: u8) -> bool {
        self.relay(relay).is_some_and(|relay| {
            relay.frozen = true;
            true
        })
    }

    pub fn thaw(&mut self, relay: u8) -> bool {
        let now = self.now;
        let Some(relay) = &mut self.relays[usize::from(relay) % RELAYS] else { return false };
        let was_frozen = std::mem::take(&mut relay.frozen);
        for (statement, done) in std::mem::take(&mut relay.unheard) {
            relay.busy.remove(&statement.station());
            relay.hear(&statement, done, now);
        }
        was_frozen
    }

    async fn lose_session(&mut self, relay: u8) -> bool {
        let relay = self.relays[usize::from(relay) % RELAYS].as_ref();
        let Some(relay) = relay.filter(|relay| relay.lease.is_some()) else { return false };
        let number = relay.number;
        self.ground.end_session(number).await;
        if let Some(relay) = self.numbered(number) {
            relay.has_session = false;
        }
        true
    }

    /// Begins to stop; then ends what is in flight; then gives the lease back.
    pub async fn stop(&mut self, relay: u8) -> bool {
        let now = self.now;
        let Some(relay) = self.relay(relay) else { return false };
        let number = relay.number;
        if !relay.stopping {
            relay.stop();
        } else if relay.has_requests() {
            for endpoint in relay.interrupt(now) {
                self.truth.tally(number, endpoint, false);
            }
        } else if relay.busy.is_empty() && relay.claims() == 0 && !relay.has_lines() {
            if relay.leaves_nothing()
                && let Some(lease) = relay.lease.take()
            {
                drop(lease.end().await);
            }
            self.remove(number).await;
        } else {
            return false;
        }
        true
    }

    /// Lets go of everything that others could wait for.
    pub async fn leave(mut self) {
        while matches!(self.finish(0).await, Ok(true) | Err(_)) {}
        let numbers: Vec<RelayId> =
            self.relays.iter().flatten().map(|relay| relay.number).collect();
        drop(self.relays);
        for number in numbers {
            self.ground.session_is_gone(number).await;
        }
    }

    pub fn count_duplicates(&mut self) {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        self.counts.insert("requests".to_owned(), count(self.truth.requests.len()));
        self.counts.insert("requests of the same again".to_owned(), count(self.truth.duplicates()));
        self.counts.insert("events".to_owned(), count(self.truth.committed.len()));
    }
}
