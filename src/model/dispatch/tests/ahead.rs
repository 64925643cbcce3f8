//! When events of other tenants are routed ahead of a backlog.

use super::*;

/// In a backlog that has begun.
fn in_backlog(now: Instant) -> Dispatch {
    let mut dispatch = at_rest(now);
    dispatch.ahead = Ahead::default();
    dispatch.at = Point::Look;
    dispatch.routed(Some(full(1000, 1000)), now, now);
    dispatch
}

#[test]
fn a_backlog_is_looked_beyond_and_nothing_else_is() {
    let now = start();
    let mut dispatch = in_backlog(now);
    assert_eq!(dispatch.next(now, &HEARS), Step::RouteAhead);
    dispatch.looked_ahead(LookedAhead::ToTheEnd, now, now);
    assert_ne!(dispatch.next(now, &HEARS), Step::RouteAhead);
    let mut dispatch = at_rest(now);
    dispatch.at = Point::Look;
    dispatch.routed(Some(routed(1000, 1000)), now, now);
    assert!(!dispatch.has_backlog());
    assert_eq!(dispatch.ahead_at(now, &HEARS), None);
}

#[test]
fn looks_take_a_part_of_the_time_and_follow_one_another_while_there_is_more() {
    let began = start();
    // The lanes have room, so the backlog could be routed on.
    let ready = Facts { room_of_fed: 1000, ..HEARS };
    for (looked, took, idle, busy) in [
        (LookedAhead::Further, 12 * MILLI, 3 * MILLI, 12 * MILLI),
        (LookedAhead::ToTheEnd, MILLI / 100, 2 * MILLI, 2 * MILLI),
        (LookedAhead::ToTheEnd, MILLI, 5 * MILLI, 30 * MILLI),
        (LookedAhead::NoTenants, MILLI, SECOND, SECOND),
    ] {
        let (now, mut dispatch) = (began + took, in_backlog(began));
        assert_eq!(dispatch.next(began, &HEARS), Step::RouteAhead);
        dispatch.looked_ahead(looked, began, now);
        assert_eq!(dispatch.ahead_at(now, &HEARS), Some(now + idle), "{looked:?}");
        assert_eq!(dispatch.ahead_at(now, &ready), Some(now + busy), "{looked:?}");
        // It wakes for the next in time.
        let Step::Rest { until, .. } = dispatch.rest(now, &HEARS) else { panic!() };
        assert!(until <= now + idle);
    }
}

#[test]
fn a_look_that_fails_may_have_claimed_and_leaves_the_backlog_to_the_cursor_for_a_while() {
    let now = start();
    let mut dispatch = in_backlog(now);
    assert_eq!(dispatch.next(now, &HEARS), Step::RouteAhead);
    let token = dispatch.next_token();
    dispatch.look_ahead_failed(now);
    assert_eq!(dispatch.uncertain().tokens().collect::<Vec<_>>(), [token]);
    assert_eq!(dispatch.next(now, &HEARS), Step::BackOff);
    assert_eq!(dispatch.ahead_at(now, &HEARS), Some(now + SECOND));
}
