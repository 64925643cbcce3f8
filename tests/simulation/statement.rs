//! The statements of a relay: each is one call of the crate's `store`, with all it needs, so that
//! it can run later or elsewhere than it was asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use posthaste::model::dispatch::{ClaimRequest, RouteBy};
use posthaste::model::endpoint::EndpointId;
use posthaste::model::routing::{Cut, LaneRoom, Recipients, StepRoom};
use posthaste::model::tenant::TenantRoom;
use posthaste::relay::{Stepped, route_in_steps};
use posthaste::store::attempts::{Attempt, Commit, RecordedDeliveries, record};
use posthaste::store::deliveries::{
    ClaimKey, DueClaims, Owed, begin_suspect, claim, disown, due, release, tell_others,
};
use posthaste::store::endpoints::{KnownEndpoint, apply_effect, endpoints};
use posthaste::store::health::{Note, note_health};
use posthaste::store::ordering::{Line, give_turns, lines};
use posthaste::store::relays::{Reaped, reap};
use posthaste::store::routing::{Few, Routed, RoutingRoom, floor, route, route_few};
use posthaste::store::upkeep::{
    cancel_orphans, drop_partitions, make_partitions, release_orphans, trim,
};
use posthaste::store::{RelayId, Store, StoreError};
use tokio::sync::Mutex;

/// A day of the outbox may go a minute after its end.
const OUTBOX_RETENTION: Duration = Duration::from_secs(60);
/// Attempts are what is checked in the end, and idempotency keys are known for ever.
const ALL_STAYS: Duration = Duration::from_secs(30 * 86_400);

/// Lines that one statement looks at.
pub const LINES: u32 = 2;

/// One statement, not yet run.
#[derive(Debug)]
pub enum Statement {
    Floor,
    Look(Look),
    Claim {
        token: i64,
        asked: ClaimRequest,
        bytes: usize,
    },
    Endpoints {
        ids: Vec<EndpointId>,
    },
    Due,
    TellOthers,
    Disown {
        tokens: Vec<i64>,
    },
    Release {
        claims: Vec<ClaimKey>,
    },
    Record {
        attempts: Vec<Attempt>,
        now: Instant,
    },
    /// What was recorded before, as if a crash of the server might have lost it.
    RecordAgain {
        attempts: Vec<Attempt>,
        now: Instant,
    },
    /// The next lines after this one.
    Lines {
        after: Line,
    },
    GiveTurns {
        lines: Vec<Line>,
    },
    Reap {
        lease: Duration,
    },
    ApplyEffect {
        endpoint: EndpointId,
        delete: bool,
        reason: String,
    },
    Note {
        notes: Vec<Note>,
    },
    Upkeep(Upkeep),
    /// Those of which no relay knows, the caller not either: tokens under which it holds something,
    /// and its newest.
    ReleaseOrphans {
        held: Vec<i64>,
        newest: i64,
    },
}

/// A step of routing.
#[derive(Debug)]
pub struct Look {
    pub token: i64,
    pub most: u32,
    /// Few are `FEW` at most.
    pub by: RouteBy,
    pub overflow: bool,
    pub floor: Timestamp,
    pub endpoints: Vec<EndpointId>,
    pub rooms: Vec<i32>,
    pub of_others: i32,
    pub in_all: i32,
    pub bytes: i64,
    /// What a step goes by: lanes, and what the relay remembers of endpoints.
    pub lanes: BTreeMap<EndpointId, LaneRoom>,
    pub recipients: Arc<Mutex<Recipients>>,
}

/// One of what upkeep does.
#[derive(Debug, Clone, Copy)]
pub enum Upkeep {
    Make,
    Drop,
    Orphans,
    Trim,
}

/// What a statement has answered.
#[derive(Debug)]
pub enum Done {
    Floor(Timestamp),
    /// `None`: another relay is routing.
    Routed(Option<Routed>),
    /// A step has found a lane full before its first event.
    Full(Cut),
    /// It is left to the whole statement.
    Unusual,
    Claimed(DueClaims),
    Endpoints(Vec<KnownEndpoint>),
    Due(Vec<Owed>),
    Recorded(RecordedDeliveries),
    Lines(Vec<Line>),
    Reaped(Reaped),
    /// Endpoints of lines that moved on, and in how long each has something due.
    TurnsGiven(Vec<(EndpointId, Duration)>),
    /// How much was given back.
    Disowned(u64),
    Nothing,
}

/// What a relay is told: what its statement did, or that it failed.
pub type Answered = Result<Done, Failure>;

/// An error, as a relay sees it.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    /// A statement that asks for less may succeed.
    pub may_be_of_some_row: bool,
}

impl Failure {
    /// The connection broke.
    pub const UNANSWERED: Self = Self { may_be_of_some_row: false };
}

/// What of a relay waits for a statement: each of them for one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Station {
    Dispatch,
    Recorder,
    Lines,
    Lease,
    Noter,
    Upkeep,
}

impl Statement {
    pub fn station(&self) -> Station {
        match self {
            Self::Floor
            | Self::Look(_)
            | Self::Claim { .. }
            | Self::Endpoints { .. }
            | Self::Due
            | Self::TellOthers
            | Self::Disown { .. } => Station::Dispatch,
            Self::Release { .. } | Self::Record { .. } | Self::RecordAgain { .. } => {
                Station::Recorder
            }
            Self::Lines { .. } | Self::GiveTurns { .. } => Station::Lines,
            Self::Reap { .. } => Station::Lease,
            Self::ApplyEffect { .. } | Self::Note { .. } => Station::Noter,
            Self::Upkeep(_) | Self::ReleaseOrphans { .. } => Station::Upkeep,
        }
    }

    pub async fn run(&self, store: &Store, relay: RelayId) -> Result<Done, StoreError> {
        Ok(match self {
            Self::Floor => Done::Floor(floor(store).await?),
            Self::Look(look) => look.run(store, relay).await?,
            Self::Claim { token, asked, bytes } => {
                let claims = claim(store, relay, *token, asked, (*bytes, true)).await?;
                // As if each were sent at once.
                for one in claims.claimed.iter().filter(|one| one.delivery.is_suspect) {
                    begin_suspect(store, relay, ClaimKey::of(&one.delivery)).await?;
                }
                Done::Claimed(claims)
            }
            Self::Endpoints { ids } => {
                let found = endpoints(store, ids).await?.into_iter().map(|found| found.known);
                Done::Endpoints(found.collect::<Result<_, _>>()?)
            }
            Self::Due => Done::Due(due(store).await?),
            Self::TellOthers => {
                tell_others(store).await?;
                Done::Nothing
            }
            Self::Disown { tokens } => Done::Disowned(disown(store, relay, tokens).await?),
            Self::Release { claims } => {
                release(store, relay, claims).await?;
                Done::Nothing
            }
            Self::Record { attempts, now } => {
                let attempts: Vec<&Attempt> = attempts.iter().collect();
                Done::Recorded(record(store, relay, &attempts, *now, Commit::AtOnce).await?)
            }
            Self::RecordAgain { attempts, now } => {
                let attempts: Vec<&Attempt> = attempts.iter().collect();
                Done::Recorded(record(store, relay, &attempts, *now, Commit::Waits).await?)
            }
            Self::Lines { after } => Done::Lines(lines(store, after, LINES).await?),
            Self::GiveTurns { lines } => Done::TurnsGiven(give_turns(store, lines).await?),
            Self::Reap { lease } => Done::Reaped(reap(store, relay, *lease).await?),
            Self::ApplyEffect { endpoint, delete, reason } => {
                apply_effect(store, *endpoint, *delete, reason).await?;
                Done::Nothing
            }
            Self::Note { notes } => {
                note_health(store, notes).await?;
                Done::Nothing
            }
            Self::ReleaseOrphans { held, newest } => {
                release_orphans(store, relay, held, *newest).await?;
                Done::Nothing
            }
            Self::Upkeep(upkeep) => {
                upkeep.run(store).await?;
                Done::Nothing
            }
        })
    }
}

impl Look {
    async fn run(&self, store: &Store, relay: RelayId) -> Result<Done, StoreError> {
        let room = RoutingRoom {
            endpoints: &self.endpoints,
            rooms: &self.rooms,
            of_others: self.of_others,
            in_all: self.in_all,
            bytes: self.bytes,
        };
        if self.by == RouteBy::Steps {
            return self.step(store, relay).await;
        }
        if self.by == RouteBy::Whole {
            let routed = route(store, relay, self.token, self.most, self.floor, &room).await?;
            return Ok(Done::Routed(routed));
        }
        Ok(match route_few(store, relay, self.token, self.floor, &room).await? {
            Few::Routed(routed) => Done::Routed(routed),
            Few::Unusual => Done::Unusual,
        })
    }

    async fn step(&self, store: &Store, relay: RelayId) -> Result<Done, StoreError> {
        let count = |room: i64| usize::try_from(room).unwrap_or(0);
        let room = StepRoom {
            lane: &|id| self.lanes.get(&id).copied(),
            of_others: count(self.of_others.into()),
            tenant: &|tenant| TenantRoom { tenant, claims: usize::MAX, bytes: usize::MAX },
            in_all: count(self.in_all.into()),
            bytes: count(self.bytes),
            may_overflow: self.overflow,
        };
        let by = (relay, self.token);
        let known = &mut *self.recipients.lock().await;
        let stepped = route_in_steps(store, by, self.most, self.floor, &room, known).await?;
        Ok(match stepped {
            Stepped::Routed(routed) => Done::Routed(Some(routed)),
            Stepped::Full(cut) => Done::Full(cut),
            Stepped::OtherRelay => Done::Routed(None),
            Stepped::Unusual => Done::Unusual,
        })
    }
}

impl Upkeep {
    async fn run(self, store: &Store) -> Result<(), StoreError> {
        match self {
            Self::Make => drop(make_partitions(store, 7).await?),
            Self::Drop => {
                drop(drop_partitions(store, OUTBOX_RETENTION, ALL_STAYS).await?);
            }
            Self::Orphans => drop(cancel_orphans(store).await?),
            Self::Trim => trim(store, ALL_STAYS).await?,
        }
        Ok(())
    }
}
