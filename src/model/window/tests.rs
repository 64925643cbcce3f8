use jiff::SignedDuration;
use proptest::prelude::*;

use super::super::outcome::{Answer, Phase, Refusal};
use super::*;

fn answered(status: u16) -> Outcome {
    Outcome::Answered(Answer { status, ..Answer::default() })
}

fn unreachable(cause: Cause) -> Outcome {
    Outcome::Unreachable { cause, detail: String::new() }
}

/// A window that is always full, at an endpoint that is alone, and the time.
struct Full {
    window: Window,
    now: Timestamp,
    in_all: u32,
}

impl Full {
    fn new(start: u32, max: u32) -> Self {
        Self { window: Window::new(start, max), now: Timestamp::UNIX_EPOCH, in_all: 1 }
    }

    /// A window of this size that rises no more, at an endpoint that takes 100 ms.
    fn wide(size: u32) -> Self {
        let mut full = Self::new(4, size);
        full.window.recall(Remembered { size: 2 * size, normal: 100_f64.ln() });
        full.window.rising = false;
        assert_eq!(full.size(), size);
        full
    }

    fn size(&self) -> u32 {
        self.window.size()
    }

    fn send(&mut self) -> Sent {
        self.window.sent(Fill::Full, self.in_all)
    }

    fn end(&mut self, sent: Sent, outcome: &Outcome, took_ms: f64) {
        self.now += SignedDuration::from_secs_f64(took_ms / 1000.0 / f64::from(self.size()));
        self.window.after(outcome, sent, took_ms, self.in_all, self.now);
    }

    /// One is sent and takes this long.
    fn took(&mut self, ms: f64) {
        let sent = self.send();
        self.end(sent, &answered(204), ms);
    }

    /// As many take this long as make a round.
    fn round(&mut self, ms: f64) -> u32 {
        let size = self.size();
        (0..size.max(8)).for_each(|_| self.took(ms));
        self.size()
    }
}

// ── how it begins ──

#[test]
fn it_begins_with_two_or_what_is_allowed_without_an_answer() {
    for (start, max, size) in [(4, 64, 2), (1, 64, 1), (4, 1, 1), (0, 0, 1)] {
        assert_eq!(Window::new(start, max).size(), size, "{start} {max}");
    }
}

#[test]
fn it_begins_with_one_while_the_relay_is_busy_and_nothing_is_known() {
    for (in_all, size) in [(1, 2), (64, 2), (65, 1)] {
        let mut window = Window::new(4, 64);
        let _: Sent = window.sent(Fill::Full, in_all);
        assert_eq!(window.size(), size, "{in_all}");
    }
    let mut known = Window::new(4, 64);
    known.recall(Remembered { size: 20, normal: 3.0 });
    let _: Sent = known.sent(Fill::Full, 1_000);
    assert_eq!(known.size(), 10);
}

#[test]
fn it_begins_with_half_of_what_is_remembered() {
    for (size, max, half) in [(64, 64, 32), (5, 64, 3), (1, 64, 2), (64, 20, 20)] {
        let mut window = Window::new(4, max);
        assert_eq!(window.remembered(), None);
        window.recall(Remembered { size, normal: 3.0 });
        assert_eq!(window.size(), half, "{size} {max}");
        assert_eq!(window.remembered(), Some(Remembered { size: half, normal: 3.0 }));
    }
}

#[test]
fn what_makes_no_sense_is_not_remembered() {
    let mut window = Window::new(4, 64);
    window.recall(Remembered { size: 64, normal: f64::NAN });
    assert_eq!(window.remembered(), None);
}

#[test]
fn silence_grows_it_to_its_initial_size_at_most_and_says_nothing_of_the_endpoint() {
    for (start, max, most) in [(4, 64, 4), (4, 3, 3), (1, 64, 1), (0, 0, 1)] {
        let mut window = Window::new(start, max);
        (0..10).for_each(|_| window.on_silence());
        assert_eq!(window.size(), most);
        assert_eq!(window.size, 2.min(start).clamp(1, max.max(1)));
    }
}

// ── how it rises ──

#[test]
fn while_it_rises_each_answer_that_takes_less_than_twice_as_long_allows_two_more() {
    let mut full = Full::new(1, 12);
    let sizes: Vec<_> = [100.0, 150.0, 400.0, 60.0, 100.0, 100.0, 100.0, 100.0]
        .map(|ms| {
            full.took(ms);
            full.size()
        })
        .into();
    assert_eq!(sizes, [3, 5, 5, 7, 9, 11, 12, 12]);
}

#[test]
fn what_the_first_four_answers_take_is_normal_to_begin_with() {
    let mut full = Full::new(1, 1);
    for ms in [10.0, 40.0, 10.0, 40.0, 1_000.0, 1_000.0] {
        full.took(ms);
    }
    let normal = full.window.normal.unwrap().exp();
    assert!((normal - 20.0).abs() < 1e-9, "{normal}");
    assert_eq!(full.window.remembered(), None, "not before there is a round of them");
    full.round(20.0);
    assert!(full.window.remembered().is_some());
}

#[test]
fn what_the_first_answers_took_in_a_rush_says_nothing() {
    // At size 1 half way to what the first round took; in a rush that is all there is.
    for (in_all, normal) in [(1, 40.0), (100_000, 80.0)] {
        let mut full = Full { in_all, ..Full::new(1, 1) };
        (full.window.normal, full.window.first) = (Some(20_f64.ln()), Some(FIRST));
        full.round(80.0);
        let is = full.window.normal.unwrap().exp();
        assert!((is - normal).abs() < 1e-9, "{in_all}: {is}");
    }
}

#[test]
fn an_answer_that_the_relay_may_be_slow_for_waits_for_a_round() {
    // 100 requests in flight take 8 ms of a busy relay's time, at most a quarter of it.
    for (in_all, ms, grows) in
        [(100, 32.1, true), (100, 31.9, false), (1, 10.1, true), (1, 9.9, false)]
    {
        let mut full = Full { in_all, ..Full::new(1, 64) };
        full.took(ms);
        assert_eq!(full.size() > 1, grows, "{in_all} {ms}");
        // More were in flight when it was sent.
        let mut full = Full { in_all, ..Full::new(1, 64) };
        let sent = full.send();
        full.in_all = 1;
        full.end(sent, &answered(204), ms);
        assert_eq!(full.size() > 1, grows, "{in_all} {ms}");
    }
}

#[test]
fn a_round_of_those_takes_its_time_and_allows_half_as_many_again() {
    let mut full = Full { in_all: 1_000, ..Full::new(1, 6) };
    let mut sizes = Vec::new();
    for size in [1, 2, 3, 5, 6] {
        assert_eq!(full.size(), size);
        for _ in 0..100 {
            full.took(0.5);
            assert_eq!(full.size(), size, "a tenth of a second has not passed");
        }
        full.now += SignedDuration::from_millis(100);
        full.took(0.5);
        sizes.push(full.size());
    }
    assert_eq!(sizes, [2, 3, 5, 6, 6]);
}

#[test]
fn it_rises_no_more_once_it_was_too_large() {
    let mut full = Full::new(4, 64);
    full.window.recall(Remembered { size: 20, normal: 100_f64.ln() });
    assert!(full.window.is_rising());
    assert_eq!(full.round(250.0), 6, "a third less, as that is less than what would fit");
    assert!(!full.window.is_rising());
    assert_eq!(full.round(120.0), 9, "half as many again after a round");
}

#[test]
fn it_does_not_grow_while_it_is_not_full() {
    let mut full = Full::wide(8);
    (full.window.max, full.window.rising) = (64, true);
    for ms in [0.5, 10.0, 100.0] {
        for _ in 0..100 {
            full.now += SignedDuration::from_millis(10);
            let sent = full.window.sent(Fill::Partly, 1);
            full.window.after(&answered(204), sent, ms, 1, full.now);
        }
    }
    assert_eq!(full.size(), 8);
}

// ── how a round is judged ──

#[test]
fn a_round_is_judged_by_how_much_longer_than_normal_it_took() {
    for (in_all, ms, size) in [
        (1, 60.0, 18),
        (1, 124.0, 18),
        (1, 127.0, 12),
        (1, 199.0, 12),
        // What would fit, and a third less at least.
        (1, 205.0, 8),
        (1, 480.0, 5),
        (1, 10_000.0, 1),
        // Where the relay may be slow, a third.
        (100_000, 10_000.0, 8),
    ] {
        let mut full = Full { in_all, ..Full::wide(12) };
        full.window.set_max(64);
        assert_eq!(full.round(ms), size, "{in_all} {ms}");
    }
}

#[test]
fn answers_that_scatter_are_judged_with_a_margin_for_chance() {
    let mut full = Full::wide(12);
    // Their mean is 2.2 times as long.
    for n in 0..12 {
        full.took(if n % 2 == 0 { 70.0 } else { 700.0 });
    }
    assert_eq!(full.size(), 12);
}

#[test]
fn what_was_sent_before_a_step_does_not_speak_for_it() {
    let mut full = Full::wide(12);
    let before: Vec<_> = (0..12).map(|_| full.send()).collect();
    assert_eq!(full.round(300.0), 8);
    for sent in before {
        full.end(sent, &answered(204), 10_000.0);
    }
    assert_eq!(full.size(), 8);
}

#[test]
fn what_is_normal_follows_what_is_faster_and_what_one_alone_takes_by_half() {
    for (size, ms, normal) in
        [(8, 64.0, 80.0), (8, 120.0, 100.0), (1, 64.0, 80.0), (1, 400.0, 200.0)]
    {
        let mut full = Full::wide(size);
        full.round(ms);
        let is = full.window.normal.unwrap().exp();
        assert!((is - normal).abs() < 1e-9, "{size} {ms}: {is}");
    }
}

#[test]
fn a_clock_that_is_set_back_does_not_make_a_round_last_for_ever() {
    let mut full = Full { in_all: 100_000, ..Full::wide(8) };
    full.window.set_max(64);
    (0..7).for_each(|_| full.took(1.0));
    full.now -= SignedDuration::from_hours(1);
    full.took(1.0);
    assert_eq!(full.size(), 12);
}

// ── whether it is the size ──

#[test]
fn an_endpoint_that_became_slower_has_its_window_back_and_that_is_normal() {
    let mut full = Full::wide(64);
    assert_eq!(full.round(300.0), 42);
    assert_eq!(full.round(300.0), 64, "not faster with fewer: perhaps it is not the size");
    assert_eq!(full.round(300.0), 64, "more answers a second: it is not");
    assert!((full.window.normal.unwrap().exp() - 300.0).abs() < 1e-9);
    assert_eq!(full.window.doubt, Doubt::None);
}

#[test]
fn an_endpoint_that_does_one_after_the_other_now_has_its_window_back_only_once() {
    let mut full = Full::wide(64);
    // Of both kinds, so that it looks as if fewer were not faster.
    assert_eq!(full.round(1_000.0), 12);
    assert_eq!(full.round(1_200.0), 64);
    assert_eq!(full.round(6_400.0), 2, "no more answers a second: it is the size");
    assert_eq!(full.window.doubt, Doubt::Settled);
    assert!((full.window.normal.unwrap().exp() - 100.0).abs() < 1e-9, "as it was");
    assert_eq!(full.round(300.0), 1, "and no further trial");
    assert_eq!(full.window.doubt, Doubt::Settled);
    full.round(100.0);
    assert_eq!(full.window.doubt, Doubt::None, "until it is as fast as it should be");
}

#[test]
fn where_fewer_at_once_are_faster_it_was_the_size() {
    let mut full = Full::wide(64);
    assert_eq!(full.round(1_000.0), 12);
    full.round(190.0);
    assert_eq!((full.size(), full.window.doubt), (12, Doubt::None));
}

#[test]
fn where_the_relay_may_be_slow_there_is_no_trial() {
    let mut full = Full { in_all: 100_000, ..Full::wide(12) };
    assert_eq!(full.round(300.0), 8);
    full.now += SignedDuration::from_secs(1);
    assert!(full.round(300.0) < 8);
}

// ── congestion ──

#[test]
fn an_incident_that_breaks_the_whole_window_halves_it_once() {
    let mut full = Full::wide(16);
    let sent: Vec<_> = (0..16).map(|_| full.send()).collect();
    for one in sent {
        full.end(one, &unreachable(Cause::Reset), 10.0);
    }
    assert_eq!(full.size(), 8);
    let sent = full.send();
    full.end(sent, &unreachable(Cause::Reset), 10.0);
    assert_eq!(full.size(), 4, "what was sent since is another incident");
}

#[test]
fn successes_of_the_former_window_do_not_undo_the_halving() {
    let mut full = Full::wide(16);
    let mut sent: Vec<_> = (0..16).map(|_| full.send()).collect();
    full.end(sent.pop().unwrap(), &answered(503), 100.0);
    for one in sent {
        full.end(one, &answered(204), 100.0);
    }
    assert_eq!(full.size(), 8);
    assert_eq!(full.round(100.0), 12);
}

#[test]
fn it_rises_no_more_after_congestion_and_what_silence_allowed_is_taken_back() {
    let mut full = Full::new(4, 64);
    (0..2).for_each(|_| full.window.on_silence());
    assert_eq!(full.size(), 4);
    let sent = full.send();
    full.end(sent, &answered(429), 10.0);
    assert_eq!((full.size(), full.window.is_rising()), (2, false));
}

#[test]
fn a_lower_maximum_holds_at_once() {
    let Full { mut window, .. } = Full::wide(16);
    for (max, size) in [(3, 3), (0, 1), (64, 1)] {
        window.set_max(max);
        assert_eq!(window.size(), size);
    }
}

#[test]
fn only_overload_and_broken_connections_are_congestion() {
    for outcome in [
        Outcome::TimedOut { phase: Phase::Headers },
        answered(408),
        answered(429),
        answered(500),
        answered(599),
        unreachable(Cause::Closed),
        unreachable(Cause::ConnectionRefused),
    ] {
        assert!(congested(&outcome), "{outcome:?}");
    }
    for outcome in [
        answered(200),
        answered(302),
        answered(404),
        unreachable(Cause::Dns),
        unreachable(Cause::TlsExpired),
        Outcome::Interrupted,
    ] {
        assert!(!congested(&outcome), "{outcome:?}");
    }
}

#[test]
fn what_shows_nothing_changes_nothing() {
    let mut full = Full::new(4, 8);
    for outcome in [
        Outcome::Interrupted,
        Outcome::Refused { why: Refusal::NotHttps, detail: String::new() },
        unreachable(Cause::Dns),
    ] {
        let sent = full.send();
        full.end(sent, &outcome, 100.0);
    }
    assert_eq!(full.window, Window::new(4, 8));
}

proptest! {
    #[test]
    fn it_never_leaves_its_bounds(
        start: u32,
        max: u32,
        results in prop::collection::vec((any::<[bool; 3]>(), 0.0f64..1e6, any::<u32>()), 0..200),
    ) {
        let mut window = Window::new(start, max);
        let mut now = Timestamp::UNIX_EPOCH;
        for ([good, full, silent], took_ms, in_all) in results {
            now += SignedDuration::from_millis(50);
            if silent {
                window.on_silence();
            }
            let sent = window.sent(if full { Fill::Full } else { Fill::Soon }, in_all);
            if good {
                window.on_success(sent, took_ms, in_all, now);
            } else {
                window.on_congestion(sent);
            }
            prop_assert!((1..=max.max(1)).contains(&window.size()));
        }
    }
}
