//! What a step takes, claims and leaves.

use std::collections::HashMap;

use super::*;
use crate::model::endpoint::EndpointId;
use crate::model::tenant::{Tenant, TenantRoom};

fn recipient(endpoint: EndpointId) -> Recipient {
    Recipient {
        endpoint,
        revision: 1,
        tenant: None,
        ordered: false,
        filtered: false,
        flowing: true,
    }
}

fn owing(recipients: &[Recipient]) -> Owing {
    Owing { recipients: recipients.into(), has_ordering_key: false, is_due: true, bytes: 10 }
}

/// Events for one endpoint each.
fn events(endpoints: &[EndpointId]) -> Vec<Owing> {
    endpoints.iter().map(|id| owing(&[recipient(*id)])).collect()
}

/// A lane with room, and what it holds.
fn lane(room: usize, held: usize) -> LaneRoom {
    LaneRoom { room, bytes: 10_000, held, flows: true }
}

fn step(events: &[Owing], lanes: &[(EndpointId, LaneRoom)]) -> StepPlan {
    step_in(events, lanes, (1000, 10_000), false)
}

fn step_in(
    events: &[Owing],
    lanes: &[(EndpointId, LaneRoom)],
    (in_all, bytes): (usize, usize),
    may_overflow: bool,
) -> StepPlan {
    let lanes: HashMap<_, _> = lanes.iter().copied().collect();
    let lane = |id| lanes.get(&id).copied();
    let tenant = |tenant| TenantRoom { tenant, claims: 3, bytes: 10_000 };
    let tenant = &tenant;
    let room = StepRoom { lane: &lane, of_others: 2, tenant, in_all, bytes, may_overflow };
    decide(events, &candidates(events).into_iter().collect(), &room)
}

fn cut(full: EndpointId, left: &[EndpointId]) -> Option<Cut> {
    Some(Cut { full, left: left.to_vec() })
}

#[test]
fn an_event_goes_to_each_of_its_subscribers_or_is_unmatched() {
    let two = [recipient(1), recipient(2)];
    let plan = step(&[owing(&two), owing(&[]), owing(&two[..1])], &[]);
    assert_eq!(plan.claimed, [(0, 0), (0, 1), (2, 0)]);
    assert_eq!((plan.taken, plan.unmatched, plan.cut), (3, 1, None));
}

#[test]
fn a_step_ends_before_an_event_whose_lane_is_full() {
    let plan = step(&events(&[1, 2, 1, 2]), &[(1, lane(1, 9)), (2, lane(5, 9))]);
    assert_eq!((plan.taken, &plan.claimed[..]), (2, &[(0, 0), (1, 0)][..]));
    assert_eq!(plan.waiting, []);
    let Some(Cut { full: 1, mut left }) = plan.cut else { panic!("{:?}", plan.cut) };
    left.sort_unstable();
    assert_eq!(left, [1, 2]);
    // One without a lane has the room of the others.
    let plan = step(&events(&[3, 3, 3]), &[]);
    assert_eq!((plan.taken, plan.cut), (2, cut(3, &[3])));
}

#[test]
fn a_full_lane_does_not_keep_others_waiting_that_have_nothing_to_do() {
    let idle = [(1, lane(0, 9)), (2, lane(5, 0))];
    let plan = step(&events(&[1, 1, 2, 1]), &idle);
    assert_eq!(plan.waiting, [(0, 0), (1, 0)]);
    // Once it has something to do, routing waits again.
    assert_eq!((plan.claimed, plan.taken), (vec![(2, 0)], 3));
    assert_eq!(plan.cut, cut(1, &[1]));
    // Behind the relay's own bound there is room for nobody else either.
    let plan = step_in(&events(&[1, 2]), &idle, (0, 10_000), false);
    assert_eq!((plan.taken, plan.cut.map(|cut| cut.full)), (0, Some(1)));
}

#[test]
fn what_waits_for_no_attempt_is_written_to_wait_at_once() {
    let paused = LaneRoom { flows: false, ..lane(0, 0) };
    let plan = step(&events(&[1, 2]), &[(1, paused)]);
    assert_eq!((plan.taken, plan.claimed, plan.waiting), (2, vec![(1, 0)], vec![(0, 0)]));
    let disabled = Recipient { flowing: false, ..recipient(3) };
    let plan = step(&[owing(&[disabled])], &[]);
    assert_eq!((plan.taken, plan.waiting), (1, vec![(0, 0)]));
    let later = Owing { is_due: false, ..owing(&[recipient(1)]) };
    let plan = step(&[later], &[(1, lane(0, 5))]);
    assert_eq!((plan.taken, plan.waiting), (1, vec![(0, 0)]));
}

#[test]
fn after_a_long_wait_a_step_takes_what_has_no_room() {
    let plan = step_in(&events(&[1, 2, 1]), &[(1, lane(1, 9))], (1000, 10_000), true);
    assert_eq!((plan.taken, plan.claimed), (3, vec![(0, 0), (1, 0)]));
    assert_eq!((plan.waiting, plan.cut), (vec![(2, 0)], None));
}

#[test]
fn a_step_keeps_within_the_relays_bounds() {
    for (bounds, taken) in [((2, 10_000), 2), ((1000, 25), 2), ((1000, 10_000), 4)] {
        let lanes = [(1, lane(9, 1)), (2, lane(9, 1))];
        let plan = step_in(&events(&[1, 2, 1, 2]), &lanes, bounds, false);
        assert_eq!((plan.taken, plan.claimed.len()), (taken, taken), "{bounds:?}");
    }
    // All or nothing of one event, unless it may be more than ever fits.
    let wide: Vec<_> = (1..=5).map(recipient).collect();
    let plan = step_in(&[owing(&wide[..1]), owing(&wide)], &[], (5, 10_000), false);
    assert_eq!((plan.taken, plan.waiting.len()), (1, 0));
    let plan = step_in(&[owing(&wide)], &[], (4, 10_000), false);
    assert_eq!((plan.taken, plan.claimed.len(), plan.waiting.len()), (1, 4, 1));
}

#[test]
fn what_a_tenants_endpoints_claim_is_bounded_together_and_leaves_others_alone() {
    let acme = |endpoint| Recipient { tenant: Some(Tenant::of("acme")), ..recipient(endpoint) };
    let globex = Recipient { tenant: Some(Tenant::of("globex")), ..recipient(9) };
    let lanes: Vec<_> = (1..=4).map(|id| (id, lane(9, 1))).collect();
    let of_acme = |id| owing(&[acme(id)]);
    // Three of it: see `step_in`.
    let events = [of_acme(1), of_acme(2), of_acme(3), of_acme(4), owing(&[globex])];
    let plan = step_in(&events, &lanes, (1000, 10_000), true);
    assert_eq!(plan.claimed, [(0, 0), (1, 0), (2, 0), (4, 0)]);
    assert_eq!(plan.waiting, [(3, 0)]);
    // One of them that has no lane counts as well.
    let events = [of_acme(7), of_acme(7), of_acme(7), of_acme(1)];
    let plan = step_in(&events, &[(1, lane(9, 0))], (1000, 10_000), true);
    assert_eq!((plan.claimed, plan.waiting), (vec![(0, 0), (1, 0), (3, 0)], vec![(2, 0)]));
}

#[test]
fn an_endpoint_that_has_used_up_its_bytes_is_full_and_leaves_others_alone() {
    let small = LaneRoom { bytes: 15, ..lane(9, 1) };
    let lanes = [(1, small), (2, lane(9, 1))];
    let plan = step_in(&events(&[1, 1, 1, 2]), &lanes, (1000, 10_000), true);
    assert_eq!((plan.claimed, plan.waiting), (vec![(0, 0), (1, 0), (3, 0)], vec![(2, 0)]));
    let plan = step_in(&events(&[1, 1, 1, 2]), &lanes, (1000, 10_000), false);
    assert_eq!((plan.taken, plan.cut.map(|cut| cut.full)), (2, Some(1)));
}

#[test]
fn filters_are_asked_about_their_own_endpoints_events() {
    let asks = Recipient { filtered: true, ..recipient(1) };
    let events = [owing(&[asks, recipient(2)]), owing(&[asks])];
    assert_eq!(candidates(&events), [(0, 0), (1, 0)]);
    let lane = |_| None;
    let tenant = |tenant| TenantRoom { tenant, claims: 9, bytes: 900 };
    let room = StepRoom {
        lane: &lane,
        of_others: 9,
        tenant: &tenant,
        in_all: 9,
        bytes: 900,
        may_overflow: false,
    };
    let plan = decide(&events, &[(1, 0)].into(), &room);
    assert_eq!((plan.claimed, plan.unmatched), (vec![(0, 1), (1, 0)], 0));
    let plan = decide(&events, &[].into(), &room);
    assert_eq!((plan.claimed, plan.unmatched), (vec![(0, 1)], 1));
}

#[test]
fn an_event_in_a_line_is_left_to_the_whole_statement() {
    let ordered = Recipient { ordered: true, ..recipient(1) };
    let in_line = Owing { has_ordering_key: true, ..owing(&[ordered]) };
    let plan = step(std::slice::from_ref(&in_line), &[]);
    assert_eq!(plan, StepPlan { is_unusual: true, ..StepPlan::default() });
    // A key means nothing to an endpoint that is not ordered, nor order to an event without one.
    let usual = Owing { has_ordering_key: true, ..owing(&[recipient(1)]) };
    assert_eq!(step(&[usual, owing(&[ordered])], &[]).taken, 2);
    let mut many: Vec<_> = (1..=64).map(|id| owing(&[recipient(id)])).collect();
    many.push(in_line);
    let plan = step(&many, &[]);
    assert_eq!((plan.taken, plan.is_unusual), (64, true));
    let plan = step(&many[1..], &[]);
    assert_eq!((plan.taken, plan.is_unusual), (0, true));
}

#[test]
fn what_is_remembered_is_as_old_as_its_oldest_part_and_of_one_server() {
    let kind = |name: &str| EventKind::Published { event_type: name.to_owned(), tenant: None };
    let mut known = Recipients::default();
    known.hold_in(7);
    known.learn("1:1:", kind("a"), vec![recipient(1)]);
    known.learn("5:5:", kind("b"), Vec::new());
    assert_eq!(known.snapshot(), Some("1:1:"));
    assert_eq!(known.of(&kind("a")).map(|of| of.len()), Some(1));
    assert_eq!(known.of(&kind("b")).map(|of| of.len()), Some(0));
    assert_eq!(known.of(&EventKind::Named(1)), None);
    known.holds_in("9:9:".to_owned());
    known.hold_in(7);
    assert_eq!(known.snapshot(), Some("9:9:"));
    known.hold_in(8);
    assert_eq!((known.snapshot(), known.of(&kind("a"))), (None, None));
    known.learn("9:9:", kind("a"), Vec::new());
    assert!(!known.make_room(10));
    assert!(known.make_room(50_000) && known.of(&kind("a")).is_none());
}
