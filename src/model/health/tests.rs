use proptest::prelude::*;

use super::super::outcome::{Answer, Cause, Phase, Refusal};
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const FAILING: Sign<'static> = Sign::Failing(&Outcome::TimedOut { phase: Phase::Headers });
const REJECTING: Sign<'static> = Sign::Rejecting(422);
const REFUSED: Sign<'static> = Sign::Refused("add 127.0.0.1/32 to addresses.allow");
const DAY: Duration = Duration::from_secs(86_400);

/// An endpoint whose clock the test moves, without jitter.
struct Story {
    health: Health,
    now: Timestamp,
    policy: HealthPolicy,
}

impl Story {
    fn new() -> Self {
        let now = "2024-05-01T12:00:00Z".parse().unwrap();
        Self { health: Health::default(), now, policy: HealthPolicy::default() }
    }

    /// An endpoint that has just been paused for the first time.
    fn paused() -> Self {
        let mut story = Self::new();
        for _ in 1..10 {
            assert_eq!(story.send(FAILING), None);
        }
        let paused = story.paused_for(
            30,
            false,
            TroubleKind::Failing,
            "10 failures in a row, the last: timed out (headers)",
        );
        assert_eq!(story.send(FAILING), Some(paused));
        story
    }

    /// The transition to a pause of this many seconds.
    fn paused_for(&self, seconds: u32, again: bool, kind: TroubleKind, reason: &str) -> Transition {
        let trouble = Trouble { kind, reason: reason.to_owned() };
        Transition::Paused { until: self.now + seconds * SECOND, again, trouble }
    }

    fn begin(&mut self) -> Ticket {
        self.health.begin(self.now).expect("the endpoint may be sent something")
    }

    fn end(&mut self, ticket: Ticket, sign: Sign<'_>) -> Option<Transition> {
        self.health.after(ticket, sign, self.now, &self.policy, 0.0)
    }

    fn send(&mut self, sign: Sign<'_>) -> Option<Transition> {
        let ticket = self.begin();
        self.end(ticket, sign)
    }

    fn wait(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    /// Waits for the end of the pause and returns its length.
    fn wait_out_the_pause(&mut self) -> Duration {
        let State::Paused { until } = self.health.state else { panic!("{:?}", self.health) };
        let rest = Duration::try_from(until.duration_since(self.now)).unwrap();
        self.wait(rest);
        rest
    }
}

fn answered(status: u16) -> Outcome {
    Outcome::Answered(Answer { status, ..Answer::default() })
}

fn sign(outcome: &Outcome) -> Sign<'_> {
    Sign::of(outcome, Decision::Dead)
}

#[test]
fn ten_failures_in_a_row_pause_it_and_nothing_is_sent_meanwhile() {
    let mut story = Story::paused();
    let until = Some(story.now + 30 * SECOND);
    assert_eq!(story.health.may_send(story.now), Allowance::No { until });
    assert_eq!(story.health.begin(story.now), None);
    story.wait(29 * SECOND);
    assert_eq!(story.health.may_send(story.now), Allowance::No { until });
    story.wait(SECOND);
    assert_eq!(story.health.may_send(story.now), Allowance::OneProbe);
}

#[test]
fn a_success_in_between_begins_the_count_anew() {
    let mut story = Story::new();
    for _ in 0..9 {
        assert_eq!(story.send(FAILING), None);
    }
    assert_eq!(story.send(Sign::Accepting), None, "it was never paused, so this is no news");
    assert_eq!(story.health, Health::default());
    assert_eq!(story.send(FAILING), None);
}

#[test]
fn one_probe_goes_out_after_a_pause_and_its_success_reopens() {
    let mut story = Story::paused();
    story.wait(30 * SECOND);
    let probe = story.begin();
    story.wait(DAY);
    assert_eq!(story.health.may_send(story.now), Allowance::No { until: None });
    assert_eq!(story.health.begin(story.now), None);
    assert_eq!(story.end(probe, Sign::Accepting), Some(Transition::Recovered));
    assert_eq!(story.health.may_send(story.now), Allowance::Freely);
    assert_eq!(story.health.failing_since, None);
    assert_eq!(story.send(FAILING), None, "ten again");
}

#[test]
fn failed_probes_double_the_pause_up_to_the_longest() {
    let mut story = Story::paused();
    story.policy.disable_after = None;
    let mut pauses = Vec::new();
    for _ in 0..9 {
        pauses.push(story.wait_out_the_pause().as_secs());
        story.send(FAILING);
    }
    assert_eq!(pauses, [30, 60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);
}

#[test]
fn a_failed_probe_pauses_again_even_if_more_failures_are_borne_now() {
    let mut story = Story::paused();
    story.policy.failure_threshold = 100;
    story.wait_out_the_pause();
    story.send(FAILING);
    assert_eq!(story.wait_out_the_pause(), 60 * SECOND);
}

#[test]
fn jitter_takes_up_to_a_tenth_off_a_pause() {
    let mut story = Story::paused();
    story.wait(30 * SECOND);
    let probe = story.begin();
    story.health.after(probe, FAILING, story.now, &story.policy, 1.0);
    assert_eq!(story.wait_out_the_pause(), 54 * SECOND);
}

#[test]
fn requests_in_flight_when_it_was_paused_neither_lengthen_the_pause_nor_pass_for_the_probe() {
    let mut story = Story::new();
    let stragglers: Vec<_> = (0..20).map(|_| story.begin()).collect();
    for &ticket in &stragglers[..10] {
        story.end(ticket, FAILING);
    }
    let paused = story.health.clone();
    for &ticket in &stragglers[10..13] {
        assert_eq!(story.end(ticket, FAILING), None);
    }
    assert_eq!(story.health, paused);

    story.wait(30 * SECOND);
    let probe = story.begin();
    for (&ticket, sign) in stragglers[13..].iter().zip([FAILING, REJECTING, Sign::Nothing]) {
        assert_eq!(story.end(ticket, sign), None);
    }
    assert_eq!(story.health.state, State::Probing);
    assert_eq!(story.end(probe, Sign::Accepting), Some(Transition::Recovered));
    for &ticket in &stragglers[16..] {
        assert_eq!(story.end(ticket, FAILING), None);
    }
    assert_eq!(story.health.consecutive_failures, 0, "they tell of the time before");
}

#[test]
fn a_late_success_reopens_during_the_pause_and_the_probe() {
    for probing in [false, true] {
        let mut story = Story::new();
        let late = story.begin();
        for _ in 0..10 {
            story.send(FAILING);
        }
        let probe = probing.then(|| {
            story.wait(30 * SECOND);
            story.begin()
        });
        assert_eq!(story.end(late, Sign::Accepting), Some(Transition::Recovered));
        assert_eq!(story.health.may_send(story.now), Allowance::Freely);
        if let Some(probe) = probe {
            assert_eq!(story.end(probe, FAILING), None);
            assert_eq!(story.health.state, State::Flowing);
        }
    }
}

#[test]
fn a_probe_that_only_shows_life_reopens_on_trial() {
    let mut story = Story::paused();
    story.wait_out_the_pause();
    assert_eq!(story.send(REJECTING), Some(Transition::OnTrial));
    assert_eq!(story.health.may_send(story.now), Allowance::Freely);
    assert_eq!(story.send(REJECTING), None);
    let paused = story.paused_for(
        60,
        true,
        TroubleKind::Failing,
        "11 failures in a row, the last: timed out (headers)",
    );
    assert_eq!(story.send(FAILING), Some(paused));
    story.wait_out_the_pause();
    story.send(REJECTING);
    assert_eq!(story.send(Sign::Accepting), Some(Transition::Recovered));
    assert_eq!(story.health.consecutive_failures, 0);
}

#[test]
fn a_probe_that_told_nothing_is_made_again_after_a_first_pause() {
    let mut story = Story::paused();
    story.wait_out_the_pause();
    story.send(FAILING);
    story.wait_out_the_pause();
    story.send(Sign::Nothing);
    assert_eq!(story.wait_out_the_pause(), 30 * SECOND);
    assert_eq!((story.health.pauses, story.health.consecutive_failures), (2, 11));
    assert_eq!(story.health.may_send(story.now), Allowance::OneProbe);
}

#[test]
fn failing_without_a_break_for_days_disables_it() {
    let mut story = Story::paused();
    story.wait(DAY * 5 - SECOND);
    assert!(matches!(story.send(FAILING), Some(Transition::Paused { .. })));
    story.wait(DAY);
    let reason = "failed without a break for 5 days, 12 times in a row".to_owned();
    assert_eq!(story.send(FAILING), Some(Transition::Disabled { reason }));
    assert_eq!(story.health.begin(story.now), None, "nothing is sent until it is disabled");
}

#[test]
fn two_failures_days_apart_disable_nothing() {
    let mut story = Story::new();
    story.send(FAILING);
    assert_eq!(story.wait(DAY * 9).send(FAILING), None);
    assert_eq!(story.health.state, State::Flowing);
}

#[test]
fn a_probe_left_behind_by_a_dead_relay_is_made_again() {
    let mut story = Story::new();
    story.health = Health::restore(Left {
        state: State::Probing,
        consecutive_failures: 12,
        failing_since: Some(story.now),
        pauses: 3,
        ..Left::default()
    });
    assert_eq!(story.health.may_send(story.now), Allowance::OneProbe);
    story.send(FAILING);
    assert_eq!(story.wait_out_the_pause(), 240 * SECOND);
}

#[test]
fn what_is_read_from_an_outcome() {
    let mut failing: Vec<_> =
        [301, 307, 408, 410, 425, 429, 500, 502, 503, 504, 530].map(answered).into();
    failing.extend(Phase::ALL.map(|phase| Outcome::TimedOut { phase }));
    failing.extend(Cause::ALL.map(|cause| Outcome::Unreachable { cause, detail: String::new() }));
    for outcome in failing {
        assert_eq!(sign(&outcome), Sign::Failing(&outcome), "{outcome}");
    }
    for status in [400, 401, 403, 404, 409, 413, 422, 499] {
        assert_eq!(sign(&answered(status)), Sign::Rejecting(status), "{status}");
    }
    for why in Refusal::ALL.into_iter().filter(|why| why.is_standing()) {
        let refused = Outcome::Refused { why, detail: "no".to_owned() };
        assert_eq!(sign(&refused), Sign::Refused("no"));
    }
    // About one event, or a fault of the relay.
    for why in [Refusal::BadEvent, Refusal::Fault] {
        let refused = Outcome::Refused { why, detail: "no".to_owned() };
        assert_eq!(sign(&refused), Sign::Nothing);
    }
    assert_eq!(sign(&Outcome::Interrupted), Sign::Nothing);
    assert_eq!(Sign::of(&answered(200), Decision::Delivered), Sign::Accepting);
    assert_eq!(Sign::of(&answered(500), Decision::Delivered), Sign::Accepting, "by a rule");
}

/// An endpoint that has just been paused because it rejected 50 events.
fn rejecting() -> Story {
    let mut story = Story::new();
    for _ in 1..50 {
        assert_eq!(story.send(REJECTING), None);
    }
    let reason = "50 answers of 4xx in a row, the last 404";
    let paused = story.paused_for(30, false, TroubleKind::Rejecting, reason);
    assert_eq!(story.send(Sign::Rejecting(404)), Some(paused));
    story
}

#[test]
fn an_endpoint_that_would_have_none_of_fifty_events_is_paused_too() {
    let mut story = rejecting();
    story.wait_out_the_pause();
    assert!(matches!(story.send(REJECTING), Some(Transition::Paused { again: true, .. })));
    assert_eq!(story.wait_out_the_pause(), 60 * SECOND);
    assert_eq!(story.send(Sign::Accepting), Some(Transition::Recovered));
    assert_eq!(story.health.consecutive_rejections, 0);
}

#[test]
fn a_single_event_that_is_rejected_for_ever_pauses_nothing_while_others_are_accepted() {
    let mut story = Story::new();
    for _ in 0..1000 {
        for _ in 0..49 {
            assert_eq!(story.send(REJECTING), None);
        }
        assert_eq!(story.send(Sign::Accepting), None);
    }
    assert_eq!(story.health, Health::default());
}

#[test]
fn while_events_are_rejected_a_new_one_may_be_the_probe_before_the_pause_is_over() {
    let mut story = rejecting();
    let until = Some(story.now + 30 * SECOND);
    story.wait(14 * SECOND);
    assert_eq!(story.health.may_send(story.now), Allowance::No { until });
    story.wait(SECOND);
    assert_eq!(story.health.may_send(story.now), Allowance::FreshProbe);
    assert_eq!(story.send(Sign::Accepting), Some(Transition::Recovered));

    let mut failing = Story::paused();
    failing.wait(29 * SECOND);
    assert!(matches!(failing.health.may_send(failing.now), Allowance::No { .. }));
}

#[test]
fn accepting_nothing_for_days_disables_whatever_the_trouble() {
    for (mut story, sign, why) in [
        (
            rejecting(),
            REJECTING,
            "accepted nothing for 5 days: 51 answers of 4xx in a row, the last 422",
        ),
        (refused(), REFUSED, "accepted nothing for 5 days: add 127.0.0.1/32 to addresses.allow"),
    ] {
        story.wait(DAY * 5);
        let reason = why.to_owned();
        assert_eq!(story.send(sign), Some(Transition::Disabled { reason }));
    }
}

fn refused() -> Story {
    let mut story = Story::new();
    let reason = "add 127.0.0.1/32 to addresses.allow";
    let paused = story.paused_for(30, false, TroubleKind::Refused, reason);
    assert_eq!(story.send(REFUSED), Some(paused));
    story
}

#[test]
fn what_settings_refuse_is_paused_at_once_and_probed_less_and_less_often() {
    let mut story = refused();
    story.policy.disable_after = None;
    let mut pauses = Vec::new();
    for _ in 0..8 {
        pauses.push(story.wait_out_the_pause().as_secs());
        story.send(REFUSED);
    }
    assert_eq!(pauses, [30, 60, 120, 240, 480, 960, 1_920, 3_600]);
    assert_eq!(story.health.consecutive_failures, 0, "the endpoint has done nothing");
}

#[test]
fn a_refusal_after_a_failure_of_long_ago_disables_nothing_at_once() {
    let mut story = Story::new();
    story.send(FAILING);
    story.wait(DAY * 9);
    assert!(matches!(story.send(REFUSED), Some(Transition::Paused { again: false, .. })));
    story.wait_out_the_pause();
    assert!(matches!(story.send(REFUSED), Some(Transition::Paused { again: true, .. })));
}

#[test]
fn what_settings_refused_is_tried_at_once_by_the_next_relay() {
    let Health { state, failing_since, pauses, trouble, .. } = refused().health;
    let mut story = Story::new();
    let left = Left { state, failing_since, pauses, trouble, ..Left::default() };
    story.health = Health::restore(left);
    assert_eq!(story.health.may_send(story.now), Allowance::OneProbe);
    let mut opened = Story { health: story.health.clone(), ..Story::new() };
    assert_eq!(opened.send(Sign::Accepting), Some(Transition::Recovered));
    // It is reported again, once.
    assert!(matches!(story.send(REFUSED), Some(Transition::Paused { again: false, .. })));
    story.wait_out_the_pause();
    assert!(matches!(story.send(REFUSED), Some(Transition::Paused { again: true, .. })));
}

#[test]
fn a_rejection_by_what_was_refused_or_failing_reopens_on_trial() {
    for mut story in [refused(), Story::paused()] {
        story.wait_out_the_pause();
        assert_eq!(story.send(REJECTING), Some(Transition::OnTrial));
        assert_eq!(story.health.trouble, None);
    }
}

#[test]
fn a_trouble_is_known_by_its_word() {
    for kind in TroubleKind::ALL {
        assert_eq!(TroubleKind::parse(kind.as_str()), Some(kind));
    }
}

#[derive(Debug, Clone)]
enum Op {
    Begin,
    /// One of the requests in flight, by its index modulo their number.
    End(usize, Sign<'static>, f64),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let sign = prop_oneof![
        1 => Just(REFUSED),
        6 => Just(FAILING),
        1 => Just(Sign::Accepting),
        1 => Just(REJECTING),
        1 => Just(Sign::Nothing),
    ];
    prop_oneof![
        3 => Just(Op::Begin),
        3 => (any::<usize>(), sign, prop::num::f64::ANY).prop_map(|(n, s, d)| Op::End(n, s, d)),
        1 => (0..100_u64).prop_map(Op::Wait),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_it_probes_alone_pauses_within_bounds_and_reopens(
        ops in prop::collection::vec(op(), 0..400), failure_threshold in 0..4_u32,
    ) {
        let mut story = Story::new();
        story.policy.failure_threshold = failure_threshold;
        story.policy.rejection_threshold = failure_threshold + 1;
        let mut in_flight = Vec::new();
        let mut probe = None;
        for op in ops {
            let before = story.health.clone();
            match op {
                Op::Begin => {
                    let ticket = story.health.begin(story.now);
                    match before.state {
                        State::Flowing => prop_assert!(ticket.is_some()),
                        State::Paused { until } => {
                            let fresh = before.may_send(story.now) == Allowance::FreshProbe;
                            prop_assert_eq!(ticket.is_some(), fresh || story.now >= until);
                        }
                        State::Probing => prop_assert_eq!(ticket, None, "never two probes at once"),
                    }
                    if before.state != State::Flowing {
                        probe = ticket.or(probe);
                    }
                    in_flight.extend(ticket);
                }
                Op::End(_, _, _) if in_flight.is_empty() => {}
                Op::End(nth, sign, draw) => {
                    let ticket = in_flight.swap_remove(nth % in_flight.len());
                    let news = story.health.after(ticket, sign, story.now, &story.policy, draw);
                    if sign == Sign::Accepting {
                        prop_assert_eq!(story.health.may_send(story.now), Allowance::Freely);
                        prop_assert_eq!(story.health.consecutive_failures, 0);
                        let paused = before.pauses > 0 || before.state != State::Flowing;
                        prop_assert_eq!(news == Some(Transition::Recovered), paused);
                    } else if before.state != State::Flowing && Some(ticket) != probe {
                        prop_assert_eq!(&before, &story.health, "stragglers change nothing");
                    }
                    if let (State::Paused { until }, true) = (story.health.state, news.is_some()) {
                        prop_assert!(until <= story.now + story.policy.longest_pause);
                        prop_assert!(until >= story.now + 27 * SECOND);
                    }
                }
                Op::Wait(seconds) => { story.wait(SECOND * u32::try_from(seconds).unwrap()); }
            }
        }
        for ticket in in_flight {
            story.end(ticket, Sign::Nothing);
        }
        let longest = story.policy.longest_pause;
        story.wait(longest);
        prop_assert!(story.health.begin(story.now).is_some(), "never stuck");
    }
}
