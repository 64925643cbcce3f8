//! When the relay wakes, sleeps, and looks.

use super::*;

#[test]
fn many_events_wake_the_relay_and_looks_that_find_nothing_let_it_sleep() {
    let mut now = start();
    let mut dispatch = at_rest(now);
    assert!(dispatch.is_asleep());
    dispatch.rang(now);
    let _ = dispatch.next(now, &HEARS);
    dispatch.routed(Some(routed(16, 16)), now, now);
    assert_eq!(dispatch.next(now, &HEARS), Step::Silence);
    let Step::Rest { until, .. } = dispatch.next(now, &HEARS) else { panic!("{dispatch:?}") };
    assert_eq!(until, now + Duration::from_micros(300));
    // It looks again and again, less and less often.
    let mut pauses = Vec::new();
    loop {
        now = dispatch.look_at.expect("it looks");
        assert!(matches!(dispatch.next(now, &HEARS), Step::Route { .. }));
        dispatch.routed(Some(routed(0, 0)), now, now);
        let step = dispatch.next(now, &HEARS);
        let Step::Rest { until, .. } = step else { break assert_eq!(step, Step::Arm) };
        pauses.push((until - now).as_micros());
    }
    assert_eq!(pauses, [300, 600, 1200, 2400, 4800]);
    // Transactions below 12 may have skipped the bell.
    dispatch.armed(Some(12), now);
    assert_eq!(dispatch.next(now, &HEARS), other(now));
    for (xmin, wait) in [(Some(11), Some(300)), (None, Some(600)), (Some(12), None)] {
        assert!(!dispatch.is_asleep());
        assert!(matches!(dispatch.next(now, &HEARS), Step::Route { .. }));
        dispatch.routed(xmin.map(|xmin| RoutedStep { xmin, ..routed(0, 0) }), now, now);
        let _ = dispatch.next(now, &HEARS);
        let waits = dispatch.look_at.map(|at| (at - now).as_micros());
        assert_eq!(waits, wait, "{xmin:?}");
        now = dispatch.look_at.unwrap_or(now);
    }
    assert!(dispatch.is_asleep());
}

#[test]
fn a_term_has_polled_once_what_is_due_was_read_and_not_when_that_failed() {
    let now = start();
    let mut dispatch = Dispatch::new(SETTINGS, 100, now);
    assert_eq!(dispatch.next(now, &HEARS), Step::Poll);
    dispatch.failed();
    assert_eq!(dispatch.next(now, &HEARS), Step::BackOff);
    assert_eq!(dispatch.next(now, &HEARS), Step::Poll);
    assert!(!dispatch.has_polled());
    dispatch.polled(0.5, now);
    assert!(dispatch.has_polled());
    // It stays so, however the rest of the round ends.
    assert_eq!(dispatch.next(now, &HEARS), Step::ReadFloor);
    dispatch.failed();
    assert_eq!(dispatch.next(now, &HEARS), Step::BackOff);
    assert!(dispatch.has_polled());
}

#[test]
fn a_relay_that_is_woken_while_it_falls_asleep_keeps_the_bell_silent_again() {
    let now = start();
    let mut dispatch = at_rest(now);
    dispatch.armed(Some(12), now);
    dispatch.routed(Some(routed(1, 1)), now, now);
    assert!(!dispatch.rises);
    dispatch.routed(Some(full(1000, 1000)), now, now);
    assert_eq!(dispatch.next(now, &HEARS), Step::Silence);
    assert_eq!(dispatch.look_at, Some(now));
    // Once is enough.
    dispatch.routed(Some(full(1000, 1000)), now, now);
    assert!(!dispatch.rises);
}

#[test]
fn a_relay_that_ends_a_span_of_another_looks_again_at_once_for_what_came_since() {
    let now = start();
    for events in [0, 1] {
        let mut dispatch = at_rest(now);
        dispatch.rang(now);
        let _ = dispatch.next(now, &HEARS);
        let ended = RoutedStep { closes_span: true, ..routed(events, events) };
        dispatch.routed(Some(ended), now, now);
        assert_eq!(dispatch.look_at, Some(now), "{events}");
        assert!(dispatch.backlog.is_none() && !dispatch.is_asleep());
    }
}

#[test]
fn ten_bells_within_50_ms_wake_the_relay_and_fewer_or_slower_ones_do_not() {
    let now = start();
    for (bells, apart, expected) in [(10, 5, true), (9, 5, false), (10, 6, false), (30, 5, true)] {
        let mut dispatch = at_rest(now);
        let mut now = now;
        for _ in 0..bells {
            now += apart * MILLI;
            dispatch.rang(now);
        }
        dispatch.routed(Some(routed(1, 1)), now, now);
        assert_eq!(dispatch.rises, expected, "{bells} {apart}");
    }
}

#[test]
fn a_relay_whose_session_goes_with_the_silence_looks_by_itself_until_it_has_another() {
    let now = start();
    let mut dispatch = at_rest(now);
    dispatch.routed(Some(routed(16, 16)), now, now);
    assert_eq!(dispatch.next(now, &HEARS), Step::Silence);
    dispatch.armed(None, now);
    assert!(dispatch.is_asleep());
    assert_eq!(dispatch.look_at, Some(now));
    dispatch.hears = false;
    dispatch.routed(Some(routed(16, 16)), now, now);
    assert!(!dispatch.rises && dispatch.is_asleep());
    let mut pauses = Vec::new();
    for _ in 0..14 {
        dispatch.routed(Some(routed(0, 0)), now, now);
        pauses.push((dispatch.look_at.expect("it looks") - now).as_micros());
    }
    assert_eq!(pauses[..4], [300, 600, 1200, 2400]);
    // No longer than the poll's interval.
    assert_eq!(pauses[12..], [1_000_000, 1_000_000]);
}

#[test]
fn bells_that_ring_for_nothing_cost_twenty_looks_a_second_and_one_that_does_not_is_heard_at_once() {
    let start = start();
    let mut dispatch = at_rest(start);
    let mut pauses = Vec::new();
    let mut looks = 0;
    // One a millisecond, for four seconds: no poll is due yet.
    for tick in 0..4_000 {
        let now = start + tick * MILLI;
        dispatch.rang(now);
        let at = dispatch.look_at.expect("a look is due");
        if at <= now {
            assert!(matches!(dispatch.next(now, &HEARS), Step::Route { .. }));
            dispatch.routed(Some(routed(0, 0)), now, now);
            let _ = dispatch.next(now, &HEARS);
            looks += 1;
            dispatch.rang(now);
            let pause = dispatch.look_at.expect("a look is due") - now;
            pauses.push(pause.as_millis());
        }
    }
    assert_eq!(pauses[..11], [0, 0, 0, 1, 2, 4, 8, 16, 32, 50, 50]);
    assert!(looks <= 4 * 20 + 11, "{looks}");
    // An event among them is found with the next look, and then bells are looked after at once.
    let now = dispatch.look_at.expect("a look is due");
    dispatch.routed(Some(routed(1, 1)), now, now);
    dispatch.rang(now);
    assert_eq!(dispatch.look_at, Some(now));
}

#[test]
fn notices_that_deliveries_are_due_have_the_relay_poll_fifty_times_a_second_at_most() {
    let start = start();
    let mut dispatch = at_rest(start);
    let mut polls = 0;
    for tick in 0..1_000 {
        let now = start + tick * MILLI;
        dispatch.are_due(now);
        if dispatch.poll_at <= now {
            dispatch.polled(0.5, now);
            polls += 1;
        }
    }
    assert_eq!(polls, 49);
}
