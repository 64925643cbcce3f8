//! What the window makes of each kind of endpoint, on the very lane that a relay has. The bounds
//! are the figures of decision 22 with a margin.

use super::kinds::{Device, Kind, Nanos, SECOND, Seen};
use crate::model::window::Remembered;

/// More than enough for any of them.
const LONG: Nanos = 300 * SECOND;

/// As many events for one endpoint, until all have been answered.
fn burst(kind: Kind, events: u32) -> Seen {
    let seen = sent(Device::new(vec![kind], events), LONG);
    assert_eq!((seen.lane.queued(), seen.lane.in_flight()), (0, 0), "all is through");
    seen
}

fn sent(mut device: Device, most: Nanos) -> Seen {
    device.run(most);
    device.endpoints.pop().unwrap()
}

/// An endpoint that changes after 3 s and is then sent to for so many more.
fn changed(before: Kind, after: Kind, seconds: u64, seed: u64) -> Seen {
    let kind = Kind::changes(3 * SECOND, before, after);
    sent(Device::new(vec![kind], 60_000).with_chance(seed), (3 + seconds) * SECOND)
}

/// Seconds after the change.
fn after(seconds: u64) -> Nanos {
    (3 + seconds) * SECOND
}

/// Seconds that as many events take with 64 requests at once.
fn by_sixty_four(events: u32, ms: f64) -> f64 {
    f64::from(events) / 64.0 * ms / 1_000.0
}

fn uneven(ms: f64) -> Kind {
    Kind::Lognormal { ms, deviation: 0.5 }
}

#[test]
fn a_burst_is_through_in_less_than_twice_the_time_of_sixty_four_at_once() {
    for (events, ms, most) in [
        (200, 30.0, 1.8),
        (2_000, 30.0, 1.2),
        (200, 100.0, 1.8),
        (500, 100.0, 1.4),
        (500, 300.0, 1.4),
        (300, 1_000.0, 1.5),
        (200, 10.0, 2.5),
    ] {
        let times = burst(Kind::Constant(ms), events).span() / by_sixty_four(events, ms);
        assert!(times <= most, "{events} of {ms} ms: {times:.2}");
    }
}

#[test]
fn a_burst_to_an_endpoint_that_is_remembered_takes_a_tenth_longer_than_sixty_four_at_once() {
    for (events, ms) in [(200, 30.0), (500, 100.0), (500, 300.0), (300, 1_000.0_f64)] {
        let mut device = Device::new(vec![Kind::Constant(ms)], events);
        device.endpoints[0].lane.recall(Remembered { size: 64, normal: ms.ln() });
        let times = sent(device, LONG).span() / by_sixty_four(events, ms);
        assert!(times <= 1.15, "{events} of {ms} ms: {times:.2}");
    }
}

#[test]
fn an_endpoint_that_does_one_after_the_other_has_hardly_more_than_it_can_do() {
    for (ms, most) in [(1.0, 15), (5.0, 12), (20.0, 12), (100.0, 12)] {
        let seen = burst(Kind::workers(1, ms), 200);
        let later = seen.most_since(seen.arrivals[100].0);
        assert!(seen.most <= most && later <= 6, "{ms} ms: {} at once, later {later}", seen.most);
    }
    for seed in 1..=3 {
        for ms in [5.0, 20.0, 100.0] {
            let device = Device::new(vec![Kind::uneven_workers(1, ms)], 400).with_chance(seed);
            let seen = sent(device, LONG);
            let later = seen.most_since(seen.arrivals[200].0);
            assert!(later <= 12, "{ms} ms, give or take: {later}");
        }
    }
}

#[test]
fn an_endpoint_of_some_workers_has_all_of_them_busy() {
    for (workers, ms) in [(4, 30.0), (8, 50.0), (16, 100.0)] {
        let seen = burst(Kind::workers(workers, ms), 1_000);
        let times = seen.span() / (1_000.0 / workers as f64 * ms / 1_000.0);
        let later = seen.most_since(seen.arrivals[500].0);
        assert!(times <= 1.05 && later <= 3 * workers, "{workers}: {times:.2}, later {later}");
    }
}

#[test]
fn an_endpoint_that_breaks_down_under_load_is_soon_sent_less() {
    for (well, ms, most) in [(4, 30.0, 1.6), (8, 50.0, 1.7), (16, 100.0, 2.2)] {
        let seen = burst(Kind::Overloaded { well, ms, until: Vec::new() }, 500);
        let times = seen.span() / (500.0 / well as f64 * ms / 1_000.0);
        assert!(times <= most && seen.failed <= 6, "{well}: {times:.2}, {} failed", seen.failed);
    }
}

#[test]
fn answers_that_scatter_do_not_hold_up_a_burst() {
    for (ms, deviation) in [(30.0, 0.5_f64), (30.0, 1.0), (100.0, 1.0)] {
        let mean_ms = ms * (deviation * deviation / 2.0).exp();
        let seen = burst(Kind::Lognormal { ms, deviation }, 500);
        let times = seen.span() / by_sixty_four(500, mean_ms);
        assert!(times <= 1.5, "{ms} ms, {deviation}: {times:.2}");
    }
    let seen = burst(Kind::Tail { ms: 30.0, slow_ms: 3_000.0 }, 500);
    assert!(seen.span() <= 0.6, "all are sent before the first slow one is back: {}", seen.span());
}

#[test]
fn an_endpoint_that_becomes_slower_has_its_window_back_within_seconds() {
    for (before, later, back) in
        [(10.0, 30.0, 1), (100.0, 300.0, 2), (200.0, 1_000.0, 5), (300.0, 100.0, 1)]
    {
        let seen = changed(Kind::Constant(before), Kind::Constant(later), 10, 1);
        let part = seen.rate_since(after(back)) / (64_000.0 / later);
        assert!(part >= 0.9, "{before} to {later} ms: {part:.2}");
        for seed in 1..=3 {
            let seen = changed(uneven(before), uneven(later), 20, seed);
            let part = seen.rate_since(after(10)) / (64_000.0 / later / 0.125_f64.exp());
            assert!(part >= 0.9, "{before} to {later} ms, give or take: {part:.2}");
        }
    }
}

#[test]
fn an_endpoint_that_turns_to_one_after_the_other_is_not_taken_for_a_slower_one() {
    for (ms, adapted) in [(10.0, 4), (30.0, 10), (100.0, 35)] {
        let seen = changed(Kind::Constant(ms), Kind::workers(1, ms), 60, 1);
        let most = seen.most_since(after(adapted));
        assert!(most <= 6, "{ms} ms: {most} at once");
        for seed in 1..=3 {
            let seen = changed(uneven(ms), Kind::uneven_workers(1, ms), 60, seed);
            let most = seen.most_since(after(adapted + 10));
            assert!(most <= 12, "{ms} ms, give or take: {most} at once");
        }
    }
}

#[test]
fn an_endpoint_that_loses_most_of_its_workers_keeps_the_others_busy() {
    for (ms, seed) in [(10.0, 1), (30.0, 2), (100.0, 3)] {
        let seen = changed(uneven(ms), Kind::uneven_workers(8, ms), 40, seed);
        let part = seen.rate_since(after(20)) / (8_000.0 / ms / 0.125_f64.exp());
        let most = seen.most_since(after(20));
        assert!(part >= 0.95 && most <= 40, "{ms} ms: {part:.2}, {most} at once");
    }
}

#[test]
fn a_hundred_endpoints_that_answer_at_once_have_hardly_a_connection_more_than_they_need() {
    for ms in [0.1, 0.5, 2.0] {
        let mut device = Device::new((0..100).map(|_| Kind::Constant(ms)).collect(), 200);
        device.run(LONG);
        let connections: usize = device.endpoints.iter().map(|seen| seen.most).sum();
        assert!(connections <= 300, "{ms} ms: {connections}");
    }
}

#[test]
fn a_busy_machine_is_not_taken_for_slow_endpoints() {
    for (lanes, events, most) in [(1, 50_000, 24), (10, 5_000, 200)] {
        for one_in in [200, 1_000] {
            // A little first, so that what is normal has been seen while it was quiet.
            let kinds = (0..lanes).map(|_| Kind::Constant(0.1)).collect();
            let mut device = Device::new(kinds, 2_000 / lanes).with_neighbour(one_in);
            device.run(LONG);
            device.owes(events);
            device.run(LONG);
            let connections: usize = device.endpoints.iter().map(|seen| seen.most).sum();
            assert!(connections <= most, "{lanes}, one in {one_in}: {connections}");
        }
    }
}
