//! How many requests an endpoint may have in flight: grows while it keeps up, halves when it does
//! not.
//!
//! It keeps up as long as requests take hardly longer than they did when there were few; beyond that one
//! more only waits, there or here, and costs a connection (*measured*: ten endpoints on a machine that is
//! busy took a third more of the relay's processor time with 64 requests each than with eight). It is the delay
//! that TCP Vegas goes by, with a mean in place of the least, since some events are slower than others.
//!
//! The relay keeps one for each endpoint and claims no more than it has room for. Whether the
//! endpoint may be sent anything at all is [`health`](super::health)'s to say.

use super::outcome::{Cause, Outcome};

/// A bound on the requests in flight, never below one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    size: u32,
    max: u32,
    /// So many are few.
    few: u32,
    /// Milliseconds that answers took lately, …
    mean: Option<f64>,
    /// … and that they took when few were in flight.
    mean_of_few: Option<f64>,
    /// Results still to come of requests that were in flight at the last halving. They tell of the
    /// time before it, so they neither halve nor grow the window: one incident, one halving. It is
    /// an upper estimate, the whole former window, since who was really in flight would have to be
    /// kept for each request.
    settling: u32,
}

impl Window {
    /// A window that starts at `start` and grows to at most `max`; zeros are read as one.
    #[must_use]
    pub fn new(start: u32, max: u32) -> Self {
        let max = max.max(1);
        let few = start.clamp(1, max);
        Self { size: few, max, few, mean: None, mean_of_few: None, settling: 0 }
    }

    /// How many requests may be in flight.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Changes the upper bound, when the endpoint's settings have changed.
    pub fn set_max(&mut self, max: u32) {
        self.max = max.max(1);
        self.size = self.size.min(self.max);
    }

    /// Takes in the result of a request that took so long and ended when so many were in flight, itself
    /// included. Any answer that does not speak of overload shows that the endpoint keeps up, whatever it
    /// thinks of the event; what never left us, or whose end nobody saw, shows nothing.
    pub fn after(&mut self, outcome: &Outcome, took_ms: f64, in_flight: u32) {
        if congested(outcome) {
            self.on_congestion();
        } else if outcome.answer().is_some() {
            self.on_success(took_ms, in_flight);
        }
    }

    /// One more, up to the maximum, if more were wanted and it does not take them longer by much.
    pub fn on_success(&mut self, took_ms: f64, in_flight: u32) {
        let mean = fade(&mut self.mean, took_ms);
        let of_few = if in_flight <= self.few {
            fade(&mut self.mean_of_few, took_ms)
        } else {
            // The few may have been slow for reasons of their own: no more than that is normal.
            let before = self.mean_of_few.unwrap_or(mean);
            fade(&mut self.mean_of_few, mean.min(before))
        };
        // The mean comes late, the last one is one alone: both.
        let in_time = mean.max(took_ms) <= of_few * LONGER;
        if self.settled() && in_flight >= self.size && in_time {
            self.size = self.size.saturating_add(1).min(self.max);
        }
    }

    /// Half as many, at least one.
    pub fn on_congestion(&mut self) {
        if self.settled() {
            self.settling = self.size - 1;
            self.size = (self.size / 2).max(1);
        }
    }

    fn settled(&mut self) -> bool {
        let settled = self.settling == 0;
        self.settling = self.settling.saturating_sub(1);
        settled
    }
}

/// By this factor an answer may take longer than when few are in flight: with it, more at once still get
/// more done.
const LONGER: f64 = 1.5;
/// Of what a mean forgets with each one.
const FADES: f64 = 1.0 / 16.0;

fn fade(mean: &mut Option<f64>, next: f64) -> f64 {
    *mean.insert(mean.map_or(next, |mean| mean + (next - mean) * FADES))
}

/// Whether the outcome speaks of an endpoint, or a way to it, that has more than it can bear. A name
/// that does not resolve or a bad certificate does not: fewer requests would change nothing.
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

    /// The window is full, and it took ten milliseconds.
    fn ended(window: &mut Window, outcome: &Outcome) {
        window.after(outcome, 10.0, window.size());
    }

    #[test]
    fn it_grows_by_one_per_success_up_to_the_maximum() {
        let mut window = Window::new(2, 4);
        let sizes: Vec<_> = (0..4)
            .map(|_| {
                ended(&mut window, &answered(204));
                window.size()
            })
            .collect();
        assert_eq!(sizes, [3, 4, 4, 4]);
    }

    #[test]
    fn it_does_not_grow_where_more_at_once_only_wait() {
        // Ten milliseconds for each, one after the other.
        let mut window = Window::new(8, 64);
        for _ in 0..1_000 {
            window.after(&answered(204), 10.0 * f64::from(window.size()), window.size());
        }
        assert!((8..=13).contains(&window.size()), "{window:?}");
    }

    #[test]
    fn it_grows_where_some_take_ten_times_as_long_as_others() {
        let mut window = Window::new(8, 64);
        for n in 0..1_000 {
            window.after(&answered(204), if n % 3 == 0 { 200.0 } else { 20.0 }, window.size());
        }
        assert_eq!(window.size(), 64);
    }

    #[test]
    fn it_does_not_grow_while_it_is_not_used() {
        let mut window = Window::new(8, 64);
        for _ in 0..100 {
            window.after(&answered(204), 10.0, 3);
        }
        assert_eq!(window.size(), 8);
    }

    #[test]
    fn an_endpoint_that_was_slow_for_a_while_has_its_window_grow_again() {
        let mut window = Window::new(8, 64);
        for took in [10.0, 100.0, 10.0] {
            for _ in 0..100 {
                window.after(&answered(204), took, window.size());
            }
        }
        assert_eq!(window.size(), 64);
    }

    #[test]
    fn an_incident_that_breaks_the_whole_window_halves_it_once() {
        let mut window = Window::new(16, 16);
        for _ in 0..16 {
            ended(&mut window, &unreachable(Cause::Reset));
        }
        assert_eq!(window.size(), 8);
        ended(&mut window, &unreachable(Cause::Reset));
        assert_eq!(window.size(), 4, "what was sent since is another incident");
    }

    #[test]
    fn successes_of_the_former_window_do_not_undo_the_halving() {
        let mut window = Window::new(16, 16);
        ended(&mut window, &answered(503));
        for _ in 0..15 {
            ended(&mut window, &answered(200));
        }
        assert_eq!(window.size(), 8);
        ended(&mut window, &answered(200));
        assert_eq!(window.size(), 9);
    }

    #[test]
    fn a_lower_maximum_holds_at_once() {
        let mut window = Window::new(16, 16);
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
        let mut window = Window::new(4, 8);
        ended(&mut window, &Outcome::Interrupted);
        ended(&mut window, &Outcome::Refused { why: Refusal::NotHttps, detail: String::new() });
        ended(&mut window, &unreachable(Cause::Dns));
        assert_eq!(window, Window::new(4, 8));
    }

    proptest! {
        #[test]
        fn it_never_leaves_its_bounds(
            start: u32,
            max: u32,
            results in prop::collection::vec((any::<bool>(), 0.0f64..1e6, any::<u32>()), 0..200),
        ) {
            let mut window = Window::new(start, max);
            for (good, took_ms, in_flight) in results {
                if good { window.on_success(took_ms, in_flight) } else { window.on_congestion() }
                prop_assert!((1..=max.max(1)).contains(&window.size()));
            }
        }
    }
}
