//! How many requests an endpoint may have in flight: grows while it keeps up, shrinks where more at
//! once only wait, halves when it complains.
//!
//! It keeps up as long as requests take hardly longer than they did when there were few; beyond
//! that one more request only waits, there or here, and costs a connection (*measured*: 100
//! endpoints on a busy machine took half as much again of the relay's processor time with some 15
//! requests each as with 4). TCP Vegas goes by the same delay; here geometric means replace its
//! minimum, since some events are much slower than others. As in TCP Vegas, the effect of a step is
//! measured before the next one.
//!
//! The relay has one window for each endpoint and claims no more than it has room for.
//! [`health`](super::health) decides whether the endpoint may be sent anything at all.

use jiff::{SignedDuration, Timestamp};

use super::outcome::{Cause, Outcome};

/// A bound on the requests in flight, never below one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    size: u32,
    max: u32,
    /// Requests in flight that are allowed without any answer.
    start: u32,
    round: Round,
    /// How long answers take when few are in flight: the logarithm of milliseconds.
    normal: Option<f64>,
    /// Results still to come of requests that were in flight at the last halving. They show the
    /// time before it, so they neither halve nor grow the window: one incident, one halving. An
    /// upper estimate, the whole former window: the exact number would need a note with each
    /// request.
    settling: u32,
}

/// The answers that come while the window is full and has one size.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Round {
    /// Answers still to come of requests that were sent at another size.
    others: u32,
    measured: u32,
    /// When the first was measured.
    since: Option<Timestamp>,
    /// Of the logarithms of milliseconds.
    sum: f64,
}

impl Window {
    /// A window of 1, that allows `start` requests before there is an answer and grows to at most
    /// `max`; a zero is read as 1.
    #[must_use]
    pub fn new(start: u32, max: u32) -> Self {
        let max = max.max(1);
        Self { size: FEW, max, start, round: Round::default(), normal: None, settling: 0 }
    }

    /// How many requests may be in flight.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// How many requests may be in flight before there is an answer.
    #[must_use]
    pub fn start(&self) -> u32 {
        self.start.clamp(FEW, self.max)
    }

    /// Changes the upper bound, when the endpoint's settings have changed.
    pub fn set_max(&mut self, max: u32) {
        self.max = max.max(1);
        self.resize(self.size);
    }

    /// Notes the result of a request that took `took_ms`, with `in_flight` requests in flight,
    /// itself included. Any answer that does not speak of overload shows that the endpoint keeps
    /// up, whatever it says of the event; a request that was never sent, or whose end is unknown,
    /// shows nothing.
    pub fn after(&mut self, outcome: &Outcome, took_ms: f64, in_flight: u32, now: Timestamp) {
        if congested(outcome) {
            self.on_congestion();
        } else if outcome.answer().is_some() {
            self.on_success(took_ms, in_flight, now);
        }
    }

    /// After a round of answers: half as many again if more were wanted and they hardly took longer
    /// than few requests do, a third less if they took much longer. Where each takes so long that
    /// the relay cannot be the cause, one more for each answer that did not take much longer.
    pub fn on_success(&mut self, took_ms: f64, in_flight: u32, now: Timestamp) {
        if !self.settled() || in_flight < self.size {
            return;
        }
        let took = took_ms.max(LEAST_MS).ln();
        if took_ms >= NOT_US_MS && self.size < self.max {
            let normal = *self.normal.get_or_insert(took);
            if longer(took, normal) <= MUCH {
                self.resize(self.size + 1);
                return;
            }
        }
        let Some(mean) = self.round.after(took, self.size, now) else { return };
        // The few requests may have been slow by themselves: no more than this is normal.
        let normal = match self.normal {
            Some(normal) if normal <= mean && self.size > FEW => normal,
            Some(normal) => normal + (mean - normal) / 2.0,
            None => mean,
        };
        self.normal = Some(normal);
        let longer = longer(mean, normal);
        if longer <= HARDLY {
            self.resize(self.size.saturating_add(self.size.div_ceil(2)));
        } else if longer > MUCH && self.size > FEW {
            self.resize((self.size - self.size.div_ceil(3)).max(FEW));
        }
    }

    /// Whether the window would allow one more request without an answer.
    #[must_use]
    pub fn minds_silence(&self) -> bool {
        self.size < self.start() && self.settling == 0
    }

    /// More were wanted, and the endpoint was silent for a while: allows one more, so that one slow
    /// event does not hold up the others.
    pub fn on_silence(&mut self) {
        if self.minds_silence() {
            self.resize(self.size + 1);
        }
    }

    fn resize(&mut self, size: u32) {
        let before = self.size;
        self.size = size.min(self.max);
        if self.size != before {
            self.round = Round { others: before, ..Round::default() };
        }
    }

    /// Halves the window, to at least 1.
    pub fn on_congestion(&mut self) {
        if self.settled() {
            self.settling = self.size - 1;
            self.size = (self.size / 2).max(1);
            self.round = Round::default();
        }
    }

    fn settled(&mut self) -> bool {
        let settled = self.settling == 0;
        self.settling = self.settling.saturating_sub(1);
        settled
    }
}

impl Round {
    /// Fewer answers than this say little of how long they take.
    const LEAST: u32 = 8;

    /// In less time than this all answers wait for the same thing: deliveries are claimed, and
    /// recorded, some hundred at once.
    const LASTS: SignedDuration = SignedDuration::from_millis(100);

    /// Counts one answer. Returns the mean when the round is over, and begins anew.
    fn after(&mut self, took: f64, size: u32, now: Timestamp) -> Option<f64> {
        if self.others > 0 {
            self.others -= 1;
            return None;
        }
        self.measured += 1;
        self.sum += took;
        let since = *self.since.get_or_insert(now);
        // The clock may have been set back.
        let too_soon = (SignedDuration::ZERO..Self::LASTS).contains(&now.duration_since(since));
        if self.measured < size.max(Self::LEAST) || too_soon {
            return None;
        }
        let mean = self.sum / f64::from(self.measured);
        *self = Self::default();
        Some(mean)
    }
}

/// At this size, latency is the baseline.
const FEW: u32 = 1;

/// No answer counts as faster: a clock that stood still would have no logarithm.
const LEAST_MS: f64 = 0.001;

/// With the default maximum of 1,024 requests in flight and 25,000 deliveries a second, each takes
/// 41 ms. An endpoint that takes longer than this is slow by itself.
const NOT_US_MS: f64 = 50.0;

/// A difference of this many milliseconds is not waiting: while an endpoint answers at once, its
/// next requests are written while other answers are read.
const NOTHING_MS: f64 = 1.0;

/// Answers may take this factor longer than with few in flight: up to it, more requests at once
/// still get more done.
const HARDLY: f64 = 1.25;
/// Beyond this one, half of a request's time is waiting.
const MUCH: f64 = 2.0;

/// The factor by which the first takes longer than the second, both logarithms of milliseconds.
fn longer(took: f64, normal: f64) -> f64 {
    (took.exp() + NOTHING_MS) / (normal.exp() + NOTHING_MS)
}

/// Whether the outcome speaks of an overloaded endpoint, or an overloaded way to it. A name that
/// does not resolve or a bad certificate does not: fewer requests would change nothing.
#[must_use]
pub fn congested(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::TimedOut { .. } => true,
        Outcome::Answered(answer) => matches!(answer.status, 408 | 429 | 500..),
        Outcome::Unreachable { cause, .. } => match cause {
            Cause::ConnectionRefused
            | Cause::Reset
            | Cause::Closed
            | Cause::NoRoute
            | Cause::Proxy
            | Cause::Io => true,
            Cause::Dns
            | Cause::TlsExpired
            | Cause::TlsWrongName
            | Cause::TlsUnknownIssuer
            | Cause::TlsOther
            | Cause::Protocol => false,
        },
        Outcome::Refused { .. } | Outcome::Interrupted => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::outcome::{Answer, Phase, Refusal};
    use super::*;

    fn answered(status: u16) -> Outcome {
        Outcome::Answered(Answer { status, ..Answer::default() })
    }

    fn unreachable(cause: Cause) -> Outcome {
        Outcome::Unreachable { cause, detail: String::new() }
    }

    /// A window that is always full, and the time.
    struct Full {
        window: Window,
        now: Timestamp,
    }

    impl Full {
        fn new(start: u32, max: u32) -> Self {
            Self { window: Window::new(start, max), now: Timestamp::UNIX_EPOCH }
        }

        /// A window that has grown.
        fn wide(size: u32) -> Self {
            let mut full = Self::new(size, size);
            (1..size).for_each(|_| full.window.on_silence());
            assert_eq!(full.size(), size);
            full
        }

        fn size(&self) -> u32 {
            self.window.size()
        }

        /// As many requests at once as the window allows take this long each.
        fn ended(&mut self, outcome: &Outcome, took_ms: f64) {
            self.now += SignedDuration::from_secs_f64(took_ms / 1000.0 / f64::from(self.size()));
            self.window.after(outcome, took_ms, self.size(), self.now);
        }

        fn took(&mut self, ms: f64) {
            self.ended(&answered(204), ms);
        }
    }

    #[test]
    fn it_grows_by_half_after_each_round_up_to_the_maximum() {
        let mut full = Full::new(1, 6);
        let sizes: Vec<_> = [8, 1 + 8, 2 + 8, 3 + 8, 5 + 8]
            .map(|round| {
                let before = full.size();
                for _ in 1..round {
                    full.took(49.0);
                    assert_eq!(full.size(), before);
                }
                // At least 100 ms after the first measured answer.
                full.now += SignedDuration::from_millis(100);
                full.took(49.0);
                full.size()
            })
            .into();
        assert_eq!(sizes, [2, 3, 5, 6, 6]);
    }

    #[test]
    fn silence_grows_it_to_its_initial_size_at_most() {
        for (start, max, most) in [(4, 64, 4), (4, 3, 3), (1, 64, 1), (0, 0, 1)] {
            let mut window = Window::new(start, max);
            assert_eq!(window.size(), 1);
            (0..10).for_each(|_| window.on_silence());
            assert_eq!(window.size(), most);
        }
    }

    #[test]
    fn a_round_takes_its_time() {
        let mut full = Full::new(1, 16);
        for _ in 0..100 {
            full.took(1.0);
            assert_eq!(full.size(), 1);
        }
        full.took(1.0);
        assert_eq!(full.size(), 2);
    }

    #[test]
    fn a_slow_endpoint_need_not_wait_for_a_round() {
        let mut full = Full::new(1, 16);
        let sizes: Vec<_> = [100.0, 150.0, 400.0, 60.0]
            .map(|ms| {
                full.took(ms);
                full.size()
            })
            .into();
        assert_eq!(sizes, [2, 3, 3, 4]);
    }

    #[test]
    fn what_was_sent_before_a_step_does_not_speak_for_it() {
        // With more than 10 requests at once the endpoint takes four times as long.
        let mut full = Full::new(1, 64);
        let mut ahead = std::collections::VecDeque::from([10.0]);
        let mut most = 0;
        for _ in 0..5_000 {
            full.took(ahead.pop_front().unwrap());
            most = most.max(full.size());
            while ahead.len() < full.size() as usize {
                ahead.push_back(if full.size() > 10 { 40.0 } else { 10.0 });
            }
        }
        assert_eq!(most, 12, "1, 2, 3, 5, 8, 12");
    }

    #[test]
    fn it_does_not_grow_where_more_at_once_only_wait() {
        for each_ms in [1.0, 10.0, 100.0] {
            let mut full = Full::new(2, 64);
            for _ in 0..10_000 {
                // One after the other.
                full.took(each_ms * f64::from(full.size()));
                assert!(full.size() <= 5, "{each_ms} ms: {}", full.size());
            }
        }
    }

    #[test]
    fn it_shrinks_where_more_at_once_have_come_to_wait() {
        for each_ms in [10.0, 100.0] {
            let mut full = Full::new(4, 64);
            for _ in 0..10_000 {
                full.took(each_ms);
            }
            assert_eq!(full.size(), 64);
            // From now on one after the other.
            for _ in 0..10_000 {
                full.took(each_ms * f64::from(full.size()));
            }
            assert!((1..=9).contains(&full.size()), "{each_ms} ms: {}", full.size());
        }
    }

    #[test]
    fn it_grows_where_some_take_much_longer_than_others() {
        for (one_in, slow_ms) in [(3, 200.0), (50, 5_000.0)] {
            let mut full = Full::new(4, 64);
            for n in 0..5_000 {
                full.took(if n % one_in == 0 { slow_ms } else { 20.0 });
            }
            assert_eq!(full.size(), 64, "one in {one_in}");
        }
    }

    #[test]
    fn it_does_not_grow_while_it_is_not_used() {
        let Full { mut window, mut now } = Full::wide(8);
        window.set_max(64);
        for ms in [10.0, 100.0] {
            for _ in 0..100 {
                now += SignedDuration::from_millis(10);
                window.after(&answered(204), ms, 3, now);
            }
        }
        assert_eq!(window.size(), 8);
    }

    #[test]
    fn an_endpoint_that_becomes_slower_has_its_window_grow_again() {
        let mut full = Full::new(4, 64);
        for ms in [10.0, 40.0, 10.0, 100.0, 1_000.0, 10.0] {
            for _ in 0..2_000 {
                full.took(ms);
            }
            assert_eq!(full.size(), 64, "{ms} ms");
        }
    }

    #[test]
    fn an_incident_that_breaks_the_whole_window_halves_it_once() {
        let mut full = Full::wide(16);
        for _ in 0..16 {
            full.ended(&unreachable(Cause::Reset), 10.0);
        }
        assert_eq!(full.size(), 8);
        full.ended(&unreachable(Cause::Reset), 10.0);
        assert_eq!(full.size(), 4, "what was sent since is another incident");
    }

    #[test]
    fn successes_of_the_former_window_do_not_undo_the_halving() {
        let mut full = Full::wide(16);
        full.ended(&answered(503), 100.0);
        for _ in 0..15 {
            full.took(100.0);
        }
        assert_eq!(full.size(), 8);
        full.took(100.0);
        assert_eq!(full.size(), 9);
    }

    #[test]
    fn a_lower_maximum_holds_at_once() {
        let Full { mut window, .. } = Full::wide(16);
        window.set_max(3);
        assert_eq!(window.size(), 3);
        window.set_max(0);
        assert_eq!(window.size(), 1);
    }

    #[test]
    fn only_overload_and_broken_connections_are_congestion() {
        for outcome in [
            Outcome::TimedOut { phase: Phase::Headers },
            answered(408),
            answered(429),
            answered(500),
            answered(599),
            unreachable(Cause::Closed),
            unreachable(Cause::ConnectionRefused),
        ] {
            assert!(congested(&outcome), "{outcome:?}");
        }
        for outcome in [
            answered(200),
            answered(302),
            answered(404),
            unreachable(Cause::Dns),
            unreachable(Cause::TlsExpired),
            Outcome::Interrupted,
        ] {
            assert!(!congested(&outcome), "{outcome:?}");
        }
    }

    #[test]
    fn what_shows_nothing_changes_nothing() {
        let mut full = Full::new(4, 8);
        full.ended(&Outcome::Interrupted, 100.0);
        full.ended(&Outcome::Refused { why: Refusal::NotHttps, detail: String::new() }, 100.0);
        full.ended(&unreachable(Cause::Dns), 100.0);
        assert_eq!(full.window, Window::new(4, 8));
    }

    proptest! {
        #[test]
        fn it_never_leaves_its_bounds(
            start: u32,
            max: u32,
            results in prop::collection::vec((any::<bool>(), 0.0f64..1e6, any::<u32>()), 0..200),
        ) {
            let mut window = Window::new(start, max);
            let mut now = Timestamp::UNIX_EPOCH;
            for (good, took_ms, in_flight) in results {
                now += SignedDuration::from_millis(50);
                if good { window.on_success(took_ms, in_flight, now) } else { window.on_congestion() }
                prop_assert!((1..=max.max(1)).contains(&window.size()));
            }
        }
    }
}
