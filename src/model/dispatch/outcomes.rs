//! Takes in what a step gave.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::ahead::{Ahead, LookedAhead};
use super::step::{INTERVALS_BEHIND_THE_BELL, RouteBy};
use super::{
    Backlog, Blame, ClaimRequest, ClaimRoom, Dispatch, FEW, Point, RouteBlame, RouteFailure,
    RoutedStep, sleep,
};
use crate::model::delivery::NextEvent;
use crate::model::due::Due;
use crate::model::endpoint::EndpointId;
use crate::model::routing::Cut;
use crate::model::tenant::Tenant;

/// Endpoints that one claim looks at.
pub const ENDPOINTS_PER_CLAIM: usize = 500;
/// After events that are left to the whole statement. Unusual events seldom come alone, and a
/// try costs the database as much as a look.
const UNUSUAL_PAUSE: Duration = Duration::from_secs(1);
/// After a claim that had no bytes left for any delivery of an endpoint.
const CUT_PAUSE: Duration = Duration::from_millis(20);
/// After a look ahead that failed.
const FAILED_LOOK_PAUSE: Duration = Duration::from_secs(1);
/// After a step that had no room for its first event. Room comes with each attempt that ends, and a
/// step for each of them would be many.
const BLOCKED_PAUSE: Duration = Duration::from_millis(2);

impl Dispatch {
    /// A step failed other than by [claiming](Self::claim_failed) or [routing](Self::route_failed).
    pub fn failed(&mut self) {
        self.at = Point::BackOff;
    }

    /// Uncertain claims were given back by a statement that began at `now`.
    pub fn disowned(&mut self, released: u64, now: Instant) {
        self.uncertain.disowned(now, self.settings.patience());
        self.at = Point::Bell;
        if released > 0 {
            // They are due, and no relay has been told.
            self.poll_at = now;
        }
    }

    /// A session that hears the bell was opened, or could not be. A poll is due then: what rang
    /// meanwhile was not heard.
    pub fn reconnected(&mut self, hears: bool, now: Instant) {
        self.at = Point::Poll;
        if hears {
            self.poll_at = now;
            self.sleep.opened();
        }
    }

    /// The relay has asked what is due; `draw` is from 0 to 1.
    pub fn polled(&mut self, draw: f64, now: Instant) {
        let intervals = if self.hears { INTERVALS_BEHIND_THE_BELL } else { 1 };
        // A tenth of jitter, so that several relays do not poll together.
        let jitter = 0.9 + 0.2 * draw;
        self.poll_at = now + (self.settings.poll_interval * intervals).mul_f64(jitter);
        (self.polled_at, self.is_poll_asked_for) = (Some(now), false);
        self.look_at = Some(now);
        self.has_polled = true;
        self.at = Point::TellOthers;
    }

    /// The other relays were told.
    pub fn told_others(&mut self) {
        self.at = Point::Claim;
    }

    /// Chooses what to claim: of endpoints that are due as much as each has room for, at most
    /// `room` in all, and of a tenant's endpoints together no more than that has room for.
    pub fn ask(
        &self,
        due: &Due,
        mut room: usize,
        room_of: impl Fn(EndpointId) -> ClaimRoom,
        now: Instant,
    ) -> ClaimRequest {
        let mut asked = ClaimRequest::default();
        let mut tenants: HashMap<Tenant, (usize, usize)> = HashMap::new();
        room = room.min(self.suspects.most());
        for endpoint in due.due(now) {
            if asked.endpoints.len() == ENDPOINTS_PER_CLAIM || room == 0 {
                break;
            }
            if self.suspects.is_left_out(endpoint, now) {
                continue;
            }
            let ClaimRoom { claims, bytes, tenant } = room_of(endpoint);
            let mut most = claims.min(room);
            // Its place, and what is left of its room.
            let tenant = tenant.filter(|_| most > 0).map(|of| {
                tenants.entry(of.tenant).or_insert_with(|| {
                    asked.tenants.push(of.bytes);
                    (asked.tenants.len() - 1, of.claims)
                })
            });
            if let Some((_, left)) = &tenant {
                most = most.min(*left);
            }
            if most > 0 {
                room -= most;
                asked.endpoints.push(endpoint);
                asked.rooms.push(most);
                asked.bytes.push(bytes);
                asked.tenant_of.push(tenant.map(|(place, left)| {
                    *left -= most;
                    *place
                }));
            }
        }
        asked
    }

    /// A claim has succeeded: `claimed` says how much of an endpoint, and `is_cut` that more was
    /// due and had room, but for its size.
    pub fn claimed(
        &mut self,
        asked: &ClaimRequest,
        claimed: impl Fn(EndpointId) -> usize,
        is_cut: bool,
        due: &mut Due,
        now: Instant,
    ) {
        // More may be due than was asked for.
        self.claims_again |= self.suspects.are_sought();
        self.suspects.clear(&asked.endpoints);
        for (endpoint, room) in asked.endpoints.iter().zip(&asked.rooms) {
            // Fewer than asked for: nothing more is due, as far as the relay can see.
            let claimed = claimed(*endpoint);
            if !is_cut && claimed < *room {
                due.remove(*endpoint);
            }
            // Its next is larger than what is left for it.
            if is_cut && claimed == 0 {
                due.remove(*endpoint);
                due.put(*endpoint, now + CUT_PAUSE);
            }
        }
    }

    /// A claim has failed, and may have claimed something all the same. Sees to it that an endpoint
    /// for which claiming fails does not hold up the others. `is_of_some_row`: what it read may be
    /// the reason. Where the answer is [`Blame::Again`], the round ends by backing off.
    pub fn claim_failed(
        &mut self,
        asked: &ClaimRequest,
        is_of_some_row: bool,
        due: &mut Due,
        now: Instant,
    ) -> Blame {
        self.uncertain.add(self.token, now);
        let blame = if is_of_some_row {
            self.suspects.accuse(&asked.endpoints, asked.rooms.iter().sum(), now)
        } else {
            Blame::Again
        };
        match blame {
            Blame::Again => self.failed = true,
            Blame::Half => self.claims_again = true,
            Blame::Without(endpoint, pause) => {
                self.claims_again = true;
                due.remove(endpoint);
                due.put(endpoint, now + pause);
            }
        }
        blame
    }

    /// The ledger says from where on events are still to be routed.
    pub fn floor_is(&mut self, floor: Timestamp) {
        self.floor = Some(floor);
    }

    /// Routing in this manner has found unusual events and left them.
    pub fn unusual(&mut self, by: RouteBy, now: Instant) {
        self.unusual_until = now + UNUSUAL_PAUSE;
        if by == RouteBy::Steps {
            self.whole_until = now + UNUSUAL_PAUSE;
        }
    }

    /// A step of routing has succeeded, at `at`; by `now`, what it claimed is in the lanes. `None`:
    /// another relay was routing.
    pub fn routed(&mut self, routed: Option<RoutedStep>, at: Instant, now: Instant) {
        self.at = Point::Ahead;
        self.routed_at = at;
        if routed.is_some() {
            self.culprits.succeeded();
        }
        let look = routed.as_ref().map_or_else(sleep::Look::default, |routed| sleep::Look {
            events: routed.events,
            more: routed.more || routed.closes_span,
            xmin: Some(routed.xmin),
        });
        if let Some(routed) = routed {
            self.floor = Some(routed.floor);
            if routed.events > 0 {
                let fan_out = f64::from(routed.deliveries) / f64::from(routed.events);
                self.fan_out = (self.fan_out + fan_out) / 2.0;
            }
            let (fed, left) = match routed.cut {
                Some(Cut { full, left }) => (vec![full], Some(left)),
                None => (routed.fed, None),
            };
            self.backlog = (routed.more && (routed.deliveries > 0 || left.is_some()))
                .then_some(Backlog { fed, finished: routed.finished, left });
        }
        let (wait, rises) = self.sleep.after(look, self.hears, now);
        self.rises = rises;
        self.look_at = wait.map(|wait| now + wait);
    }

    /// A step of routing found a lane full before its first event, and routed nothing; `finished`
    /// attempts have come to an end in that lane by now.
    pub fn blocked(&mut self, cut: Cut, finished: u64, now: Instant) {
        self.at = Point::Ahead;
        self.backlog = Some(Backlog { fed: vec![cut.full], finished, left: Some(cut.left) });
        self.look_at = Some(now + BLOCKED_PAUSE);
    }

    /// A step of routing has failed. What it read may have been too much for it: then fewer events
    /// are tried, down to a single one, and more again with each step that succeeds. Where the
    /// answer is [`RouteBlame::Again`], the round ends by backing off.
    pub fn route_failed(
        &mut self,
        events: u32,
        by: RouteBy,
        failure: RouteFailure<'_>,
        now: Instant,
    ) -> RouteBlame {
        if failure.is_uncertain {
            self.uncertain.add(self.token, now);
        }
        let tried = if by == RouteBy::Few { FEW.into() } else { events };
        let accuse = |kind| self.culprits.failed(tried, kind, failure.is_overdue);
        let blame = failure.kind.map_or(RouteBlame::Again, accuse);
        if blame == RouteBlame::Again {
            self.failed();
        } else {
            self.at = Point::Rise;
            self.look_at = Some(now);
        }
        blame
    }

    /// A look ahead of the cursor that began at `began` has ended at `now`.
    pub fn looked_ahead(&mut self, looked: LookedAhead, began: Instant, now: Instant) {
        self.at = Point::Rise;
        self.ahead = Ahead::after(looked, now.saturating_duration_since(began), now);
    }

    /// A look has failed, and may have claimed something all the same. What it met may be of some
    /// row: the cursor comes to it, and knows what to do.
    pub fn look_ahead_failed(&mut self, now: Instant) {
        self.uncertain.add(self.token, now);
        self.ahead = Ahead::at(now + FAILED_LOOK_PAUSE);
        self.failed();
    }

    /// The event that routing failed with, alone, is this one.
    pub fn alone_is(&mut self, event: Option<NextEvent>) {
        self.culprits.alone_is(event);
    }

    /// The event that routing fails with was passed; from `floor` on events are still to be routed.
    pub fn set_aside(&mut self, floor: Option<Timestamp>, now: Instant) {
        let pause = self.culprits.set_aside();
        self.floor = floor.or(self.floor);
        self.backlog = None;
        self.look_at = Some(now + pause);
    }

    /// The relay has ended the bell's silence; transactions below `skippers` may not have rung.
    /// `None`: the session is gone, and the silence soon after. A look is due either way.
    pub fn armed(&mut self, skippers: Option<i64>, now: Instant) {
        match skippers {
            Some(skippers) => self.sleep.armed(skippers),
            None => self.sleep.lost(),
        }
        self.look_at = Some(now);
    }
}
