//! Routing in steps: what is to be routed is read, decided about, and written, by a statement each.
//!
//! All statements of one step run on one connection. A step that was read in one server must not be
//! written in another: the numbers of transactions are each server's own.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;

pub use super::found::FoundEvent;
use super::found::{ANNOUNCED, BYTES, Clocks, event};
use super::routing::{RoutingStep, oldest};
use super::run::Parameters;
use super::statements::Seat;
use super::{RelayId, Store, StoreError};
use crate::model::delivery::EventId;
use crate::model::endpoint::EndpointId;
use crate::model::routing::{EventKind, Recipient};
use crate::model::tenant::Tenant;

const READ_EVENTS: &str = include_str!("../../sql/queries/read_events.sql");
const OWED: &str = include_str!("../../sql/queries/owed.sql");
const FILTER_EVENTS: &str = include_str!("../../sql/queries/filter_events.sql");
const SET_ASIDE_PAIRS: &str = include_str!("../../sql/queries/set_aside_pairs.sql");
const WRITE_STEP: &str = include_str!("../../sql/queries/write_step.sql");

/// The SQLSTATE of a statement that took too long.
const OVERDUE: &str = "57014";

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

impl StepResult {
    /// As a statement answers that writes a step.
    pub(super) fn of(row: &Row) -> Self {
        if !row.get::<_, bool>("is_current") {
            return Self::EndpointsChanged;
        }
        row.get::<_, Option<i64>>("number").map_or(Self::Lost, |number| Self::Done {
            step: RoutingStep { number, routed_at: row.get("routed_at") },
            floor: row.get("floor_at"),
            snapshot: row.get("snapshot"),
        })
    }
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
    /// When a statement fails.
    pub async fn read_events(
        &self,
        relay: RelayId,
        (mut most, bytes): (u32, usize),
        floor: Timestamp,
    ) -> Result<Found, StoreError> {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        loop {
            let (found, first_left_out) = self.read(relay, most, bytes, floor).await?;
            match first_left_out {
                // It has more than its part, so these are fewer than before.
                Some(has) if most > 1 => {
                    let fitting = u32::try_from(bytes / has.max(1)).unwrap_or(u32::MAX);
                    most = fitting.clamp(1, most - 1);
                }
                _ => return Ok(found),
            }
        }
    }

    /// Reads the next `most` events at most, as far as each has no more than its part of these
    /// bytes. If there is none, then how many bytes the first has.
    async fn read(
        &self,
        relay: RelayId,
        most: u32,
        bytes: i64,
        floor: Timestamp,
    ) -> Result<(Found, Option<i64>), StoreError> {
        let doing = "read the events to be routed";
        let oldest = oldest(floor);
        let each = if most > 1 { bytes / i64::from(most) } else { i64::MAX };
        let rows = self
            .seat
            .run(READ_EVENTS, doing, &[&relay, &i64::from(most), &oldest, &self.now, &each])
            .await?;
        let mut rows = rows.rows.into_iter();
        let first = rows.next().ok_or(StoreError::NoRow { doing })?;
        let count = rows.len();
        let clocks = Clocks { database: first.get("now"), relay: self.present };
        let mut events = Vec::with_capacity(count);
        let (mut is_unreadable, mut first_left_out) = (false, None);
        // Row by row, so that each payload is in memory twice for a moment only.
        for row in rows {
            match event(&row, clocks) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => {
                    first_left_out = events.is_empty().then(|| row.get::<_, i32>(BYTES).into());
                    break;
                }
                Err(error) => {
                    tracing::debug!(error = error.in_full(), "routing stops before an event");
                    is_unreadable = true;
                    break;
                }
            }
        }
        if !events.is_sorted_by_key(|event| (event.xid, event.id)) {
            tracing::debug!("routing stops before events that were not read in their order");
            events.clear();
            is_unreadable = true;
        }
        let found = Found {
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
        };
        Ok((found, first_left_out))
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
            EventKind::Named(endpoint) | EventKind::Announced(endpoint) => Some(*endpoint),
        };
        let (types, tenants): (Vec<_>, Vec<_>) = kinds
            .iter()
            .map(|kind| match kind {
                EventKind::Published { event_type, tenant } => {
                    (event_type.as_str(), tenant.as_deref().unwrap_or_default())
                }
                EventKind::Named(_) => ("", ""),
                EventKind::Announced(_) => (ANNOUNCED, ""),
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
    /// through. None of it may take longer than `bound`.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn filter_events(
        &self,
        pairs: &[(&FoundEvent, EndpointId)],
        bound: Duration,
    ) -> Result<Vec<bool>, StoreError> {
        let events: Vec<i64> = pairs.iter().map(|(event, _)| event.id).collect();
        let created: Vec<Timestamp> = pairs.iter().map(|(event, _)| event.created_at).collect();
        let endpoints: Vec<i64> = pairs.iter().map(|(_, endpoint)| *endpoint).collect();
        let rows = self
            .seat
            .run_within(
                bound,
                FILTER_EVENTS,
                "ask filters about events",
                &[&events, &created, &endpoints],
            )
            .await?
            .rows;
        let mut let_through = vec![false; pairs.len()];
        for row in &rows {
            let n = usize::try_from(row.get::<_, i32>("n")).unwrap_or(1);
            let_through[n - 1] = true;
        }
        Ok(let_through)
    }

    /// Writes down that filters took too long, so that it is not known whether these events are
    /// owed.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn set_aside_pairs(
        &self,
        pairs: &[(&FoundEvent, EndpointId)],
        error: Option<&StoreError>,
    ) -> Result<(), StoreError> {
        let events: Vec<i64> = pairs.iter().map(|(event, _)| event.id).collect();
        let created: Vec<Timestamp> = pairs.iter().map(|(event, _)| event.created_at).collect();
        let endpoints: Vec<i64> = pairs.iter().map(|(_, endpoint)| *endpoint).collect();
        let unasked = || (Some(OVERDUE), "the filter took too long before".to_owned());
        let (state, said) = error.map_or_else(unasked, StoreError::state_and_words);
        let doing = "set aside what filters do not answer";
        let parameters: &Parameters<'_> = &[&events, &created, &endpoints, &state, &said];
        self.seat.run(SET_ASIDE_PAIRS, doing, parameters).await?;
        Ok(())
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
        Ok(StepResult::of(&row))
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
