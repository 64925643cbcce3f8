//! Keeps lines moving: an ordered endpoint's deliveries of one key, of which only the first is due.
//!
//! Recording lets the next one follow. But recording does not see what is being routed at the same
//! time, nor routing what is being recorded; so each of them has the line looked at once more when
//! it has committed, and one of the two sees it. What a crash leaves standing is found by looking at
//! all lines: at the beginning, when dead relays were reaped, after steering, and with upkeep.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::Shared;
use super::database::Backoff;
use crate::model::endpoint::EndpointId;
use crate::store::StoreError;
use crate::store::ordering::{Line, give_turns, lines};

/// Lines that one statement looks at.
const LINES_PER_STATEMENT: u32 = 1000;

/// The lines to be looked at.
#[derive(Debug, Default)]
pub(super) struct ToLookAt {
    lines: Mutex<BTreeSet<Line>>,
    all: AtomicBool,
    some: Notify,
}

impl ToLookAt {
    /// Nobody may have the turn in these.
    pub(super) fn these(&self, lines: impl IntoIterator<Item = Line>) {
        let mut waiting = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extend(lines);
        if !waiting.is_empty() {
            self.some.notify_one();
        }
    }

    /// Nobody may have the turn in any line.
    pub(super) fn all(&self) {
        self.all.store(true, Ordering::Relaxed);
        self.some.notify_one();
    }

    fn is_all(&self) -> bool {
        self.all.load(Ordering::Relaxed)
    }

    fn take_all(&self) -> bool {
        self.all.swap(false, Ordering::Relaxed)
    }

    fn take(&self) -> Vec<Line> {
        let mut waiting = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let most = usize::try_from(LINES_PER_STATEMENT).unwrap_or(usize::MAX);
        let rest = waiting.iter().nth(most).cloned();
        let rest = rest.map(|first| waiting.split_off(&first)).unwrap_or_default();
        std::mem::replace(&mut *waiting, rest).into_iter().collect()
    }
}

/// Looks at lines until everything is recorded, and then a last time. Whether nothing is left to be
/// looked at.
pub(super) async fn keep_moving(shared: Arc<Shared>) -> bool {
    shared.lines.all();
    let mut backoff = Backoff::default();
    let mut rest_until = shared.clock.instant();
    loop {
        let last = shared.term.recorded.is_cancelled();
        if shared.term.over.is_cancelled() {
            return false;
        }
        match look(&shared, &mut rest_until, last).await {
            Ok(()) => backoff = Backoff::default(),
            Err(error) => {
                shared.database.failed(
                    &shared.term,
                    &shared.metrics.database_errors.record,
                    &error,
                );
                backoff.wait(&shared.term.recorded).await;
                if last {
                    return false;
                }
                continue;
            }
        }
        if last {
            return true;
        }
        let now = shared.clock.instant();
        // Every arm may be dropped: they only wait.
        tokio::select! {
            () = shared.lines.some.notified() => {}
            () = tokio::time::sleep(rest_until - now), if shared.lines.is_all() && rest_until > now => {}
            () = shared.term.recorded.cancelled() => {}
            () = shared.term.over.cancelled() => {}
        }
    }
}

/// Looks at what there is to be looked at. All lines are not looked at too often: however many there
/// are, the database has twenty times as long to itself.
async fn look(shared: &Shared, rest_until: &mut Instant, last: bool) -> Result<(), StoreError> {
    const REST: u32 = 20;
    let began = shared.clock.instant();
    if (last || began >= *rest_until) && shared.lines.take_all() {
        look_at_all(shared).await.inspect_err(|_| shared.lines.all())?;
        let ended = shared.clock.instant();
        *rest_until = ended + ended.saturating_duration_since(began) * REST;
    }
    loop {
        let these = shared.lines.take();
        if these.is_empty() {
            return Ok(());
        }
        look_at(shared, &these).await.inspect_err(|_| shared.lines.these(these.clone()))?;
    }
}

async fn look_at_all(shared: &Shared) -> Result<(), StoreError> {
    let mut after = (EndpointId::MIN, String::new());
    loop {
        let these = lines(&shared.database.store, &after, LINES_PER_STATEMENT).await?;
        let Some(last) = these.last() else { return Ok(()) };
        after.clone_from(last);
        look_at(shared, &these).await?;
    }
}

async fn look_at(shared: &Shared, lines: &[Line]) -> Result<(), StoreError> {
    let given = give_turns(&shared.database.store, lines).await?;
    if given.is_empty() {
        return Ok(());
    }
    for (endpoint, due_in) in given {
        shared.claims.due_in(endpoint, due_in);
    }
    shared.claims.room_freed.notify_one();
    Ok(())
}
