//! Keeps lines moving: an ordered endpoint's deliveries of one key, of which only the first is due.
//!
//! Recording lets the next delivery follow. But recording does not see what is being routed at the
//! same time, nor routing what is being recorded; so each of them has the line looked at once more
//! when it has committed, and one of the two sees it. Lines that a crash leaves standing are found
//! by looking at all of them: at the beginning, when dead relays were reaped, after steering, and
//! with upkeep.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::claims::Claims;
use super::database::{Backoff, Link};
use super::term::Term;
use crate::clock::Present;
use crate::model::endpoint::EndpointId;
use crate::model::ordering::rest_after;
use crate::model::standing::During;
use crate::observe::metrics::Metrics;
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
    /// In these, perhaps no delivery has the turn.
    pub(super) fn these(&self, lines: impl IntoIterator<Item = Line>) {
        let mut waiting = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extend(lines);
        if !waiting.is_empty() {
            self.some.notify_one();
        }
    }

    /// In any line, perhaps no delivery has the turn.
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

/// Gives each line's next delivery its turn.
#[derive(Debug)]
pub(super) struct Turns {
    pub(super) database: Arc<Link>,
    pub(super) term: Arc<Term>,
    pub(super) clock: Present,
    pub(super) metrics: Arc<Metrics>,
    pub(super) claims: Arc<Claims>,
    pub(super) lines: Arc<ToLookAt>,
}

impl Turns {
    /// Looks at lines until everything is recorded, and then a last time. Returns whether no line
    /// is left to be looked at.
    pub(super) async fn run(self) -> bool {
        self.lines.all();
        let mut backoff = Backoff::default();
        let mut rest_until = self.clock.instant();
        loop {
            let last = self.term.recorded.is_cancelled();
            if self.term.over.is_cancelled() {
                return false;
            }
            match self.look(&mut rest_until, last).await {
                Ok(()) => {
                    self.database.status.succeeded(During::Order);
                    backoff = Backoff::default();
                }
                Err(error) => {
                    self.database.failed(&self.term, &self.metrics, During::Order, &error);
                    backoff.wait(&self.term.recorded).await;
                    if last {
                        return false;
                    }
                    continue;
                }
            }
            if last {
                return true;
            }
            self.rest(rest_until).await;
        }
    }

    async fn rest(&self, rest_until: Instant) {
        let now = self.clock.instant();
        let is_all_later = self.lines.is_all() && rest_until > now;
        let wait = rest_until.saturating_duration_since(now);
        // Every arm may be dropped: they only wait.
        tokio::select! {
            () = self.lines.some.notified() => {}
            () = tokio::time::sleep(wait), if is_all_later => {}
            () = self.term.recorded.cancelled() => {}
            () = self.term.over.cancelled() => {}
        }
    }

    /// Looks at what there is to be looked at. All lines are not looked at too often.
    async fn look(&self, rest_until: &mut Instant, last: bool) -> Result<(), StoreError> {
        let began = self.clock.instant();
        if (last || began >= *rest_until) && self.lines.take_all() {
            self.look_at_all().await.inspect_err(|_| self.lines.all())?;
            let ended = self.clock.instant();
            *rest_until = ended + rest_after(ended.saturating_duration_since(began));
        }
        loop {
            let these = self.lines.take();
            if these.is_empty() {
                return Ok(());
            }
            self.look_at(&these).await.inspect_err(|_| self.lines.these(these.clone()))?;
        }
    }

    async fn look_at_all(&self) -> Result<(), StoreError> {
        let mut after = (EndpointId::MIN, String::new());
        loop {
            let these = lines(&self.database.store, &after, LINES_PER_STATEMENT).await?;
            let Some(last) = these.last() else { return Ok(()) };
            after.clone_from(last);
            self.look_at(&these).await?;
        }
    }

    async fn look_at(&self, lines: &[Line]) -> Result<(), StoreError> {
        let given = give_turns(&self.database.store, lines).await?;
        if given.is_empty() {
            return Ok(());
        }
        for (endpoint, due_in) in given {
            self.claims.due_in(endpoint, due_in);
        }
        self.claims.room_freed.notify_one();
        Ok(())
    }
}
