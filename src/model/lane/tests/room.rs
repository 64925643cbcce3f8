//! How many more deliveries a lane may claim.

use super::*;

#[test]
fn an_endpoint_of_which_nothing_is_known_has_sixteen_claims_for_each_first_request() {
    assert_eq!(Stepped::new(LIMITS, 4).room(), 64);
    assert_eq!(first_room(4, FREE.free), 64);
    assert_eq!(first_room(4, 21), 11, "half of what the relay has left");
}

#[test]
fn room_is_bounded_by_what_the_lane_holds_the_relay_has_left_and_may_be_in_flight() {
    let lane = Stepped::new(LIMITS, 4).lane;
    for (claimed, free, requests, room) in [
        (0, 10_000, 1_000, 64),
        (60, 10_000, 1_000, 4),
        (64, 10_000, 1_000, 0),
        (70, 10_000, 1_000, 0),
        // Half of what is free after as much as it holds.
        (10, 31, 1_000, 11),
        (10, 10, 1_000, 0),
        (0, 1, 1_000, 1),
        (0, 0, 1_000, 0),
        (0, 10_000, 1, 16),
        (20, 10_000, 2, 12),
    ] {
        let bounds = Bounds { claimed, free, requests };
        assert_eq!(lane.room(Timestamp::UNIX_EPOCH, bounds), room, "{bounds:?}");
    }
}

#[test]
fn a_paused_endpoint_has_no_room_then_one_new_probe_then_any_probe() {
    let mut stepped = Stepped::new(LIMITS, 4);
    let until = stepped.pause();
    assert_eq!((stepped.room(), stepped.room_for_new()), (0, 0));
    stepped.now.time = until;
    assert_eq!((stepped.room(), stepped.room_for_new()), (1, 1));
    stepped.push(1);
    let (_, probe) = stepped.send();
    assert_eq!((stepped.room(), stepped.room_for_new()), (0, 0), "the probe is out");
    stepped.end(probe, (&answered(204), Decision::Delivered), 1);
    assert!(stepped.room() > 1, "it flows again");
}

#[test]
fn an_endpoint_that_rejects_is_probed_by_a_new_event_in_the_second_half_of_its_pause() {
    let mut stepped = Stepped::new(LIMITS, 4);
    let rejections = stepped.policy.rejection_threshold;
    let last = (0..rejections).filter_map(|_| stepped.attempt(&answered(422), RETRY, 1)).last();
    assert!(matches!(last, Some(Transition::Paused { .. })), "{last:?}");
    assert_eq!((stepped.room(), stepped.room_for_new()), (0, 0));
    stepped.pass(stepped.policy.first_pause / 2);
    assert_eq!((stepped.room(), stepped.room_for_new()), (0, 1));
}

#[test]
fn a_closed_lane_has_no_room_until_it_is_reopened() {
    let mut stepped = Stepped::new(LIMITS, 4);
    stepped.lane.close();
    assert_eq!((stepped.room(), stepped.room_for_new()), (0, 0));
    stepped.lane.reopen(LIMITS, Health::default(), Share::ALONE, stepped.now.instant);
    assert_eq!(stepped.room(), 64);
}

#[test]
fn an_endpoint_that_other_relays_serve_has_no_room_here_until_they_are_gone() {
    let limits = LaneLimits { max_concurrency: 1, ..LIMITS };
    let mut stepped = Stepped::with(limits, 4, Health::default(), served_by_the_other());
    assert!(!stepped.lane.serves());
    assert_eq!((stepped.room(), stepped.room_for_new()), (0, 0));
    stepped.lane.divide(Share::ALONE);
    assert!(stepped.lane.serves());
    assert_eq!(stepped.room(), 16);
}

#[test]
fn a_fast_endpoint_holds_two_hundred_milliseconds_of_claims_and_a_slow_one_hardly_any() {
    // While the window rises, four for each request at least.
    for (ms, rising, room) in [(1, 200, 200), (10, 20, 20), (150, 4, 1), (1_000, 4, 1)] {
        let mut stepped = Stepped::new(LIMITS, 1);
        for (status, room) in [(422, rising), (503, room)] {
            stepped.attempt(&answered(status), RETRY, ms);
            let width = usize::try_from(stepped.lane.window.size()).unwrap();
            assert_eq!(stepped.room(), width * room, "{ms} ms, {status}");
        }
    }
}

#[test]
fn the_mean_follows_what_attempts_take_by_an_eighth_each() {
    let mut stepped = Stepped::new(LIMITS, 1);
    for (ms, mean) in [(80, 80.0), (160, 90.0), (90, 90.0), (10, 80.0)] {
        stepped.attempt(&answered(204), Decision::Delivered, ms);
        assert_eq!(stepped.lane.mean_ms, Some(mean));
    }
}

#[test]
fn a_rate_limit_bounds_the_claims_to_one_second_of_it() {
    let limits = LaneLimits { rate_limit: Some(5.0), ..LIMITS };
    assert_eq!(Stepped::new(limits, 4).room(), 5);
    let slow = LaneLimits { rate_limit: Some(0.1), ..LIMITS };
    assert_eq!(Stepped::new(slow, 4).room(), 1);
}
