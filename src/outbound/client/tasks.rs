//! Where hyper's HTTP/2 tasks run: inside the task that owns the connection. hyper hands its
//! connection task and body writers to an executor; this one keeps them in the connection and polls
//! them along with the exchange, so nothing is detached and nothing outlives its owner.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, Stream};
use hyper::rt::Executor;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes tasks over from hyper. One connection hands in one task for itself and at most one for
/// each request, so it stays short.
#[derive(Clone, Default)]
pub(super) struct TaskInbox(Arc<Mutex<Vec<Task>>>);

/// Runs what came into an [`TaskInbox`].
#[derive(Default)]
pub(super) struct Tasks {
    inbox: TaskInbox,
    running: FuturesUnordered<Task>,
}

impl Tasks {
    pub(super) fn new(inbox: TaskInbox) -> Self {
        Self { inbox, running: FuturesUnordered::new() }
    }

    /// Whether nothing is left to run.
    pub(super) fn are_done(&self) -> bool {
        self.running.is_empty() && self.inbox.lock().is_empty()
    }

    /// Polls all that can go on.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        loop {
            let arrived = std::mem::take(&mut *self.inbox.lock());
            let none_arrived = arrived.is_empty();
            self.running.extend(arrived);
            while let Poll::Ready(Some(())) = Pin::new(&mut self.running).poll_next(cx) {}
            if none_arrived {
                return;
            }
        }
    }
}

impl TaskInbox {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Task>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F> Executor<F> for TaskInbox
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.lock().push(Box::pin(task));
    }
}
