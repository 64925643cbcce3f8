//! How a relay's statements run: at once, without an answer, not at all, or slowly, beside whatever
//! else happens. What each did is seen here, whatever the relay is told.

use std::sync::Arc;

use posthaste::model::dispatch::RouteBy;
use posthaste::model::endpoint::EndpointId;
use posthaste::model::verdict::Decision;
use posthaste::store::routing::{Claimed, Routed};
use posthaste::store::{RelayId, StoreError};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::ground::{Micros, SECOND, SLOW, seconds};
use super::operations::{Fate, Gate};
use super::relay::{Relay, Step};
use super::statement::{Answered, Done, Failure, Look, Statement};
use super::truth::{Broken, Held, Plan, Subscriber, hold};
use super::world::{TICK, World};
use crate::support::within;

/// `database.statement_timeout`, as it comes.
const STATEMENT_TIMEOUT: Micros = 30 * SECOND;
/// What a statement may fail with here: a lock that somebody holds, or its time is over.
const FORGIVEN: [&str; 2] = ["55P03", "57014"];
/// … or two of a line would have had their turn; it is tried again with what is there then.
const TURN_TAKEN: &str = "one_delivery_of_a_line_has_its_turn";

/// A statement that is under way.
#[derive(Debug)]
pub struct Slow {
    lane: usize,
    pub relay: RelayId,
    /// Whether its relay waits for it.
    pub awaited: bool,
    statement: Arc<Statement>,
    plan: Option<Plan>,
    since: Micros,
    running: Option<Running>,
}

/// It has begun, and stands at a gate.
#[derive(Debug)]
struct Running {
    key: i32,
    answer: oneshot::Receiver<Result<Done, StoreError>>,
    _task: JoinSet<()>,
}

impl World<'_> {
    /// Has a relay make its next statement, if there is one to make.
    pub async fn step(&mut self, relay: u8, step: Step, fate: Fate) -> Held<bool> {
        let (ground, now) = (self.ground, self.now);
        let Some(relay) = self.relay(relay) else { return Ok(false) };
        let number = relay.number;
        let next = relay.next(step, now);
        let excess = relay.excess();
        hold(excess.is_none(), || format!("relay {number} keeps too much of endpoint {excess:?}"))?;
        let Some(mut statement) = next else { return Ok(false) };
        if matches!(statement, Statement::Floor) {
            // Asked once in a relay's life, right before it looks.
            let floor = statement.run(&ground.store, number).await;
            relay.hear(&statement, floor.map_err(|_| Failure::UNANSWERED), now);
            let Some(look) = relay.next(step, now) else { return Ok(true) };
            statement = look;
        }
        if let Statement::Note { notes } = &statement {
            notes.iter().try_for_each(|note| self.truth.check_note(number, note))?;
        }
        let statement = Arc::new(statement);
        if fate != Fate::Fine {
            self.count(&format!("{fate:?}"));
        }
        match fate {
            Fate::NotRun => self.tell(number, &statement, Err(Failure::UNANSWERED)),
            Fate::Slow(gate) if self.slow.len() < SLOW => {
                self.begin_slowly(number, statement, gate).await?;
            }
            Fate::Fine | Fate::AnswerLost | Fate::Slow(_) => {
                let plan = self.plan(&statement).await;
                let done = statement.run(&self.ground.store, number).await;
                let done = self.see(&statement, plan, done, now)?;
                let lost = fate == Fate::AnswerLost;
                let heard = if lost { Err(Failure::UNANSWERED) } else { done };
                self.tell(number, &statement, heard);
            }
        }
        Ok(true)
    }

    /// Tells a relay what came of its statement.
    fn tell(&mut self, number: RelayId, statement: &Arc<Statement>, done: Answered) {
        let now = self.now;
        let Some(relay) = self.numbered(number) else { return };
        if relay.frozen {
            relay.unheard.push((Arc::clone(statement), done));
        } else {
            relay.busy.remove(&statement.station());
            relay.hear(statement, done, now);
        }
    }

    // ── slow ones ──

    async fn begin_slowly(
        &mut self,
        number: RelayId,
        statement: Arc<Statement>,
        gate: Gate,
    ) -> Held {
        let taken = |lane: &usize| self.slow.iter().all(|slow| slow.lane != *lane);
        let lane = (0..SLOW).find(taken).expect("there are fewer slow ones than lanes");
        if let Some(relay) = self.numbered(number) {
            relay.busy.insert(statement.station());
        }
        let mut slow = Slow {
            lane,
            relay: number,
            awaited: true,
            plan: None,
            since: self.now,
            running: None,
            statement,
        };
        let number = match gate {
            Gate::Beginning => None,
            Gate::Routing => Some(1),
            Gate::Deliveries => Some(2),
            Gate::Row => Some(3),
            Gate::Attempts => Some(4),
        };
        if let Some(number) = number {
            slow.plan = self.plan(&slow.statement).await;
            let key = i32::try_from(lane).expect("there are three") * 10 + number;
            self.ground.close_gate(key).await;
            let mut running = run_beside(&slow, self.ground.slow_store(lane).clone(), key);
            let stands = within("a slow statement to stop or end", async {
                loop {
                    if let Ok(done) = running.answer.try_recv() {
                        return Some(done);
                    }
                    if self.ground.waits_at(key).await {
                        return None;
                    }
                }
            });
            if let Some(done) = stands.await {
                // It did not come by this gate.
                self.ground.open_gate(key).await;
                return self.ended(slow, done);
            }
            slow.running = Some(running);
        }
        self.slow.push(slow);
        Ok(())
    }

    /// Lets a slow statement go on to its end.
    pub async fn finish(&mut self, which: u8) -> Held<bool> {
        let Some(index) = usize::from(which).checked_rem(self.slow.len()) else { return Ok(false) };
        let mut slow = self.slow.remove(index);
        let done = match slow.running.take() {
            Some(running) => {
                self.ground.open_gate(running.key).await;
                within("a slow statement to end", running.answer).await.expect("it answers")
            }
            None => {
                slow.plan = self.plan(&slow.statement).await;
                slow.statement.run(&self.ground.store, slow.relay).await
            }
        };
        self.ended(slow, done)?;
        Ok(true)
    }

    fn ended(&mut self, slow: Slow, done: Result<Done, StoreError>) -> Held {
        let done = self.see(&slow.statement, slow.plan, done, slow.since)?;
        if slow.awaited {
            self.tell(slow.relay, &slow.statement, done);
        }
        Ok(())
    }

    /// The connection of a slow statement breaks.
    pub fn break_off(&mut self, which: u8) -> bool {
        let Some(index) = usize::from(which).checked_rem(self.slow.len()) else { return false };
        let slow = &mut self.slow[index];
        let was_awaited = std::mem::take(&mut slow.awaited);
        let (relay, statement) = (slow.relay, Arc::clone(&slow.statement));
        if was_awaited {
            self.tell(relay, &statement, Err(Failure::UNANSWERED));
        }
        was_awaited
    }

    /// Time goes by, and the server breaks off what takes too long.
    pub async fn pass(&mut self, by: u32) -> Held<bool> {
        self.now = self.ground.pass(seconds(by)).await;
        self.relays.iter_mut().flatten().for_each(Relay::watch);
        let late = |slow: &Slow, now| now - slow.since > STATEMENT_TIMEOUT;
        while let Some(index) = self.slow.iter().position(|slow| late(slow, self.now)) {
            let mut slow = self.slow.remove(index);
            let Some(running) = slow.running.take() else {
                if slow.awaited {
                    self.tell(slow.relay, &slow.statement, Err(Failure::UNANSWERED));
                }
                continue;
            };
            self.ground.break_off(slow.lane).await;
            let done = within("a statement to be broken off", running.answer).await;
            self.ground.open_gate(running.key).await;
            self.ended(slow, done.expect("it answers"))?;
        }
        Ok(true)
    }

    // ── what is seen ──

    /// What a routing statement that begins now is to do.
    async fn plan(&mut self, statement: &Statement) -> Option<Plan> {
        let Statement::Look(look) = statement else { return None };
        self.find_announcements().await;
        let most = usize::try_from(look.most).expect("a small number");
        Some(self.truth.plan(most, &self.subscribers().await))
    }

    /// Sees what a statement did that began then. Returns what it answers.
    fn see(
        &mut self,
        statement: &Statement,
        plan: Option<Plan>,
        done: Result<Done, StoreError>,
        began: Micros,
    ) -> Held<Answered> {
        let done = match done {
            Ok(done) => done,
            Err(error) => {
                self.forgive(&error)?;
                return Ok(Err(Failure { may_be_of_some_row: error.may_be_of_some_row() }));
            }
        };
        match (statement, &done) {
            (Statement::Look(look), Done::Routed(Some(routed))) => {
                let plan = plan.expect("it was made when the statement began");
                self.see_routed(look, &plan, routed)?;
                self.see_claimed(&routed.claimed, began)?;
            }
            (Statement::Claim { asked, .. }, Done::Claimed(claims)) => {
                let claimed = &claims.claimed;
                for (endpoint, room) in asked.endpoints.iter().zip(&asked.rooms) {
                    within_room(claimed, *endpoint, i32::try_from(*room).unwrap_or(i32::MAX))?;
                }
                self.see_claimed(claimed, began)?;
            }
            (_, Done::Unusual) => self.count("left to the whole statement"),
            (_, Done::Full(_)) => self.count("steps without room"),
            (Statement::Record { attempts, .. }, Done::Recorded(held)) => {
                for attempt in attempts {
                    let pair = (attempt.event_id, attempt.endpoint_id);
                    if !held.has(attempt) {
                        self.count("records refused");
                    } else if let Decision::Retry { after } = attempt.verdict.decision {
                        let after = Micros::try_from(after.as_micros()).expect("less than a year");
                        let owed = self.truth.owed.get_mut(&pair).ok_or_else(|| {
                            Broken(format!("{pair:?} is to be tried again and was never owed"))
                        })?;
                        owed.not_before = began + after;
                    }
                }
            }
            (Statement::RecordAgain { attempts, .. }, Done::Recorded(held)) => {
                hold(held.is_empty(), || format!("{attempts:?} were recorded twice"))?;
                self.count("results recorded again");
            }
            (_, Done::Reaped(reaped)) => {
                let relays = u64::try_from(reaped.relays).unwrap_or(0);
                *self.counts.entry("relays reaped".to_owned()).or_default() += relays;
            }
            _ => {}
        }
        Ok(Ok(done))
    }

    /// An error that a relay gets over.
    pub fn forgive(&mut self, error: &StoreError) -> Held {
        let is_forgiven = error.sqlstate().is_some_and(|code| FORGIVEN.contains(&code.code()));
        match error {
            StoreError::Query { source, .. } if is_turn_taken(source) => self.count("turns taken"),
            _ if is_forgiven => self.count("blocked or broken off"),
            _ => return Err(Broken(format!("a statement failed: {error:?}"))),
        }
        Ok(())
    }

    fn see_routed(&mut self, look: &Look, plan: &Plan, routed: &Routed) -> Held {
        if routed.events == 0 && self.truth.is_late(plan) {
            self.count("steps that came too late");
            return Ok(());
        }
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let cut = (look.by == RouteBy::Steps)
            .then(|| self.truth.cut(plan, usize::try_from(routed.events).unwrap_or(usize::MAX)));
        let plan = cut.as_ref().unwrap_or(plan);
        let expected = (number(plan.events.len()), number(plan.owed.len()));
        hold((routed.events, routed.deliveries) == expected, || {
            format!("routing made {routed:?}, and was to do {plan:?}")
        })?;
        hold(routed.unmatched == number(plan.unmatched) && routed.more == plan.more, || {
            format!("routing said {routed:?}, and was to do {plan:?}")
        })?;
        let claimed = i32::try_from(routed.claimed.len()).unwrap_or(i32::MAX);
        hold(claimed <= look.in_all, || format!("{claimed} claims in a room of {look:?}"))?;
        for one in &routed.claimed {
            let endpoint = one.delivery.endpoint_id;
            let known = look.endpoints.iter().position(|id| *id == endpoint);
            let room = known.map_or(look.of_others, |index| look.rooms[index]);
            within_room(&routed.claimed, endpoint, room)?;
        }
        self.truth.route(plan);
        if routed.events > 0 {
            self.count(&format!("steps by {:?}", look.by));
        }
        Ok(())
    }

    /// What is claimed is owed, due and not expired; what is not to be sent says so.
    fn see_claimed(&mut self, claimed: &[Claimed], began: Micros) -> Held {
        let now = self.now;
        for Claimed { delivery, cancelled } in claimed {
            let pair = (delivery.event_id, delivery.endpoint_id);
            let event = self.truth.event(delivery.event_id)?;
            let owed = self.truth.owed.get(&pair);
            let owed = owed.ok_or_else(|| Broken(format!("{pair:?} is claimed and not owed")))?;
            hold(owed.not_before <= now + TICK, || {
                format!("{pair:?} is claimed at {now}, before {}", owed.not_before)
            })?;
            let expired = event.expires_at.is_some_and(|at| at <= began);
            hold(cancelled.is_some() || !expired, || {
                format!("{pair:?} is claimed at {now} to be sent, and expired: {event:?}")
            })?;
            if let Some(reason) = cancelled {
                self.count(&format!("cancelled: {reason}"));
            }
        }
        Ok(())
    }

    /// Every endpoint as its row says.
    pub async fn subscribers(&self) -> Vec<Subscriber> {
        let statement = "select id, enabled, tenant, subscriptions, filter is not null, ordered \
             from posthaste.endpoints order by id";
        let rows = self.ground.read(statement).await;
        let subscriber = |row: &tokio_postgres::Row| Subscriber {
            id: row.get(0),
            enabled: row.get(1),
            tenant: row.get(2),
            subscriptions: row.get(3),
            ordered: row.get(5),
            more_than: row.get::<_, bool>(4).then_some(super::application::FILTERED_ABOVE),
        };
        rows.iter().map(subscriber).collect()
    }
}

fn is_turn_taken(error: &tokio_postgres::Error) -> bool {
    let constraint = error.as_db_error().and_then(tokio_postgres::error::DbError::constraint);
    constraint == Some(TURN_TAKEN)
}

fn within_room(claimed: &[Claimed], endpoint: EndpointId, room: i32) -> Held {
    let count = claimed.iter().filter(|one| one.delivery.endpoint_id == endpoint).count();
    hold(i32::try_from(count).is_ok_and(|count| count <= room), || {
        format!("{count} claims for endpoint {endpoint}, which has room for {room}")
    })
}

fn run_beside(slow: &Slow, store: posthaste::store::Store, key: i32) -> Running {
    let (tell, answer) = oneshot::channel();
    let mut task = JoinSet::new();
    let (statement, relay) = (Arc::clone(&slow.statement), slow.relay);
    task.spawn(async move {
        // Nobody listens if the list has failed meanwhile.
        drop(tell.send(statement.run(&store, relay).await));
    });
    Running { key, answer, _task: task }
}
