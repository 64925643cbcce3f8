//! The steps of the dispatcher, and what they depend on and give.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::model::endpoint::EndpointId;
use crate::model::routing::Cut;
use crate::model::tenant::TenantRoom;

/// While the bell is heard, the relay polls this much less often, to leave an idle database idle.
pub(super) const INTERVALS_BEHIND_THE_BELL: u32 = 5;

/// The settings that the dispatcher goes by.
#[derive(Debug, Clone, Copy)]
pub struct DispatchSettings {
    /// Events that one step of routing takes at most.
    pub batch: usize,
    /// Between two polls, where no bell is heard.
    pub poll_interval: Duration,
    /// After this the database ends a statement of its own accord.
    pub statement_timeout: Duration,
    /// Whether the bell is to be heard.
    pub listens: bool,
}

impl DispatchSettings {
    /// A round takes a poll interval and a few statements at most; well beyond that it hangs.
    #[must_use]
    pub fn stuck_after(&self) -> Duration {
        self.poll_interval * INTERVALS_BEHIND_THE_BELL + 5 * self.statement_timeout
    }

    /// How long a statement whose answer was lost may still claim something.
    pub(super) fn patience(&self) -> Duration {
        2 * self.statement_timeout
    }
}

/// The next thing to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// Give back the claims of statements whose answer was lost.
    Disown,
    /// Ask the session that hears the bell for a sign of life.
    CheckBell,
    /// Open a session to hear the bell.
    Reconnect,
    /// Ask which endpoints are owed something, and when.
    Poll,
    /// Tell the other relays what is due of endpoints that they serve.
    TellOthers,
    /// Claim what is due, see [`Dispatch::ask`](super::Dispatch::ask).
    Claim,
    /// Read from where on events are still to be routed.
    ReadFloor,
    /// Route new events.
    Route {
        /// At most this many.
        events: u32,
        by: RouteBy,
        /// Full lanes were waited for long enough: what has no room is written to wait.
        overflow: bool,
    },
    /// Route events ahead of the cursor, which others' backlog holds up.
    RouteAhead,
    /// Keep the bell silent: no insert rings from then on.
    Silence,
    /// End the bell's silence: every insert rings from then on.
    Arm,
    /// Something failed: wait a little, longer each time.
    BackOff,
    /// The round is over. Wait for a bell, for room, or until a moment.
    Rest {
        /// The moment.
        until: Instant,
        /// The reason to end then.
        reason: Reason,
    },
}

/// How new events are routed. Where events are unusual, few and steps do nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteBy {
    /// By the statement for [few](super::FEW) events.
    Few,
    /// By a step that is read, decided and written.
    Steps,
    /// By the statement that routes whatever there is.
    Whole,
}

/// Why a rest ends when it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is time to poll.
    Poll,
    /// Something unclaimed falls due.
    Due,
    /// It is time to look for events, to tell others, or to open a session.
    Other,
}

/// Facts that the next step depends on, beside the dispatcher's own state.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts {
    /// Whether there is a session that hears the bell.
    pub hears: bool,
    /// Whether something is due.
    pub is_due: bool,
    /// When something more falls due.
    pub due_at: Option<Instant>,
    /// Whether other relays have not been told what is due of their endpoints.
    pub others_are_to_know: bool,
    /// How many more deliveries the [fed](super::Dispatch::fed) lanes can take.
    pub room_of_fed: usize,
    /// How many claims these lanes hold.
    pub held_by_fed: usize,
    /// How many of these claims have not been sent yet.
    pub queued_by_fed: usize,
    /// Whether one of these lanes has nothing to do.
    pub is_fed_idle: bool,
    /// How many attempts have come to an end in these lanes so far.
    pub finished_by_fed: u64,
    /// How many more deliveries the endpoints can take whose events were
    /// [left](super::Dispatch::left).
    pub room_of_left: usize,
    /// Whether one of them has nothing to do.
    pub is_left_idle: bool,
}

/// How much may be claimed for an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimRoom {
    /// Deliveries.
    pub claims: usize,
    /// Bytes of payloads and headers; the last event may exceed them.
    pub bytes: usize,
    /// What its tenant's endpoints may claim together.
    pub tenant: Option<TenantRoom>,
}

/// Asked for by a claim.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClaimRequest {
    /// Endpoints that are due.
    pub endpoints: Vec<EndpointId>,
    /// Deliveries of each.
    pub rooms: Vec<usize>,
    /// Bytes of each; the last event may exceed them.
    pub bytes: Vec<usize>,
    /// The place of each endpoint's tenant in `tenants`, if it has one.
    pub tenant_of: Vec<Option<usize>>,
    /// Bytes of each tenant; the last event may exceed them.
    pub tenants: Vec<usize>,
}

/// The result of a step of routing.
#[derive(Debug, Clone, Default)]
pub struct RoutedStep {
    /// Events that were routed.
    pub events: u32,
    /// Deliveries that were made for them.
    pub deliveries: u32,
    /// Whether the step was full, so that there may be more.
    pub more: bool,
    /// Whether it ended a span that an earlier step had begun. What has committed since that span
    /// began is in the next one.
    pub closes_span: bool,
    /// Every transaction below this has ended.
    pub xmin: i64,
    /// No event still to be routed is older.
    pub floor: Timestamp,
    /// The endpoints whose lanes were fed by it.
    pub fed: Vec<EndpointId>,
    /// Why it ended before an event for which there is no room.
    pub cut: Option<Cut>,
    /// How many attempts have come to an end in these lanes by now.
    pub finished: u64,
}
