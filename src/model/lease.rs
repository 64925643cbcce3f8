//! What the age of a lease allows. The relay that holds it stops well before others may take it for dead.

use std::time::Duration;

/// When the database has been away, every relay's lock is free and every heartbeat is old. The relay that
/// is back first gives the others this long to take theirs again before it takes them for dead.
pub const SETTLE: Duration = Duration::from_secs(2);

/// For how long after a renewal requests may begin and deliveries be claimed, of a lease after which others
/// take its holder for dead.
#[must_use]
pub fn sends_for(lease: Duration) -> Duration {
    lease.mul_f64(2.0 / 3.0)
}

/// Whether a lease that was renewed so long ago is fresh enough to begin a request under.
#[must_use]
pub fn may_send(since_renewal: Duration, lease: Duration) -> bool {
    since_renewal < sends_for(lease)
}

/// Whether a relay that has held its session for so long may take others for dead.
#[must_use]
pub fn may_reap(held_for: Duration) -> bool {
    held_for >= SETTLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_begin_in_the_first_two_thirds_of_a_lease() {
        let lease = Duration::from_secs(15);
        let at = |seconds| may_send(Duration::from_secs(seconds), lease);
        assert_eq!([0, 9, 10, 14].map(at), [true, true, false, false]);
    }
}
