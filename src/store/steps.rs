//! Routing in steps: what is to be routed is read, decided about, and written, by a statement each.
//!
//! All statements of one step run on one connection. A step that was read in one server must not be
//! written in another: the numbers of transactions are each server's own.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::routing::{RoutingStep, oldest};
use super::rows::{Claimed, JsonText, texts};
use super::statements::Seat;
use super::{RelayId, Store, StoreError};
use crate::model::delivery::{BatchPlace, Delivery, EventId};
use crate::model::endpoint::EndpointId;
use crate::model::routing::{EventKind, Recipient};
use crate::model::tenant::Tenant;

const READ_EVENTS: &str = include_str!("../../sql/queries/read_events.sql");
const OWED: &str = include_str!("../../sql/queries/owed.sql");
const FILTER_EVENTS: &str = include_str!("../../sql/queries/filter_events.sql");
const WRITE_STEP: &str = include_str!("../../sql/queries/write_step.sql");

/// The connection on which one step is read and written.
#[derive(Debug)]
pub struct StepSession {
    pub(super) seat: Seat,
    pub(super) now: Option<Timestamp>,
    /// By the relay's clock.
    pub(super) present: Timestamp,
}

/// What a step has found.
#[derive(Debug)]
pub struct Found {
    /// The last step there was.
    pub last: RoutingStep,
    /// Whether that was long ago.
    pub is_old: bool,
    /// Another relay takes one full step after the other.
    pub is_others: bool,
    /// Whether the last step was full, and its span goes on.
    pub taken_up: bool,
    /// Every transaction below this has ended.
    pub xmin: i64,
    pub floor: Timestamp,
    pub(super) since: String,
    pub(super) until: String,
    /// The snapshot in which it was read.
    pub seen: String,
    /// In the order in which they are routed.
    pub events: Vec<FoundEvent>,
    /// Whether there may be more.
    pub is_full: bool,
    /// Whether an event follows that cannot be read.
    pub is_unreadable: bool,
}

/// An event that is to be routed.
#[derive(Debug, Clone)]
pub struct FoundEvent {
    pub id: EventId,
    pub(super) xid: i64,
    pub event_type: String,
    pub tenant: Option<String>,
    /// The one endpoint that it names.
    pub endpoint_id: Option<EndpointId>,
    pub ordering_key: Option<String>,
    pub created_at: Timestamp,
    /// When it may be sent, if that is later than now, as Postgres writes it.
    pub(super) due_at: Option<String>,
    expired: bool,
    /// Its age counts from then, by the relay's clock.
    aged_from: Timestamp,
    /// Of payload and headers.
    pub bytes: usize,
    payload: bytes::Bytes,
    headers: Vec<(String, String)>,
}

/// One delivery of a step: an event's place among those found, and the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepDelivery {
    pub event: usize,
    pub endpoint: EndpointId,
    pub revision: i64,
}

/// What a step writes.
#[derive(Debug)]
pub struct StepToWrite<'a> {
    /// Events that are routed: the first of those found.
    pub taken: usize,
    /// Whether more events follow in the span.
    pub more: bool,
    pub unmatched: usize,
    pub claimed: &'a [StepDelivery],
    pub waiting: &'a [StepDelivery],
    /// The snapshot that the endpoints were read in.
    pub endpoints_as_of: &'a str,
}

/// Deliveries as they are written.
pub(super) struct Columns {
    pub(super) events: Vec<EventId>,
    pub(super) endpoints: Vec<EndpointId>,
    pub(super) created: Vec<Timestamp>,
}

/// What came of writing it.
#[derive(Debug)]
pub enum StepResult {
    Done {
        step: RoutingStep,
        floor: Timestamp,
        /// The endpoints are as they were, up to this snapshot.
        snapshot: String,
    },
    /// Another relay was first.
    Lost,
    /// An endpoint has changed.
    EndpointsChanged,
}

/// Opens a session for one step. `None`: behind a pooler there is no session of ours.
///
/// # Errors
/// When no connection is to be had.
pub async fn step_session(store: &Store) -> Result<Option<StepSession>, StoreError> {
    if store.database.is_pooled() {
        return Ok(None);
    }
    let seat = store.router.seat().await?;
    Ok(Some(StepSession { seat, now: store.now(), present: store.present.now() }))
}

impl StepSession {
    /// Reads the next `most` events at most, and no more than these bytes of payloads and headers
    /// unless a single event has more.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn read_events(
        &self,
        relay: RelayId,
        (most, bytes): (u32, usize),
        floor: Timestamp,
    ) -> Result<Found, StoreError> {
        let doing = "read the events to be routed";
        let oldest = oldest(floor);
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let rows = self
            .seat
            .run(READ_EVENTS, doing, &[&relay, &i64::from(most), &oldest, &self.now, &bytes])
            .await?;
        let mut rows = rows.rows.into_iter();
        let first = rows.next().ok_or(StoreError::NoRow { doing })?;
        let count = rows.len();
        let mut is_unreadable = false;
        // Row by row, so that each payload is in memory twice for a moment only. What was left out
        // is at the end.
        let events = rows.map_while(|row| match event(&row, self.present) {
            Ok(event) => event,
            Err(error) => {
                tracing::debug!(error = error.in_full(), "routing stops before an event");
                is_unreadable = true;
                None
            }
        });
        let events: Vec<_> = events.collect();
        Ok(Found {
            is_unreadable,
            is_full: events.len() < count || count == usize::try_from(most).unwrap_or(usize::MAX),
            last: RoutingStep { number: first.get("number"), routed_at: first.get("routed_at") },
            is_old: first.get("is_old"),
            is_others: first.get("is_others"),
            taken_up: first.get("taken_up"),
            xmin: first.get("xmin"),
            floor: first.get("floor_at"),
            since: first.get("since"),
            until: first.get("until"),
            seen: first.get("seen"),
            events,
        })
    }

    /// Who is owed events of these kinds, and the snapshot in which that is so.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn owed(
        &self,
        kinds: &[EventKind],
    ) -> Result<(String, Vec<Vec<Recipient>>), StoreError> {
        let doing = "read who is owed events";
        let named = |kind: &EventKind| match kind {
            EventKind::Published { .. } => None,
            EventKind::Named(endpoint) => Some(*endpoint),
        };
        let (types, tenants): (Vec<_>, Vec<_>) = kinds
            .iter()
            .map(|kind| match kind {
                EventKind::Published { event_type, tenant } => {
                    (event_type.as_str(), tenant.as_deref().unwrap_or_default())
                }
                EventKind::Named(_) => ("", ""),
            })
            .unzip();
        let named: Vec<Option<EndpointId>> = kinds.iter().map(named).collect();
        let rows = self.seat.run(OWED, doing, &[&types, &tenants, &named]).await?.rows;
        let snapshot = rows.first().ok_or(StoreError::NoRow { doing })?.get("snapshot");
        let mut owed = vec![Vec::new(); kinds.len()];
        for row in &rows {
            let Some(endpoint) = row.get("endpoint_id") else { continue };
            let n = usize::try_from(row.get::<_, i32>("n")).unwrap_or(1);
            owed[n - 1].push(Recipient {
                endpoint,
                revision: row.get("revision"),
                tenant: row.get::<_, Option<&str>>("tenant").map(Tenant::of),
                ordered: row.get("ordered"),
                filtered: row.get("filtered"),
                flowing: row.get("flowing"),
            });
        }
        Ok((snapshot, owed))
    }

    /// Asks filters about events: for each pair, whether the endpoint's filter lets the event
    /// through.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn filter_events(
        &self,
        pairs: &[(&FoundEvent, EndpointId)],
    ) -> Result<Vec<bool>, StoreError> {
        let events: Vec<i64> = pairs.iter().map(|(event, _)| event.id).collect();
        let created: Vec<Timestamp> = pairs.iter().map(|(event, _)| event.created_at).collect();
        let endpoints: Vec<i64> = pairs.iter().map(|(_, endpoint)| *endpoint).collect();
        let rows = self
            .seat
            .run(FILTER_EVENTS, "ask filters about events", &[&events, &created, &endpoints])
            .await?
            .rows;
        let mut let_through = vec![false; pairs.len()];
        for row in &rows {
            let n = usize::try_from(row.get::<_, i32>("n")).unwrap_or(1);
            let_through[n - 1] = true;
        }
        Ok(let_through)
    }

    /// Writes a step: its row of the ledger, and its deliveries, of which some are claimed.
    ///
    /// # Errors
    /// When the statement fails; it may have been carried out all the same.
    pub async fn write_step(
        &self,
        relay: RelayId,
        token: i64,
        found: &Found,
        step: &StepToWrite<'_>,
    ) -> Result<StepResult, StoreError> {
        let doing = "write a step of routing";
        let last = step.taken.checked_sub(1).map(|last| &found.events[last]).filter(|_| step.more);
        let (after_xid, after_id) = (last.map(|last| last.xid), last.map(|last| last.id));
        let (claimed, waiting) = (found.columns(step.claimed), found.columns(step.waiting));
        let (lowest, highest) = (claimed.events.iter().min(), claimed.events.iter().max());
        let due = |one: &StepDelivery| found.events[one.event].due_at.as_deref();
        let due: Vec<Option<&str>> = step.waiting.iter().map(due).collect();
        let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let result = self
            .seat
            .run(
                WRITE_STEP,
                doing,
                &[
                    &relay,
                    &token,
                    &found.last.number,
                    &found.since,
                    &found.until,
                    &after_xid,
                    &after_id,
                    &count(step.taken),
                    &count(step.claimed.len() + step.waiting.len()),
                    &count(step.unmatched),
                    &step.endpoints_as_of,
                    &self.now,
                    &claimed.events,
                    &claimed.endpoints,
                    &claimed.created,
                    &lowest,
                    &highest,
                    &waiting.events,
                    &waiting.endpoints,
                    &waiting.created,
                    &due,
                ],
            )
            .await?;
        let row = result.one(doing)?;
        if !row.get::<_, bool>("is_current") {
            return Ok(StepResult::EndpointsChanged);
        }
        let Some(number) = row.get("number") else { return Ok(StepResult::Lost) };
        Ok(StepResult::Done {
            step: RoutingStep { number, routed_at: row.get("routed_at") },
            floor: row.get("floor_at"),
            snapshot: row.get("snapshot"),
        })
    }
}

impl Found {
    pub(super) fn columns(&self, deliveries: &[StepDelivery]) -> Columns {
        let event = |one: &StepDelivery| &self.events[one.event];
        Columns {
            events: deliveries.iter().map(|one| event(one).id).collect(),
            endpoints: deliveries.iter().map(|one| one.endpoint).collect(),
            created: deliveries.iter().map(|one| event(one).created_at).collect(),
        }
    }
}

impl FoundEvent {
    /// Whether it may be sent yet.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.due_at.is_none()
    }

    /// The event as one endpoint is to have it.
    #[must_use]
    pub fn claimed(
        self,
        (endpoint_id, revision): (EndpointId, i64),
        token: i64,
        place: BatchPlace,
    ) -> Claimed {
        Claimed {
            delivery: Delivery {
                event_id: self.id,
                endpoint_id,
                claim_token: token,
                batch: Some(place),
                attempt_count: 0,
                endpoint_revision: revision,
                event_type: self.event_type,
                event_created_at: self.created_at,
                ordering_key: None,
                payload: self.payload,
                headers: self.headers,
                due_at: self.aged_from,
            },
            cancelled: self.expired.then(|| "expired".to_owned()),
        }
    }
}

/// Where the columns of an event begin: what comes before is the step's.
const EVENT: usize = 10;

/// Reads by place, since names are looked up one by one. `now` is the relay's; see
/// [`delivery`](super::rows::delivery). `None`: the event's payload was left out.
pub(super) fn event(row: &Row, now: Timestamp) -> Result<Option<FoundEvent>, StoreError> {
    let id = row.get(EVENT);
    let read = || {
        let age = Duration::try_from_secs_f64(row.try_get::<_, f64>(EVENT + 9)? / 1000.0);
        let headers = row.try_get::<_, Option<serde_json::Value>>(EVENT + 12)?;
        let Some(JsonText(payload)) = row.try_get(EVENT + 11)? else { return Ok(None) };
        Ok(Some(FoundEvent {
            id,
            xid: row.try_get(EVENT + 1)?,
            event_type: row.try_get(EVENT + 2)?,
            tenant: row.try_get(EVENT + 3)?,
            endpoint_id: row.try_get(EVENT + 4)?,
            ordering_key: row.try_get(EVENT + 5)?,
            created_at: row.try_get(EVENT + 6)?,
            due_at: row.try_get(EVENT + 7)?,
            expired: row.try_get(EVENT + 8)?,
            aged_from: now.saturating_sub(age.unwrap_or_default()).unwrap_or(Timestamp::MIN),
            bytes: usize::try_from(row.try_get::<_, i32>(EVENT + 10)?).unwrap_or(usize::MAX),
            payload,
            headers: headers.map(|headers| texts(&headers)).unwrap_or_default(),
        }))
    };
    read().map_err(StoreError::unreadable("event", id))
}
