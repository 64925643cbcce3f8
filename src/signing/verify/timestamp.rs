//! Whether a signed timestamp is near enough: that of a replayed old request is not.

use std::time::Duration;

use jiff::Timestamp;

use super::NotVerified;

/// Now, and how far from it a timestamp may be.
#[derive(Clone, Copy)]
pub(super) struct Freshness {
    pub(super) now: Timestamp,
    pub(super) tolerance: Duration,
}

impl Freshness {
    /// `digits` are seconds since 1970, as the header has them; nothing but digits.
    pub(super) fn check(self, header: &'static str, digits: &[u8]) -> Result<(), NotVerified> {
        let malformed =
            NotVerified::Malformed { header, expected: "a time in whole seconds since 1970" };
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(malformed);
        }
        let text = std::str::from_utf8(digits).map_err(|_| malformed)?;
        let signed: i64 = text.parse().map_err(|_| malformed)?;
        let now = self.now.as_second();
        // abs_diff: the difference of two i64 need not be one.
        if Duration::from_secs(now.abs_diff(signed)) <= self.tolerance {
            return Ok(());
        }
        Err(if signed < now { NotVerified::TooOld } else { NotVerified::TooNew })
    }
}
