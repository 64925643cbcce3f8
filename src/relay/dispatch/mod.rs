//! The relay's dispatch: look for events and route them, claim what is due, hand it to the lanes, and
//! rest until there is reason to look again. One task does this, one statement at a time; sending
//! and recording go on beside it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

mod claim;

mod wake;

use crate::model::dispatch::Suspects;

use self::wake::{Look, Wake};
use super::Shared;
use super::claims::uncertain::UncertainClaims;
use super::database::Backoff;
use super::history;
use crate::config::Wake as Mode;
use crate::model::endpoint::EndpointId;
use crate::store::StoreError;
use crate::store::deliveries::{due, tell_others};
use crate::store::routing::{FEW, Few, Room, Routed, floor, route, route_few};

/// Deliveries that one routing statement makes, about; with a large fan-out it takes fewer events.
const DELIVERIES_PER_STEP: f64 = 5_000.0;
/// Who hears the bell polls so much less often: an idle database is to notice little of us.
const INTERVALS_BEHIND_THE_BELL: u32 = 5;
/// Where one event makes more deliveries than this, few events are many deliveries.
const FAN_OUT_OF_FEW: f64 = 10.0;
/// After something that `route_few` leaves to `route`. What is unusual seldom comes alone, and a try costs
/// the database as much as a look.
const UNUSUAL_PAUSE: Duration = Duration::from_secs(1);
/// Between two notices to other relays, each of which costs all of them a statement.
const TELL_INTERVAL: Duration = Duration::from_millis(20);
/// A backlog is routed on as soon as the lanes that were fed have room again, and only as far as they
/// have: what is routed without room is written once more when it is claimed. But a full lane must not
/// hold up the others' events: where nothing moves, routing goes on after this …
const STUCK_LANES_WAIT: Duration = Duration::from_millis(20);
/// … and where it moves too slowly, after this.
const SLOW_LANES_WAIT: Duration = Duration::from_millis(200);

/// What goes on from one round to the next.
#[derive(Debug)]
struct Dispatcher {
    shared: Arc<Shared>,
    wake: Wake,
    /// No event still to be routed is older.
    floor: Option<Timestamp>,
    /// Number of the last claim statement; fences its claims.
    token: i64,
    /// When to look at the outbox next, besides bell and poll.
    look_at: Option<Instant>,
    poll_at: Instant,
    /// The last step of routing was full.
    backlog: Option<Backlog>,
    routed_at: Instant,
    /// Deliveries per event, lately.
    fan_out: f64,
    /// Until then nothing but the whole statement is tried.
    unusual_until: Instant,
    /// Events that a step may take: fewer after one that failed of what it read.
    most_events: u32,
    suspects: Suspects,
    doubts: UncertainClaims,
    /// When the others may be told again.
    tell_at: Instant,
}

/// What a full step of routing has left.
#[derive(Debug)]
struct Backlog {
    /// The endpoints that were fed by it.
    fed: Vec<EndpointId>,
    /// How many attempts had come to an end there by then.
    finished: u64,
}

/// Goes round until the relay stops or its term is over.
pub(super) async fn run(shared: Arc<Shared>) {
    let now = shared.clock.instant();
    let mut dispatch = Dispatcher {
        wake: Wake::new(&shared),
        floor: None,
        // By chance, so that no two terms have one in common: after a failover that lost rows,
        // not even the numbers of relays and events tell them apart.
        token: fastrand::i64(0..i64::MAX / 2),
        look_at: Some(now),
        poll_at: now,
        backlog: None,
        routed_at: now,
        fan_out: 1.0,
        unusual_until: now,
        most_events: u32::MAX,
        suspects: Suspects::default(),
        doubts: UncertainClaims::default(),
        tell_at: now,
        shared,
    };
    let mut backoff = Backoff::default();
    let pulse = dispatch.shared.database.status.pulse("dispatch", stuck_after(&dispatch.shared));
    while !dispatch.shared.term.is_ending() {
        pulse.beat();
        match dispatch.round().await {
            Ok(()) => {
                dispatch.shared.database.works(&dispatch.shared.term);
                backoff = Backoff::default();
                dispatch.rest().await;
            }
            Err(Failed { during, error }) => {
                let errors = &dispatch.shared.metrics.database_errors;
                let errors = match during {
                    During::Claim => &errors.claim,
                    During::Route => &errors.route,
                };
                dispatch.shared.database.failed(&dispatch.shared.term, errors, &error);
                backoff.wait(&dispatch.shared.term.ending).await;
                dispatch.shared.history.doubt();
                dispatch.look_at = Some(dispatch.shared.clock.instant());
            }
        }
    }
}

/// A round takes a poll interval and a few statements at most; well beyond that it hangs.
fn stuck_after(shared: &Shared) -> Duration {
    let interval = shared.config.relay.poll_interval * INTERVALS_BEHIND_THE_BELL;
    interval + 5 * shared.config.database.statement_timeout
}

/// Why a round did not come to its end.
#[derive(Debug)]
struct Failed {
    during: During,
    error: StoreError,
}

#[derive(Debug)]
enum During {
    Claim,
    Route,
}

impl During {
    /// For `map_err`.
    fn failed(self) -> impl FnOnce(StoreError) -> Failed {
        move |error| Failed { during: self, error }
    }
}

impl Dispatcher {
    async fn round(&mut self) -> Result<(), Failed> {
        self.disown().await.map_err(During::Claim.failed())?;
        if self.wake.reconnect().await {
            self.shared.metrics.wakes.reconnected.increment(1);
            self.shared.lines.all();
            self.poll_at = self.shared.clock.instant();
        }
        let now = self.shared.clock.instant();
        if self.poll_at <= now {
            self.poll().await.map_err(During::Claim.failed())?;
        }
        self.tell_others().await.map_err(During::Claim.failed())?;
        // Whatever claiming fails of, new events go their way.
        let claimed = self.claim_due().await.map_err(During::Claim.failed());
        if self.look_at.is_some_and(|at| at <= now) && self.lanes_are_ready(now) {
            self.look().await.map_err(During::Route.failed())?;
        }
        claimed
    }

    /// Tells the others what is due of endpoints that they serve, now and then.
    async fn tell_others(&mut self) -> Result<(), StoreError> {
        let now = self.shared.clock.instant();
        if self.shared.claims.are_others_to_know() && self.tell_at <= now {
            self.tell_at = now + TELL_INTERVAL;
            self.shared.claims.others_know();
            tell_others(&self.shared.database.store)
                .await
                .inspect_err(|_| self.shared.claims.let_others_know())?;
        }
        Ok(())
    }

    /// What is done however quiet it is: ask what is due, look at the outbox.
    async fn poll(&mut self) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let now = shared.clock.instant();
        let mut changed = Vec::new();
        let due = due(&shared.database.store).await?;
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        shared.metrics.endpoints_waiting.set(due.len() as f64);
        let oldest = due.iter().map(|owed| owed.overdue).max().unwrap_or_default();
        shared.metrics.oldest_due.set(oldest);
        for owed in due {
            shared.claims.due_in(owed.endpoint_id, owed.due_in);
            let lane = shared.lanes.get(owed.endpoint_id);
            if lane.is_some_and(|lane| !lane.is_current(owed.revision, shared.clock.now())) {
                changed.push(owed.endpoint_id);
            }
        }
        // Somebody has changed them, perhaps to end a pause.
        self.open_lanes(&changed).await?;
        shared.lanes.forget_idle(now);
        if shared.config.relay.wake == Mode::Poll {
            // Nobody hears of steering.
            shared.lines.all();
        }
        shared.show();
        let intervals = if self.wake.hears() { INTERVALS_BEHIND_THE_BELL } else { 1 };
        // A tenth of jitter, so that several relays do not poll together.
        let jitter = 0.9 + 0.2 * shared.draw();
        self.poll_at = now + (shared.config.relay.poll_interval * intervals).mul_f64(jitter);
        self.look_at = Some(now);
        Ok(())
    }

    /// For the next statement that claims.
    fn next_token(&mut self) {
        self.token += 1;
        self.shared.claims.holdings.begin(self.token);
    }

    /// The last statement may have claimed something although its answer was lost.
    fn doubt(&mut self) {
        self.doubts.add(self.token);
        self.shared.term.set_uncertain(true);
    }

    /// Gives back what we may have claimed without knowing.
    async fn disown(&mut self) -> Result<(), StoreError> {
        if self.doubts.disown(&self.shared).await? > 0 {
            // They are due, and nobody has been told.
            self.poll_at = self.shared.clock.instant();
        }
        Ok(())
    }

    /// Looks at the outbox, and routes what is there.
    async fn look(&mut self) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        history::check(&shared).await?;
        let floor = match self.floor {
            Some(floor) => floor,
            None => floor(&shared.database.store).await?,
        };
        self.next_token();
        let began = shared.clock.instant();
        let routed = self.route(floor).await.inspect_err(|_| self.doubt())?;
        self.routed_at = shared.clock.instant();
        let Some(routed) = routed else {
            let wait = self.wake.after(Look { events: 0, more: false, xmin: None }).await;
            self.look_at = wait.map(|wait| self.routed_at + wait);
            return Ok(());
        };
        self.floor = Some(routed.floor);
        history::take_in(&shared, routed.step);
        if routed.events > 0 {
            shared.metrics.route_duration.record(shared.clock.since(began));
            shared.metrics.events_routed.increment(u64::from(routed.events));
            shared.metrics.deliveries_routed.increment(u64::from(routed.deliveries));
            shared.metrics.events_unmatched.increment(u64::from(routed.unmatched));
            self.fan_out =
                (self.fan_out + f64::from(routed.deliveries) / f64::from(routed.events)) / 2.0;
        }
        shared.lines.these(routed.lines);
        if routed.closes_span {
            shared.lines.all();
        }
        let look = Look { events: routed.events, more: routed.more, xmin: Some(routed.xmin) };
        {
            let mut due = shared.claims.due();
            for endpoint in &routed.waiting {
                due.put(*endpoint, self.routed_at);
            }
        }
        if routed.waiting.iter().any(|id| shared.lanes.get(*id).is_some_and(|lane| !lane.serves()))
        {
            shared.claims.let_others_know();
        }
        let fed: HashSet<_> = routed.claimed.iter().map(|one| one.delivery.endpoint_id).collect();
        self.assign(routed.claimed).await?;
        self.backlog = (routed.more && routed.deliveries > 0).then(|| {
            let fed: Vec<_> = fed.into_iter().collect();
            Backlog { finished: self.finished_by(&fed), fed }
        });
        let wait = self.wake.after(look).await;
        self.look_at = wait.map(|wait| shared.clock.instant() + wait);
        Ok(())
    }

    async fn route(&mut self, floor: Timestamp) -> Result<Option<Routed>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let shared = &shared;
        // Only lanes that differ from those nothing is known of are named.
        let ordinary = shared.lanes.first_room();
        let (known, rooms): (Vec<_>, Vec<_>) = shared
            .lanes
            .all()
            .iter()
            .map(|lane| (lane.id, lane.room_for_new()))
            .filter(|(_, room)| *room != ordinary)
            .map(|(id, room)| (id, i32::try_from(room).unwrap_or(i32::MAX)))
            .unzip();
        let room = Room {
            endpoints: &known,
            rooms: &rooms,
            of_others: i32::try_from(ordinary).unwrap_or(i32::MAX),
            in_all: i32::try_from(shared.claims.room()).unwrap_or(i32::MAX),
            bytes: i64::try_from(shared.claims.room_for_bytes()).unwrap_or(i64::MAX),
        };
        let now = shared.clock.instant();
        let step = self.events_per_step();
        let few = self.backlog.is_none()
            && self.fan_out <= FAN_OUT_OF_FEW
            && self.most_events > FEW.into()
            && self.unusual_until <= now;
        let routed = async {
            if few {
                match route_few(&shared.database.store, shared.term.relay, self.token, floor, &room)
                    .await?
                {
                    Few::Routed(routed) => return Ok(routed),
                    Few::Unusual => self.unusual_until = now + UNUSUAL_PAUSE,
                }
            }
            route(&shared.database.store, shared.term.relay, self.token, step, floor, &room).await
        };
        let routed = routed.await;
        // What it read may have been too much for it. Fewer are tried then, down to a single one, and more again
        // with each step that succeeds.
        self.most_events = match &routed {
            Ok(_) => self.most_events.saturating_mul(2),
            Err(error) if error.may_be_of_some_row() => {
                let tried = if few { FEW.into() } else { step };
                (tried / 2).max(1)
            }
            Err(_) => self.most_events,
        };
        routed
    }

    /// How many events to route: in a backlog no more than there is room for, unless that is little.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "clamped to 1 and the batch"
    )]
    fn events_per_step(&self) -> u32 {
        let batch = (self.shared.config.relay.batch as f64).min(self.most_events.into());
        let room = self.backlog.as_ref().map_or(0, |backlog| self.room_of(&backlog.fed)) as f64;
        let deliveries = if room * 2.0 >= batch { room } else { DELIVERIES_PER_STEP };
        (deliveries.min(DELIVERIES_PER_STEP) / self.fan_out.max(0.01)).clamp(1.0, batch) as u32
    }

    /// While a backlog is routed: whether the lanes that were fed have room for another half step.
    fn lanes_are_ready(&self, now: Instant) -> bool {
        let Some(backlog) = &self.backlog else { return true };
        let room = self.room_of(&backlog.fed);
        let waited = now.saturating_duration_since(self.routed_at);
        room * 2 >= self.shared.config.relay.batch
            || waited >= SLOW_LANES_WAIT
            || (waited >= STUCK_LANES_WAIT && self.finished_by(&backlog.fed) == backlog.finished)
    }

    /// How many attempts have come to an end in these lanes so far.
    fn finished_by(&self, fed: &[EndpointId]) -> u64 {
        let lanes = fed.iter().filter_map(|id| self.shared.lanes.get(*id));
        lanes.map(|lane| lane.finished_so_far()).sum()
    }

    /// How many more deliveries these lanes can take.
    fn room_of(&self, fed: &[EndpointId]) -> usize {
        let shared = &self.shared;
        let lanes = fed.iter().filter_map(|id| shared.lanes.get(*id));
        lanes.map(|lane| lane.room()).sum::<usize>().min(shared.claims.room())
    }

    /// Rests until there is reason for another round.
    async fn rest(&mut self) {
        let shared = Arc::clone(&self.shared);
        let now = shared.clock.instant();
        let mut until = self.poll_at;
        if let Some(at) = self.look_at {
            let patience = [STUCK_LANES_WAIT, SLOW_LANES_WAIT].map(|wait| self.routed_at + wait);
            let ready_at = if self.lanes_are_ready(now) {
                at
            } else if now < patience[0] {
                patience[0]
            } else {
                patience[1]
            };
            until = until.min(at.max(ready_at));
        }
        let due_at = shared.claims.due().next_after(now);
        until = until.min(due_at.unwrap_or(until));
        if shared.claims.are_others_to_know() {
            until = until.min(self.tell_at);
        }
        if let Some(at) = self.wake.reconnect_at() {
            until = until.min(at);
        }
        // Every arm may be dropped: they only wait.
        tokio::select! {
            () = self.wake.rung() => {
                self.wake.heard();
                shared.metrics.wakes.bell.increment(1);
                self.look_at = Some(now);
            }
            () = self.wake.steered() => {
                shared.lines.all();
                shared.metrics.wakes.bell.increment(1);
                self.poll_at = now;
            }
            () = self.wake.due() => self.poll_at = now,
            () = shared.claims.room_freed.notified() => {}
            () = tokio::time::sleep(until.saturating_duration_since(now)) => {
                let wakes = &shared.metrics.wakes;
                if until == self.poll_at {
                    wakes.poll.increment(1);
                } else if Some(until) == due_at {
                    wakes.due.increment(1);
                }
            }
            () = shared.term.ending.cancelled() => {}
        }
    }
}
