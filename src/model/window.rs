//! How many requests an endpoint may have in flight: grows while it keeps up, halves when it does
//! not.
//!
//! The relay keeps one for each endpoint and claims no more than it has room for. Whether the
//! endpoint may be sent anything at all is [`health`](super::health)'s to say.

use super::outcome::{Cause, Outcome};

/// A bound on the requests in flight, never below one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    size: u32,
    max: u32,
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
        Self { size: start.clamp(1, max), max, settling: 0 }
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

    /// Takes in the result of a request. Any answer that does not speak of overload shows that the
    /// endpoint keeps up, whatever it thinks of the event; what never left us, or whose end nobody
    /// saw, shows nothing.
    pub fn after(&mut self, outcome: &Outcome) {
        if congested(outcome) {
            self.on_congestion();
        } else if outcome.answer().is_some() {
            self.on_success();
        }
    }

    /// One more, up to the maximum.
    pub fn on_success(&mut self) {
        if self.settled() {
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

    #[test]
    fn it_grows_by_one_per_success_up_to_the_maximum() {
        let mut window = Window::new(2, 4);
        let sizes: Vec<_> = (0..4)
            .map(|_| {
                window.after(&answered(204));
                window.size()
            })
            .collect();
        assert_eq!(sizes, [3, 4, 4, 4]);
    }

    #[test]
    fn an_incident_that_breaks_the_whole_window_halves_it_once() {
        let mut window = Window::new(16, 16);
        for _ in 0..16 {
            window.after(&unreachable(Cause::Reset));
        }
        assert_eq!(window.size(), 8);
        window.after(&unreachable(Cause::Reset));
        assert_eq!(window.size(), 4, "what was sent since is another incident");
    }

    #[test]
    fn successes_of_the_former_window_do_not_undo_the_halving() {
        let mut window = Window::new(16, 16);
        window.after(&answered(503));
        for _ in 0..15 {
            window.after(&answered(200));
        }
        assert_eq!(window.size(), 8);
        window.after(&answered(200));
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
        window.after(&Outcome::Interrupted);
        window.after(&Outcome::Refused { why: Refusal::NotHttps, detail: String::new() });
        window.after(&unreachable(Cause::Dns));
        assert_eq!(window, Window::new(4, 8));
    }

    proptest! {
        #[test]
        fn it_never_leaves_its_bounds(
            start: u32, max: u32, results in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let mut window = Window::new(start, max);
            for good in results {
                if good { window.on_success() } else { window.on_congestion() }
                prop_assert!((1..=max.max(1)).contains(&window.size()));
            }
        }
    }
}
