//! The writer: puts each webhook on a disk before its sender is answered. In the outbox, in one
//! commit with others that came meanwhile; or in the spool, while the database is away or too slow.
//!
//! While the spool holds anything, new webhooks go behind it, so that order is kept; the spool is
//! drained as fast as the database takes it. Only this task knows where each webhook is.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::answer::{Kept, Refused};
use super::spool::{Entry, Spool, Unreadable};
use crate::clock::Clock;
use crate::config::IngestSettings;
use crate::model::incoming::Incoming;
use crate::observe::metrics::Metrics;
use crate::observe::status::Status;
use crate::serve::ration::Portion;
use crate::store::received::receive;
use crate::store::{Store, StoreError};

/// The most bytes in one statement, unless one webhook alone has more: they are in memory several
/// times while it is sent.
const STATEMENT_BYTES: usize = 2 << 20;
/// Between two tries to drain the spool: at first, and at most.
const TRY_AGAIN: Duration = Duration::from_millis(100);
const TRY_AGAIN_AT_MOST: Duration = Duration::from_millis(500);
/// How often the spool's gauges are updated though nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A webhook whose sender waits for an answer.
#[derive(Debug)]
pub(super) struct WaitingRequest {
    pub(super) incoming: Incoming,
    pub(super) answer: oneshot::Sender<Result<Kept, Refused>>,
    pub(super) place: RequestPermit,
    pub(super) room: BytesPermit,
}

/// The permit of one request in flight, until it is stored or spooled.
#[derive(Debug)]
pub(super) struct RequestPermit {
    _of_source: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
}

/// The bytes of a body in memory, until it is stored or spooled.
#[derive(Debug)]
pub(super) struct BytesPermit {
    portion: Portion,
    bytes: usize,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
pub(super) struct Writer {
    store: Store,
    spool: Option<Arc<Mutex<Spool>>>,
    batch: usize,
    patience: Duration,
    metrics: Arc<Metrics>,
    status: Status,
    /// Whether the last statement failed: logged once.
    is_away: bool,
}

/// The result of storing some of the spool.
#[derive(Debug, Default)]
struct Drained {
    /// From the oldest on.
    fates: Vec<(Entry, Fate)>,
    /// Why the next entry was not stored, in full.
    error: Option<String>,
}

impl Drained {
    fn failed(error: String) -> Self {
        Self { fates: Vec::new(), error: Some(error) }
    }
}

#[derive(Debug)]
enum Fate {
    Stored,
    Unreadable(Unreadable),
    Refused(StoreError),
}

impl RequestPermit {
    pub(super) fn new(
        of_source: OwnedSemaphorePermit,
        of_all: OwnedSemaphorePermit,
        metrics: &Arc<Metrics>,
    ) -> Self {
        metrics.ingest.in_flight.increment(1);
        Self { _of_source: of_source, _of_all: of_all, metrics: Arc::clone(metrics) }
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.metrics.ingest.in_flight.decrement(1);
    }
}

impl BytesPermit {
    /// None yet.
    pub(super) fn new(portion: Portion, metrics: &Arc<Metrics>) -> Self {
        Self { portion, bytes: 0, metrics: Arc::clone(metrics) }
    }

    /// Whether so many more may be in memory.
    pub(super) fn grow(&mut self, more: usize) -> bool {
        let has_room = self.portion.take(more);
        if has_room {
            self.bytes += more;
            #[expect(
                clippy::cast_precision_loss,
                reason = "a body is far smaller than 2^53 bytes"
            )]
            self.metrics.ingest.in_flight_bytes.increment(more as f64);
        }
        has_room
    }

    pub(super) fn portion(&self) -> &Portion {
        &self.portion
    }
}

impl Drop for BytesPermit {
    fn drop(&mut self) {
        #[expect(clippy::cast_precision_loss, reason = "a body is far smaller than 2^53 bytes")]
        self.metrics.ingest.in_flight_bytes.decrement(self.bytes as f64);
    }
}

impl Writer {
    pub(super) fn new(
        store: Store,
        spool: Option<Spool>,
        settings: &IngestSettings,
        metrics: &Arc<Metrics>,
        status: &Status,
    ) -> Self {
        Self {
            store,
            spool: spool.map(|spool| Arc::new(Mutex::new(spool))),
            batch: settings.batch,
            patience: settings.commit_timeout,
            metrics: Arc::clone(metrics),
            status: status.clone(),
            is_away: false,
        }
    }

    pub(super) fn has_spool(&self) -> bool {
        self.spool.is_some()
    }

    /// Stores or spools requests until the channel is closed.
    pub(super) async fn run(mut self, mut waiting: mpsc::Receiver<WaitingRequest>) {
        let mut came = Vec::with_capacity(self.batch);
        // At most one, beside new requests: if it ran only between two writes to the spool, a
        // steady stream of requests would keep the spool from ever being emptied.
        let mut draining = JoinSet::new();
        let mut try_again = TRY_AGAIN;
        let mut next_try = Instant::now();
        let mut look = every(LOOK_EVERY);
        self.report();
        loop {
            let may_drain = draining.is_empty() && !self.spool_is_empty();
            // Each arm may be dropped: receiving and joining take nothing out until they are done.
            tokio::select! {
                received = waiting.recv_many(&mut came, self.batch) => {
                    if received == 0 {
                        // A drain that is broken off may have been committed. It is made again.
                        return;
                    }
                    self.answer_all(&mut came).await;
                }
                Some(drained) = draining.join_next() => {
                    let drained = drained.unwrap_or_else(|error| Drained::failed(error.to_string()));
                    let stood_still = drained.error.is_some();
                    try_again = if stood_still { (try_again * 2).min(TRY_AGAIN_AT_MOST) } else { TRY_AGAIN };
                    next_try = Instant::now() + if stood_still { try_again } else { Duration::ZERO };
                    self.settle(drained).await;
                }
                () = tokio::time::sleep_until(next_try), if may_drain => {
                    if let Some(drain) = self.drain() {
                        draining.spawn(drain);
                    }
                }
                _ = look.tick() => {}
            }
            self.report();
        }
    }

    fn spool_is_empty(&self) -> bool {
        self.spool.as_ref().is_none_or(|spool| locked(spool).is_empty())
    }

    /// Stores or spools these requests, and answers each.
    async fn answer_all(&mut self, came: &mut Vec<WaitingRequest>) {
        while !came.is_empty() {
            let batch: Vec<_> =
                came.drain(..as_many_as_fit(came, |waiting| waiting.incoming.size())).collect();
            let kept = self.store_or_spool(&batch).await;
            for (waiting, kept) in batch.into_iter().zip(kept) {
                // released first: a sender with its answer may send the next request
                drop((waiting.place, waiting.room));
                // a sender that has gone away hears nothing, and will send the webhook again
                let _heard = waiting.answer.send(kept);
            }
        }
    }

    async fn store_or_spool(&mut self, batch: &[WaitingRequest]) -> Vec<Result<Kept, Refused>> {
        let incoming: Vec<&Incoming> = batch.iter().map(|waiting| &waiting.incoming).collect();
        if !self.spool_is_empty() {
            return self.spool_all(&incoming).await;
        }
        let began = Clock.instant();
        let storing = tokio::time::timeout(self.patience, receive(&self.store, &incoming));
        let error = match storing.await {
            Ok(Ok(stored)) => {
                let counts = &self.metrics.ingest;
                self.metrics.statement_duration.receive.record(Clock.since(began));
                #[expect(clippy::cast_precision_loss, reason = "at most some thousand")]
                counts.batch_size.record(stored.len() as f64);
                counts
                    .duplicates
                    .increment(stored.iter().filter(|stored| !stored.is_new).count() as u64);
                self.is_well();
                return stored.into_iter().map(|stored| Ok(Kept::Stored(stored))).collect();
            }
            Ok(Err(error)) if error.is_about_the_data() => {
                return match batch {
                    [one] => {
                        let Incoming { source, .. } = &one.incoming;
                        tracing::warn!(
                            source,
                            error = error.in_full(),
                            "the database refused a webhook"
                        );
                        vec![Err(Refused::NotStorable)]
                    }
                    // One of them is at fault; the others are stored one by one.
                    batch => {
                        let mut kept = Vec::with_capacity(batch.len());
                        for one in batch {
                            kept.extend(
                                Box::pin(self.store_or_spool(std::slice::from_ref(one))).await,
                            );
                        }
                        kept
                    }
                };
            }
            Ok(Err(error)) => error.in_full(),
            Err(_) => {
                format!("storing took longer than {:?} (ingest.commit_timeout)", self.patience)
            }
        };
        // Whether it was committed may be unknown. The sender ids make a second try harmless.
        self.is_ill(&error);
        self.spool_all(&incoming).await
    }

    async fn spool_all(&self, incoming: &[&Incoming]) -> Vec<Result<Kept, Refused>> {
        let away = || Err(Refused::Away);
        let Some(spool) = self.spool.clone() else {
            return incoming.iter().map(|_| away()).collect();
        };
        let owned: Vec<Incoming> = incoming.iter().map(|&incoming| incoming.clone()).collect();
        let now = Clock.now();
        let put = aside(move || locked(&spool).put(&owned, now)).await;
        let Some((put, error)) = put else { return incoming.iter().map(|_| away()).collect() };
        self.metrics.ingest.spooled.increment(put as u64);
        if let Some(error) = &error {
            tracing::error!(%error, "the spool cannot be written");
        }
        let answer = |n| match &error {
            _ if n < put => Ok(Kept::Spooled),
            Some(_) => away(),
            None => Err(Refused::SpoolFull),
        };
        (0..incoming.len()).map(answer).collect()
    }

    /// Stores the oldest of the spool.
    fn drain(&self) -> Option<impl Future<Output = Drained> + Send + use<>> {
        let spool = Arc::clone(self.spool.as_ref()?);
        let (store, batch) = (self.store.clone(), self.batch);
        Some(async move {
            let read = aside(move || {
                let (oldest, directory) = {
                    let spool = locked(&spool);
                    let oldest = spool.oldest(batch);
                    let fit = as_many_as_fit(&oldest, Entry::size);
                    (oldest[..fit].to_vec(), spool.reader())
                };
                oldest.into_iter().map(|entry| (entry, directory.read(entry))).collect::<Vec<_>>()
            });
            store_read(&store, read.await.unwrap_or_default()).await
        })
    }

    /// Removes drained entries from the spool.
    async fn settle(&mut self, drained: Drained) {
        match &drained.error {
            Some(error) => self.is_ill(error),
            None => self.is_well(),
        }
        let Some(spool) = self.spool.clone() else { return };
        let mut done = Vec::with_capacity(drained.fates.len());
        for (entry, fate) in drained.fates {
            let why = match fate {
                Fate::Stored => {
                    self.metrics.ingest.drained.increment(1);
                    None
                }
                Fate::Unreadable(why) => Some(why.to_string()),
                Fate::Refused(error) => Some(error.in_full()),
            };
            if let Some(why) = &why {
                self.metrics.ingest.set_aside.increment(1);
                let file = entry.set_aside_name();
                tracing::error!(
                    file,
                    why,
                    "set aside a webhook of the spool that cannot be stored"
                );
            }
            done.push((entry, why.is_some()));
        }
        if let Some(Err(error)) = aside(move || locked(&spool).take_out(&done)).await {
            // They are stored a second time after the next start, which changes nothing.
            tracing::error!(%error, "cannot remove stored webhooks from the spool");
        }
    }

    fn is_ill(&mut self, error: &str) {
        self.metrics.database_errors.ingest.increment(1);
        if !self.is_away {
            let then =
                if self.has_spool() { "they go to the spool" } else { "they are answered 503" };
            tracing::warn!(error, then, "webhooks cannot be stored");
        }
        self.is_away = true;
    }

    fn is_well(&mut self) {
        if self.is_away {
            tracing::info!("webhooks can be stored again");
        }
        self.is_away = false;
    }

    /// Updates `/status` and the gauges.
    fn report(&self) {
        let Some(spool) = &self.spool else { return };
        let spool = locked(spool);
        let age = spool
            .oldest_since()
            .map(|since| Clock.now().duration_since(since).as_secs_f64().max(0.0));
        let (files, bytes) = (spool.files(), spool.bytes());
        self.status.tell(
            "spool",
            json!({ "files": files, "bytes": bytes, "oldest_seconds": age, "is_full": spool.is_full(),
                    "set_aside": spool.set_aside() }),
        );
        let gauges = &self.metrics.ingest;
        #[expect(clippy::cast_precision_loss, reason = "both are bounded far below 2^53")]
        {
            gauges.spool_files.set(files as f64);
            gauges.spool_bytes.set(bytes as f64);
        }
        gauges.spool_age.set(age.unwrap_or_default());
    }
}

/// Stores these entries: together or, if one of them is at fault, one by one.
async fn store_read(
    store: &Store,
    mut read: Vec<(Entry, Result<Incoming, Unreadable>)>,
) -> Drained {
    let mut drained = Drained::default();
    // If the machine is short of resources, the file may be good. Entries behind it wait too.
    let may_be_good =
        |read: &Result<_, Unreadable>| read.as_ref().is_err_and(|why: &Unreadable| why.may_pass());
    if let Some(place) = read.iter().position(|(_, read)| may_be_good(read)) {
        let why = read.split_off(place).into_iter().find_map(|(_, read)| read.err());
        drained.error = why.map(|why| format!("a file of the spool: {why}"));
    }
    let good: Vec<_> = read.iter().filter_map(|(_, read)| read.as_ref().ok()).collect();
    let together = match good[..] {
        [] => Ok(Vec::new()),
        _ => receive(store, &good).await,
    };
    let one_by_one = match together {
        Ok(_) => false,
        Err(error) if error.is_about_the_data() => true,
        Err(error) => {
            drained.error = Some(error.in_full());
            return drained;
        }
    };
    for (entry, read) in read {
        let fate = match read {
            Err(why) => Fate::Unreadable(why),
            Ok(incoming) if one_by_one => match receive(store, &[&incoming]).await {
                Ok(_) => Fate::Stored,
                Err(error) if error.is_about_the_data() => Fate::Refused(error),
                Err(error) => {
                    drained.error = Some(error.in_full());
                    return drained;
                }
            },
            Ok(_) => Fate::Stored,
        };
        drained.fates.push((entry, fate));
    }
    drained
}

/// How many items, from the first on, fit into the bytes of one statement; at least 1.
fn as_many_as_fit<T>(items: &[T], size: impl Fn(&T) -> usize) -> usize {
    let mut bytes = 0;
    let fit = items.iter().take_while(|item| {
        bytes += size(item);
        bytes <= STATEMENT_BYTES
    });
    fit.count().max(1).min(items.len())
}

/// Runs work on files, which may block for as long as a disk does. `None`: it panicked.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Some(done),
        Err(error) => {
            tracing::error!(%error, "a bug: a task of the spool panicked");
            None
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    interval
}

/// The spool behind this lock is consistent at every moment, so a panic elsewhere spoils nothing.
fn locked(spool: &Mutex<Spool>) -> std::sync::MutexGuard<'_, Spool> {
    spool.lock().unwrap_or_else(PoisonError::into_inner)
}
