//! What is owed: claiming it when due, giving claims back, and knowing when to look.

use std::time::Duration;

use super::routing::{Claimed, delivery};
use super::statements::Parameters;
use super::{RelayId, Store, StoreError};
use crate::model::delivery::EventId;
use crate::model::endpoint::EndpointId;

const CLAIM: &str = include_str!("../../sql/queries/claim.sql");
const RELEASE: &str = include_str!("../../sql/queries/release.sql");
const DISOWN: &str = include_str!("../../sql/queries/disown.sql");
const TELL_OTHERS: &str = include_str!("../../sql/queries/tell_others.sql");
const DUE: &str = include_str!("../../sql/queries/due.sql");

/// What one statement has claimed.
#[derive(Debug, Default)]
pub struct ClaimedDue {
    pub claimed: Vec<Claimed>,
    /// More was due and had room, but for its size.
    pub is_cut: bool,
}

/// Claims what is due for these endpoints, at most the room of each, and no more bytes of events than
/// that, unless it is one delivery alone.
///
/// # Errors
/// When the statement fails, or a row cannot be read; what it may have claimed is to be given back.
pub async fn claim(
    store: &Store,
    relay: RelayId,
    token: i64,
    endpoints: &[EndpointId],
    rooms: &[i32],
    bytes: i64,
) -> Result<ClaimedDue, StoreError> {
    let parameters: &Parameters<'_> = &[&relay, &token, &store.now(), &endpoints, &rooms, &bytes];
    let rows = store.queue.query(CLAIM, "claim due deliveries", parameters).await?;
    let now = store.present.now();
    let is_cut = rows.first().is_some_and(|row| row.get("is_cut"));
    // Row by row, so that each payload is there twice for a moment only.
    let claimed = rows
        .into_iter()
        .map(|row| {
            let attempts = u32::try_from(row.get::<_, i32>("attempt_count")).unwrap_or(0);
            let delivery = delivery(&row, token, attempts, now)?;
            Ok(Claimed { delivery, cancelled: row.get("cancelled") })
        })
        .collect::<Result<_, StoreError>>()?;
    Ok(ClaimedDue { claimed, is_cut })
}

/// Names one claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimKey {
    pub event_id: EventId,
    pub endpoint_id: EndpointId,
    pub token: i64,
}

/// Gives claims back without spending an attempt. Returns how many were still held.
///
/// # Errors
/// When the statement fails.
pub async fn release(
    store: &Store,
    relay: RelayId,
    claims: &[ClaimKey],
) -> Result<u64, StoreError> {
    let events: Vec<i64> = claims.iter().map(|claim| claim.event_id).collect();
    let endpoints: Vec<i64> = claims.iter().map(|claim| claim.endpoint_id).collect();
    let tokens: Vec<i64> = claims.iter().map(|claim| claim.token).collect();
    let parameters: &Parameters<'_> = &[&relay, &events, &endpoints, &tokens];
    store.queue.execute(RELEASE, "release claims", parameters).await
}

/// Gives back what was claimed under these tokens: by statements whose answer never came. Returns
/// how much there was.
///
/// # Errors
/// When the statement fails.
pub async fn disown(store: &Store, relay: RelayId, tokens: &[i64]) -> Result<u64, StoreError> {
    let doing = "give back claims whose answer was lost";
    store.upkeep.execute(DISOWN, doing, &[&relay, &tokens]).await
}

/// Makes all relays ask what is due: something is, of endpoints that others serve.
///
/// # Errors
/// When the statement fails.
pub async fn tell_others(store: &Store) -> Result<(), StoreError> {
    store.queue.execute(TELL_OTHERS, "tell the other relays what is due", &[]).await?;
    Ok(())
}

/// An enabled endpoint that is owed something unclaimed.
#[derive(Debug, Clone, Copy)]
pub struct Owed {
    pub endpoint_id: EndpointId,
    /// Of the endpoint as it is now.
    pub revision: i64,
    /// How long until the first of it is due.
    pub due_in: Duration,
    /// For how long the first of it has been due.
    pub overdue: Duration,
}

/// Every enabled endpoint that is owed something unclaimed.
///
/// # Errors
/// When the statement fails.
pub async fn due(store: &Store) -> Result<Vec<Owed>, StoreError> {
    let rows = store.queue.query(DUE, "look what is due", &[&store.now()]).await?;
    Ok(rows
        .iter()
        .map(|row| {
            let due_in: f64 = row.get("due_in_ms");
            Owed {
                endpoint_id: row.get("endpoint_id"),
                revision: row.get("revision"),
                due_in: millis(due_in),
                overdue: millis(-due_in),
            }
        })
        .collect())
}

/// Zero where there are none to speak of.
pub(super) fn millis(millis: f64) -> Duration {
    Duration::try_from_secs_f64(millis.max(0.0) / 1000.0).unwrap_or(Duration::MAX)
}
