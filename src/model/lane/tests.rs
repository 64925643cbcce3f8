use super::*;
use crate::model::health::{HealthPolicy, Transition};
use crate::model::outcome::{Answer, Refusal};

const LIMITS: LaneLimits = LaneLimits {
    endpoint: 7,
    revision: 3,
    secrets_until: None,
    max_concurrency: 64,
    rate_limit: None,
};
/// Nothing of the relay is in the way.
const FREE: Bounds = Bounds { claimed: 0, free: 10_000, requests: 1_000 };

/// A lane of numbers, and the time.
struct Stepped {
    lane: LaneState<u32>,
    now: Moment,
    policy: HealthPolicy,
}

impl Stepped {
    fn new(limits: LaneLimits, initial_window: u32) -> Self {
        Self::with(limits, initial_window, Health::default(), Share::ALONE)
    }

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn with(limits: LaneLimits, initial_window: u32, health: Health, share: Share) -> Self {
        let now = Moment { time: Timestamp::UNIX_EPOCH, instant: Instant::now() };
        let lane = LaneState::new(limits, initial_window, health, share, now.instant);
        Self { lane, now, policy: HealthPolicy::default() }
    }

    fn pass(&mut self, time: Duration) {
        self.now = Moment { time: self.now.time + time, instant: self.now.instant + time };
    }

    fn push(&mut self, count: u32) {
        (0..count).for_each(|n| self.lane.push(n));
    }

    fn next(&mut self) -> Result<(u32, Ticket), Idle<u32>> {
        self.lane.next(self.now, FREE.requests, true)
    }

    fn send(&mut self) -> (u32, Ticket) {
        self.next().unwrap()
    }

    /// Sends one whose end is of no interest.
    fn begin(&mut self) {
        let _: (u32, Ticket) = self.send();
    }

    fn end(&mut self, ticket: Ticket, end: (&Outcome, Decision), ms: u64) -> Option<Transition> {
        let end = AttemptEnd {
            ticket,
            outcome: end.0,
            decision: end.1,
            took: Duration::from_millis(ms),
            answered_in: None,
        };
        self.lane.finished(end, self.now.time, &self.policy, 0.0)
    }

    /// Sends one and is told of its end.
    fn attempt(&mut self, outcome: &Outcome, decision: Decision, ms: u64) -> Option<Transition> {
        self.push(1);
        let (_, ticket) = self.send();
        self.end(ticket, (outcome, decision), ms)
    }

    /// Fails until the endpoint is paused. Returns until when.
    fn pause(&mut self) -> Timestamp {
        loop {
            if let Some(Transition::Paused { until, .. }) = self.attempt(&answered(500), RETRY, 1) {
                return until;
            }
        }
    }

    fn room(&self) -> usize {
        self.lane.room(self.now.time, FREE)
    }

    fn room_for_new(&self) -> usize {
        self.lane.room_for_new(self.now.time, FREE)
    }
}

const RETRY: Decision = Decision::Retry { after: Duration::ZERO };

fn answered(status: u16) -> Outcome {
    Outcome::Answered(Answer { status, ..Answer::default() })
}

/// The second of two relays, at an endpoint that the first serves.
fn served_by_the_other() -> Share {
    let shares = [1, 2].map(|me| Share::among(&[1, 2], me));
    shares.into_iter().find(|share| share.of(7, 1, None).is_none()).unwrap()
}

// ── room ──

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
    for (ms, room) in [(1, 200), (10, 20), (150, 1), (1_000, 1)] {
        let mut stepped = Stepped::new(LIMITS, 1);
        stepped.attempt(&answered(422), RETRY, ms);
        let width = usize::try_from(stepped.lane.window.size()).unwrap();
        assert_eq!(stepped.room(), width * room, "{ms} ms");
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

// ── the queue ──

#[test]
fn excess_is_given_back_where_other_relays_may_send_it_and_it_is_more_than_twice_what_is_held() {
    let two = Share::among(&[1, 2], 1);
    let limits = LaneLimits { max_concurrency: 4, ..LIMITS };
    // Two requests at once are this relay's part, each with 16 claims.
    for (queued, share, excess) in
        [(200, Share::ALONE, 0), (64, two, 0), (65, two, 33), (200, two, 168)]
    {
        let mut stepped = Stepped::with(limits, 4, Health::default(), two);
        stepped.push(queued);
        let taken = stepped.lane.take_excess(share);
        assert_eq!(taken.len(), excess, "{queued}");
        assert_eq!(stepped.lane.queued() + taken.len(), usize::try_from(queued).unwrap());
        assert!(
            taken.first().is_none_or(|first| *first == 32),
            "the last come are the first to go"
        );
    }
}

#[test]
fn draining_takes_out_what_is_queued_and_leaves_what_is_in_flight() {
    let mut stepped = Stepped::new(LIMITS, 4);
    stepped.push(3);
    let (first, _) = stepped.send();
    assert_eq!((first, stepped.lane.drain()), (0, vec![1, 2]));
    assert_eq!((stepped.lane.queued(), stepped.lane.in_flight()), (0, 1));
}

#[test]
fn a_lane_is_current_at_its_revision_until_a_secret_expires() {
    let until = Timestamp::UNIX_EPOCH + Duration::from_secs(1);
    let limits = LaneLimits { secrets_until: Some(until), ..LIMITS };
    let lane = Stepped::new(limits, 4).lane;
    assert!(lane.is_current(3, Timestamp::UNIX_EPOCH));
    assert!(!lane.is_current(4, Timestamp::UNIX_EPOCH));
    assert!(!lane.is_current(3, until));
    assert!(Stepped::new(LIMITS, 4).lane.is_current(3, Timestamp::MAX));
}

#[test]
fn a_lane_is_kept_for_trouble_and_for_ten_minutes_where_other_relays_serve() {
    let mut stepped = Stepped::new(LIMITS, 4);
    assert!(!stepped.lane.is_worth_keeping(stepped.now.instant));
    stepped.attempt(&answered(500), RETRY, 1);
    assert!(stepped.lane.is_worth_keeping(stepped.now.instant));
    let limits = LaneLimits { max_concurrency: 1, ..LIMITS };
    let elsewhere = Stepped::with(limits, 4, Health::default(), served_by_the_other());
    let (lane, now) = (elsewhere.lane, elsewhere.now.instant);
    assert!(lane.is_worth_keeping(now + NOT_OURS_FOR.saturating_sub(SILENCE)));
    assert!(!lane.is_worth_keeping(now + NOT_OURS_FOR));
}

// ── next ──

#[test]
fn deliveries_are_sent_in_the_order_in_which_they_came() {
    let mut stepped = Stepped::new(LIMITS, 4);
    stepped.push(2);
    let (first, ticket) = stepped.send();
    stepped.end(ticket, (&answered(204), Decision::Delivered), 1);
    assert_eq!((first, stepped.send().0), (0, 1));
}

#[test]
fn a_worker_waits_with_an_empty_queue_a_full_window_no_budget_or_a_stale_lease() {
    let mut empty = Stepped::new(LIMITS, 4);
    assert_eq!(empty.next(), Err(Idle::Wait));
    let mut full = Stepped::new(LIMITS, 4);
    full.push(2);
    full.begin();
    assert_eq!(full.next(), Err(Idle::Wait), "the window is one until there is an answer");
    let mut wide = Stepped::new(LIMITS, 4);
    wide.lane.window.on_silence();
    wide.push(3);
    wide.begin();
    assert_eq!(
        wide.lane.next(wide.now, 1, true),
        Err(Idle::Wait),
        "the budget's share is in flight"
    );
    assert_eq!(wide.lane.next(wide.now, 2, false), Err(Idle::Wait), "the lease is not fresh");
    assert!(matches!(wide.lane.next(wide.now, 2, true), Ok((1, _))));
}

#[test]
fn what_was_claimed_before_a_pause_is_given_back_and_other_relays_need_not_know() {
    let mut stepped = Stepped::new(LIMITS, 4);
    stepped.pause();
    stepped.push(2);
    let given_back = Err(Idle::GiveBack { queued: vec![0, 1], others_serve: false });
    assert_eq!(stepped.next(), given_back);
    assert_eq!(stepped.next(), Err(Idle::Wait));
}

#[test]
fn what_other_relays_serve_is_given_back_and_they_are_told() {
    let limits = LaneLimits { max_concurrency: 1, ..LIMITS };
    let mut stepped = Stepped::new(limits, 4);
    stepped.push(3);
    let (_, ticket) = stepped.send();
    stepped.lane.divide(served_by_the_other());
    let given_back = Err(Idle::GiveBack { queued: vec![1, 2], others_serve: true });
    assert_eq!(stepped.next(), given_back);
    assert_eq!(stepped.next(), Err(Idle::Wait));
    stepped.end(ticket, (&answered(204), Decision::Delivered), 1);
    assert_eq!(stepped.lane.in_flight(), 0);
}

#[test]
fn a_pause_that_is_over_lets_a_single_probe_out_and_gives_back_the_others() {
    let mut stepped = Stepped::new(LIMITS, 4);
    stepped.now.time = stepped.pause();
    stepped.lane.window.on_silence();
    stepped.push(3);
    assert_eq!(stepped.send().0, 0);
    let given_back = Err(Idle::GiveBack { queued: vec![1, 2], others_serve: false });
    assert_eq!(stepped.next(), given_back);
}

#[test]
fn a_rate_lets_one_second_of_attempts_through_and_says_how_long_the_next_one_waits() {
    let limits = LaneLimits { rate_limit: Some(2.0), ..LIMITS };
    let mut stepped = Stepped::new(limits, 4);
    for _ in 0..2 {
        stepped.attempt(&answered(204), Decision::Delivered, 0);
    }
    stepped.push(1);
    assert_eq!(stepped.next(), Err(Idle::WaitFor(Duration::from_millis(500))));
    stepped.pass(Duration::from_millis(500));
    assert_eq!(stepped.send().0, 0);
}

#[test]
fn two_relays_have_half_of_a_rate_each() {
    let limits = LaneLimits { rate_limit: Some(2.0), ..LIMITS };
    let mut stepped = Stepped::with(limits, 4, Health::default(), Share::among(&[1, 2], 1));
    stepped.attempt(&answered(204), Decision::Delivered, 0);
    stepped.push(1);
    assert_eq!(stepped.next(), Err(Idle::WaitFor(Duration::from_secs(1))));
    stepped.lane.divide(Share::ALONE);
    assert_eq!(stepped.next(), Err(Idle::WaitFor(Duration::from_millis(500))));
    stepped.lane.limits.rate_limit = None;
    stepped.lane.divide(Share::ALONE);
    assert_eq!(stepped.send().0, 0, "no rate limit, no wait");
}

#[test]
fn workers_leave_a_dismissed_lane_whatever_is_queued() {
    let mut stepped = Stepped::new(LIMITS, 4);
    stepped.push(1);
    stepped.lane.dismiss();
    assert_eq!(stepped.next(), Err(Idle::Leave));
    assert_eq!(stepped.room(), 0);
    stepped.lane.reopen(LIMITS, Health::default(), Share::ALONE, stepped.now.instant);
    assert_eq!(stepped.next(), Err(Idle::Leave), "for good");
}

#[test]
fn a_closed_lane_sends_what_it_has() {
    let mut stepped = Stepped::new(LIMITS, 4);
    stepped.push(1);
    stepped.lane.close();
    assert_eq!(stepped.send().0, 0);
}

#[test]
fn as_many_workers_are_wanted_as_window_budget_and_work_allow() {
    for (size, queued, sent, requests, wanted) in
        [(1, 5, 0, 9, 1), (3, 5, 0, 9, 3), (3, 2, 0, 9, 2), (3, 3, 1, 9, 3), (3, 5, 0, 2, 2)]
    {
        let mut stepped = Stepped::new(LIMITS, 8);
        (1..size).for_each(|_| stepped.lane.window.on_silence());
        stepped.push(queued);
        (0..sent).for_each(|_| stepped.begin());
        assert_eq!(stepped.lane.workers(requests), wanted, "{size} {queued} {sent} {requests}");
    }
}

// ── what came of it ──

#[test]
fn a_success_is_what_the_verdict_says_in_health_window_and_tally_alike() {
    // A rule counted a 500 as delivered.
    let mut ruled = Stepped::new(LIMITS, 64);
    for _ in 0..100 {
        assert_eq!(ruled.attempt(&answered(500), Decision::Delivered, 100), None);
    }
    assert!(ruled.lane.window.size() > 1, "the window grows");
    let (tally, health) = ruled.lane.take_tally().unwrap();
    assert_eq!((tally.successes, tally.failures), (100, 0));
    assert_eq!(health, Health::default());

    // The same answer without the rule.
    let mut failed = Stepped::new(LIMITS, 64);
    failed.lane.window.on_silence();
    assert_eq!(failed.attempt(&answered(500), RETRY, 100), None);
    assert_eq!(failed.lane.window.size(), 1, "the window halves");
    let (tally, health) = failed.lane.take_tally().unwrap();
    assert_eq!((tally.successes, tally.failures), (0, 1));
    assert_eq!(health.consecutive_failures, 1);
}

#[test]
fn what_was_not_sent_counts_as_a_failure_but_not_against_the_endpoint() {
    let interrupted = Outcome::Interrupted;
    let bad = Outcome::Refused { why: Refusal::BadEvent, detail: "x".to_owned() };
    for (outcome, decision) in [(interrupted, RETRY), (bad, Decision::Dead)] {
        let mut stepped = Stepped::new(LIMITS, 4);
        assert_eq!(stepped.attempt(&outcome, decision, 1), None);
        let (tally, health) = stepped.lane.take_tally().unwrap();
        assert_eq!((tally.failures, health), (1, Health::default()), "{outcome:?}");
        assert_eq!(stepped.lane.window.size(), 1);
    }
}

#[test]
fn settings_that_refuse_an_endpoint_pause_it_at_once() {
    let mut stepped = Stepped::new(LIMITS, 4);
    let refused = Outcome::Refused { why: Refusal::NotHttps, detail: "x".to_owned() };
    let transition = stepped.attempt(&refused, RETRY, 1);
    assert!(matches!(transition, Some(Transition::Paused { again: false, .. })), "{transition:?}");
    assert_eq!(stepped.room(), 0);
}

#[test]
fn a_tally_holds_what_came_since_the_last_and_nothing_is_noted_twice() {
    let mut stepped = Stepped::new(LIMITS, 4);
    assert_eq!(stepped.lane.take_tally(), None);
    stepped.attempt(&answered(204), Decision::Delivered, 30);
    stepped.attempt(&answered(500), RETRY, 12);
    let (tally, _) = stepped.lane.take_tally().unwrap();
    assert_eq!(tally, Tally { successes: 1, failures: 1, duration_ms: 42.0 });
    assert_eq!(stepped.lane.take_tally(), None);
    assert_eq!(stepped.lane.finished_so_far(), 2);
}

#[test]
fn the_window_goes_by_the_answer_alone_and_the_mean_by_the_whole_attempt() {
    let mut stepped = Stepped::new(LIMITS, 64);
    for n in 0..10 {
        stepped.push(1);
        let (_, ticket) = stepped.send();
        let outcome = answered(204);
        let end = AttemptEnd {
            ticket,
            outcome: &outcome,
            decision: Decision::Delivered,
            took: Duration::from_secs(n),
            answered_in: Some(Duration::from_millis(60)),
        };
        stepped.lane.finished(end, stepped.now.time, &stepped.policy, 0.0);
        let wanted = stepped.lane.window.size();
        while usize::try_from(wanted).unwrap() > stepped.lane.in_flight() + 1 {
            stepped.push(1);
            stepped.begin();
        }
    }
    assert_eq!(stepped.lane.window.size(), 11, "one more for each that took as long as the first");
    assert!(stepped.lane.mean_ms.is_some_and(|mean| mean > 1_000.0));
}

// ── silence ──

#[test]
fn silence_lets_one_more_out_up_to_the_initial_window() {
    let mut stepped = Stepped::new(LIMITS, 3);
    stepped.push(5);
    assert!(stepped.lane.begins_to_be_watched());
    assert!(!stepped.lane.begins_to_be_watched(), "it is watched already");
    stepped.begin();
    let mut so_far = stepped.lane.watched(None);
    for size in [2, 3] {
        assert_eq!(so_far, Some(0));
        so_far = stepped.lane.watched(so_far);
        assert_eq!(stepped.lane.window.size(), size);
        stepped.begin();
    }
    assert_eq!(so_far, None, "it has what it may have without an answer");
    assert!(!stepped.lane.begins_to_be_watched());
}

#[test]
fn an_answer_within_the_silence_keeps_the_window_as_it_is() {
    let mut stepped = Stepped::new(LIMITS, 3);
    stepped.push(5);
    assert!(stepped.lane.begins_to_be_watched());
    let so_far = stepped.lane.watched(None);
    let (_, ticket) = stepped.send();
    stepped.end(ticket, (&answered(204), Decision::Delivered), 1);
    assert_eq!(stepped.lane.watched(so_far), Some(1));
    assert_eq!(stepped.lane.window.size(), 1);
}

#[test]
fn the_watch_ends_where_nothing_more_waits_or_the_lane_is_dismissed() {
    let mut stepped = Stepped::new(LIMITS, 3);
    stepped.push(1);
    assert!(!stepped.lane.begins_to_be_watched(), "the window is wide enough for it");
    stepped.push(1);
    assert!(stepped.lane.begins_to_be_watched());
    stepped.lane.dismiss();
    assert_eq!(stepped.lane.watched(Some(0)), None);
    assert!(!stepped.lane.begins_to_be_watched());
}
