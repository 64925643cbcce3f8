//! Stores incoming webhooks: each becomes an event once, by its sender's id.

use std::time::Duration;

use jiff::Timestamp;

use super::{Store, StoreError, webhook_ids};
use crate::model::delivery::EventId;
use crate::model::incoming::Incoming;

const RECEIVE: &str = include_str!("../../sql/queries/receive.sql");
const TRIM_RECEIVED: &str = include_str!("../../sql/queries/trim_received.sql");

/// The result for one webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// `false`: the sender had sent it before, and nothing was inserted.
    pub is_new: bool,
    /// The `webhook-id` of its event or, if it had been sent before, of the first one's. `None`:
    /// another session is inserting that at this moment.
    pub webhook_id: Option<String>,
}

/// Inserts these webhooks in one statement; returns one result for each, in order.
///
/// # Errors
/// When the statement fails. Whether it was committed may then be unknown; calling this again with
/// the same webhooks is safe.
pub async fn receive(store: &Store, came: &[&Incoming]) -> Result<Vec<Stored>, StoreError> {
    fn column<'a, T>(came: &[&'a Incoming], of: impl Fn(&'a Incoming) -> T) -> Vec<T> {
        came.iter().map(|incoming| of(incoming)).collect()
    }
    let rows = store
        .router
        .query(
            RECEIVE,
            "store what came in",
            &[
                &column(came, |i| i.source.as_str()),
                &column(came, |i| i.sender_id.as_str()),
                &column(came, |i| i.event_type.as_str()),
                &column(came, |i| i.payload.as_str()),
                &column(came, |i| i.tenant.as_deref()),
                &column(came, |i| i.ordering_key.as_deref()),
                &column(came, |i| i.headers.as_str()),
            ],
        )
        .await?;
    let stored = rows.iter().map(|row| {
        let (id, at): (Option<EventId>, Option<Timestamp>) =
            (row.get("event_id"), row.get("created_at"));
        let ids = webhook_ids::of(row, "webhook_id_key")?;
        let webhook_id = id.zip(at).map(|(id, at)| ids.of(id, at));
        Ok(Stored { is_new: row.get("is_new"), webhook_id })
    });
    stored.collect()
}

/// Deletes the ids of webhooks that came in longer ago than this.
///
/// # Errors
/// When the statement fails.
pub async fn trim(store: &Store, kept: Duration) -> Result<(), StoreError> {
    /// As many as one call of the statement deletes.
    const A_CALL: u64 = 10_000;
    /// More can wait until the next minute.
    const CALLS: usize = 20;
    for _ in 0..CALLS {
        let doing = "forget what came in long ago";
        let deleted = store.upkeep.execute(TRIM_RECEIVED, doing, &[&kept.as_secs_f64()]).await?;
        if deleted < A_CALL {
            break;
        }
    }
    Ok(())
}
