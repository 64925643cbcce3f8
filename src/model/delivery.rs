//! One event owed to one endpoint, claimed by this relay for its next attempt.

use bytes::Bytes;
use jiff::Timestamp;

use super::endpoint::EndpointId;
use super::header::bytes_of_pairs;

/// `posthaste.outbox.id`.
pub type EventId = i64;

/// A claimed delivery with its event: everything that one attempt needs besides the endpoint.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub event_id: EventId,
    pub endpoint_id: EndpointId,
    /// Fences the claim: a record under another token is dropped.
    pub claim_token: i64,
    /// Where it is in the batch that it was claimed with. `None`: it was claimed alone, as a row.
    pub batch: Option<BatchPlace>,
    /// Attempts recorded so far; the next one's number is one more.
    pub attempt_count: u32,
    /// The revision of the endpoint that was read when this was claimed.
    pub endpoint_revision: i64,
    pub event_type: String,
    pub event_created_at: Timestamp,
    /// The event's ordering key, where the endpoint is ordered.
    pub ordering_key: Option<String>,
    /// The event's payload as inserted, byte for byte.
    pub payload: Bytes,
    /// The event's extra headers, and `traceparent`.
    pub headers: Vec<(String, String)>,
    /// When it was created or, if that is later, when it was first to be sent: its age counts from
    /// then. By the relay's clock, as it was when this was claimed.
    pub due_at: Timestamp,
}

/// A place in a batch: in what one step of routing has claimed, and keeps as one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchPlace {
    /// From 0.
    pub at: u32,
    /// How many deliveries the batch has.
    pub of: u32,
}

impl Delivery {
    /// The bytes that it takes of the memory for events.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.payload.len() + bytes_of_pairs(&self.headers)
    }

    /// The `webhook-id`: `evt_<event id>_<creation in unix microseconds, hexadecimal>`. The same
    /// for every attempt, replay and endpoint, so a receiver can drop duplicates; the time tells it
    /// from an event of another database that numbers its events alike. Holds no dot, which would
    /// make the signed text ambiguous.
    #[must_use]
    pub fn webhook_id(&self) -> String {
        webhook_id(self.event_id, self.event_created_at)
    }
}

/// The `webhook-id` of an event. See [`Delivery::webhook_id`].
#[must_use]
pub fn webhook_id(event_id: EventId, created_at: Timestamp) -> String {
    format!("evt_{event_id}_{:x}", created_at.as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(event_id: EventId, event_created_at: &str) -> Delivery {
        Delivery {
            event_id,
            endpoint_id: 7,
            claim_token: 1,
            batch: None,
            attempt_count: 0,
            endpoint_revision: 1,
            event_type: "order.paid".to_owned(),
            event_created_at: event_created_at.parse().unwrap(),
            ordering_key: None,
            payload: Bytes::from_static(b"{}"),
            headers: Vec::new(),
            due_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_webhook_id_is_the_same_for_every_attempt_and_endpoint() {
        let first = delivery(42, "2024-02-29T23:59:59.000125Z");
        let again = Delivery {
            attempt_count: 9,
            claim_token: 8,
            endpoint_id: 1,
            endpoint_revision: 5,
            ..first.clone()
        };
        assert_eq!(first.webhook_id(), "evt_42_6128e0e8c5e3d");
        assert_eq!(again.webhook_id(), first.webhook_id());
    }

    #[test]
    fn the_webhook_id_tells_two_databases_apart() {
        let here = delivery(42, "2024-02-29T23:59:59.000125Z").webhook_id();
        assert_ne!(here, delivery(42, "2024-02-29T23:59:59.000126Z").webhook_id());
        assert_ne!(here, delivery(43, "2024-02-29T23:59:59.000125Z").webhook_id());
    }

    #[test]
    fn the_webhook_id_holds_no_dot() {
        assert!(!delivery(i64::MIN, "-009999-01-02T01:59:59.999Z").webhook_id().contains('.'));
    }
}
