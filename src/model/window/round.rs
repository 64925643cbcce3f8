//! Rounds of answers: as TCP Vegas does, a window measures the effect of a step before it takes the
//! next one.

use jiff::{SignedDuration, Timestamp};

/// Answers that came while the window was full, since the last decision.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Round {
    /// The window's, when the first was measured; as many answers make the round.
    size: u32,
    measured: u32,
    /// When the first was measured.
    since: Option<Timestamp>,
    /// Of the logarithms of milliseconds, and of their squares.
    sum: f64,
    squares: f64,
}

/// A round that is over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RoundMean {
    /// The window's, when it began.
    pub(super) size: u32,
    measured: u32,
    /// Of the logarithms of milliseconds.
    pub(super) mean: f64,
    variance: f64,
}

impl Round {
    /// Fewer answers than this say little of how long they take.
    const LEAST: u32 = 8;

    /// In less time than this all answers that the relay may be slow for wait for the same thing:
    /// deliveries are claimed, and recorded, some hundred at once.
    const LASTS: SignedDuration = SignedDuration::from_millis(100);

    /// Counts one answer; `theirs`: the endpoint is what it waited for. Returns the mean when the
    /// round is over, and begins anew.
    pub(super) fn after(
        &mut self,
        took: f64,
        size: u32,
        theirs: bool,
        now: Timestamp,
    ) -> Option<RoundMean> {
        let since = *self.since.get_or_insert(now);
        if self.measured == 0 {
            self.size = size;
        }
        self.measured += 1;
        self.sum += took;
        self.squares += took * took;
        // The clock may have been set back.
        let too_soon = (SignedDuration::ZERO..Self::LASTS).contains(&now.duration_since(since));
        if self.measured < self.size.max(Self::LEAST) || (too_soon && !theirs) {
            return None;
        }
        let Self { size, measured, sum, squares, .. } = std::mem::take(self);
        let mean = sum / f64::from(measured);
        let variance = (squares / f64::from(measured) - mean * mean).max(0.0);
        Some(RoundMean { size, measured, mean, variance })
    }
}

impl RoundMean {
    /// The factor by which chance makes it longer than normal: one standard error of its mean and
    /// of that which is normal, as if that was a short round's.
    pub(super) fn margin(self) -> f64 {
        let parts = 1.0 / f64::from(self.measured) + 1.0 / f64::from(Round::LEAST);
        (self.variance * parts).sqrt().exp()
    }

    /// Whether a round with more requests at once brought more answers a second than one with
    /// fewer. With a full window these are its size by what an answer takes (Little's law). Ideally
    /// they are as many more as the requests are, and none where they wait for one another; this
    /// is half way.
    pub(super) fn brings_more_than(self, fewer: Self) -> bool {
        let requests = (f64::from(self.size) / f64::from(fewer.size)).ln();
        let answers = requests - (self.mean - fewer.mean);
        answers > requests / 2.0
    }
}
