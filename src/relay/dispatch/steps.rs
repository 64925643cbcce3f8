//! One step of routing: reads what is to be routed, decides by what is remembered of the endpoints,
//! and writes it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::filters::ask_filters;
use crate::model::delivery::BatchPlace;
use crate::model::endpoint::EndpointId;
use crate::model::routing::{
    Cut, EventKind, Owing, Recipient, Recipients, StepPlan, StepRoom, decide,
};
use crate::store::routing::{Claimed, Routed};
use crate::store::steps::{
    Found, FoundEvent, StepDelivery, StepResult, StepSession, StepToWrite, step_session,
};
use crate::store::{RelayId, Store, StoreError};

/// Endpoints that change again and again while a step is decided are left to the whole statement.
pub(super) const TRIES: usize = 3;

/// The result of a step.
#[derive(Debug)]
pub enum Stepped {
    Routed(Routed),
    /// Nothing was routed, since a lane is full.
    Full(Cut),
    /// Another relay is routing just now.
    OtherRelay,
    /// It did nothing: the whole statement is to be used.
    Unusual,
}

/// Routes the next `most` events at most, as far as there is room.
///
/// # Errors
/// When a statement fails. What the last one was to write may have been written.
pub async fn route_in_steps(
    store: &Store,
    (relay, token): (RelayId, i64),
    most: u32,
    floor: Timestamp,
    room: &StepRoom<'_>,
    known: &mut Recipients,
) -> Result<Stepped, StoreError> {
    let Some(session) = step_session(store).await? else { return Ok(Stepped::Unusual) };
    known.hold_in(store.database().opened());
    let found = session.read_events(relay, (most, room.bytes), floor).await?;
    if found.is_others {
        return Ok(Stepped::OtherRelay);
    }
    if found.events.is_empty() && found.is_unreadable {
        // It routes without reading.
        return Ok(Stepped::Unusual);
    }
    if found.events.is_empty() && !found.taken_up && !found.is_old {
        return Ok(Stepped::Routed(nothing(&found)));
    }
    for _ in 0..TRIES {
        let owing = owing(&session, &found, known).await?;
        let filtered = ask_filters(&session, &found, &owing, &mut known.slow).await?;
        let plan = decide(&owing, &filtered.let_through, room);
        if plan.taken == 0 && !found.events.is_empty() {
            return Ok(plan.cut.map_or(Stepped::Unusual, Stepped::Full));
        }
        let as_of = known.snapshot().unwrap_or(&found.seen).to_owned();
        let (claimed, waiting) = (of(&owing, &plan.claimed), of(&owing, &plan.waiting));
        let step = StepToWrite {
            taken: plan.taken,
            more: found.is_full || plan.taken < found.events.len(),
            unmatched: plan.unmatched,
            claimed: &claimed,
            waiting: &waiting,
            endpoints_as_of: &as_of,
        };
        filtered.set_aside(&session, &found, &owing, plan.taken).await?;
        match session.write_step(relay, token, &found, &step).await? {
            StepResult::Done { step: last, floor, snapshot } => {
                known.holds_in(snapshot);
                let routed = Routed { step: last, floor, ..routed(&found, &plan, &step) };
                let claimed = claims(found.events, &claimed, token);
                return Ok(Stepped::Routed(Routed { claimed, ..routed }));
            }
            StepResult::Lost => return Ok(Stepped::OtherRelay),
            StepResult::EndpointsChanged => known.forget(),
        }
    }
    Ok(Stepped::Unusual)
}

/// Who is owed each of the events; what is not known of their kinds is read.
pub(super) async fn owing(
    session: &StepSession,
    found: &Found,
    known: &mut Recipients,
) -> Result<Vec<Owing>, StoreError> {
    let (kinds, kind_of) = kinds(&found.events);
    let is_unknown = |kind: &&EventKind| known.of(kind).is_none();
    let mut unknown: Vec<EventKind> = kinds.iter().filter(is_unknown).cloned().collect();
    if !unknown.is_empty() && known.make_room(unknown.len()) {
        unknown.clone_from(&kinds);
    }
    if !unknown.is_empty() {
        let (snapshot, read) = session.owed(&unknown).await?;
        for (kind, recipients) in unknown.into_iter().zip(read) {
            known.learn(&snapshot, kind, recipients);
        }
    }
    let recipients = kinds.iter().map(|kind| known.of(kind).map(Arc::clone).unwrap_or_default());
    let recipients: Vec<Arc<[Recipient]>> = recipients.collect();
    let owing = |(event, kind): (&FoundEvent, usize)| Owing {
        recipients: Arc::clone(&recipients[kind]),
        has_ordering_key: event.ordering_key.is_some(),
        is_due: event.is_due(),
        bytes: event.bytes,
    };
    Ok(found.events.iter().zip(kind_of).map(owing).collect())
}

/// What the kind of an event depends on.
fn key(event: &FoundEvent) -> (&str, Option<&str>, Option<EndpointId>) {
    (event.event_type.as_str(), event.tenant.as_deref(), event.endpoint_id)
}

/// The kinds of these events, and which of them each event has.
fn kinds(events: &[FoundEvent]) -> (Vec<EventKind>, Vec<usize>) {
    let mut kinds = Vec::new();
    let mut seen = HashMap::new();
    let mut kind_of: Vec<usize> = Vec::with_capacity(events.len());
    for (at, event) in events.iter().enumerate() {
        // Mostly of the kind of the one before.
        let before = at.checked_sub(1).filter(|before| key(&events[*before]) == key(event));
        let kind = before.map_or_else(
            || {
                *seen.entry(key(event)).or_insert_with(|| {
                    kinds.push(kind(event));
                    kinds.len() - 1
                })
            },
            |before| kind_of[before],
        );
        kind_of.push(kind);
    }
    (kinds, kind_of)
}

fn kind(event: &FoundEvent) -> EventKind {
    match event.endpoint_id {
        Some(endpoint) if event.is_announcement() => EventKind::Announced(endpoint),
        Some(endpoint) => EventKind::Named(endpoint),
        None => EventKind::Published {
            event_type: event.event_type.clone(),
            tenant: event.tenant.clone(),
        },
    }
}

pub(super) fn of(owing: &[Owing], deliveries: &[(usize, usize)]) -> Vec<StepDelivery> {
    let one = |&(event, place): &(usize, usize)| {
        let Recipient { endpoint, revision, .. } = owing[event].recipients[place];
        StepDelivery { event, endpoint, revision }
    };
    deliveries.iter().map(one).collect()
}

/// There is nothing to be routed.
fn nothing(found: &Found) -> Routed {
    Routed {
        events: 0,
        deliveries: 0,
        unmatched: 0,
        more: false,
        xmin: found.xmin,
        claimed: Vec::new(),
        waiting: Vec::new(),
        lines: Vec::new(),
        closes_span: false,
        floor: found.floor,
        step: found.last,
        cut: None,
    }
}

/// What a step has done, but for its claims.
fn routed(found: &Found, plan: &StepPlan, step: &StepToWrite<'_>) -> Routed {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let is_due = |one: &&StepDelivery| found.events[one.event].is_due();
    let waiting: HashSet<_> = step.waiting.iter().filter(is_due).map(|one| one.endpoint).collect();
    Routed {
        events: count(plan.taken),
        deliveries: count(step.claimed.len() + step.waiting.len()),
        unmatched: count(plan.unmatched),
        more: step.more,
        closes_span: found.taken_up && !step.more,
        waiting: waiting.into_iter().collect(),
        cut: plan.cut.clone(),
        ..nothing(found)
    }
}

/// The claims of a step, event by event.
pub(super) fn claims(
    events: Vec<FoundEvent>,
    claimed: &[StepDelivery],
    token: i64,
) -> Vec<Claimed> {
    let mut events: Vec<_> = events.into_iter().map(Some).collect();
    let place = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
    let one = |(n, one): (usize, &StepDelivery)| {
        let is_last = claimed.get(n + 1).is_none_or(|next| next.event != one.event);
        let event = &mut events[one.event];
        let event = if is_last { event.take() } else { event.clone() };
        let in_batch = BatchPlace { at: place(n), of: place(claimed.len()) };
        event.map(|event| event.claimed((one.endpoint, one.revision), token, in_batch))
    };
    claimed.iter().enumerate().filter_map(one).collect()
}
