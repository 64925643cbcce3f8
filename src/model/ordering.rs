//! How often the ordering keys of all endpoints are looked at.

use std::time::Duration;

/// However many keys there are, the database has this much longer to itself than it took to look at
/// them.
const REST: u32 = 20;

/// How long to wait before all keys are looked at again, after a look at them that took so long.
#[must_use]
pub fn rest_after(took: Duration) -> Duration {
    took * REST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_at_all_keys_is_followed_by_a_rest_of_twenty_times_its_length() {
        assert_eq!(rest_after(Duration::from_millis(50)), Duration::from_secs(1));
        assert_eq!(rest_after(Duration::ZERO), Duration::ZERO);
    }
}
