//! After the list: faults stop, time goes on, receivers accept, and relays work until nothing is
//! left.

use posthaste::store::routing::FEW;

use super::ground::{CONNECTIONS, Micros, SECOND};
use super::operations::{Answer, Fate, Size};
use super::relay::Step;
use super::truth::{Broken, Held, hold};
use super::world::{RELAYS, TICK, World};

/// A world in which so many rounds have ended nothing never will.
const IDLE_ROUNDS: u32 = 8;
/// So many of them are longer than any delay, pause and `deliver_at` of the lists.
const ROUND_SECONDS: u32 = 120;
/// More than a list has events, deliveries and endpoints to be looked at.
const MOST_TURNS: u32 = 2_000;
/// More than a list has endpoints to which something is owed at once.
const MOST_LANES: u8 = 16;
/// Longer than the dispatcher waits for lanes, and shorter than its polls.
const LONGEST_MOMENT: Micros = SECOND / 2;

impl World<'_> {
    /// Lets everything come to its end: first while those relays that are frozen stay so, then,
    /// when they have thawed and brought what they have, once more.
    pub async fn settle(&mut self) -> Held {
        while self.finish(0).await? {}
        for on in 0..u8::try_from(CONNECTIONS).expect("there are three") {
            self.commit(on).await?;
        }
        if self.relays.iter().all(|relay| relay.as_ref().is_some_and(|relay| relay.frozen)) {
            self.crash(0).await;
        }
        self.work_until_settled().await?;
        if self.relays.iter().flatten().any(|relay| relay.frozen) {
            for relay in 0..u8::try_from(RELAYS).expect("there are three") {
                self.thaw(relay);
            }
            self.work_until_settled().await?;
        }
        self.end_relays().await
    }

    async fn work_until_settled(&mut self) -> Held {
        let (mut idle, mut ended) = (0, 0);
        while idle < IDLE_ROUNDS {
            self.let_all_go_on().await?;
            self.work().await?;
            if self.is_settled().await {
                return Ok(());
            }
            let ended_by_now = self.count_ended().await;
            idle = if ended_by_now > ended { 0 } else { idle + 1 };
            ended = ended_by_now;
            self.pass(ROUND_SECONDS).await?;
        }
        let left = "select format('%s', d) from posthaste.live_deliveries d";
        let left: Vec<String> = self.ground.read(left).await.iter().map(|row| row.get(0)).collect();
        Err(Broken(format!("it does not settle; deliveries: {left:?}")))
    }

    /// What every relay does in a while, all going well.
    async fn work(&mut self) -> Held {
        let all = 0..u8::try_from(RELAYS).expect("there are three");
        // First they all renew, so that nobody is taken for dead for the time that has passed.
        for relay in all.clone() {
            self.beat(relay, Fate::Fine).await?;
        }
        if self.relays.iter().flatten().all(|relay| relay.frozen) {
            for relay in all.clone() {
                self.start(relay, Size::Usual).await;
            }
        }
        // Beyond the first moments of a session, in which no relay is reaped, and beyond the pause
        // between two tries to give back claims whose answer was lost.
        self.pass(11).await?;
        for relay in all.clone() {
            self.beat(relay, Fate::Fine).await?;
            self.step(relay, Step::Reap, Fate::Fine).await?;
        }
        for relay in all {
            self.turn_until_it_rests(relay).await?;
            while self.deliver(relay).await? || self.wait_for_a_rate(relay).await? {
                self.turn_until_it_rests(relay).await?;
            }
            self.check_all_is_let_go(relay).await?;
            // Each does one of the five things that upkeep does; another one each round. After the
            // check: upkeep gives back what the dispatcher is to give back itself.
            self.step(relay, Step::Upkeep, Fate::Fine).await?;
            while self.step(relay, Step::Note, Fate::Fine).await? {}
            while self.step(relay, Step::Lines, Fate::Fine).await? {}
            self.end_if_stopping(relay).await;
        }
        Ok(())
    }

    /// The dispatcher goes on until it has nothing to do; moments that it waits go by.
    async fn turn_until_it_rests(&mut self, relay: u8) -> Held {
        for _ in 0..MOST_TURNS {
            // What a statement did is before what follows from it.
            self.now = self.ground.pass(TICK).await;
            if self.step(relay, Step::Turn { most: FEW }, Fate::Fine).await? {
                continue;
            }
            let now = self.now;
            let rests = self.relay(relay).and_then(|relay| relay.rests_for(now));
            match rests {
                Some(rest) if rest <= LONGEST_MOMENT => {
                    self.now = self.ground.pass(rest.max(TICK)).await;
                }
                _ => return Ok(()),
            }
        }
        Err(Broken(format!("the dispatcher of relay {relay} does not rest")))
    }

    /// Lets a second go by if a relay holds what only the rate of its endpoint keeps it from
    /// sending.
    async fn wait_for_a_rate(&mut self, relay: u8) -> Held<bool> {
        let waits = self.relay(relay).is_some_and(|relay| relay.waits_for_a_rate());
        if waits {
            self.pass(1).await?;
            for relay in 0..u8::try_from(RELAYS).expect("there are three") {
                self.beat(relay, Fate::Fine).await?;
            }
        }
        Ok(waits)
    }

    /// A relay that has done all it could holds no claim that it keeps from others.
    async fn check_all_is_let_go(&mut self, relay: u8) -> Held {
        let Some(relay) = self.relay(relay) else { return Ok(()) };
        let (number, held) = (relay.number, relay.claims());
        hold(held == 0, || format!("relay {number} keeps {held} claims"))?;
        if relay.stopping && !relay.leaves_nothing() {
            // Its dispatcher has ended: it leaves its row, and the next one releases its claims.
            return Ok(());
        }
        let claimed = "select count(*) from posthaste.live_deliveries where claimed_by = $1";
        let claimed: i64 = self.ground.read_with(claimed, &[&number]).await[0].get(0);
        hold(claimed == 0, || format!("relay {number} does not know of {claimed} claims"))
    }

    /// One that stops ends in this round: what is in flight has been answered.
    async fn end_if_stopping(&mut self, relay: u8) {
        if self.relay(relay).is_some_and(|relay| relay.stopping) {
            self.stop(relay).await;
        }
    }

    /// Sends what is claimed, has it accepted, and records it. Returns whether there was anything.
    async fn deliver(&mut self, relay: u8) -> Held<bool> {
        let mut did_any = false;
        loop {
            let mut did = false;
            while self.send_any(relay).await? {
                did = true;
            }
            while self.answer(relay, 0, Answer::Accepted) {
                did = true;
            }
            while self.step(relay, Step::Record { most: 100 }, Fate::Fine).await? {
                did = true;
            }
            if !did {
                return Ok(did_any);
            }
            did_any = true;
        }
    }

    /// Has one of its lanes asked that has something to send: others may wait for a rate.
    async fn send_any(&mut self, relay: u8) -> Held<bool> {
        for which in 0..MOST_LANES {
            if self.send(relay, which).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn is_settled(&mut self) -> bool {
        self.find_announcements().await;
        let nothing_owed = "select not exists (select from posthaste.live_deliveries)";
        self.truth.all_is_routed()
            && self.relays.iter().flatten().all(|relay| relay.frozen || relay.claims() == 0)
            && self.ground.read(nothing_owed).await[0].get(0)
    }

    /// How many deliveries have come to an end so far.
    async fn count_ended(&self) -> i64 {
        let ended = "select count(*) from posthaste.delivery_attempts where verdict <> 'retry'";
        self.ground.read(ended).await[0].get(0)
    }

    /// They stop in order; in the end nobody is registered but those that were in doubt.
    async fn end_relays(&mut self) -> Held {
        for relay in 0..u8::try_from(RELAYS).expect("there are three") {
            for _ in 0..2 {
                self.stop(relay).await;
            }
        }
        let left: Vec<_> = self.relays.iter().flatten().map(|relay| relay.number).collect();
        if left.is_empty() { Ok(()) } else { Err(Broken(format!("relays {left:?} do not end"))) }
    }
}
