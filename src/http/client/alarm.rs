//! A deadline that is cheap to move: setting it stores a time, and the runtime's timer is touched
//! only when it fires or must fire sooner. A kept-alive connection that answers at once sets its
//! deadline a hundred thousand times for one timer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

/// One deadline at a time.
pub(super) struct Alarm {
    deadline: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Alarm {
    pub(super) fn at(deadline: Instant) -> Self {
        Self { deadline, timer: Box::pin(sleep_until(deadline.into())) }
    }

    pub(super) fn set(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Ready when the deadline has passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline.into();
        if deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(deadline); // it was set for an earlier exchange
        }
        Poll::Pending
    }
}
