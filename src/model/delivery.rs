//! One event owed to one endpoint, claimed by this relay for its next attempt.

use bytes::Bytes;
use jiff::Timestamp;

use super::endpoint::EndpointId;

/// `posthaste.outbox.id`.
pub type EventId = i64;

/// A claimed delivery with its event: all that one attempt needs besides the endpoint.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub event_id: EventId,
    pub endpoint_id: EndpointId,
    /// Fences the claim: what is recorded under another token is dropped.
    pub claim_token: i64,
    /// Attempts recorded so far; the next one's number is one more.
    pub attempt_count: u32,
    /// The revision of the endpoint that was read when this was claimed.
    pub endpoint_revision: i64,
    pub event_type: String,
    pub event_created_at: Timestamp,
    /// The event's payload as inserted, byte for byte.
    pub payload: Bytes,
    /// The event's extra headers, and `traceparent`.
    pub headers: Vec<(String, String)>,
    /// After this moment the event is not worth sending.
    pub expires_at: Option<Timestamp>,
}
