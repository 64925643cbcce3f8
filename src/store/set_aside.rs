//! Sets aside what the database refuses to route or to record.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::attempts::Attempt;
use super::routing::{RoutingStep, oldest};
use super::run::Parameters;
use super::{RelayId, Store, StoreError};
pub use crate::model::delivery::NextEvent;

use crate::model::delivery::EventId;
use crate::model::endpoint::EndpointId;

const SET_ASIDE_EVENT: &str = include_str!("../../sql/queries/set_aside_event.sql");
const SET_ASIDE_DELIVERY: &str = include_str!("../../sql/queries/set_aside_delivery.sql");
const FILTERS_OF_EVENT: &str = include_str!("../../sql/queries/filters_of_event.sql");
const FILTER_EVENTS: &str = include_str!("../../sql/queries/filter_events.sql");

/// A step of routing that has passed an event.
#[derive(Debug)]
pub struct Passed {
    pub step: RoutingStep,
    pub floor: Timestamp,
    /// Every transaction below this has ended.
    pub xmin: i64,
}

/// The event that is to be routed next. It may be one that cannot be read.
///
/// # Errors
/// When the statement fails.
pub async fn next_event(
    store: &Store,
    relay: RelayId,
    floor: Timestamp,
) -> Result<Option<NextEvent>, StoreError> {
    let doing = "ask which event is next";
    let none: &[EndpointId] = &[];
    let nothing: Option<&str> = None;
    let parameters: &Parameters<'_> =
        &[&relay, &oldest(floor), &None::<EventId>, &nothing, &"", &false, &none];
    let rows = store.router.query(SET_ASIDE_EVENT, doing, parameters).await?;
    rows.first().map(next).transpose()
}

fn next(row: &Row) -> Result<NextEvent, StoreError> {
    let id = row.get("event_id");
    let created_at = row.try_get("created_at").map_err(StoreError::unreadable("event", id))?;
    Ok(NextEvent { id, created_at })
}

/// Passes the event that is to be routed next, if it is still this one, and writes down why.
///
/// `by_endpoint`: what can be made of its deliveries is made, by one endpoint after the other, but
/// for those `without`. `None`: another event is next by now.
///
/// # Errors
/// When the statement fails; then the event is not passed.
pub async fn set_aside_event(
    store: &Store,
    relay: RelayId,
    floor: Timestamp,
    event: EventId,
    error: &StoreError,
    (by_endpoint, without): (bool, &[EndpointId]),
) -> Result<Option<Passed>, StoreError> {
    let (state, said) = error.state_and_words();
    let parameters: &Parameters<'_> =
        &[&relay, &oldest(floor), &event, &state, &said, &by_endpoint, &without];
    let rows = store.router.query(SET_ASIDE_EVENT, "set an event aside", parameters).await?;
    Ok(rows.first().and_then(|row| {
        let number = row.get::<_, Option<i64>>("number")?;
        let step = RoutingStep { number, routed_at: row.get("routed_at") };
        Some(Passed { step, floor: row.get("floor_at"), xmin: row.get("xmin") })
    }))
}

/// The endpoints whose filter decides whether they are owed this event.
///
/// # Errors
/// When the statement fails.
pub async fn filters_of_event(
    store: &Store,
    event: NextEvent,
) -> Result<Vec<EndpointId>, StoreError> {
    let parameters: &Parameters<'_> = &[&event.id, &event.created_at];
    let rows =
        store.router.query(FILTERS_OF_EVENT, "read who filters an event", parameters).await?;
    Ok(rows.iter().map(|row| row.get("endpoint_id")).collect())
}

/// Asks one endpoint's filter about one event, for no longer than `bound`.
///
/// # Errors
/// When the filter cannot be asked.
pub async fn ask_filter(
    store: &Store,
    event: NextEvent,
    endpoint: EndpointId,
    bound: Duration,
) -> Result<(), StoreError> {
    let (events, created, endpoints) = (vec![event.id], vec![event.created_at], vec![endpoint]);
    let parameters: &Parameters<'_> = &[&events, &created, &endpoints];
    let router = store.router.within(bound);
    router.query(FILTER_EVENTS, "ask a filter about an event", parameters).await?;
    Ok(())
}

/// Ends a claim whose result cannot be recorded, and writes down why. `false`: the claim was lost.
///
/// # Errors
/// When the statement fails; then the delivery is claimed as before.
pub async fn set_aside_delivery(
    store: &Store,
    relay: RelayId,
    attempt: &Attempt,
    error: &StoreError,
) -> Result<bool, StoreError> {
    let (state, said) = error.state_and_words();
    let place = attempt.batch.map_or(-1, |place| i32::try_from(place.at).unwrap_or(i32::MAX));
    let result = attempt.in_words();
    let parameters: &Parameters<'_> = &[
        &relay,
        &attempt.event_id,
        &attempt.endpoint_id,
        &attempt.claim_token,
        &place,
        &attempt.event_created_at,
        &state,
        &said,
        &result,
    ];
    let doing = "set a delivery aside";
    Ok(store.queue.execute(SET_ASIDE_DELIVERY, doing, parameters).await? > 0)
}
