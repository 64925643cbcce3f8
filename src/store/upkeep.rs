//! Partitions made ahead and dropped, ledgers trimmed.

use std::time::Duration;

use super::statements::Parameters;
use super::{Store, StoreError};

const MAKE_PARTITIONS: &str = include_str!("../../sql/queries/make_partitions.sql");
const DROP_PARTITIONS: &str = include_str!("../../sql/queries/drop_partitions.sql");
const CANCEL_ORPHANS: &str = include_str!("../../sql/queries/cancel_orphans.sql");
const TRIM: &str = include_str!("../../sql/queries/trim.sql");

/// Makes the partitions that are missing up to so many days ahead; returns how many were.
///
/// # Errors
/// When the statement fails; also when somebody held a lock for longer than 100 ms.
pub async fn make_partitions(store: &Store, days_ahead: u32) -> Result<i32, StoreError> {
    let days = i32::try_from(days_ahead).unwrap_or(i32::MAX);
    let row = store.router.query_one(MAKE_PARTITIONS, "make partitions", &[&days]).await?;
    Ok(row.get(0))
}

/// Drops the days that are past their retention and not needed; returns their names.
///
/// # Errors
/// When the statement fails.
pub async fn drop_partitions(
    store: &Store,
    outbox: Duration,
    attempts: Duration,
) -> Result<Vec<String>, StoreError> {
    let (outbox, attempts) = (outbox.as_secs_f64(), attempts.as_secs_f64());
    let parameters: &Parameters<'_> = &[&outbox, &attempts];
    let row = store.router.query_one(DROP_PARTITIONS, "drop old partitions", parameters).await?;
    Ok(row.get(0))
}

/// Ends what is owed to endpoints that were deleted while it was being routed; returns how much.
///
/// # Errors
/// When the statement fails.
pub async fn cancel_orphans(store: &Store) -> Result<i64, StoreError> {
    let doing = "cancel what deleted endpoints were owed";
    let row = store.router.query_one(CANCEL_ORPHANS, doing, &[]).await?;
    Ok(row.get(0))
}

/// Trims the routing ledger and forgets idempotency keys of events that are past their retention.
///
/// # Errors
/// When the statement fails.
pub async fn trim(store: &Store, outbox: Duration) -> Result<(), StoreError> {
    store.queue.execute(TRIM, "trim the ledgers", &[&outbox.as_secs_f64()]).await?;
    Ok(())
}
