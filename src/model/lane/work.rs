//! The work in a lane: sending while the window, the rate and the endpoint's health allow it,
//! taking in how each attempt ended, and trying one request more where the endpoint is silent.

use std::time::Duration;

use jiff::Timestamp;

use super::{AttemptEnd, Idle, LaneState, Moment, RequestNote, Tally, Traffic, short};
use crate::model::health::{Health, HealthPolicy, Sign, Transition};
use crate::model::verdict::Decision;
use crate::model::window::Fill;

impl<Q> LaneState<Q> {
    /// How many workers are to be at work while `requests` may be in flight.
    #[must_use]
    pub fn workers(&self, requests: usize) -> usize {
        if self.dismissed {
            return 0;
        }
        self.width().min(requests).min(self.queue.len() + self.in_flight)
    }

    /// Takes out what a worker that is free sends now, if the relay's lease is fresh enough
    /// (`may_send`). It counts as in flight until [`finished`](Self::finished) is told of its end.
    ///
    /// # Errors
    /// When nothing is to be sent now: what to do instead.
    pub fn next(
        &mut self,
        now: Moment,
        Traffic { requests, in_all }: Traffic,
        may_send: bool,
    ) -> Result<(Q, RequestNote), Idle<Q>> {
        if self.dismissed {
            return Err(Idle::Leave);
        }
        if !self.serves && !self.queue.is_empty() {
            return Err(Idle::GiveBack { queued: self.drain(), others_serve: true });
        }
        let is_busy = self.in_flight >= self.width().min(requests);
        if self.queue.is_empty() || is_busy || !may_send || self.outdated {
            return Err(Idle::Wait);
        }
        if let Some(wait) = self.rate.as_mut().and_then(|rate| rate.wait(now.instant)) {
            return Err(Idle::WaitFor(wait));
        }
        // Paused since it was claimed: given back, not sent.
        let Some(ticket) = self.health.begin(now.time) else {
            return Err(Idle::GiveBack { queued: self.drain(), others_serve: false });
        };
        let sent = self.window.sent(self.fill(requests), short(in_all));
        self.in_flight += 1;
        // Last, so that a bug in any of this leaves it in the queue.
        let next = self.queue.pop_front().expect("the queue is not empty, seen above");
        Ok((next, RequestNote { ticket, sent }))
    }

    /// How full the window is with the request that is next. What waits behind it will fill it,
    /// unless the rate or the budget keeps it from that.
    fn fill(&self, requests: usize) -> Fill {
        let width = self.width();
        let is_free = self.rate.is_none() && width <= requests;
        if self.in_flight + 1 >= width {
            Fill::Full
        } else if is_free && self.in_flight + self.queue.len() >= width {
            Fill::Soon
        } else {
            Fill::Partly
        }
    }

    /// Takes in how an attempt ended. Returns what changes for the endpoint. `draw` is from 0 to 1
    /// and decides the jitter of a pause.
    pub fn finished(
        &mut self,
        end: AttemptEnd<'_>,
        now: Timestamp,
        policy: &HealthPolicy,
        draw: f64,
    ) -> Option<Transition> {
        let AttemptEnd { note, outcome, decision, took, answered_in, in_all } = end;
        let RequestNote { ticket, sent } = note;
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let (took_ms, answer_ms) = (ms(took), ms(answered_in.unwrap_or(took)));
        let in_all = short(in_all);
        let delivered = decision == Decision::Delivered;
        if delivered {
            self.window.on_success(sent, answer_ms, in_all, now);
        } else {
            self.window.after(outcome, sent, answer_ms, in_all, now);
        }
        self.in_flight -= 1;
        self.finished += 1;
        self.tally.successes += u32::from(delivered);
        self.tally.failures += u32::from(!delivered);
        self.tally.duration_ms += took_ms;
        self.mean_ms = Some(self.mean_ms.map_or(took_ms, |mean| mean + (took_ms - mean) / 8.0));
        self.health.after(ticket, Sign::of(outcome, decision), now, policy, draw)
    }

    /// The attempts since the last call, if there were any, and the endpoint's health.
    pub fn take_tally(&mut self) -> Option<(Tally, Health)> {
        let tally = std::mem::take(&mut self.tally);
        (tally.successes + tally.failures > 0).then(|| (tally, self.health.clone()))
    }

    // ── silence ──

    /// Whether to begin to watch for [`SILENCE`]; counts as begun.
    pub fn begins_to_be_watched(&mut self) -> bool {
        !self.is_watched && {
            self.is_watched = self.would_have_more();
            self.is_watched
        }
    }

    /// Takes in that [`SILENCE`] has passed since `finished` attempts had ended; `None`: the watch
    /// begins. Returns how many have ended by now. `None`: nothing waits that one request more
    /// could send, and the watch ends.
    pub fn watched(&mut self, finished: Option<u64>) -> Option<u64> {
        if self.would_have_more() && finished == Some(self.finished) {
            self.window.on_silence();
        }
        self.is_watched = self.would_have_more();
        self.is_watched.then_some(self.finished)
    }

    /// Whether something waits that might be sent if the endpoint is silent for a while.
    fn would_have_more(&self) -> bool {
        self.queue.len() + self.in_flight > self.width()
            && self.window.minds_silence()
            && !self.dismissed
    }
}
