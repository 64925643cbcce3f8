//! What the stations of one term share: where results go, how much is held, what has ended.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use metrics::Counter;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::health::EffectOn;
use super::history::History;
use super::lane::{FIRST_CLAIMS_PER_REQUEST, Lane, Lanes};
use super::limits::budget::Budget;
use super::limits::files::Files;
use super::ordering::ToLookAt;
use super::record::Finished;
use crate::clock::{Clock, Present};
use crate::config::Config;
use crate::model::due::{Due, HORIZON};
use crate::model::endpoint::EndpointId;
use crate::model::health::HealthPolicy;
use crate::model::rules::RuleSet;
use crate::model::schedule::{Delays, Schedule};
use crate::model::share::Share;
use crate::model::verdict::Decision;
use crate::observe::metrics::Metrics;
use crate::observe::status::Status;
use crate::outbound::client::Client;
use crate::store::attempts::Attempt;
use crate::store::relays::Registration;
use crate::store::{RelayId, Store, StoreError};

/// Claims held at once for each request that may be in flight. Enough that workers do not wait for
/// statements; what is held beyond is memory, and possible duplicates after a crash.
const CLAIMS_PER_REQUEST: usize = 4;

/// How many files senders of webhooks and what they need may take.
fn files_of_senders(config: &Config) -> usize {
    /// The spool, and the way to the database.
    const BESIDE: usize = 16;
    config.ingest.listen.map_or(0, |_| config.ingest.max_connections + BESIDE)
}

/// How many claims a relay holds at most.
pub(super) fn most_claims(config: &Config) -> usize {
    config.relay.max_in_flight * CLAIMS_PER_REQUEST
}

/// See the module. Made for one term, dropped with it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) store: Store,
    pub(super) client: Client,
    pub(super) clock: Present,
    pub(super) metrics: Arc<Metrics>,
    pub(super) status: Status,
    pub(super) history: Arc<History>,
    pub(super) relay: RelayId,
    pub(super) registration: Registration,
    pub(super) schedule: Schedule,
    pub(super) health_policy: HealthPolicy,
    pub(super) lanes: Lanes,
    pub(super) budget: Budget,
    pub(super) files: Files,
    pub(super) holdings: Holdings,
    /// Room for claims has become free.
    pub(super) room_freed: Notify,
    pub(super) lines: ToLookAt,
    /// An endpoint is to be disabled or deleted.
    pub(super) effects_wait: Notify,
    /// The lease was taken up again, perhaps in a database that has forgotten something.
    pub(super) retaken: Notify,
    pub(super) workers: TaskTracker,
    pub(super) stations: TaskTracker,
    pub(super) sessions: TaskTracker,
    /// Claim nothing more.
    pub(super) ending: CancellationToken,
    /// The grace is over: end what is in flight.
    pub(super) abort: CancellationToken,
    /// Every worker has gone: record what is there.
    pub(super) no_more_results: CancellationToken,
    /// All is recorded: look at lines a last time.
    pub(super) recorded: CancellationToken,
    /// Nothing is left to do: give the lease back.
    pub(super) done: CancellationToken,
    /// The lease is lost, or it is no use waiting for the database any longer.
    pub(super) over: CancellationToken,
    results: mpsc::Sender<Finished>,
    rules: RwLock<Arc<RuleSet>>,
    due: Mutex<Due>,
    effects: Mutex<Vec<EffectOn>>,
    share: Mutex<Share>,
    /// Something is due of endpoints that other relays serve.
    others_are_to_know: AtomicBool,
    /// Milliseconds after `began` at which the lease was last renewed.
    renewed: AtomicU64,
    began: Instant,
    /// Whether claims may be ours that we do not know of.
    doubt: AtomicBool,
    last_complaint: Mutex<Option<Instant>>,
}

/// What a term is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) config: Arc<Config>,
    pub(super) store: Store,
    pub(super) client: Client,
    pub(super) clock: Present,
    pub(super) metrics: Arc<Metrics>,
    pub(super) status: Status,
    pub(super) history: Arc<History>,
    pub(super) registration: Registration,
    pub(super) share: Share,
    pub(super) rules: RuleSet,
    pub(super) results: mpsc::Sender<Finished>,
    pub(super) sessions: TaskTracker,
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Self {
        let config = parts.config;
        let (retry, health) = (&config.retry, &config.health);
        let schedule = Schedule {
            delays: Delays::Formula {
                exponent: retry.exponent,
                jitter_min: retry.jitter_min,
                jitter_max: retry.jitter_max,
                cap: retry.cap,
            },
            max_attempts: Some(retry.max_attempts),
            max_age: retry.max_age,
        };
        let health_policy = HealthPolicy {
            failure_threshold: health.failure_threshold,
            rejection_threshold: health.rejection_threshold,
            first_pause: health.first_pause,
            longest_pause: health.longest_pause,
            disable_after: health.disable_after,
            ..HealthPolicy::default()
        };
        Self {
            schedule,
            health_policy,
            lanes: Lanes::default(),
            budget: Budget::new(config.relay.max_in_flight),
            files: Files::of_this_process(files_of_senders(&config)),
            holdings: Holdings::default(),
            room_freed: Notify::new(),
            lines: ToLookAt::default(),
            effects_wait: Notify::new(),
            retaken: Notify::new(),
            workers: TaskTracker::new(),
            stations: TaskTracker::new(),
            sessions: parts.sessions,
            ending: CancellationToken::new(),
            abort: CancellationToken::new(),
            no_more_results: CancellationToken::new(),
            recorded: CancellationToken::new(),
            done: CancellationToken::new(),
            over: CancellationToken::new(),
            results: parts.results,
            rules: RwLock::new(Arc::new(parts.rules)),
            due: Mutex::default(),
            effects: Mutex::default(),
            share: Mutex::new(parts.share),
            others_are_to_know: AtomicBool::new(false),
            renewed: AtomicU64::new(0),
            began: Clock.instant(),
            doubt: AtomicBool::new(false),
            last_complaint: Mutex::new(None),
            config,
            store: parts.store,
            client: parts.client,
            clock: parts.clock,
            metrics: parts.metrics,
            status: parts.status,
            history: parts.history,
            relay: parts.registration.relay,
            registration: parts.registration,
        }
    }

    /// Hands a finished delivery to the recorder. Never waits for long: there is a place for every
    /// claim that may be held.
    pub(super) async fn report(&self, finished: Finished) {
        if self.results.send(finished).await.is_err() {
            tracing::error!(
                "a result came after the recorder had ended; its claim will be released"
            );
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.is_cancelled() || self.over.is_cancelled()
    }

    /// How many more deliveries may be claimed in all. None by a relay that may be taken for dead:
    /// it could not send them, and others can.
    pub(super) fn room_for_claims(&self) -> usize {
        if !self.may_send() {
            return 0;
        }
        let count = most_claims(&self.config).saturating_sub(self.holdings.count());
        let bytes = self.room_for_bytes();
        // Events are as large as they have been lately, one hopes; one at least always goes.
        let by_bytes = bytes / self.holdings.mean_bytes().max(1);
        if self.holdings.count() == 0 { count.min(by_bytes).max(1) } else { count.min(by_bytes) }
    }

    /// How many more bytes of events may be held.
    pub(super) fn room_for_bytes(&self) -> usize {
        self.config.relay.max_in_flight_bytes.saturating_sub(self.holdings.bytes())
    }

    /// How many more an endpoint may claim that has so many: no more than it then leaves free, so that
    /// one that was fast and hangs has half of them at most, and something is left for the next, as with
    /// the [`Budget`].
    pub(super) fn share_of_claims(&self, claimed: usize) -> usize {
        self.room_for_claims().saturating_sub(claimed).div_ceil(2)
    }

    /// The room of an endpoint that has no lane yet.
    pub(super) fn first_room(&self) -> usize {
        let requests = usize::try_from(self.config.delivery.initial_window).unwrap_or(usize::MAX);
        requests.saturating_mul(FIRST_CLAIMS_PER_REQUEST).min(self.share_of_claims(0))
    }

    /// Whether the lease is fresh enough to send under: well before anybody takes us for dead. Leases
    /// go by the real time, as those who would reap us do.
    pub(super) fn may_send(&self) -> bool {
        let renewed = Duration::from_millis(self.renewed.load(Ordering::Relaxed));
        Clock.since(self.began).saturating_sub(renewed) < self.config.relay.lease.mul_f64(2.0 / 3.0)
    }

    /// The lease was renewed by a statement that began then.
    pub(super) fn renewed(&self, at: Instant) {
        let since = at.saturating_duration_since(self.began);
        self.renewed.store(u64::try_from(since.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn leave_doubt(&self, doubt: bool) {
        self.doubt.store(doubt, Ordering::Relaxed);
    }

    /// Whether nothing can be claimed by us any more. Otherwise our row in `relays` stays: the next
    /// relay finds us dead and releases what there is, with an interrupted attempt for each.
    pub(super) fn leaves_nothing(&self) -> bool {
        !self.over.is_cancelled() && !self.doubt.load(Ordering::Relaxed)
    }

    pub(super) fn rules(&self) -> Arc<RuleSet> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_rules(&self, rules: RuleSet) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    pub(super) fn due(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which of how many relays this one is.
    pub(super) fn share(&self) -> Share {
        *self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Relays have come or gone: limits are divided anew, and what is beyond this relay's part is given back.
    pub(super) async fn divide(self: &Arc<Self>, share: Share) {
        let before = std::mem::replace(
            &mut *self.share.lock().unwrap_or_else(PoisonError::into_inner),
            share,
        );
        if before != share {
            tracing::info!(relays = share.relays(), "limits are divided anew");
            for lane in self.lanes.all() {
                lane.divide(self);
                self.give_back_excess(&lane).await;
            }
            self.room_freed.notify_one();
        }
    }

    /// Gives back what was claimed for a lane and others can send sooner.
    pub(super) async fn give_back_excess(&self, lane: &Arc<Lane>) {
        for delivery in lane.take_excess(self) {
            self.report(Finished::unsent(Some(lane), &delivery)).await;
            self.let_others_know();
        }
    }

    /// Something is due of an endpoint that other relays serve, and they may not know.
    pub(super) fn let_others_know(&self) {
        self.others_are_to_know.store(true, Ordering::Relaxed);
        self.room_freed.notify_one();
    }

    pub(super) fn are_others_to_know(&self) -> bool {
        self.others_are_to_know.load(Ordering::Relaxed)
    }

    pub(super) fn others_know(&self) {
        self.others_are_to_know.store(false, Ordering::Relaxed);
    }

    /// The endpoint is owed something unclaimed in so long.
    pub(super) fn due_in(&self, endpoint: EndpointId, due_in: Duration) {
        self.due().put(endpoint, self.clock.instant() + due_in.min(HORIZON));
    }

    pub(super) fn effects(&self) -> MutexGuard<'_, Vec<EffectOn>> {
        self.effects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has something done to an endpoint soon.
    pub(super) fn apply_soon(&self, effect: EffectOn) {
        self.effects().push(effect);
        self.effects_wait.notify_one();
    }

    /// A number from 0 to 1, by chance.
    #[expect(
        clippy::unused_self,
        reason = "chance comes from here alone, as the time does from the clock"
    )]
    pub(super) fn draw(&self) -> f64 {
        fastrand::f64()
    }

    /// Counts a recorded attempt.
    pub(super) fn count(&self, attempt: &Attempt) {
        let metrics = &self.metrics;
        if let Some(outcome) = &attempt.outcome {
            metrics.attempts(outcome).increment(1);
            metrics.attempt_duration.record(attempt.took);
        }
        match attempt.verdict.decision {
            Decision::Delivered => &metrics.deliveries.delivered,
            Decision::Retry { .. } => &metrics.deliveries.retry,
            Decision::Dead => &metrics.deliveries.dead,
            Decision::Cancelled => &metrics.deliveries.cancelled,
        }
        .increment(1);
    }

    /// Shows the gauges as they are.
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    pub(super) fn show(&self) {
        self.metrics.in_flight.set(self.budget.in_flight() as f64);
        self.metrics.claimed.set(self.holdings.count() as f64);
        self.metrics.in_flight_bytes.set(self.holdings.bytes() as f64);
        let waiting = self.results.max_capacity() - self.results.capacity();
        self.metrics.results_waiting.set(waiting as f64);
    }

    /// Says, at most once a second, that the database fails us; and that we are not ready.
    pub(super) fn complain(&self, errors: &Counter, error: &StoreError) {
        errors.increment(1);
        self.set_ready(Err(error.in_brief()));
        if error.is_transient() {
            self.status.is_away();
        }
        let now = self.clock.instant();
        let mut last = self.last_complaint.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| now.saturating_duration_since(last) >= COMPLAIN_EVERY) {
            *last = Some(now);
            let (said, at) = (error.in_full(), self.store.database().address());
            if let StoreError::Strayed { .. } = error {
                tracing::error!(error = said, at, "this is another database; trying again");
            } else {
                tracing::warn!(error = said, at, "the database failed us; trying again");
            }
        }
    }

    /// A round has come to its end. Where an address has led elsewhere, that is not all there is to say.
    pub(super) fn well(&self) {
        if let Some(away) = self.status.is_back() {
            let (at, away_s) = (self.store.database().address(), away.as_secs_f64());
            tracing::info!(at, away_s, "the database is back");
        }
        let strayed = self.store.database().strayed();
        self.set_ready(strayed.map_or(Ok(()), |where_to| Err(where_to.to_owned())));
    }

    fn set_ready(&self, ready: Result<(), String>) {
        if !self.is_ending() {
            self.status.set_ready(ready);
        }
    }

    pub(super) fn backoff(&self) -> Backoff {
        Backoff { next: FIRST_BACKOFF }
    }
}

/// A database that is away fails every statement of every station.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// Long enough not to hammer a database that is starting, short enough to be there when it has.
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// Waits between tries, twice as long each time, with jitter.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// Waits, unless it is told that there is no more time.
    pub(super) async fn wait(&mut self, enough: &CancellationToken) {
        let wait = self.next.mul_f64(0.5 + fastrand::f64());
        self.next = (self.next * 2).min(LONGEST_BACKOFF);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = enough.cancelled() => {}
        }
    }
}

/// What this relay has claimed and not recorded.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    count: AtomicUsize,
    bytes: AtomicUsize,
    /// Of the events of one claim statement after the other.
    mean_bytes: AtomicUsize,
    tokens: Mutex<Tokens>,
}

/// Under which tokens it is held.
#[derive(Debug, Clone, Default)]
pub(super) struct Tokens {
    /// Those that still hold something, and how much.
    pub(super) held: HashMap<i64, usize>,
    /// Of the statement that claims now or claimed last. What it has claimed is not here yet.
    pub(super) newest: i64,
}

impl Holdings {
    /// A statement is about to claim under this token; all before it has been [taken](Self::take).
    pub(super) fn begin(&self, token: i64) {
        self.tokens().newest = token;
    }

    pub(super) fn take(&self, token: i64, count: usize, bytes: usize) {
        *self.tokens().held.entry(token).or_default() += count;
        self.count.fetch_add(count, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let mean = bytes / count.max(1);
        // Quick to believe in larger ones, slow in smaller ones.
        let before = self.mean_bytes.load(Ordering::Relaxed);
        let after = if mean > before { mean } else { before - (before - mean) / 4 };
        self.mean_bytes.store(after, Ordering::Relaxed);
    }

    /// These, by token and bytes, are recorded or released.
    pub(super) fn give_back(&self, settled: impl Iterator<Item = (i64, usize)>) {
        let (mut count, mut all_bytes) = (0, 0);
        let mut tokens = self.tokens();
        for (token, bytes) in settled {
            count += 1;
            all_bytes += bytes;
            if let Entry::Occupied(mut held) = tokens.held.entry(token) {
                *held.get_mut() -= 1;
                if *held.get() == 0 {
                    held.remove();
                }
            }
        }
        self.count.fetch_sub(count, Ordering::Relaxed);
        self.bytes.fetch_sub(all_bytes, Ordering::Relaxed);
    }

    /// The tokens at this moment.
    pub(super) fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn mean_bytes(&self) -> usize {
        self.mean_bytes.load(Ordering::Relaxed)
    }
}
