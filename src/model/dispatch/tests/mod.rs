//! Every branch of the dispatcher, without a database.

mod ahead;
mod routing;
mod waking;

use super::outcomes::ENDPOINTS_PER_CLAIM;
use super::*;
use crate::model::due::Due;
use crate::model::tenant::{Tenant, TenantRoom};

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
    held_by_fed: 0,
    queued_by_fed: 0,
    is_fed_idle: false,
    finished_by_fed: 0,
    room_of_left: 0,
    is_left_idle: false,
};
const ROUTE_FEW: Step = Step::Route { events: 1000, by: RouteBy::Few, overflow: false };

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
    assert_eq!(dispatch.next(now, &HEARS), ROUTE_FEW);
    dispatch.routed(Some(routed(0, 0)), now, now);
    assert_eq!(
        dispatch.next(now, &HEARS),
        Step::Rest { until: now + 5 * SECOND, reason: Reason::Poll }
    );
    // See `ahead`.
    dispatch.ahead = Ahead::at(now + 1_000 * SECOND);
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
    ClaimRequest {
        endpoints: endpoints.to_vec(),
        rooms: vec![room; endpoints.len()],
        bytes: vec![BYTES; endpoints.len()],
        tenant_of: vec![None; endpoints.len()],
        tenants: Vec::new(),
    }
}

const BYTES: usize = 1_000;

/// Of an endpoint without a tenant.
fn claim_room(claims: usize) -> ClaimRoom {
    ClaimRoom { claims, bytes: BYTES, tenant: None }
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
    assert_eq!(dispatch.next(now, &facts), ROUTE_FEW);
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
            assert_eq!(dispatch.next(now, &facts), ROUTE_FEW);
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
    let rests = start();
    let now = rests + TELL_INTERVAL;
    for (hears, draw, expected) in
        [(false, 0.0, 900), (false, 1.0, 1100), (true, 0.5, 5000), (true, 1.0, 5500)]
    {
        let mut dispatch = at_rest(rests);
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
    // Bells that rang meanwhile were not heard.
    assert_eq!(dispatch.next(later, &HEARS), Step::Poll);
    dispatch.polled(0.5, later);
    assert_eq!(dispatch.next(later, &HEARS), ROUTE_FEW);
    dispatch.routed(Some(routed(0, 0)), later, later);
    // Transactions that are open may have skipped the bell while the session before held its lock.
    assert_eq!(dispatch.next(later, &HEARS), Step::Arm);
    dispatch.armed(Some(10), later);
    assert_eq!(dispatch.next(later, &HEARS), other(later));
    assert_eq!(dispatch.next(later, &HEARS), ROUTE_FEW);
    dispatch.routed(Some(routed(0, 0)), later, later);
    assert!(dispatch.is_asleep());
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
            // Claims that were given back are due.
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
    let room_of = |endpoint| claim_room([0, 3, 0, 5, 9][usize::try_from(endpoint).unwrap()]);
    let request = |dispatch: &Dispatch, room| {
        let ClaimRequest { endpoints, rooms, .. } = dispatch.ask(&due, room, room_of, now);
        endpoints.into_iter().zip(rooms).collect::<Vec<_>>()
    };
    assert_eq!(request(&dispatch, 100), [(1, 3), (3, 5), (4, 9)]);
    assert_eq!(request(&dispatch, 5), [(1, 3), (3, 2)]);
    assert!(request(&dispatch, 0).is_empty());
    // An endpoint for which claiming failed alone is left out for a while.
    for _ in 0..2 {
        dispatch.claim_failed(&asked(&[3], 1), true, &mut Due::default(), now);
    }
    assert_eq!(request(&dispatch, 100), [(1, 3), (4, 9)]);
    let many = &mut Due::default();
    (0..600).for_each(|endpoint| many.put(endpoint, now));
    assert_eq!(
        dispatch.ask(many, 9999, |_| claim_room(1), now).endpoints.len(),
        ENDPOINTS_PER_CLAIM
    );
}

#[test]
fn what_gave_less_than_was_asked_for_is_due_no_more_unless_the_claim_was_cut() {
    let now = start();
    for (is_cut, expected) in [(false, vec![2]), (true, vec![1, 2])] {
        let mut due = Due::default();
        [1, 2].into_iter().for_each(|endpoint| due.put(endpoint, now));
        let mut dispatch = at_rest(now);
        let claimed = |endpoint| if endpoint == 1 { 7 } else { 8 };
        dispatch.claimed(&asked(&[1, 2], 8), claimed, is_cut, &mut due, now);
        assert_eq!(due.due(now).collect::<Vec<_>>(), expected);
        assert!(!dispatch.claims_again);
    }
}

#[test]
fn a_claim_asks_for_no_more_of_a_tenants_endpoints_than_that_has_room_for() {
    let now = start();
    let mut due = Due::default();
    (1..=5).for_each(|endpoint| due.put(endpoint, now));
    let [acme, globex] = ["acme", "globex"].map(Tenant::of);
    let room_of = |endpoint: EndpointId| {
        let tenant =
            [None, Some((acme, 10)), Some((globex, 4))][usize::try_from(endpoint % 3).unwrap()];
        let tenant =
            tenant.map(|(tenant, claims)| TenantRoom { tenant, claims, bytes: 10 * claims });
        ClaimRoom { claims: 8, bytes: BYTES, tenant }
    };
    let request = at_rest(now).ask(&due, 100, room_of, now);
    assert_eq!(request.endpoints, [1, 2, 3, 4]);
    assert_eq!(request.rooms, [8, 4, 8, 2]);
    assert_eq!(request.tenant_of, [Some(0), Some(1), None, Some(0)]);
    assert_eq!(request.tenants, [100, 40]);
}

#[test]
fn an_endpoint_whose_next_does_not_fit_is_asked_for_again_a_little_later() {
    let now = start();
    let mut due = Due::default();
    [1, 2].into_iter().for_each(|endpoint| due.put(endpoint, now));
    let claimed = |endpoint| usize::from(endpoint == 1);
    at_rest(now).claimed(&asked(&[1, 2], 8), claimed, true, &mut due, now);
    assert_eq!(due.due(now).collect::<Vec<_>>(), [1]);
    assert_eq!(due.next_after(now), Some(now + 20 * MILLI));
}

#[test]
fn a_claim_that_fails_twice_of_a_row_is_halved_at_once_and_its_endpoint_waits() {
    let now = start();
    let facts = Facts { is_due: true, ..HEARS };
    let mut due = Due::default();
    [1, 2].into_iter().for_each(|endpoint| due.put(endpoint, now));
    let mut dispatch = at_rest(now);
    dispatch.next_token();
    let both = asked(&[1, 2], 1);
    assert_eq!(dispatch.claim_failed(&both, true, &mut due, now), Blame::Again);
    assert_eq!(dispatch.claim_failed(&both, true, &mut due, now), Blame::Half);
    dispatch.failed = false;
    dispatch.disowned(0, now);
    assert_eq!(dispatch.next(now, &facts), Step::Claim);
    let half = dispatch.ask(&due, 100, |_| claim_room(1), now);
    assert_eq!(half, asked(&[1], 1));
    let blame = dispatch.claim_failed(&half, true, &mut due, now);
    assert_eq!(blame, Blame::Without(1, 5 * SECOND));
    assert_eq!(due.due(now).collect::<Vec<_>>(), [2]);
    // The others are claimed for without a pause.
    assert_eq!(dispatch.next(now, &facts), other(now));
    dispatch.disowned(0, now);
    assert_eq!(dispatch.next(now, &facts), Step::Claim);
    dispatch.claimed(&asked(&[2], 1), |_| 0, false, &mut due, now);
    assert_eq!(dispatch.next(now, &facts), other(now));
    // With nothing due, it does not go round and round.
    let Step::Rest { until, .. } = dispatch.next(now, &HEARS) else { panic!("{dispatch:?}") };
    assert!(until > now);
}

#[test]
fn a_relay_is_stuck_after_five_intervals_and_five_statements() {
    assert_eq!(SETTINGS.stuck_after(), 155 * SECOND);
}
