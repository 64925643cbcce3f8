use super::super::outcome::{Cause, Phase, Refusal};
use super::super::rules::{Rule, RuleRow};
use super::super::schedule::Delays;
use super::*;

const DAY: Duration = Duration::from_secs(86_400);
const MINUTE: Duration = Duration::from_secs(60);
const NOW: &str = "2024-05-01T12:00:00Z";

/// A first attempt, judged by the default schedule, without rules or jitter.
struct Case {
    rules: RuleSet,
    schedule: Schedule,
    number: u32,
    age: Duration,
}

impl Default for Case {
    fn default() -> Self {
        Self { rules: RuleSet::default(), schedule: Schedule::default(), number: 1, age: MINUTE }
    }
}

impl Case {
    fn rule(action: &str, row: RuleRow) -> Self {
        let row = RuleRow { name: "it".to_owned(), action: action.to_owned(), ..row };
        Self { rules: RuleSet::new(vec![Rule::new(row).unwrap()]), ..Self::default() }
    }

    fn judge(&self, outcome: &Outcome) -> Verdict {
        let policy =
            VerdictPolicy { rules: &self.rules, schedule: &self.schedule, retry_after_cap: DAY };
        let attempt = AttemptFacts {
            number: self.number,
            age: self.age,
            host: "example.com",
            event_type: "order.paid",
        };
        judge(outcome, &policy, &attempt, NOW.parse().unwrap(), 0.0)
    }

    fn delay(&self, outcome: &Outcome) -> Option<u64> {
        match self.judge(outcome).decision {
            Decision::Retry { after } => Some(after.as_secs()),
            Decision::Delivered | Decision::Dead | Decision::Cancelled => None,
        }
    }

    fn reason(&self, outcome: &Outcome) -> String {
        self.judge(outcome).reason.unwrap_or_default()
    }
}

fn answered(status: u16) -> Outcome {
    Outcome::Answered(Answer { status, ..Answer::default() })
}

fn asking(status: u16, retry_after: &str) -> Outcome {
    let headers = vec![("retry-after".to_owned(), retry_after.to_owned())];
    Outcome::Answered(Answer { status, headers, ..Answer::default() })
}

/// An outcome of each kind that says the event was not taken.
fn failures() -> Vec<Outcome> {
    let detail = String::new;
    let mut failures: Vec<_> =
        [100, 199, 300, 301, 304, 400, 404, 410, 418, 429, 500, 503, 599, 999].map(answered).into();
    failures.extend(Phase::ALL.map(|phase| Outcome::TimedOut { phase }));
    failures.extend(Cause::ALL.map(|cause| Outcome::Unreachable { cause, detail: detail() }));
    failures.push(Outcome::Refused { why: Refusal::Fault, detail: detail() });
    failures
}

/// An outcome of each kind that holds until the settings or the endpoint change.
fn refusals() -> Vec<Outcome> {
    let standing = Refusal::ALL.into_iter().filter(|why| why.is_standing());
    standing.map(|why| Outcome::Refused { why, detail: "not opened".to_owned() }).collect()
}

#[test]
fn every_2xx_is_delivered_whatever_rules_attempts_and_age_say() {
    let everything = RuleRow { event_type: Some("*".to_owned()), ..RuleRow::default() };
    let mut case = Case::rule("dead", everything);
    (case.number, case.age, case.schedule.max_age) = (99, DAY * 99, Some(DAY));
    for status in 200..300 {
        let verdict = case.judge(&answered(status));
        assert_eq!(
            verdict,
            Verdict { decision: Decision::Delivered, effect: None, reason: None },
            "{status}"
        );
    }
}

#[test]
fn anything_else_is_retried_by_the_schedule() {
    for outcome in failures() {
        for (number, delay) in [(1, 31), (2, 62), (10, 100_030)] {
            let case = Case { number, ..Case::default() };
            let verdict = case.judge(&outcome);
            let after = Duration::from_secs(delay);
            assert_eq!(verdict.decision, Decision::Retry { after }, "{outcome}");
            assert_eq!(verdict.effect, None, "{outcome}");
        }
    }
}

#[test]
fn an_event_that_cannot_be_sent_is_dead_at_once() {
    let detail = "25000 headers are more than the 1000 that are sent at most".to_owned();
    let outcome = Outcome::Refused { why: Refusal::BadEvent, detail };
    let case = Case::default();
    assert_eq!(case.judge(&outcome).decision, Decision::Dead);
    let expected =
        "the event cannot be sent: 25000 headers are more than the 1000 that are sent at most";
    assert_eq!(case.reason(&outcome), expected);
}

#[test]
fn the_last_attempt_gives_up_and_says_after_how_many() {
    for outcome in failures() {
        let case = Case { number: 11, ..Case::default() };
        assert_eq!(case.judge(&outcome).decision, Decision::Dead, "{outcome}");
        assert_eq!(case.reason(&outcome), "gave up after 11 attempts");
    }
    let once = Schedule { max_attempts: Some(1), ..Schedule::default() };
    let case = Case { schedule: once, ..Case::default() };
    assert_eq!(case.reason(&answered(500)), "gave up after 1 attempt");
}

#[test]
fn no_attempt_is_planned_past_the_greatest_age() {
    let mut case = Case { age: DAY * 3 - MINUTE, ..Case::default() };
    case.schedule.max_age = Some(DAY * 3);
    assert_eq!(case.delay(&answered(500)), Some(31));
    case.number = 5;
    assert_eq!(case.judge(&answered(500)).decision, Decision::Dead);
    assert_eq!(case.reason(&answered(500)), "would be older than 3 days at the next attempt");
    case.age = DAY * 4;
    assert_eq!(case.reason(&answered(500)), "older than 3 days");
}

#[test]
fn a_rule_decides_and_is_named_in_the_reason() {
    let row = RuleRow { status: Some(404..=404), ..RuleRow::default() };
    for (action, decision, effect) in [
        ("dead", Decision::Dead, None),
        ("disable_endpoint", Decision::Dead, Some(Effect::Disable)),
        ("delete_endpoint", Decision::Dead, Some(Effect::Delete)),
        ("delivered", Decision::Delivered, None),
        ("retry", Decision::Retry { after: Duration::from_secs(31) }, None),
    ] {
        let case = Case::rule(action, row.clone());
        let reason = Some("rule 'it': answered 404".to_owned());
        assert_eq!(case.judge(&answered(404)), Verdict { decision, effect, reason }, "{action}");
        assert_eq!(case.delay(&answered(403)), Some(31), "{action}");
    }
}

#[test]
fn a_retry_rule_does_not_outlive_the_attempts() {
    let row = RuleRow { status: Some(502..=502), ..RuleRow::default() };
    let case = Case { number: 11, ..Case::rule("retry", row) };
    assert_eq!(case.reason(&answered(502)), "gave up after 11 attempts");
}

#[test]
fn an_interrupted_request_is_made_again_at_once_however_often() {
    let everything = RuleRow { event_type: Some("*".to_owned()), ..RuleRow::default() };
    let mut case = Case::rule("disable_endpoint", everything);
    (case.age, case.schedule.max_age) = (DAY * 9, Some(DAY));
    assert_eq!(case.delay(&Outcome::Interrupted), Some(0));
    case.number = 11;
    assert_eq!(case.delay(&Outcome::Interrupted), Some(0));
}

#[test]
fn what_our_settings_refuse_is_held_however_often_and_for_however_long() {
    let mut case = Case { number: 99, age: DAY * 9, ..Case::default() };
    case.schedule.max_age = Some(DAY);
    for refused in refusals() {
        assert_eq!(case.delay(&refused), Some(0));
        assert_eq!(case.reason(&refused), "held, without spending an attempt");
    }
}

#[test]
fn a_rule_about_refusals_ends_them_and_one_that_says_retry_holds_them() {
    let row = RuleRow { outcome: Some("refused".to_owned()), ..RuleRow::default() };
    for refused in refusals() {
        let ended = Case::rule("dead", row.clone()).judge(&refused);
        assert_eq!(ended.decision, Decision::Dead);
        let held = Case { number: 99, ..Case::rule("retry", row.clone()) };
        assert_eq!(held.delay(&refused), Some(0));
    }
}

#[test]
fn retry_after_makes_it_later_never_sooner_and_only_so_far() {
    let case = Case::default();
    for status in [429, 503] {
        assert_eq!(case.delay(&asking(status, "120")), Some(120));
        assert_eq!(case.delay(&asking(status, "Wed, 01 May 2024 12:10:00 GMT")), Some(600));
        assert_eq!(case.delay(&asking(status, "1")), Some(31));
        assert_eq!(case.delay(&asking(status, "999999999999")), Some(86_400));
        assert_eq!(case.delay(&asking(status, "soon")), Some(31));
    }
    assert_eq!(case.delay(&asking(500, "120")), Some(31));
    assert_eq!(case.delay(&asking(301, "120")), Some(31));
    assert_eq!(case.reason(&asking(503, "120")), "asked to wait for 2 minutes");
    assert_eq!(case.judge(&asking(503, "1")).reason, None);
}

#[test]
fn retry_after_counts_toward_the_greatest_age() {
    let schedule = Schedule { max_age: Some(DAY / 2), ..Schedule::default() };
    let case = Case { schedule, ..Case::default() };
    assert_eq!(case.delay(&asking(503, "600")), Some(600));
    assert_eq!(case.judge(&asking(503, "86400")).decision, Decision::Dead);
}

#[test]
fn an_endpoints_fixed_list_is_followed() {
    let delays = Delays::Fixed(vec![MINUTE, MINUTE * 5]);
    let schedule = Schedule { delays, ..Schedule::default() };
    let at = |number| Case { number, schedule: schedule.clone(), ..Case::default() };
    assert_eq!(at(1).delay(&answered(500)), Some(60));
    assert_eq!(at(2).delay(&answered(500)), Some(300));
    assert_eq!(at(3).reason(&answered(500)), "gave up after 3 attempts");
}

#[test]
fn durations_are_said_in_whole_units() {
    for (seconds, words) in [
        (0, "0 seconds"),
        (1, "1 second"),
        (90, "90 seconds"),
        (60, "1 minute"),
        (5_400, "90 minutes"),
        (129_600, "36 hours"),
        (86_400, "1 day"),
        (432_000, "5 days"),
    ] {
        assert_eq!(in_words(Duration::from_secs(seconds)), words);
    }
}
