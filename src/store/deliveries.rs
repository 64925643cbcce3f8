//! Deliveries: claims them when due, releases claims, and tells when to look again.

use std::time::Duration;

use tokio_postgres::Row;

use super::batches::Marked;
use super::rows::{Claimed, delivery, millis};
use super::run::Parameters;
use super::{RelayId, Store, StoreError};
use crate::model::delivery::{BatchPlace, Delivery, EventId};
use crate::model::dispatch::ClaimRequest;
use crate::model::endpoint::EndpointId;
use crate::model::tenant::Tenant;

const CLAIM: &str = include_str!("../../sql/queries/claim.sql");
const BEGIN_SUSPECT: &str = include_str!("../../sql/queries/begin_suspect.sql");
const RELEASE: &str = include_str!("../../sql/queries/release.sql");
const DISOWN: &str = include_str!("../../sql/queries/disown.sql");
const TELL_OTHERS: &str = include_str!("../../sql/queries/tell_others.sql");
const DUE: &str = include_str!("../../sql/queries/due.sql");

/// The claims of one statement.
#[derive(Debug, Default)]
pub struct DueClaims {
    pub claimed: Vec<Claimed>,
    /// More was due and had room, but the bytes ran out.
    pub is_cut: bool,
}

/// Claims due deliveries as asked for and, unless a single delivery has more, at most this many
/// bytes of events.
///
/// `suspect`: one that two relays in a row have ended with may be among them.
///
/// # Errors
/// When the statement fails, or a row cannot be read; the caller then disowns any claims.
pub async fn claim(
    store: &Store,
    relay: RelayId,
    token: i64,
    asked: &ClaimRequest,
    (bytes, suspect): (usize, bool),
) -> Result<DueClaims, StoreError> {
    let rooms: Vec<i32> = asked.rooms.iter().copied().map(short).collect();
    let of_endpoints: Vec<i64> = asked.bytes.iter().copied().map(long).collect();
    let tenant_of: Vec<Option<i32>> =
        asked.tenant_of.iter().map(|place| place.map(short)).collect();
    let of_tenants: Vec<i64> = asked.tenants.iter().copied().map(long).collect();
    let bytes = long(bytes);
    let parameters: &Parameters<'_> = &[
        &relay,
        &token,
        &store.now(),
        &asked.endpoints,
        &rooms,
        &bytes,
        &of_endpoints,
        &tenant_of,
        &of_tenants,
        &suspect,
    ];
    let rows = store.queue.query(CLAIM, "claim due deliveries", parameters).await?;
    let now = store.present.now();
    let is_cut = rows.first().is_some_and(|row| row.get("is_cut"));
    // Row by row, so that each payload is in memory twice for a moment only.
    let claimed = rows
        .into_iter()
        .map(|row| {
            let attempts = u32::try_from(row.get::<_, i32>("attempt_count")).unwrap_or(0);
            let is_suspect = row.get("is_suspect");
            let delivery = Delivery { is_suspect, ..delivery(&row, token, attempts, now)? };
            Ok(Claimed { delivery, cancelled: row.get("cancelled") })
        })
        .collect::<Result<_, StoreError>>()?;
    Ok(DueClaims { claimed, is_cut })
}

/// Says that the attempt of a delivery is begun that two relays in a row have ended with. `false`:
/// the claim was lost.
///
/// # Errors
/// When the statement fails.
pub async fn begin_suspect(
    store: &Store,
    relay: RelayId,
    claim: ClaimKey,
) -> Result<bool, StoreError> {
    let ClaimKey { event_id, endpoint_id, token, .. } = claim;
    let parameters: &Parameters<'_> = &[&relay, &event_id, &endpoint_id, &token];
    let begun = store.queue.execute(BEGIN_SUSPECT, "say that an attempt begins", parameters);
    Ok(begun.await? > 0)
}

fn short(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn long(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Names one claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimKey {
    pub event_id: EventId,
    pub endpoint_id: EndpointId,
    pub token: i64,
    /// Where it is in its batch, if it is in one.
    pub batch: Option<BatchPlace>,
}

impl ClaimKey {
    /// Of this claimed delivery.
    #[must_use]
    pub fn of(delivery: &Delivery) -> Self {
        let Delivery { event_id, endpoint_id, claim_token: token, batch, .. } = *delivery;
        Self { event_id, endpoint_id, token, batch }
    }
}

/// Releases claims without spending an attempt. Returns how many were still the relay's.
///
/// # Errors
/// When the statement fails.
pub async fn release(
    store: &Store,
    relay: RelayId,
    claims: &[ClaimKey],
) -> Result<u64, StoreError> {
    let doing = "release claims";
    let (mut events, mut endpoints, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
    let mut marked = Marked::default();
    for claim in claims {
        if let Some(place) = claim.batch {
            marked.mark(claim.token, place);
        } else {
            events.push(claim.event_id);
            endpoints.push(claim.endpoint_id);
            tokens.push(claim.token);
        }
    }
    let (batches, marks) = marked.columns();
    let parameters: &Parameters<'_> = &[&relay, &events, &endpoints, &tokens, &batches, &marks];
    let rows = store.queue.query(RELEASE, doing, parameters).await?;
    released(&rows, doing)
}

fn released(rows: &[Row], doing: &'static str) -> Result<u64, StoreError> {
    let released: i64 = rows.first().ok_or(StoreError::NoRow { doing })?.get("released");
    Ok(u64::try_from(released).unwrap_or_default())
}

/// Releases the claims under these tokens: of statements whose answer never came. Returns how many
/// there were.
///
/// # Errors
/// When the statement fails.
pub async fn disown(store: &Store, relay: RelayId, tokens: &[i64]) -> Result<u64, StoreError> {
    let doing = "give back claims whose answer was lost";
    let rows = store.upkeep.query(DISOWN, doing, &[&relay, &tokens]).await?;
    released(&rows, doing)
}

/// Makes all relays look for due deliveries: there are some of endpoints that other relays serve.
///
/// # Errors
/// When the statement fails.
pub async fn tell_others(store: &Store) -> Result<(), StoreError> {
    store.queue.execute(TELL_OTHERS, "tell the other relays what is due", &[]).await?;
    Ok(())
}

/// An enabled endpoint with unclaimed deliveries.
#[derive(Debug, Clone, Copy)]
pub struct Owed {
    pub endpoint_id: EndpointId,
    /// The endpoint's current revision.
    pub revision: i64,
    /// The endpoint's.
    pub tenant: Option<Tenant>,
    /// How long until the first of it is due.
    pub due_in: Duration,
    /// For how long the first of it has been due.
    pub overdue: Duration,
}

/// Every enabled endpoint with unclaimed deliveries.
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
                tenant: row.get::<_, Option<&str>>("tenant").map(Tenant::of),
                due_in: millis(due_in),
                overdue: millis(-due_in),
            }
        })
        .collect())
}
