//! One term of the lease: from taking it to giving it back, with the steps in which it ends.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::model::lease::sends_for;
use crate::store::RelayId;
use crate::store::relays::Registration;

/// One term, shared by its stations.
#[derive(Debug)]
pub(super) struct Term {
    pub(super) relay: RelayId,
    pub(super) registration: Registration,
    pub(super) workers: TaskTracker,
    pub(super) stations: TaskTracker,
    pub(super) sessions: TaskTracker,
    /// Nothing more is claimed.
    pub(super) ending: CancellationToken,
    /// The grace is over: requests in flight end.
    pub(super) abort: CancellationToken,
    /// Every worker has gone: no result follows those that are there.
    pub(super) no_more_results: CancellationToken,
    /// All is recorded: the ordering keys are looked at a last time.
    pub(super) recorded: CancellationToken,
    /// Nothing is left to do: the lease is given back.
    pub(super) done: CancellationToken,
    /// The lease is lost, or waiting for the database any longer is of no use.
    pub(super) over: CancellationToken,
    /// How long after its last renewal requests may begin.
    sends_for: Duration,
    /// Milliseconds after `began` at which the lease was last renewed.
    renewed: AtomicU64,
    began: Instant,
    /// Whether the database may hold claims for this relay that the relay does not know of.
    is_uncertain: AtomicBool,
}

impl Term {
    /// `lease`: without renewal for this long, other relays take this one for dead.
    pub(super) fn new(registration: Registration, lease: Duration, sessions: TaskTracker) -> Self {
        Self {
            relay: registration.relay,
            registration,
            workers: TaskTracker::new(),
            stations: TaskTracker::new(),
            sessions,
            ending: CancellationToken::new(),
            abort: CancellationToken::new(),
            no_more_results: CancellationToken::new(),
            recorded: CancellationToken::new(),
            done: CancellationToken::new(),
            over: CancellationToken::new(),
            sends_for: sends_for(lease),
            renewed: AtomicU64::new(0),
            began: Clock.instant(),
            is_uncertain: AtomicBool::new(false),
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.is_cancelled() || self.over.is_cancelled()
    }

    /// Whether the lease is fresh enough to send under: well before another relay takes this one
    /// for dead. Leases go by the real time, as the relays that would take over do.
    pub(super) fn may_send(&self) -> bool {
        let renewed = Duration::from_millis(self.renewed.load(Ordering::Relaxed));
        Clock.since(self.began).saturating_sub(renewed) < self.sends_for
    }

    /// The lease was renewed by a statement that began at `at`.
    pub(super) fn renewed(&self, at: Instant) {
        let since = at.saturating_duration_since(self.began);
        self.renewed.store(u64::try_from(since.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn set_uncertain(&self, is_uncertain: bool) {
        self.is_uncertain.store(is_uncertain, Ordering::Relaxed);
    }

    /// Whether the database holds no claim for this relay any more. Otherwise its row in `relays`
    /// stays: the next relay finds it dead and releases its claims, with an interrupted attempt for
    /// each.
    pub(super) fn leaves_nothing(&self) -> bool {
        !self.over.is_cancelled() && !self.is_uncertain.load(Ordering::Relaxed)
    }
}
