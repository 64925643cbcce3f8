//! Every branch of the dispatcher, without a database.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);
const SETTINGS: DispatchSettings = DispatchSettings {
    batch: 1000,
    poll_interval: SECOND,
    statement_timeout: Duration::from_secs(30),
    listens: true,
};
const HEARS: Facts = Facts {
    hears: true,
    is_due: false,
    due_at: None,
    others_are_to_know: false,
    room_of_fed: 0,
    finished_by_fed: 0,
};

#[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
fn start() -> Instant {
    Instant::now()
}

fn floor() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

/// A dispatcher that has polled and looked once and found nothing, at the end of its first round.
fn at_rest(now: Instant) -> Dispatch {
    let mut dispatch = Dispatch::new(SETTINGS, 100, now);
    assert_eq!(dispatch.next(now, &HEARS), Step::Poll);
    dispatch.polled(0.5, now);
    assert_eq!(dispatch.next(now, &HEARS), Step::ReadFloor);
    dispatch.floor_is(floor());
    assert_eq!(dispatch.next(now, &HEARS), Step::Route { events: 1000, few: true });
    dispatch.routed(Some(routed(0, 0)), now, now);
    assert_eq!(
        dispatch.next(now, &HEARS),
        Step::Rest { until: now + 5 * SECOND, reason: Reason::Poll }
    );
    dispatch
}

fn routed(events: u32, deliveries: u32) -> RoutedStep {
    RoutedStep { events, deliveries, xmin: 10, floor: floor(), ..RoutedStep::default() }
}

/// A full step that has fed the lanes of endpoints 1 and 2.
fn full(events: u32, deliveries: u32) -> RoutedStep {
    RoutedStep { more: true, fed: vec![1, 2], ..routed(events, deliveries) }
}

fn other(until: Instant) -> Step {
    Step::Rest { until, reason: Reason::Other }
}

fn asked(endpoints: &[EndpointId], room: usize) -> ClaimRequest {
    ClaimRequest { endpoints: endpoints.to_vec(), rooms: vec![room; endpoints.len()] }
}

#[test]
fn a_round_takes_its_steps_in_one_order() {
    let now = start();
    let mut dispatch = Dispatch::new(SETTINGS, 100, now);
    dispatch.uncertain.add(99, now);
    let facts = Facts { is_due: true, others_are_to_know: true, ..Facts::default() };
    assert_eq!(dispatch.next(now, &facts), Step::Disown);
    dispatch.disowned(0, now);
    assert_eq!(dispatch.next(now, &facts), Step::Reconnect);
    dispatch.reconnected(false, now);
    assert_eq!(dispatch.next(now, &facts), Step::Poll);
    dispatch.polled(0.0, now);
    assert_eq!(dispatch.next(now, &facts), Step::TellOthers);
    dispatch.told_others();
    assert_eq!(dispatch.next(now, &facts), Step::Claim);
    assert_eq!(dispatch.next(now, &facts), Step::ReadFloor);
    dispatch.floor_is(floor());
    assert_eq!(dispatch.next(now, &facts), Step::Route { events: 1000, few: true });
    dispatch.routed(None, now, now);
    let Step::Rest { .. } = dispatch.next(now, &facts) else { panic!("{dispatch:?}") };
}

#[test]
fn an_error_ends_the_round_with_a_pause_and_a_look_but_new_events_are_routed_after_a_failed_claim()
{
    let now = start();
    for is_claim in [false, true] {
        let mut dispatch = at_rest(now);
        dispatch.rang(now);
        let facts = Facts { is_due: true, others_are_to_know: !is_claim, ..HEARS };
        if is_claim {
            assert_eq!(dispatch.next(now, &facts), Step::Claim);
            let due = &mut Due::default();
            assert_eq!(dispatch.claim_failed(&asked(&[1], 1), false, due, now), Blame::Again);
            assert_eq!(dispatch.next(now, &facts), Step::Route { events: 1000, few: true });
            dispatch.routed(Some(routed(3, 3)), now, now);
        } else {
            assert_eq!(dispatch.next(now, &facts), Step::TellOthers);
            dispatch.failed();
        }
        assert_eq!(dispatch.next(now, &facts), Step::BackOff);
        assert_eq!(dispatch.look_at, Some(now));
        let then = if is_claim { Step::Disown } else { Step::Claim };
        assert_eq!(dispatch.next(now, &facts), then);
    }
}

#[test]
fn a_poll_comes_after_an_interval_with_jitter_and_five_where_the_bell_is_heard() {
    let now = start();
    for (hears, draw, expected) in
        [(false, 0.0, 900), (false, 1.0, 1100), (true, 0.5, 5000), (true, 1.0, 5500)]
    {
        let mut dispatch = at_rest(now);
        dispatch.are_due(now);
        let settings = DispatchSettings { listens: false, ..SETTINGS };
        dispatch.settings = settings;
        assert_eq!(dispatch.next(now, &Facts { hears, ..HEARS }), Step::Poll);
        dispatch.polled(draw, now);
        assert_eq!((dispatch.poll_at - now).as_millis(), expected);
        assert_eq!(dispatch.look_at, Some(now));
    }
}

#[test]
fn what_ends_a_rest_is_known_beforehand() {
    let now = start();
    let poll_at = now + 5 * SECOND;
    let soon = now + MILLI;
    let cases = [
        (HEARS, Step::Rest { until: poll_at, reason: Reason::Poll }),
        (Facts { due_at: Some(soon), ..HEARS }, Step::Rest { until: soon, reason: Reason::Due }),
        (
            Facts { due_at: Some(now + 9 * SECOND), ..HEARS },
            Step::Rest { until: poll_at, reason: Reason::Poll },
        ),
        (Facts { others_are_to_know: true, ..HEARS }, other(now + TELL_INTERVAL)),
        (Facts { hears: false, ..HEARS }, other(now + RECONNECT_INTERVAL)),
    ];
    for (facts, expected) in cases {
        let mut dispatch = at_rest(now);
        dispatch.tell_at = now + TELL_INTERVAL;
        dispatch.reconnect_at = now + RECONNECT_INTERVAL;
        assert_eq!(dispatch.next(now, &facts), expected, "{facts:?}");
    }
}

#[test]
fn other_relays_are_told_at_most_every_20_ms() {
    let now = start();
    let mut dispatch = at_rest(now);
    let facts = Facts { others_are_to_know: true, ..HEARS };
    assert_eq!(dispatch.next(now, &facts), Step::TellOthers);
    dispatch.told_others();
    assert_eq!(dispatch.next(now, &facts), other(now + TELL_INTERVAL));
    assert_eq!(dispatch.next(now + TELL_INTERVAL, &facts), Step::TellOthers);
}

#[test]
fn a_session_that_is_gone_is_opened_once_a_second_and_an_idle_one_is_checked_every_ten() {
    let now = start();
    let mut dispatch = at_rest(now);
    let deaf = Facts { hears: false, ..HEARS };
    assert_eq!(dispatch.next(now, &deaf), Step::Reconnect);
    dispatch.reconnected(false, now);
    assert_eq!(dispatch.next(now, &deaf), other(now + SECOND));
    let later = now + SECOND;
    assert_eq!(dispatch.next(later, &deaf), Step::Reconnect);
    dispatch.reconnected(true, later);
    // What rang meanwhile was not heard.
    assert_eq!(dispatch.next(later, &HEARS), Step::Poll);
    dispatch.polled(0.5, later);
    let _ = dispatch.next(later, &HEARS);
    let idle = later + CHECK_INTERVAL + MILLI;
    dispatch.failed();
    assert_eq!(dispatch.next(idle, &HEARS), Step::BackOff);
    assert_eq!(dispatch.next(idle, &HEARS), Step::CheckBell);
    // The check says that it is gone.
    assert_eq!(dispatch.next(idle, &deaf), Step::Reconnect);
}

#[test]
fn a_relay_that_does_not_listen_opens_no_session() {
    let now = start();
    let settings = DispatchSettings { listens: false, ..SETTINGS };
    let mut dispatch = Dispatch::new(settings, 1, now);
    assert_eq!(dispatch.next(now, &Facts::default()), Step::Poll);
    dispatch.polled(0.5, now);
    assert_eq!(dispatch.next(now, &Facts::default()), Step::ReadFloor);
    dispatch.floor_is(floor());
    let _ = dispatch.next(now, &Facts::default());
    dispatch.routed(Some(routed(1, 1)), now, now);
    assert_eq!(dispatch.next(now, &Facts::default()), other(now + Duration::from_micros(300)));
}

#[test]
fn what_may_have_been_claimed_is_given_back_every_ten_seconds_for_twice_a_statement() {
    let now = start();
    let mut dispatch = at_rest(now);
    let token = dispatch.next_token();
    assert_eq!(token, 101);
    dispatch.claim_failed(&asked(&[1], 1), false, &mut Due::default(), now);
    dispatch.at = Point::Disown;
    assert_eq!(dispatch.uncertain().tokens().collect::<Vec<_>>(), [token]);
    let mut tries = Vec::new();
    for seconds in 0..120 {
        let now = now + seconds * SECOND;
        dispatch.poll_at = now + SECOND;
        dispatch.at = Point::Disown;
        if dispatch.next(now, &HEARS) == Step::Disown {
            dispatch.disowned(u64::from(seconds == 0), now);
            // What was given back is due.
            assert_eq!(dispatch.poll_at == now, seconds == 0);
            tries.push(seconds);
        }
    }
    assert_eq!(tries, [0, 10, 20, 30, 40, 50, 60]);
    assert!(dispatch.uncertain().is_empty());
}

#[test]
fn a_claim_asks_for_what_is_due_and_has_room() {
    let now = start();
    let mut due = Due::default();
    (1..=4).for_each(|endpoint| due.put(endpoint, now));
    due.put(5, now + SECOND);
    let mut dispatch = at_rest(now);
    let room_of = |endpoint| [0, 3, 0, 5, 9][usize::try_from(endpoint).unwrap()];
    let request = |dispatch: &Dispatch, room| {
        let ClaimRequest { endpoints, rooms } = dispatch.ask(&due, room, room_of, now);
        endpoints.into_iter().zip(rooms).collect::<Vec<_>>()
    };
    assert_eq!(request(&dispatch, 100), [(1, 3), (3, 5), (4, 9)]);
    assert_eq!(request(&dispatch, 5), [(1, 3), (3, 2)]);
    assert_eq!(request(&dispatch, 0), []);
    // An endpoint for which claiming failed alone is left out for a while.
    for _ in 0..2 {
        dispatch.claim_failed(&asked(&[3], 1), true, &mut Due::default(), now);
    }
    assert_eq!(request(&dispatch, 100), [(1, 3), (4, 9)]);
    let many = &mut Due::default();
    (0..600).for_each(|endpoint| many.put(endpoint, now));
    assert_eq!(dispatch.ask(many, 9999, |_| 1, now).endpoints.len(), ENDPOINTS_PER_CLAIM);
}

#[test]
fn what_gave_less_than_was_asked_for_is_due_no_more_unless_the_claim_was_cut() {
    let now = start();
    for (is_cut, expected) in [(false, vec![2]), (true, vec![1, 2])] {
        let mut due = Due::default();
        [1, 2].map(|endpoint| due.put(endpoint, now));
        let mut dispatch = at_rest(now);
        let claimed = |endpoint| if endpoint == 1 { 7 } else { 8 };
        dispatch.claimed(&asked(&[1, 2], 8), claimed, is_cut, &mut due);
        assert_eq!(due.due(now).collect::<Vec<_>>(), expected);
        assert!(!dispatch.claims_again);
    }
}

#[test]
fn a_claim_that_fails_twice_of_a_row_is_halved_at_once_and_its_endpoint_waits() {
    let now = start();
    let facts = Facts { is_due: true, ..HEARS };
    let mut due = Due::default();
    [1, 2].map(|endpoint| due.put(endpoint, now));
    let mut dispatch = at_rest(now);
    dispatch.next_token();
    let both = asked(&[1, 2], 1);
    assert_eq!(dispatch.claim_failed(&both, true, &mut due, now), Blame::Again);
    assert_eq!(dispatch.claim_failed(&both, true, &mut due, now), Blame::Half);
    dispatch.failed = false;
    dispatch.disowned(0, now);
    assert_eq!(dispatch.next(now, &facts), Step::Claim);
    let half = dispatch.ask(&due, 100, |_| 1, now);
    assert_eq!(half, asked(&[1], 1));
    let blame = dispatch.claim_failed(&half, true, &mut due, now);
    assert_eq!(blame, Blame::Without(1, 5 * SECOND));
    assert_eq!(due.due(now).collect::<Vec<_>>(), [2]);
    // The others are claimed for without a pause.
    assert_eq!(dispatch.next(now, &facts), other(now));
    dispatch.disowned(0, now);
    assert_eq!(dispatch.next(now, &facts), Step::Claim);
    dispatch.claimed(&asked(&[2], 1), |_| 0, false, &mut due);
    assert_eq!(dispatch.next(now, &facts), other(now));
    // With nothing due, it does not go round and round.
    let Step::Rest { until, .. } = dispatch.next(now, &HEARS) else { panic!("{dispatch:?}") };
    assert!(until > now);
}

#[test]
fn the_statement_for_few_is_used_while_events_are_few_and_usual() {
    let now = start();
    let few = |dispatch: &Dispatch| match dispatch.route(now, &HEARS) {
        Step::Route { few, .. } => few,
        step => panic!("{step:?}"),
    };
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
        match dispatch.next(now, &HEARS) {
            Step::Rest { until, .. } => pauses.push((until - now).as_micros()),
            step => break assert_eq!(step, Step::Arm),
        }
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
fn a_relay_that_is_woken_while_it_falls_asleep_takes_the_lock_again() {
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
fn a_relay_whose_session_goes_with_the_lock_looks_by_itself_until_it_has_another() {
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
fn a_relay_is_stuck_after_five_intervals_and_five_statements() {
    assert_eq!(SETTINGS.stuck_after(), 155 * SECOND);
}
