//! A lane of numbers that is stepped by hand; [`bursts`] has the lanes of whole endpoints.

mod bursts;
mod kinds;
mod room;

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
const TRAFFIC: Traffic = Traffic { requests: FREE.requests, in_all: 1 };
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

    fn next(&mut self) -> Result<(u32, RequestNote), Idle<u32>> {
        self.lane.next(self.now, TRAFFIC, true)
    }

    fn send(&mut self) -> (u32, RequestNote) {
        self.next().unwrap()
    }

    /// Sends one whose end is of no interest.
    fn begin(&mut self) {
        let _: (u32, RequestNote) = self.send();
    }

    fn end(&mut self, note: RequestNote, end: (&Outcome, Decision), ms: u64) -> Option<Transition> {
        let end = AttemptEnd {
            note,
            outcome: end.0,
            decision: end.1,
            took: Duration::from_millis(ms),
            answered_in: None,
            in_all: 1,
        };
        self.lane.finished(end, self.now.time, &self.policy, 0.0)
    }

    /// Sends one and is told of its end.
    fn attempt(&mut self, outcome: &Outcome, decision: Decision, ms: u64) -> Option<Transition> {
        self.push(1);
        let (_, note) = self.send();
        self.end(note, (outcome, decision), ms)
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

/// The window's first size.
const BEGIN: u32 = 2;

const RETRY: Decision = Decision::Retry { after: Duration::ZERO };

fn answered(status: u16) -> Outcome {
    Outcome::Answered(Answer { status, ..Answer::default() })
}

/// The second of two relays, at an endpoint that the first serves.
fn served_by_the_other() -> Share {
    let shares = [1, 2].map(|me| Share::among(&[1, 2], me));
    shares.into_iter().find(|share| share.of(7, 1, None).is_none()).unwrap()
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
fn a_lane_is_kept_until_it_is_noted_for_trouble_and_for_ten_minutes_where_other_relays_serve() {
    let mut stepped = Stepped::new(LIMITS, 4);
    assert!(!stepped.lane.is_worth_keeping(stepped.now.instant));
    stepped.attempt(&answered(204), Decision::Delivered, 1);
    assert!(stepped.lane.is_worth_keeping(stepped.now.instant), "until it is noted");
    stepped.lane.take_tally();
    assert!(!stepped.lane.is_worth_keeping(stepped.now.instant));
    stepped.attempt(&answered(500), RETRY, 1);
    stepped.lane.take_tally();
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
    let (first, note) = stepped.send();
    stepped.end(note, (&answered(204), Decision::Delivered), 1);
    assert_eq!((first, stepped.send().0), (0, 1));
}

#[test]
fn a_worker_waits_with_an_empty_queue_a_full_window_no_budget_or_a_stale_lease() {
    let mut empty = Stepped::new(LIMITS, 4);
    assert_eq!(empty.next(), Err(Idle::Wait));
    let mut full = Stepped::new(LIMITS, 4);
    full.push(3);
    full.begin();
    full.begin();
    assert_eq!(full.next(), Err(Idle::Wait), "the window is two until there is an answer");
    let mut wide = Stepped::new(LIMITS, 4);
    wide.push(3);
    wide.begin();
    assert_eq!(
        wide.lane.next(wide.now, Traffic { requests: 1, ..TRAFFIC }, true),
        Err(Idle::Wait),
        "the budget's share is in flight"
    );
    assert_eq!(wide.lane.next(wide.now, TRAFFIC, false), Err(Idle::Wait), "the lease is not fresh");
    assert!(matches!(wide.next(), Ok((1, _))));
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
    let (_, note) = stepped.send();
    stepped.lane.divide(served_by_the_other());
    let given_back = Err(Idle::GiveBack { queued: vec![1, 2], others_serve: true });
    assert_eq!(stepped.next(), given_back);
    assert_eq!(stepped.next(), Err(Idle::Wait));
    stepped.end(note, (&answered(204), Decision::Delivered), 1);
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
        [(2, 5, 0, 9, 2), (3, 5, 0, 9, 3), (3, 2, 0, 9, 2), (3, 3, 1, 9, 3), (3, 5, 0, 2, 2)]
    {
        let mut stepped = Stepped::new(LIMITS, 8);
        (BEGIN..size).for_each(|_| stepped.lane.window.on_silence());
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
    assert_eq!(ruled.lane.window.size(), BEGIN, "the window does not halve");
    let (tally, health) = ruled.lane.take_tally().unwrap();
    assert_eq!((tally.successes, tally.failures), (100, 0));
    assert_eq!(health, Health::default());

    // The same answer without the rule.
    let mut failed = Stepped::new(LIMITS, 64);
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
        assert_eq!(stepped.lane.window.size(), BEGIN);
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
    stepped.push(100);
    for n in 0..10 {
        let (_, note) = stepped.send();
        let outcome = answered(204);
        let end = AttemptEnd {
            note,
            outcome: &outcome,
            decision: Decision::Delivered,
            took: Duration::from_secs(n),
            answered_in: Some(Duration::from_millis(60)),
            in_all: 1,
        };
        stepped.lane.finished(end, stepped.now.time, &stepped.policy, 0.0);
    }
    let grown = BEGIN + 10 * 2;
    assert_eq!(stepped.lane.window.size(), grown, "two more for each as fast as the first");
    assert!(stepped.lane.mean_ms.is_some_and(|mean| mean > 1_000.0));
}

#[test]
fn whether_the_window_was_full_is_judged_when_a_request_is_sent() {
    let mut stepped = Stepped::new(LIMITS, 4);
    stepped.push(2);
    let ((_, first), (_, second)) = (stepped.send(), stepped.send());
    // Nothing waits any more, and one is left when it comes: but they filled the window.
    stepped.end(first, (&answered(204), Decision::Delivered), 100);
    stepped.end(second, (&answered(204), Decision::Delivered), 100);
    assert_eq!(stepped.lane.window.size(), BEGIN + 4);
    // One alone says nothing of six.
    stepped.attempt(&answered(204), Decision::Delivered, 100);
    assert_eq!(stepped.lane.window.size(), BEGIN + 4);
}

#[test]
fn a_window_that_is_being_filled_counts_as_full_unless_rate_or_budget_are_in_the_way() {
    let slow = LaneLimits { rate_limit: Some(1.0), ..LIMITS };
    for (limits, requests, full) in [(LIMITS, 9, true), (slow, 9, false), (LIMITS, 1, false)] {
        let mut stepped = Stepped::new(limits, 4);
        stepped.push(5);
        let traffic = Traffic { requests, ..TRAFFIC };
        let (_, note) = stepped.lane.next(stepped.now, traffic, true).unwrap();
        stepped.end(note, (&answered(204), Decision::Delivered), 100);
        assert_eq!(stepped.lane.window.size() > BEGIN, full, "{limits:?} {requests}");
    }
}

#[test]
fn a_lane_begins_with_half_of_what_the_last_one_of_the_endpoint_had() {
    let mut lane = Stepped::new(LIMITS, 4).lane;
    assert_eq!(lane.remembered(), None, "nothing has come back");
    let last = Remembered { size: 64, normal: 3.0 };
    for size in [32, 16] {
        lane = Stepped::new(LIMITS, 4).lane;
        lane.recall(Remembered { size: 2 * size, ..last });
        assert_eq!(lane.remembered(), Some(Remembered { size, ..last }));
        assert_eq!(lane.window.size(), size);
    }
}

#[test]
fn what_one_relay_has_learnt_is_divided_among_those_that_serve_the_endpoint_later() {
    let mut two = Stepped::with(LIMITS, 4, Health::default(), Share::among(&[1, 2], 1)).lane;
    let all = Remembered { size: 64, normal: 3.0 };
    two.recall(all);
    assert_eq!(two.window.size(), 16, "half of its half");
    let known = two.remembered();
    assert_eq!(known, Some(Remembered { size: 32, ..all }), "half of it, over both relays");
    // The other is gone. What this one sends at once is not changed by that.
    two.divide(Share::ALONE);
    assert_eq!(two.remembered(), Some(Remembered { size: 16, ..all }));
}

// ── silence ──

#[test]
fn silence_lets_one_more_out_up_to_the_initial_window() {
    let mut stepped = Stepped::new(LIMITS, 4);
    stepped.push(5);
    assert!(stepped.lane.begins_to_be_watched());
    assert!(!stepped.lane.begins_to_be_watched(), "it is watched already");
    stepped.begin();
    let mut so_far = stepped.lane.watched(None);
    for size in [3, 4] {
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
    let mut stepped = Stepped::new(LIMITS, 4);
    stepped.push(5);
    assert!(stepped.lane.begins_to_be_watched());
    let so_far = stepped.lane.watched(None);
    let (_, note) = stepped.send();
    stepped.end(note, (&answered(204), Decision::Delivered), 0);
    assert_eq!(stepped.lane.watched(so_far), Some(1));
    assert_eq!(stepped.lane.window.size(), BEGIN);
}

#[test]
fn the_watch_ends_where_nothing_more_waits_or_the_lane_is_dismissed() {
    let mut stepped = Stepped::new(LIMITS, 3);
    stepped.push(2);
    assert!(!stepped.lane.begins_to_be_watched(), "the window is wide enough for them");
    stepped.push(1);
    assert!(stepped.lane.begins_to_be_watched());
    stepped.lane.dismiss();
    assert_eq!(stepped.lane.watched(Some(0)), None);
    assert!(!stepped.lane.begins_to_be_watched());
}
