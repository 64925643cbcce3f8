//! Makes partitions ahead, drops old ones, and trims ledgers.

use std::time::Duration;

use super::run::Parameters;
use super::{RelayId, Store, StoreError};

const MAKE_PARTITIONS: &str = include_str!("../../sql/queries/make_partitions.sql");
const DROP_PARTITIONS: &str = include_str!("../../sql/queries/drop_partitions.sql");
const CANCEL_ORPHANS: &str = include_str!("../../sql/queries/cancel_orphans.sql");
const RELEASE_ORPHANS: &str = include_str!("../../sql/queries/release_orphans.sql");
const TAKE_UP_AGAIN: &str = include_str!("../../sql/queries/take_up_again.sql");
const TRIM: &str = include_str!("../../sql/queries/trim.sql");

/// Makes the missing partitions up to `days_ahead`; returns how many were missing.
///
/// # Errors
/// When the statement fails; also when another session held a lock for longer than 100 ms.
pub async fn make_partitions(store: &Store, days_ahead: u32) -> Result<i32, StoreError> {
    let days = i32::try_from(days_ahead).unwrap_or(i32::MAX);
    let row = store.upkeep.query_one(MAKE_PARTITIONS, "make partitions", &[&days]).await?;
    Ok(row.get(0))
}

/// Drops the partitions that are past their retention and not needed; returns their names.
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
    let row = store.upkeep.query_one(DROP_PARTITIONS, "drop old partitions", parameters).await?;
    Ok(row.get(0))
}

/// Cancels the deliveries to endpoints that were deleted while they were routed; returns how many.
///
/// # Errors
/// When the statement fails.
pub async fn cancel_orphans(store: &Store) -> Result<i64, StoreError> {
    let doing = "cancel what deleted endpoints were owed";
    let row = store.upkeep.query_one(CANCEL_ORPHANS, doing, &[]).await?;
    Ok(row.get(0))
}

/// Releases claims of which no relay knows; returns how many. Of the caller's claims those under a
/// token that is not in `held`; a statement under the newest token may be claiming just now.
///
/// A statement that was delayed on its way may claim for a relay that was reaped meanwhile. And a
/// standby that takes over without the last transactions does not have the record of an attempt.
///
/// # Errors
/// When the statement fails.
pub async fn release_orphans(
    store: &Store,
    relay: RelayId,
    held: &[i64],
    newest: i64,
) -> Result<i64, StoreError> {
    let (doing, parameters): (_, &Parameters<'_>) =
        ("release claims of which no relay knows", &[&relay, &held, &newest]);
    Ok(store.upkeep.query_one(RELEASE_ORPHANS, doing, parameters).await?.get(0))
}

/// Takes up what was set aside, where it is time to; returns how many deliveries that made.
///
/// # Errors
/// When the statement fails.
pub async fn take_up_again(store: &Store) -> Result<i64, StoreError> {
    let row = store.upkeep.query_one(TAKE_UP_AGAIN, "take up what was set aside", &[]).await?;
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
