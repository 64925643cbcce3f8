//! How much is routed, by which statement, and when a backlog goes on.

use super::*;
use crate::model::routing::Cut;

#[test]
fn the_statement_for_few_is_used_while_events_are_few_and_usual() {
    let now = start();
    let by = |dispatch: &Dispatch| {
        let Step::Route { by, .. } = dispatch.route(now, &HEARS) else { panic!() };
        by
    };
    let few = |dispatch: &Dispatch| by(dispatch) == RouteBy::Few;
    let mut dispatch = at_rest(now);
    assert!(few(&dispatch));
    // Unusual events: a step follows in the same round, and the whole statement where that leaves
    // them too; then no other is tried for a second.
    dispatch.rang(now);
    for (expected, then) in [(RouteBy::Few, RouteBy::Steps), (RouteBy::Steps, RouteBy::Whole)] {
        let step = Step::Route { events: 1000, by: expected, overflow: false };
        assert_eq!(dispatch.next(now, &HEARS), step);
        dispatch.unusual(expected, now);
        assert_eq!(by(&dispatch), then);
    }
    assert_eq!(by(&dispatch), RouteBy::Whole);
    dispatch.whole_until = now;
    assert_eq!(by(&dispatch), RouteBy::Steps);
    dispatch.unusual_until = now;
    assert!(few(&dispatch));
    dispatch.fan_out = 11.0;
    assert!(!few(&dispatch));
    dispatch.fan_out = 1.0;
    dispatch.culprits = RouteSuspects::of_at_most(100);
    assert!(!few(&dispatch));
    dispatch.culprits = RouteSuspects::of_at_most(101);
    assert!(few(&dispatch));
    dispatch.routed(Some(full(1000, 1000)), now, now);
    assert!(!few(&dispatch));
}

#[test]
fn a_step_of_routing_takes_as_many_events_as_make_what_there_is_room_for() {
    let now = start();
    for (backlog, room, fan_out, most_events, expected) in [
        (false, 0, 1.0, u32::MAX, 1000),
        (false, 0, 50.0, u32::MAX, 100),
        (false, 0, 100_000.0, u32::MAX, 1),
        (false, 0, 0.0, u32::MAX, 1000),
        (false, 0, 1.0, 7, 7),
        (true, 800, 1.0, u32::MAX, 800),
        (true, 800, 4.0, u32::MAX, 200),
        // Little room is no reason to route little.
        (true, 499, 10.0, u32::MAX, 500),
        (true, 9_999, 10.0, u32::MAX, 500),
    ] {
        let mut dispatch = at_rest(now);
        dispatch.backlog = backlog.then_some(Backlog { fed: vec![1], finished: 0, left: None });
        dispatch.fan_out = fan_out;
        dispatch.culprits = RouteSuspects::of_at_most(most_events);
        let facts = Facts { room_of_fed: room, ..HEARS };
        assert_eq!(dispatch.events_per_step(&facts), expected, "{room} {fan_out} {most_events}");
    }
}

#[test]
fn fewer_events_are_routed_after_a_failure_of_a_row_and_more_with_each_success() {
    let now = start();
    let mut dispatch = at_rest(now);
    let token = dispatch.next_token();
    let lost = RouteFailure { kind: None, is_overdue: false, is_uncertain: true };
    let refused = RouteFailure { kind: Some("22000"), is_uncertain: false, ..lost };
    // The database was away: what it read is not the reason.
    assert_eq!(dispatch.route_failed(500, RouteBy::Whole, lost, now), RouteBlame::Again);
    assert_eq!(dispatch.culprits.most(), u32::MAX);
    assert_eq!(dispatch.uncertain().tokens().collect::<Vec<_>>(), [token]);
    assert_eq!(dispatch.next(now, &HEARS), Step::BackOff);
    dispatch.uncertain.disowned(now, Duration::ZERO);
    assert_eq!(dispatch.route_failed(1000, RouteBy::Few, refused, now), RouteBlame::Again);
    assert_eq!(dispatch.culprits.most(), 50);
    assert!(dispatch.uncertain().is_empty());
    assert_eq!(dispatch.next(now, &HEARS), Step::BackOff);
    for expected in [25, 12, 6, 3, 1] {
        let events = dispatch.events_per_step(&HEARS);
        let blame = dispatch.route_failed(events, RouteBy::Steps, refused, now);
        // The next is tried at once.
        assert_eq!(blame, RouteBlame::Fewer);
        assert_eq!(dispatch.culprits.most(), expected);
        assert!(dispatch.look_at.is_some_and(|at| at <= now) && dispatch.at == Point::Rise);
    }
    assert_eq!(dispatch.route_failed(1, RouteBy::Steps, refused, now), RouteBlame::Alone);
    for expected in [2, 4, 8] {
        dispatch.routed(Some(routed(1, 1)), now, now);
        assert_eq!(dispatch.culprits.most(), expected);
    }
}

#[test]
fn a_backlog_waits_for_room_in_the_lanes_it_fed_but_not_for_long() {
    let now = start();
    for (room, finished, waited, expected) in [
        (500, 7, 0, true),
        (499, 7, 0, false),
        (499, 7, 19, false),
        // Nothing moves there.
        (499, 7, 20, true),
        // It moves, slowly.
        (499, 8, 20, false),
        (499, 8, 199, false),
        (0, 8, 200, true),
    ] {
        let mut dispatch = at_rest(now);
        dispatch.routed(Some(RoutedStep { finished: 7, ..full(1000, 1000) }), now, now);
        assert_eq!(dispatch.fed(), [1, 2]);
        let facts = Facts { room_of_fed: room, finished_by_fed: finished, ..HEARS };
        let now = now + waited * MILLI;
        assert_eq!(dispatch.lanes_are_ready(now, &facts), expected, "{room} {finished} {waited}");
        let Step::Rest { until, .. } = dispatch.rest(now, &facts) else { panic!() };
        let since = until.saturating_duration_since(dispatch.routed_at).as_millis();
        let at = if expected {
            0
        } else if waited < 20 {
            20
        } else {
            200
        };
        assert_eq!(since, at, "{room} {finished} {waited}");
    }
}

#[test]
fn lanes_that_have_a_step_to_send_are_given_whole_steps() {
    let now = start();
    for (room, held, queued, fed_idle, left_idle, waited, expected) in [
        (999, 2000, 1000, false, false, 0, false),
        (1000, 2000, 1000, false, false, 0, true),
        (1000, 3002, 1000, false, false, 0, true),
        // A quarter of what they take.
        (1000, 3003, 1000, false, false, 0, false),
        (1001, 3003, 1000, false, false, 0, true),
        // Little waits there to be sent, or one of them has nothing to do.
        (500, 2000, 999, false, false, 0, true),
        (499, 2000, 999, false, false, 0, false),
        (500, 2000, 1000, true, false, 0, true),
        (499, 2000, 1000, true, false, 0, false),
        (0, 2000, 1000, false, true, 0, true),
        (999, 2000, 1000, false, false, 199, false),
        (999, 2000, 1000, false, false, 200, true),
    ] {
        let mut dispatch = at_rest(now);
        dispatch.routed(Some(full(1000, 1000)), now, now);
        let facts = Facts {
            room_of_fed: room,
            held_by_fed: held,
            queued_by_fed: queued,
            is_fed_idle: fed_idle,
            is_left_idle: left_idle,
            finished_by_fed: 1,
            ..HEARS
        };
        let now = now + waited * MILLI;
        assert_eq!(dispatch.lanes_are_ready(now, &facts), expected, "{facts:?} {waited}");
    }
}

#[test]
fn after_a_cut_step_the_full_lane_is_half_emptied_unless_another_endpoint_has_nothing_to_do() {
    let now = start();
    let cut = || Cut { full: 7, left: vec![7, 8] };
    for (room, held, finished, idle, waited, expected, overflows) in [
        (50, 50, 9, false, 2, true, false),
        (49, 51, 9, false, 2, false, false),
        // No more than half a batch is waited for.
        (500, 2000, 9, false, 2, true, false),
        (0, 100, 9, true, 2, true, false),
        // It has waited for long enough: what has no room is written to wait.
        (49, 51, 9, false, 200, true, true),
        (0, 100, 3, false, 20, true, true),
        (0, 100, 4, false, 20, false, false),
    ] {
        let mut dispatch = at_rest(now);
        let step = RoutedStep { finished: 3, cut: Some(cut()), ..full(10, 10) };
        dispatch.routed(Some(step), now, now);
        assert_eq!((dispatch.fed(), dispatch.left()), (&[7][..], &[7, 8][..]));
        let facts = Facts {
            room_of_fed: room,
            held_by_fed: held,
            finished_by_fed: finished,
            is_left_idle: idle,
            room_of_left: 700,
            ..HEARS
        };
        let now = now + waited * MILLI;
        assert_eq!(dispatch.lanes_are_ready(now, &facts), expected, "{room} {held} {waited}");
        if !expected {
            continue;
        }
        let Step::Route { events, overflow, .. } = dispatch.route(now, &facts) else { panic!() };
        let expected = if overflows { 1000 } else { 700 };
        assert_eq!((events, overflow), (expected, overflows), "{room} {held} {waited}");
    }
}

#[test]
fn a_step_without_room_for_its_first_event_is_tried_again_as_if_it_had_not_been() {
    let now = start();
    let mut dispatch = at_rest(now);
    let step = RoutedStep { finished: 3, ..full(10, 10) };
    dispatch.routed(Some(step), now, now);
    let later = now + 15 * MILLI;
    dispatch.blocked(Cut { full: 7, left: vec![7] }, 5, later);
    let facts = Facts { held_by_fed: 1, finished_by_fed: 5, ..HEARS };
    assert!(!dispatch.lanes_are_ready(later + MILLI, &facts));
    // The wait began with the step before.
    assert!(dispatch.lanes_are_ready(now + 20 * MILLI, &facts));
    assert_eq!(dispatch.look_at, Some(later + 2 * MILLI));
}

#[test]
fn a_full_step_that_made_no_delivery_leaves_nothing_to_wait_for() {
    let now = start();
    let mut dispatch = at_rest(now);
    dispatch.routed(Some(full(1000, 0)), now, now);
    assert!(dispatch.fed().is_empty() && dispatch.lanes_are_ready(now, &HEARS));
}

#[test]
fn the_fan_out_follows_what_is_routed() {
    let now = start();
    let mut dispatch = at_rest(now);
    for expected in [2.0, 2.5, 2.75] {
        dispatch.routed(Some(routed(10, 30)), now, now);
        assert!((dispatch.fan_out - expected).abs() < 1e-9, "{}", dispatch.fan_out);
    }
    dispatch.routed(Some(routed(0, 0)), now, now);
    dispatch.routed(None, now, now);
    assert!((dispatch.fan_out - 2.75).abs() < 1e-9);
}
