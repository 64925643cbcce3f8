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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;

    async fn rings(alarm: &mut Alarm) -> bool {
        poll_fn(|cx| Poll::Ready(alarm.poll(cx).is_ready())).await
    }

    #[tokio::test]
    async fn a_deadline_can_be_moved_both_ways_at_any_time() {
        let past = Clock.instant().checked_sub(Duration::from_secs(1)).unwrap();
        let future = past + Duration::from_secs(3600);
        let mut alarm = Alarm::at(future);
        assert!(!rings(&mut alarm).await);
        alarm.set(past);
        assert!(rings(&mut alarm).await);
        alarm.set(future);
        assert!(!rings(&mut alarm).await);
        alarm.set(past);
        assert!(rings(&mut alarm).await);

        let mut alarm = Alarm::at(past);
        alarm.set(future);
        assert!(!rings(&mut alarm).await);
    }
}
