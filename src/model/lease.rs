//! When a relay renews its lease, and what it may do under it. A relay that has not renewed its
//! lease for its length may be taken for dead by the others, which then make its deliveries.

use std::time::Duration;

/// Between two tries to take a lease up again.
const RETAKE_INTERVAL: Duration = Duration::from_millis(200);

/// When the database has been away, every relay's session has ended and every heartbeat is old. The
/// relay that is back first gives the others this long to take their leases up again before it
/// takes them for dead.
const SETTLE: Duration = Duration::from_secs(2);

/// How long after the last renewal requests may begin: so much before the lease ends that they have
/// come back by then, as a rule.
#[must_use]
pub fn sends_for(lease: Duration) -> Duration {
    lease.mul_f64(2.0 / 3.0)
}

/// How long to wait between two heartbeats. `is_held`: there is a session that keeps the lease.
/// `is_alone`: there is no other relay.
#[must_use]
pub fn next_heartbeat(
    heartbeat: Duration,
    lease: Duration,
    is_held: bool,
    is_alone: bool,
) -> Duration {
    if !is_held {
        // Until it is taken up again, the relay has no session to live by.
        heartbeat.min(RETAKE_INTERVAL)
    } else if is_alone {
        // There is no relay whose death is to be noticed.
        (heartbeat * 2).min(lease / 4).max(heartbeat)
    } else {
        heartbeat
    }
}

/// Whether a relay whose session has held the lease for this long may take others for dead.
#[must_use]
pub fn is_settled(held_for: Duration) -> bool {
    held_for >= SETTLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_soon_where_the_lease_is_not_held_and_rare_where_there_is_no_other_relay() {
        let millis = Duration::from_millis;
        for (heartbeat, lease, is_held, is_alone, expected) in [
            (2_000, 13_000, true, false, 2_000),
            (2_000, 13_000, true, true, 3_250),
            (2_000, 60_000, true, true, 4_000),
            // Never more often than the setting says.
            (2_000, 6_000, true, true, 2_000),
            (2_000, 13_000, false, true, 200),
            (100, 13_000, false, false, 100),
        ] {
            let next = next_heartbeat(millis(heartbeat), millis(lease), is_held, is_alone);
            assert_eq!(next, millis(expected), "{heartbeat} {lease} {is_held} {is_alone}");
        }
    }

    #[test]
    fn requests_begin_in_the_first_two_thirds_of_a_lease_and_others_are_dead_after_two_seconds() {
        assert_eq!(sends_for(Duration::from_secs(15)), Duration::from_secs(10));
        assert!(!is_settled(Duration::from_millis(1_999)));
        assert!(is_settled(Duration::from_secs(2)));
    }
}
