//! One event owed to one endpoint, claimed by this relay for its next attempt.

use bytes::Bytes;
use jiff::Timestamp;

use super::endpoint::EndpointId;
use super::header::bytes_of_pairs;

/// `posthaste.outbox.id`.
pub type EventId = i64;

/// An event that is named without having been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextEvent {
    pub id: EventId,
    /// Names its partition.
    pub created_at: Timestamp,
}

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
    /// Whether two relays in a row have ended while they had it.
    pub is_suspect: bool,
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
}
