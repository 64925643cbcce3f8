//! Routing ahead of the cursor: while one tenant's events are a long backlog, others' need not wait
//! for it.

use std::collections::HashSet;

use jiff::Timestamp;

use super::filters::ask_filters;
use super::steps::{TRIES, claims, of, owing};
use crate::model::dispatch::LookedAhead;
use crate::model::endpoint::EndpointId;
use crate::model::routing::{Recipients, StepPlan, StepRoom, decide};
use crate::store::ahead::LookPosition;
use crate::store::routing::{Claimed, RoutingStep};
use crate::store::steps::{Found, StepDelivery, StepResult, StepToWrite, step_session};
use crate::store::{RelayId, Store, StoreError};

/// Where the look behind the cursor is, in the backlog that is being routed.
#[derive(Debug, Default)]
pub struct Lookout {
    pub(super) position: Option<LookPosition>,
    /// Events were routed that the cursor may not have passed.
    pub(super) are_ahead: bool,
}

/// What came of a look.
#[derive(Debug)]
pub struct RoutedAhead {
    pub looked: LookedAhead,
    /// The step that it led to, if it found something.
    pub step: Option<StepAhead>,
}

/// A step ahead of the cursor.
#[derive(Debug)]
pub struct StepAhead {
    pub step: RoutingStep,
    pub events: usize,
    pub deliveries: usize,
    pub unmatched: usize,
    /// Claimed for the caller.
    pub claimed: Vec<Claimed>,
    /// Endpoints with due deliveries that were not claimed.
    pub waiting: HashSet<EndpointId>,
}

/// Looks for events of other tenants than the one whose backlog it is, and routes what it finds.
///
/// What finds no room waits as a delivery, so that the look goes on.
///
/// # Errors
/// When a statement fails. What the last one was to write may have been written.
pub async fn route_ahead(
    store: &Store,
    (relay, token): (RelayId, i64),
    floor: Timestamp,
    room: &StepRoom<'_>,
    known: &mut Recipients,
    lookout: &mut Lookout,
) -> Result<RoutedAhead, StoreError> {
    let nothing = |looked| RoutedAhead { looked, step: None };
    let Some(session) = step_session(store).await? else {
        return Ok(nothing(LookedAhead::NoTenants));
    };
    known.hold_in(store.database().opened());
    let read = session.read_ahead(lookout.position.as_ref(), room.bytes, floor).await?;
    let Some(look) = read else { return Ok(nothing(LookedAhead::NoTenants)) };
    let looked = if look.is_full { LookedAhead::Further } else { LookedAhead::ToTheEnd };
    let found = look.found;
    if found.events.is_empty() {
        lookout.position = Some(look.position);
        return Ok(nothing(looked));
    }
    for _ in 0..TRIES {
        let owing = owing(&session, &found, known).await?;
        let filtered = ask_filters(&session, &found, &owing, &mut known.slow).await?;
        let plan = decide(&owing, &filtered.let_through, room);
        let as_of = known.snapshot().unwrap_or(&found.seen).to_owned();
        let (claimed, waiting) = (of(&owing, &plan.claimed), of(&owing, &plan.waiting));
        let step = StepToWrite {
            taken: plan.taken,
            more: true,
            unmatched: plan.unmatched,
            claimed: &claimed,
            waiting: &waiting,
            endpoints_as_of: &as_of,
        };
        filtered.set_aside(&session, &found, &owing, plan.taken).await?;
        match session.write_ahead(relay, token, &found, &step).await? {
            StepResult::Done { step: last, snapshot, .. } => {
                known.holds_in(snapshot);
                *lookout = Lookout { position: Some(look.position), are_ahead: true };
                let step = written(found, last, &plan, &step, token);
                return Ok(RoutedAhead { looked, step: Some(step) });
            }
            // It is found again by the next look, if the other relay has not routed it.
            StepResult::Lost => return Ok(nothing(looked)),
            StepResult::EndpointsChanged => known.forget(),
        }
    }
    Ok(nothing(looked))
}

fn written(
    found: Found,
    last: RoutingStep,
    plan: &StepPlan,
    step: &StepToWrite<'_>,
    token: i64,
) -> StepAhead {
    let is_due = |one: &&StepDelivery| found.events[one.event].is_due();
    let waiting = step.waiting.iter().filter(is_due).map(|one| one.endpoint).collect();
    StepAhead {
        step: last,
        events: found.events.len(),
        deliveries: plan.claimed.len() + plan.waiting.len(),
        unmatched: plan.unmatched,
        claimed: claims(found.events, step.claimed, token),
        waiting,
    }
}
