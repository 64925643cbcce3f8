//! The key that the database's `webhook-id`s are made with.

use tokio_postgres::Row;

use super::{Store, StoreError};
use crate::model::webhook_id::{WEBHOOK_ID_KEY_BYTES, WebhookIds};

const WEBHOOK_ID_KEY: &str = include_str!("../../sql/queries/webhook_id_key.sql");

/// Reads the key.
///
/// # Errors
/// When the statement fails, or the table has lost its row.
pub async fn read(store: &Store) -> Result<WebhookIds, StoreError> {
    let doing = "read the key of webhook-ids";
    of(&store.queue.query_one(WEBHOOK_ID_KEY, doing, &[]).await?, "key")
}

/// By the key in this column.
pub(super) fn of(row: &Row, column: &str) -> Result<WebhookIds, StoreError> {
    let key = row.try_get::<_, &[u8]>(column);
    let key = key.map_err(StoreError::unreadable("webhook_id_key", 1))?;
    let key = <[u8; WEBHOOK_ID_KEY_BYTES]>::try_from(key);
    let key = key.expect("the table's check has as many bytes");
    Ok(WebhookIds::new(key))
}
