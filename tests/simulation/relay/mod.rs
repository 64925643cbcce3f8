//! A relay in the simulation: it asks the crate's own values what to do next, makes the statement
//! that follows, one at a time, and tells them the answer. It holds no clock: every moment is
//! handed in.
//!
//! What is due, what is claimed and how, what is sent and given back is said by `posthaste::model`
//! and the claims by `posthaste::relay`. The operation list chooses when each station has its turn,
//! what goes wrong, and how much is written down at once.

mod dispatch;
mod hear;
mod record;
mod send;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use posthaste::config::Config;
use posthaste::model::due::Due;
use posthaste::model::endpoint::EndpointId;
use posthaste::model::lease::is_settled;
use posthaste::model::share::Share;
use posthaste::model::verdict::Effect;
use posthaste::relay::{Booked, Ended, Holdings};
use posthaste::store::RelayId;
use posthaste::store::attempts::Attempt;
use posthaste::store::relays::{Heartbeat, Lease, Registration};

use self::dispatch::Dispatcher;
use self::record::Lines;
use super::ground::{Micros, timestamp};
use super::lane::{InFlight, Lane};
use super::statement::{Answered, Statement, Station};

/// See the module.
#[derive(Debug)]
pub struct Relay {
    pub number: RelayId,
    pub registration: Registration,
    /// `None`: its session was lost, and is to be taken up again.
    pub lease: Option<Lease>,
    /// Whether that session still is, as the server sees it.
    pub has_session: bool,
    held_since: Micros,
    pub renewed_at: Micros,
    /// It has renewed and may look for the dead.
    pub may_reap: bool,
    pub frozen: bool,
    pub stopping: bool,
    /// What waits for a statement.
    pub busy: BTreeSet<Station>,
    /// What was answered while it was frozen.
    pub unheard: Vec<(Arc<Statement>, Answered)>,
    pub config: Arc<Config>,
    dispatcher: Dispatcher,
    due: Due,
    holdings: Arc<Holdings>,
    /// Claimed, and not assigned yet.
    fresh: Vec<Booked>,
    /// Endpoints that were changed since their lanes were opened.
    changed: Vec<EndpointId>,
    pub lanes: BTreeMap<EndpointId, Lane>,
    pub in_flight: Vec<InFlight>,
    results: VecDeque<Ended>,
    batch: Vec<Ended>,
    /// What of the batch was not begun has been given back.
    released: bool,
    /// What was recorded, and is to be recorded again when there is nothing else to record.
    doubted: Vec<Attempt>,
    effects: Vec<(EndpointId, Effect, String)>,
    kept_up: u32,
    share: Share,
    lines: Lines,
}

/// Which of its stations has its turn.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// If the dispatcher routes, it takes this many events at most; `FEW`: as many as it says.
    Turn {
        most: u8,
    },
    Reap,
    Record {
        most: u8,
    },
    Lines,
    Note,
    Upkeep,
}

impl Relay {
    pub fn new(lease: Lease, config: Arc<Config>, now: Micros) -> Self {
        let registration = lease.registration();
        Self {
            number: registration.relay,
            registration,
            lease: Some(lease),
            has_session: true,
            held_since: now,
            renewed_at: now,
            may_reap: false,
            frozen: false,
            stopping: false,
            busy: BTreeSet::new(),
            unheard: Vec::new(),
            dispatcher: Dispatcher::new(&config, registration.relay, now),
            config,
            due: Due::default(),
            holdings: Arc::default(),
            fresh: Vec::new(),
            changed: Vec::new(),
            lanes: BTreeMap::new(),
            in_flight: Vec::new(),
            results: VecDeque::new(),
            batch: Vec::new(),
            released: false,
            doubted: Vec::new(),
            effects: Vec::new(),
            kept_up: 0,
            share: Share::ALONE,
            lines: Lines::all(),
        }
    }

    /// The lease was renewed by a statement that began then.
    pub fn renewed(&mut self, at: Micros, found: &Heartbeat) {
        let settled = is_settled(since(self.held_since, at));
        self.may_reap = settled && found.somebody_is_dead;
        self.renewed_at = at;
        let share = Share::among(&found.others, self.number);
        if share != self.share {
            self.share = share;
            self.lanes.values_mut().for_each(|lane| lane.state.divide(share));
            self.give_back_excess();
        }
    }

    /// The lease was taken again.
    pub fn retaken(&mut self, lease: Lease, at: Micros) {
        self.lease = Some(lease);
        self.has_session = true;
        (self.held_since, self.renewed_at, self.may_reap) = (at, at, false);
    }

    pub fn lease_length(&self) -> Duration {
        self.config.relay.lease
    }

    /// How many claims it holds.
    pub fn claims(&self) -> usize {
        self.holdings.count()
    }

    /// Whether nothing can be claimed by it any more.
    pub fn leaves_nothing(&self) -> bool {
        self.claims() == 0 && !self.is_uncertain() && !self.has_lines()
    }

    /// Whether it still has to look at lines.
    pub fn has_lines(&self) -> bool {
        self.lines.are_to_be_looked_at()
    }

    /// Its next statement, if there is one to make.
    pub fn next(&mut self, step: Step, now: Micros) -> Option<Statement> {
        let station = match step {
            Step::Turn { .. } => Station::Dispatch,
            Step::Reap => Station::Lease,
            Step::Record { .. } => Station::Recorder,
            Step::Lines => Station::Lines,
            Step::Note => Station::Noter,
            Step::Upkeep => Station::Upkeep,
        };
        if self.busy.contains(&station) {
            return None;
        }
        match step {
            Step::Turn { most } => self.turn(most, now),
            Step::Reap => {
                let lease = self.lease_length();
                std::mem::take(&mut self.may_reap).then_some(Statement::Reap { lease })
            }
            Step::Record { most } => self.record(most, now),
            Step::Lines => self.look_at_lines(),
            Step::Note => self.note(),
            Step::Upkeep => Some(self.upkeep()),
        }
    }
}

fn since(then: Micros, now: Micros) -> Duration {
    Duration::from_micros(u64::try_from(now - then).unwrap_or(0))
}

/// The instant at which the simulation's clock shows this.
pub fn instant(now: Micros) -> Instant {
    use std::sync::OnceLock;
    static FIRST: OnceLock<(Instant, Micros)> = OnceLock::new();
    let (first, shown) = FIRST.get_or_init(|| (posthaste::clock::Clock.instant(), now));
    let since = Duration::from_micros(now.abs_diff(*shown));
    if now >= *shown { *first + since } else { *first - since }
}
