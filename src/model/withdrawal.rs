//! A call of `posthaste.cancel` or `posthaste.cancel_endpoint` that found deliveries claimed by
//! relays: what of these has not begun is cancelled by the relay that holds it.

use super::delivery::{Delivery, EventId};
use super::endpoint::EndpointId;
use super::subscription;

/// See the module. It is about deliveries that were claimed when it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawal {
    pub id: i64,
    /// `None`: every event.
    pub event: Option<EventId>,
    /// `None`: every endpoint.
    pub endpoint: Option<EndpointId>,
    /// A pattern of event types.
    pub event_type: String,
    pub reason: String,
}

impl Withdrawal {
    /// Whether the delivery is to be cancelled.
    #[must_use]
    pub fn is_of(&self, delivery: &Delivery) -> bool {
        self.event.is_none_or(|event| event == delivery.event_id)
            && self.endpoint.is_none_or(|endpoint| endpoint == delivery.endpoint_id)
            && subscription::matches(&self.event_type, &delivery.event_type)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn it_is_of_what_it_names_and_of_all_where_it_names_nothing() {
        let delivery = Delivery {
            event_id: 7,
            endpoint_id: 3,
            claim_token: 1,
            batch: None,
            attempt_count: 0,
            endpoint_revision: 1,
            event_type: "order.paid".to_owned(),
            event_created_at: Timestamp::UNIX_EPOCH,
            ordering_key: None,
            payload: Bytes::new(),
            headers: Vec::new(),
            is_suspect: false,
            due_at: Timestamp::UNIX_EPOCH,
        };
        for (event, endpoint, event_type, is_of) in [
            (Some(7), None, "*", true),
            (Some(7), Some(3), "*", true),
            (None, Some(3), "order.*", true),
            (Some(8), None, "*", false),
            (Some(7), Some(4), "*", false),
            (None, Some(3), "user.*", false),
        ] {
            let (event_type, reason) = (event_type.to_owned(), String::new());
            let withdrawal = Withdrawal { id: 1, event, endpoint, event_type, reason };
            assert_eq!(withdrawal.is_of(&delivery), is_of, "{withdrawal:?}");
        }
    }
}
