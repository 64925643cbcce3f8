//! What outlives a window: where the endpoint's next one begins, in the relay that opens it.

/// What has been learnt of an endpoint, by one relay or by all of them together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Remembered {
    /// Requests at once that it bore.
    pub size: u32,
    /// How long answers take when few are in flight: the logarithm of milliseconds.
    pub normal: f64,
}

impl Remembered {
    /// What a relay left in the database so many seconds ago. `None`: it is too old, or no time
    /// that an answer may take. A size that no endpoint may have is brought into its bounds.
    #[must_use]
    pub fn restore(size: i64, normal_ms: f64, age_s: f64) -> Option<Self> {
        // It was written in the future of a database whose clock has been set back.
        let is_young = age_s.abs() <= TRUSTED_FOR_S;
        let is_time = normal_ms.is_finite() && normal_ms > 0.0;
        (is_young && is_time).then(|| Self {
            size: u32::try_from(size).unwrap_or(if size < 0 { 1 } else { MOST }).clamp(1, MOST),
            normal: normal_ms.clamp(LEAST_MS, LONGEST_MS).ln(),
        })
    }

    /// The milliseconds that answers take when few are in flight; never nonsense.
    #[must_use]
    pub fn normal_ms(self) -> f64 {
        // `clamp` leaves what is no number as it is, and `max` does not.
        self.normal.exp().clamp(LEAST_MS, LONGEST_MS).max(LEAST_MS)
    }

    /// What so many relays have learnt together, if each of them has learnt this.
    #[must_use]
    pub fn of_all(self, relays: u32) -> Self {
        Self { size: self.size.saturating_mul(relays).clamp(1, MOST), ..self }
    }

    /// What is one's part of it, if so many relays send to the endpoint.
    #[must_use]
    pub fn part(self, relays: u32) -> Self {
        Self { size: self.size.div_ceil(relays.max(1)), ..self }
    }
}

/// After 25 hours an endpoint is begun with like a new one: long enough for what comes once a day,
/// an hour late at most. To learn a window costs a few answers' time; one that does not fit any
/// more costs the endpoint a burst that it cannot bear, and behind its URL much can change in days.
const TRUSTED_FOR_S: f64 = 25.0 * 3_600.0;

/// No endpoint may have more requests at once (`endpoints.max_concurrency`).
const MOST: u32 = 10_000;

/// Less is not told from nothing.
const LEAST_MS: f64 = 0.001;

/// No attempt may take longer (`endpoints.timeout`).
const LONGEST_MS: f64 = 600_000.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn restored(size: i64, normal_ms: f64, age_s: f64) -> Option<(u32, f64)> {
        let restored = Remembered::restore(size, normal_ms, age_s)?;
        Some((restored.size, restored.normal_ms().round()))
    }

    #[test]
    fn what_was_left_is_trusted_for_twenty_five_hours() {
        let hours = |hours: f64| restored(64, 100.0, hours * 3_600.0);
        for age in [0.0, 24.0, 25.0, -25.0] {
            assert_eq!(hours(age), Some((64, 100.0)), "{age}");
        }
        for age in [25.01, -25.01, 1e300, f64::INFINITY, f64::NAN] {
            assert_eq!(hours(age), None, "{age}");
        }
    }

    #[test]
    fn a_size_out_of_bounds_is_brought_into_them() {
        let sizes = [(0, 1), (-7, 1), (i64::MIN, 1), (10_001, 10_000), (i64::MAX, 10_000)];
        for (size, is) in sizes {
            assert_eq!(restored(size, 100.0, 0.0), Some((is, 100.0)), "{size}");
        }
    }

    #[test]
    fn what_is_no_time_is_not_taken_for_normal_and_the_size_with_it() {
        for ms in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(restored(64, ms, 0.0), None, "{ms}");
        }
        for (ms, is) in [(1e-30, 0.0), (1e30, 600_000.0)] {
            assert_eq!(restored(64, ms, 0.0), Some((64, is)), "{ms}");
        }
    }

    #[test]
    fn what_is_written_down_is_within_its_bounds_whatever_was_learnt() {
        for (normal, ms) in
            [(f64::NAN, LEAST_MS), (1e9, LONGEST_MS), (f64::NEG_INFINITY, LEAST_MS), (0.0, 1.0)]
        {
            let normal_ms = Remembered { size: 1, normal }.normal_ms();
            assert!((normal_ms - ms).abs() < 1e-9, "{normal}: {normal_ms}");
        }
        for (size, relays, all) in [(21, 3, 63), (0, 1, 1), (64, 0, 1), (u32::MAX, 2, 10_000)] {
            let one = Remembered { size, normal: 3.0 };
            assert_eq!(one.of_all(relays), Remembered { size: all, ..one }, "{size} {relays}");
        }
    }

    #[test]
    fn relays_have_equal_parts_of_it() {
        for (size, relays, part) in [(64, 1, 64), (64, 2, 32), (64, 3, 22), (2, 5, 1), (9, 0, 9)] {
            let all = Remembered { size, normal: 3.0 };
            assert_eq!(all.part(relays), Remembered { size: part, ..all }, "{size} {relays}");
        }
    }
}
