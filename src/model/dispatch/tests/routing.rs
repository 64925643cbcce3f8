//! How much is routed, by which statement, and when a backlog goes on.

use super::*;

#[test]
fn the_statement_for_few_is_used_while_events_are_few_and_usual() {
    let now = start();
    let few =
        |dispatch: &Dispatch| matches!(dispatch.route(now, &HEARS), Step::Route { few: true, .. });
    let mut dispatch = at_rest(now);
    assert!(few(&dispatch));
    // Unusual events: the whole statement follows in the same round, and alone for a second.
    dispatch.rang(now);
    assert_eq!(dispatch.next(now, &HEARS), Step::Route { events: 1000, few: true });
    dispatch.unusual(now);
    assert_eq!(dispatch.next(now, &HEARS), Step::Route { events: 1000, few: false });
    dispatch.unusual_until = now;
    assert!(few(&dispatch));
    dispatch.fan_out = 11.0;
    assert!(!few(&dispatch));
    dispatch.fan_out = 1.0;
    dispatch.most_events = 100;
    assert!(!few(&dispatch));
    dispatch.most_events = 101;
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
        dispatch.backlog = backlog.then_some(Backlog { fed: vec![1], finished: 0 });
        (dispatch.fan_out, dispatch.most_events) = (fan_out, most_events);
        let facts = Facts { room_of_fed: room, ..HEARS };
        assert_eq!(dispatch.events_per_step(&facts), expected, "{room} {fan_out} {most_events}");
    }
}

#[test]
fn fewer_events_are_routed_after_a_failure_of_a_row_and_more_with_each_success() {
    let now = start();
    let mut dispatch = at_rest(now);
    let token = dispatch.next_token();
    dispatch.route_failed(1000, true, true, now);
    assert_eq!(dispatch.most_events, 50);
    assert_eq!(dispatch.uncertain().tokens().collect::<Vec<_>>(), [token]);
    assert_eq!(dispatch.next(now, &HEARS), Step::BackOff);
    for expected in [25, 12, 6, 3, 1, 1] {
        dispatch.route_failed(dispatch.events_per_step(&HEARS), false, true, now);
        assert_eq!(dispatch.most_events, expected);
    }
    // The database was away: what it read is not the reason.
    dispatch.route_failed(1, false, false, now);
    assert_eq!(dispatch.most_events, 1);
    for expected in [2, 4, 8] {
        dispatch.routed(Some(routed(1, 1)), now, now);
        assert_eq!(dispatch.most_events, expected);
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
