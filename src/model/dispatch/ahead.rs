//! When to route events of other tenants ahead of the cursor: while a backlog is routed, and often
//! if the dispatcher would rest, since its lanes are full; else as often as takes a small part of
//! its time.

use std::time::{Duration, Instant};

/// Where no endpoint has a tenant, there are no others; asked again after this.
const NO_TENANTS_PAUSE: Duration = Duration::from_secs(1);
/// Once a look has come to the end, the next takes in what has committed since; not before this.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);

/// When the next look is due.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ahead(Option<NextLook>);

#[derive(Debug, Clone, Copy)]
struct NextLook {
    /// While there is nothing else to do.
    idle: Instant,
    /// While the backlog can be routed on.
    busy: Instant,
}

/// The result of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookedAhead {
    /// No endpoint has a tenant, or routing in steps is not possible.
    NoTenants,
    /// There is more to look at.
    Further,
    /// It has come to the end of what is committed.
    ToTheEnd,
}

impl Ahead {
    pub(super) fn at(next: Instant) -> Self {
        Self(Some(NextLook { idle: next, busy: next }))
    }

    /// After a look that took so long, and has come so far.
    pub(super) fn after(looked: LookedAhead, took: Duration, now: Instant) -> Self {
        let (idle, busy) = match looked {
            LookedAhead::NoTenants => return Self::at(now + NO_TENANTS_PAUSE),
            LookedAhead::Further => (took / 4, took),
            LookedAhead::ToTheEnd => (5 * took, 30 * took),
        };
        let at = |pause: Duration| {
            now + if looked == LookedAhead::ToTheEnd { pause.max(SHORTEST_PAUSE) } else { pause }
        };
        Self(Some(NextLook { idle: at(idle), busy: at(busy) }))
    }

    /// When the next look is due, by whether the backlog can be routed on; `None`: at once.
    pub(super) fn next(self, is_busy: bool) -> Option<Instant> {
        self.0.map(|next| if is_busy { next.busy } else { next.idle })
    }
}
