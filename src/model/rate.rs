//! An endpoint's rate limit: a token bucket that holds one second's worth. Asked by its lane before
//! each attempt.

use std::time::{Duration, Instant};

/// Tokens, refilled by time.
#[derive(Debug)]
pub struct Rate {
    /// Attempts a second; greater than 0.
    rate: f64,
    tokens: f64,
    filled_at: Option<Instant>,
}

impl Rate {
    pub fn new(rate: f64) -> Self {
        Self { rate: rate.max(1e-6), tokens: rate.max(1.0), filled_at: None }
    }

    /// Changes the rate; the tokens that are there stay, as far as the bucket still holds them.
    pub fn set_rate(&mut self, rate: f64) {
        self.rate = rate.max(1e-6);
        self.tokens = self.tokens.min(self.rate.max(1.0));
    }

    /// Takes a token, or says how long to wait for one.
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        let passed =
            self.filled_at.map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        self.filled_at = Some(now);
        self.tokens = (self.tokens + passed.as_secs_f64() * self.rate).min(self.rate.max(1.0));
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return None;
        }
        Some(Duration::try_from_secs_f64((1.0 - self.tokens) / self.rate).unwrap_or(Duration::MAX))
    }

    /// How many attempts it allows a second, at least 1: no more need be claimed ahead.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to what a usize holds"
    )]
    pub fn per_second(&self) -> usize {
        self.rate.clamp(1.0, 1e6) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn a_second_lets_as_many_through_as_the_rate_says_and_no_more() {
        let start = Instant::now();
        let mut rate = Rate::new(10.0);
        let burst = (0..100).filter(|_| rate.wait(start).is_none()).count();
        assert_eq!(burst, 10);
        let mut later = 0;
        for tenth in 1..=10 {
            while rate.wait(start + Duration::from_millis(tenth * 100)).is_none() {
                later += 1;
            }
        }
        assert!((9..=10).contains(&later), "{later}");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn a_rate_below_one_waits_longer_than_a_second() {
        let start = Instant::now();
        let mut rate = Rate::new(0.1);
        assert_eq!(rate.wait(start), None);
        let wait = rate.wait(start).expect("the bucket holds one");
        assert!(wait > Duration::from_secs(9), "{wait:?}");
    }
}
