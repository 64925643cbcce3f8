//! Cancellations that found deliveries claimed by relays.

use super::{Store, StoreError};
use crate::model::withdrawal::Withdrawal;

const WITHDRAWALS: &str = include_str!("../../sql/queries/withdrawals.sql");

/// Those of the last hour, at least.
///
/// # Errors
/// When the statement fails.
pub async fn withdrawals(store: &Store) -> Result<Vec<Withdrawal>, StoreError> {
    let rows = store.queue.query(WITHDRAWALS, "read what was cancelled", &[]).await?;
    let withdrawal = |row: &tokio_postgres::Row| Withdrawal {
        id: row.get("id"),
        event: row.get("event_id"),
        endpoint: row.get("endpoint_id"),
        event_type: row.get("event_type"),
        reason: row.get("reason"),
    };
    Ok(rows.iter().map(withdrawal).collect())
}
