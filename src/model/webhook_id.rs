//! The `webhook-id` of an event, the same for every attempt, replay and endpoint.
//!
//! A receiver drops duplicates by it. Without the database's key it tells nothing: neither how many
//! events there are nor when they were inserted.
//!
//! `evt_` and two numbers of 16 hexadecimal digits. The first is a fingerprint of the event's id
//! and its time; the second is the event's id, hidden by what the key makes of the first. So no two
//! events of a database have one `webhook-id`, nor have events of two databases, whose keys differ;
//! and who has the key reads the event from it. `posthaste.webhook_id` computes the same.

use std::fmt;

use jiff::Timestamp;
use ring::digest::{SHA256, digest};

use super::delivery::EventId;

/// Bytes of a database's key.
pub const WEBHOOK_ID_KEY_BYTES: usize = 32;

/// Half a `webhook-id`, in bytes.
const HALF: usize = 8;
const LENGTH: usize = "evt_".len() + 4 * HALF;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// The key of one database: makes the `webhook-id` of its events.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookIds {
    key: [u8; WEBHOOK_ID_KEY_BYTES],
}

impl fmt::Debug for WebhookIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookIds(..)")
    }
}

impl WebhookIds {
    /// By the key that the database holds in `posthaste.webhook_id_key`.
    #[must_use]
    pub const fn new(key: [u8; WEBHOOK_ID_KEY_BYTES]) -> Self {
        Self { key }
    }

    /// The `webhook-id` of an event. Holds no dot, which would make the signed text ambiguous.
    #[must_use]
    pub fn of(&self, event: EventId, created_at: Timestamp) -> String {
        let (event, created_at) = (event.to_be_bytes(), created_at.as_microsecond().to_be_bytes());
        let fingerprint = self.keyed(1, &[&event, &created_at]);
        let pad = self.keyed(2, &[&fingerprint]);
        let hidden = u64::from_be_bytes(event) ^ u64::from_be_bytes(pad);
        // By hand: a formatter takes as long as the rest.
        let mut id = String::with_capacity(LENGTH);
        id.push_str("evt_");
        for byte in fingerprint.into_iter().chain(hidden.to_be_bytes()) {
            let digits = [byte >> 4, byte & 0xf];
            id.extend(digits.map(|digit| char::from(HEX[usize::from(digit)])));
        }
        id
    }

    /// SHA-256 of the key, the purpose and the parts, which for each purpose have one length, cut
    /// to half of an id: so it is a function that is chosen by the key. All fits one block.
    fn keyed(&self, purpose: u8, parts: &[&[u8; HALF]]) -> [u8; HALF] {
        let mut text = [0; WEBHOOK_ID_KEY_BYTES + 1 + 2 * HALF];
        text[..WEBHOOK_ID_KEY_BYTES].copy_from_slice(&self.key);
        text[WEBHOOK_ID_KEY_BYTES] = purpose;
        let mut length = WEBHOOK_ID_KEY_BYTES + 1;
        for part in parts {
            text[length..length + HALF].copy_from_slice(*part);
            length += HALF;
        }
        let hash = digest(&SHA256, &text[..length]);
        hash.as_ref().first_chunk().copied().expect("SHA-256 has 32 bytes")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn ids(key: u8) -> WebhookIds {
        WebhookIds::new([key; WEBHOOK_ID_KEY_BYTES])
    }

    fn at(microsecond: i64) -> Timestamp {
        Timestamp::from_microsecond(microsecond).unwrap()
    }

    #[test]
    fn an_id_is_the_same_each_time_and_another_for_each_event_moment_and_database() {
        let id = ids(7).of(42, at(1_709_251_199_000_125));
        // tests/promises/journey.rs compares this with what SQL computes.
        assert_eq!(id, "evt_e9c4e173a31d5c8ab9b35d16e8984e13");
        assert_eq!(id, ids(7).of(42, at(1_709_251_199_000_125)));
        for other in [
            ids(7).of(43, at(1_709_251_199_000_125)),
            ids(7).of(42, at(1_709_251_199_000_126)),
            ids(8).of(42, at(1_709_251_199_000_125)),
        ] {
            assert_ne!(id, other);
        }
        assert_eq!(ids(7).of(i64::MIN, Timestamp::MIN).len(), id.len());
        assert!(!format!("{:?}", ids(7)).contains('7'));
    }

    /// The ids of events that follow one another, in one microsecond too, share no more digits than
    /// chance has it.
    #[test]
    fn ids_of_neighbours_have_nothing_in_common() {
        let ids = ids(3);
        let all: Vec<_> =
            (1..=4096).map(|event| ids.of(event, at(1_700_000_000_000_000))).collect();
        for digit in "evt_".len()..all[0].len() {
            let seen: HashSet<_> = all.iter().map(|id| id.as_bytes()[digit]).collect();
            assert_eq!(seen.len(), 16, "digit {digit}");
            let same =
                all.windows(2).filter(|two| two[0].as_bytes()[digit] == two[1].as_bytes()[digit]);
            assert!((128..=384).contains(&same.count()), "digit {digit}");
        }
    }
}
