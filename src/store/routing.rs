//! Routing: from events to the deliveries they owe. One statement does it all, and a smaller one
//! the usual case.

use jiff::Timestamp;
use tokio_postgres::Row;

use super::rows::{Line, delivery, lines};
use super::statements::Statements;
use super::{RelayId, Store, StoreError};
use crate::model::delivery::EventId;
use crate::model::endpoint::EndpointId;
use crate::model::routing::Cut;

pub use super::rows::Claimed;

const ROUTE: &str = include_str!("../../sql/queries/route.sql");
const ROUTE_FEW: &str = include_str!("../../sql/queries/route_few.sql");
const HISTORY: &str = include_str!("../../sql/queries/history.sql");
const CURSOR: &str = include_str!("../../sql/queries/cursor.sql");

/// An event's row may say it was created this much before its transaction was first seen: the
/// outbox refuses more than an hour, and clocks have been set back by less than a day.
const CLOCK_SLACK: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

pub use crate::model::dispatch::FEW;

/// How much one relay may claim while routing.
#[derive(Debug)]
pub struct RoutingRoom<'a> {
    pub endpoints: &'a [EndpointId],
    /// How many deliveries of each of `endpoints`.
    pub rooms: &'a [i32],
    /// How many of any other endpoint.
    pub of_others: i32,
    /// How many in all.
    pub in_all: i32,
    /// Bytes in all, of payloads and headers.
    pub bytes: i64,
}

/// The result of one step of routing.
#[derive(Debug)]
pub struct Routed {
    pub events: u32,
    pub deliveries: u32,
    /// Events that no endpoint is owed.
    pub unmatched: u32,
    /// Whether the step was full, so that there may be more.
    pub more: bool,
    /// Every transaction below this has ended and what it wrote is routed.
    pub xmin: i64,
    /// Claimed for the caller, in the order of their events.
    pub claimed: Vec<Claimed>,
    /// Endpoints with due deliveries that were not claimed.
    pub waiting: Vec<EndpointId>,
    /// Lines that were joined behind a delivery which may have ended meanwhile.
    pub lines: Vec<Line>,
    /// Whether this ends a span that took several steps, so that its lines now have an order.
    pub closes_span: bool,
    /// Why it ended before an event for which there is no room.
    pub cut: Option<Cut>,
    /// An argument of the next step.
    pub floor: Timestamp,
    /// The last step there is now.
    pub step: RoutingStep,
}

/// Identifies a row of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoutingStep {
    pub number: i64,
    pub routed_at: Timestamp,
}

/// Where the ledger stands, as far as routing needs to know beforehand. In a restored dump it means
/// nothing, and is refused.
///
/// # Errors
/// When the database is a restored dump, or fails.
pub async fn floor(store: &Store) -> Result<Timestamp, StoreError> {
    let row = store.router.query_one(CURSOR, "read the routing cursor", &[]).await?;
    is_own(&row)?;
    Ok(row.get("floor_at"))
}

/// The last step there is, and when the step of this number was made, if it is there.
///
/// # Errors
/// When the statement fails.
pub async fn history(
    store: &Store,
    number: i64,
) -> Result<(RoutingStep, Option<Timestamp>), StoreError> {
    let row = store.router.query_one(HISTORY, "ask where routing stands", &[&number]).await?;
    let last = RoutingStep { number: row.get("number"), routed_at: row.get("routed_at") };
    Ok((last, row.get("of_step")))
}

/// Whether the cursor was written in this database.
pub(super) fn is_own(cursor: &Row) -> Result<(), StoreError> {
    if cursor.get("is_here") {
        return Ok(());
    }
    Err(StoreError::Copy { ledger: cursor.get("ledger"), here: cursor.get("here") })
}

/// No event still to be routed says that it is older.
pub(super) fn oldest(floor: Timestamp) -> Timestamp {
    floor.saturating_sub(CLOCK_SLACK).unwrap_or(Timestamp::MIN)
}

/// The result of [`route_few`].
#[derive(Debug)]
pub enum Few {
    /// The same as [`route`] would have.
    Routed(Option<Routed>),
    /// It did nothing, as there is more to do than it can: `route` is to be called.
    Unusual,
}

/// Routes the next `most` events at most. `None`: another relay is routing just now.
///
/// # Errors
/// When the statement fails; then nothing has been routed.
pub async fn route(
    store: &Store,
    relay: RelayId,
    token: i64,
    most: u32,
    floor: Timestamp,
    room: &RoutingRoom<'_>,
) -> Result<Option<Routed>, StoreError> {
    let rows = step(store, &store.router, (ROUTE, most), relay, token, floor, room).await?;
    routed(store, token, rows)
}

/// Routes the next events if they are few and nothing is special about them, at half the price.
///
/// # Errors
/// When the statement fails; then nothing has been routed.
pub async fn route_few(
    store: &Store,
    relay: RelayId,
    token: i64,
    floor: Timestamp,
    room: &RoutingRoom<'_>,
) -> Result<Few, StoreError> {
    let rows = step(store, &store.few, (ROUTE_FEW, FEW.into()), relay, token, floor, room).await?;
    if rows.first().is_some_and(|row| !row.get::<_, bool>("is_usual")) {
        return Ok(Few::Unusual);
    }
    Ok(Few::Routed(routed(store, token, rows)?))
}

#[expect(clippy::too_many_arguments, reason = "two statements take the same, each in its sessions")]
async fn step(
    store: &Store,
    sessions: &Statements,
    (statement, most): (&'static str, u32),
    relay: RelayId,
    token: i64,
    floor: Timestamp,
    room: &RoutingRoom<'_>,
) -> Result<Vec<Row>, StoreError> {
    let oldest = oldest(floor);
    // All rows have arrived, so the statement has committed before any of them is sent.
    sessions
        .query(
            statement,
            "route events",
            &[
                &relay,
                &token,
                &i64::from(most),
                &store.now(),
                &oldest,
                &room.endpoints,
                &room.rooms,
                &room.of_others,
                &room.in_all,
                &room.bytes,
            ],
        )
        .await
}

/// The first row says what was done; those that name an event are claims.
fn routed(store: &Store, token: i64, rows: Vec<Row>) -> Result<Option<Routed>, StoreError> {
    let Some(done) = rows.first() else { return Ok(None) };
    let count = |name| u32::try_from(done.get::<_, i32>(name)).unwrap_or(0);
    let mut routed = Routed {
        events: count("events"),
        deliveries: count("deliveries"),
        unmatched: count("unmatched"),
        more: done.get("more"),
        xmin: done.get("xmin"),
        claimed: Vec::new(),
        waiting: done.get::<_, Option<Vec<i64>>>("waiting").unwrap_or_default(),
        lines: lines(done),
        closes_span: done.get("closes_span"),
        cut: None,
        floor: done.get("floor_at"),
        step: RoutingStep { number: done.get("step_number"), routed_at: done.get("step_at") },
    };
    let now = store.present.now();
    // Row by row, so that each payload is in memory twice for a moment only.
    for row in rows {
        if row.get::<_, Option<EventId>>("event_id").is_some() {
            let delivery = delivery(&row, token, 0, now)?;
            let cancelled = row.get::<_, bool>("expired").then(|| "expired".to_owned());
            routed.claimed.push(Claimed { delivery, cancelled });
        }
    }
    routed.claimed.sort_by_key(|one| one.delivery.event_id);
    Ok(Some(routed))
}
