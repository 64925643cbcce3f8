//! Routing ahead of the cursor: events of other tenants than the one whose backlog is being routed
//! are found by a look behind the cursor, and routed by a step that leaves it where it is.

use jiff::Timestamp;

use super::found::{Clocks, event};
use super::routing::{RoutingStep, oldest};
use super::steps::{Found, StepDelivery, StepResult, StepSession, StepToWrite};
use super::{RelayId, Store, StoreError};
use crate::model::delivery::EventId;

const READ_AHEAD: &str = include_str!("../../sql/queries/read_ahead.sql");
const WRITE_AHEAD: &str = include_str!("../../sql/queries/write_ahead.sql");
const TRIM_AHEAD: &str = include_str!("../../sql/queries/trim_ahead.sql");

/// Events that one look passes at most: some 15 ms of the database's time.
const LOOKED_AT: i64 = 20_000;
/// Events of one tenant that it finds at most. One that has more is a backlog of its own, and has
/// some with each look.
const OF_ONE_TENANT: i64 = 100;
/// Events that it finds at most.
const IN_ALL: i64 = 1_000;

/// Where the next look goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookPosition {
    /// What is visible then has been looked at.
    since: String,
    /// The look is at what is visible then. `None`: it ended, and the next one is at what is
    /// visible when it begins.
    until: Option<String>,
    /// The transaction and event that it has come to.
    after: Option<(i64, EventId)>,
    /// The tenant whose backlog it is; empty: events of none.
    behind: Option<String>,
}

/// What a look has found.
#[derive(Debug)]
pub struct LookAhead {
    /// The events, beside the last step that there was.
    pub found: Found,
    pub position: LookPosition,
    /// Whether there is more to look at.
    pub is_full: bool,
}

impl StepSession {
    /// Looks for events of other tenants, from `position` or the cursor on, of so many bytes at
    /// most unless it finds a single event: one that has more than its part of them is left to the
    /// cursor. `None`: no endpoint has a tenant.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn read_ahead(
        &self,
        position: Option<&LookPosition>,
        bytes: usize,
        floor: Timestamp,
    ) -> Result<Option<LookAhead>, StoreError> {
        let since = position.map(|position| position.since.as_str());
        let until = position.and_then(|position| position.until.as_deref());
        let (after_xid, after_id) = position.and_then(|position| position.after).unzip();
        let behind = position.and_then(|position| position.behind.as_deref());
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let rows = self
            .seat
            .run(
                READ_AHEAD,
                "look for events of other tenants",
                &[
                    &LOOKED_AT,
                    &oldest(floor),
                    &since,
                    &until,
                    &after_xid,
                    &after_id,
                    &behind,
                    &OF_ONE_TENANT,
                    &IN_ALL,
                    &bytes,
                    &self.now,
                ],
            )
            .await?;
        let mut rows = rows.rows.into_iter();
        let Some(first) = rows.next() else { return Ok(None) };
        // One that cannot be read, or has more than its part, is left to the cursor.
        let clocks = Clocks { database: first.get("now"), relay: self.present };
        let events = rows.filter_map(|row| event(&row, clocks).ok().flatten()).collect();
        let is_full: bool = first.get("is_full");
        let (since, until): (String, String) = (first.get("since"), first.get("until"));
        let after = first.get::<_, Option<i64>>("after_xid").zip(first.get("after_id"));
        let behind: Option<String> = first.get("behind");
        let position = if is_full {
            LookPosition { since: since.clone(), until: Some(until.clone()), after, behind }
        } else {
            LookPosition { since: until.clone(), until: None, after: None, behind }
        };
        let found = Found {
            last: RoutingStep { number: first.get("number"), routed_at: first.get("routed_at") },
            is_old: false,
            is_others: false,
            taken_up: false,
            xmin: first.get("xmin"),
            floor: first.get("floor_at"),
            since,
            seen: until.clone(),
            until,
            events,
            is_full: false,
            is_unreadable: false,
        };
        Ok(Some(LookAhead { found, position, is_full }))
    }

    /// Writes a step ahead of the cursor: all events that were found.
    ///
    /// # Errors
    /// When the statement fails; it may have been carried out all the same.
    pub async fn write_ahead(
        &self,
        relay: RelayId,
        token: i64,
        found: &Found,
        step: &StepToWrite<'_>,
    ) -> Result<StepResult, StoreError> {
        let events: Vec<EventId> = found.events.iter().map(|event| event.id).collect();
        let transactions: Vec<i64> = found.events.iter().map(|event| event.xid).collect();
        let (claimed, waiting) = (found.columns(step.claimed), found.columns(step.waiting));
        let (lowest, highest) = (claimed.events.iter().min(), claimed.events.iter().max());
        let due = |one: &StepDelivery| found.events[one.event].due_at.as_deref();
        let due: Vec<Option<&str>> = step.waiting.iter().map(due).collect();
        let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let doing = "route events ahead of the cursor";
        let parameters: &super::run::Parameters<'_> = &[
            &relay,
            &token,
            &found.last.number,
            &events,
            &transactions,
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
        ];
        let row = self.seat.run(WRITE_AHEAD, doing, parameters).await?.one(doing)?;
        Ok(StepResult::of(&row))
    }
}

/// Forgets events that were routed ahead and that the cursor has passed. Returns whether any are
/// left.
///
/// # Errors
/// When the statement fails.
pub async fn trim_ahead(store: &Store) -> Result<bool, StoreError> {
    let doing = "forget events that were routed ahead";
    Ok(store.queue.query_one(TRIM_AHEAD, doing, &[]).await?.get("are_left"))
}
