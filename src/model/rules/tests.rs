use std::error::Error as _;

use proptest::prelude::*;

use super::super::outcome::Answer;
use super::*;

/// The domains of ngrok's tunnels.
const NGROK: &str =
    "*.ngrok.io, *.ngrok.app, *.ngrok.dev, *.ngrok-free.app, *.ngrok-free.dev, *.ngrok.pizza";

fn rule(name: &str, action: &str, row: RuleRow) -> Rule {
    Rule::new(RuleRow { name: name.to_owned(), action: action.to_owned(), ..row }).unwrap()
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// The rows that come with the schema.
fn shipped() -> Vec<Rule> {
    let ngrok = |id, status| RuleRow {
        id,
        host: text(NGROK),
        status: Some(status..=status),
        ..Default::default()
    };
    vec![
        rule(
            "gone",
            "disable_endpoint",
            RuleRow { id: 1, priority: 100, status: Some(410..=410), ..RuleRow::default() },
        ),
        rule(
            "ngrok tunnel is dead",
            "delete_endpoint",
            RuleRow { body: text(r"(?is)tunnel\s.+\snot found"), ..ngrok(2, 404) },
        ),
        rule("ngrok tunnel is up, its server is not", "retry", ngrok(3, 502)),
        rule("ngrok tunnel timed out", "disable_endpoint", ngrok(4, 504)),
    ]
}

/// The shipped rows and the preset.
fn keygen() -> RuleSet {
    let unreachable = |id, cause| RuleRow {
        id,
        outcome: text("unreachable"),
        cause: text(cause),
        ..RuleRow::default()
    };
    let mut rules = shipped();
    rules.push(rule("keygen: TLS errors are retried", "retry", unreachable(10, "tls")));
    rules.push(rule("keygen: DNS errors disable", "disable_endpoint", unreachable(11, "dns")));
    rules.push(rule(
        "keygen: timeouts are final",
        "dead",
        RuleRow { id: 12, outcome: text("timed_out"), ..RuleRow::default() },
    ));
    RuleSet::new(rules)
}

fn answered(status: u16, body: &str) -> Outcome {
    Outcome::Answered(Answer { status, body: body.as_bytes().to_vec(), ..Answer::default() })
}

fn unreachable(cause: Cause) -> Outcome {
    Outcome::Unreachable { cause, detail: String::new() }
}

fn action(rules: &RuleSet, host: &str, outcome: &Outcome) -> Option<Action> {
    rules.first_match(host, "order.paid", outcome).map(|rule| rule.action)
}

fn one(row: RuleRow) -> RuleSet {
    RuleSet::new(vec![rule("it", "dead", row)])
}

fn fault(row: RuleRow) -> RuleFault {
    let action = if row.action.is_empty() { "dead".to_owned() } else { row.action.clone() };
    let error = Rule::new(RuleRow { name: "it".to_owned(), action, ..row }).unwrap_err();
    assert_eq!(error.to_string(), "rule `it` cannot be used");
    assert!(error.source().is_some());
    error.fault
}

#[test]
fn dead_ngrok_tunnels_delete_502_retries_and_504_disables() {
    let rules = RuleSet::new(shipped());
    let dead = answered(404, "<html>\nTunnel abc.ngrok.io\nnot found</html>");
    for host in ["abc.ngrok.io", "ABC.ngrok-free.app", "a.b.ngrok.dev", "abc.ngrok.app."] {
        assert_eq!(action(&rules, host, &dead), Some(Action::DeleteEndpoint), "{host}");
        assert_eq!(action(&rules, host, &answered(502, "")), Some(Action::Retry), "{host}");
        let late = answered(504, "");
        assert_eq!(action(&rules, host, &late), Some(Action::DisableEndpoint), "{host}");
    }
    let ordinary = answered(404, "no such page");
    assert_eq!(action(&rules, "abc.ngrok.io", &ordinary), None, "its own 404 deletes nothing");
    for host in ["ngrok.io", "ngrok.io.evil.example", "evilngrok.io", "example.com"] {
        assert_eq!(action(&rules, host, &dead), None, "{host}");
        assert_eq!(action(&rules, host, &answered(504, "")), None, "{host}");
    }
}

#[test]
fn gone_disables_any_endpoint_that_says_it() {
    let rules = RuleSet::new(shipped());
    let gone = answered(410, "");
    assert_eq!(action(&rules, "example.com", &gone), Some(Action::DisableEndpoint));
    assert_eq!(action(&rules, "abc.ngrok.io", &gone), Some(Action::DisableEndpoint));
}

#[test]
fn by_default_neither_timeouts_nor_dns_failures_are_final() {
    let rules = RuleSet::new(shipped());
    for phase in Phase::ALL {
        assert_eq!(action(&rules, "example.com", &Outcome::TimedOut { phase }), None);
    }
    for cause in Cause::ALL {
        assert_eq!(action(&rules, "example.com", &unreachable(cause)), None);
    }
}

#[test]
fn the_keygen_preset_retries_tls_disables_on_dns_and_gives_up_on_timeouts() {
    let rules = keygen();
    for cause in Cause::ALL {
        let expected = match cause {
            Cause::Dns => Some(Action::DisableEndpoint),
            Cause::TlsExpired | Cause::TlsWrongName | Cause::TlsUnknownIssuer | Cause::TlsOther => {
                Some(Action::Retry)
            }
            Cause::ConnectionRefused
            | Cause::Reset
            | Cause::Closed
            | Cause::NoRoute
            | Cause::Protocol
            | Cause::Proxy
            | Cause::Io => None,
        };
        assert_eq!(action(&rules, "example.com", &unreachable(cause)), expected, "{cause:?}");
    }
    for phase in Phase::ALL {
        let outcome = Outcome::TimedOut { phase };
        assert_eq!(action(&rules, "example.com", &outcome), Some(Action::Dead), "{phase:?}");
    }
    assert_eq!(action(&rules, "example.com", &answered(500, "")), None);
    let gone = answered(410, "");
    assert_eq!(action(&rules, "example.com", &gone), Some(Action::DisableEndpoint));
}

#[test]
fn the_lowest_priority_number_comes_first_then_the_lowest_id() {
    let named = |name, id, priority| {
        rule(name, "dead", RuleRow { id, priority, status: Some(500..=599), ..RuleRow::default() })
    };
    let first = |rules| {
        let rules = RuleSet::new(rules);
        rules.first_match("h", "e", &answered(500, "")).unwrap().name.clone()
    };
    assert_eq!(first(vec![named("late", 1, 5), named("early", 2, -5)]), "early");
    assert_eq!(first(vec![named("younger", 9, 0), named("older", 3, 0)]), "older");
}

#[test]
fn every_condition_given_must_hold() {
    let rules = one(RuleRow {
        host: text("example.com"),
        status: Some(400..=499),
        outcome: text("answered"),
        body: text("^no"),
        event_type: text("order.*"),
        ..RuleRow::default()
    });
    let matches = |host, event_type, status, body| {
        rules.first_match(host, event_type, &answered(status, body)).is_some()
    };
    assert!(matches("Example.COM", "order.paid", 404, "nope"));
    assert!(!matches("www.example.com", "order.paid", 404, "nope"));
    assert!(!matches("example.com", "invoice.paid", 404, "nope"));
    assert!(!matches("example.com", "order.paid", 500, "nope"));
    assert!(!matches("example.com", "order.paid", 404, "yes"));
}

#[test]
fn status_and_body_are_an_answers_alone() {
    let timeout = Outcome::TimedOut { phase: Phase::Headers };
    let any_status = RuleRow { status: Some(0..=u16::MAX), ..RuleRow::default() };
    let any_body = RuleRow { body: text(""), ..RuleRow::default() };
    for row in [any_status, any_body] {
        assert_eq!(action(&one(row.clone()), "h", &timeout), None);
        assert_eq!(action(&one(row), "h", &answered(200, "")), Some(Action::Dead));
    }
}

#[test]
fn a_body_need_not_be_utf_8() {
    let rules = one(RuleRow { body: text("not found"), ..RuleRow::default() });
    let body = b"\xff\xfe tunnel not found".to_vec();
    let outcome = Outcome::Answered(Answer { status: 404, body, ..Answer::default() });
    assert_eq!(action(&rules, "h", &outcome), Some(Action::Dead));
}

#[test]
fn no_rule_is_about_an_interrupted_request() {
    let rules = one(RuleRow { event_type: text("*"), ..RuleRow::default() });
    assert_eq!(action(&rules, "h", &Outcome::Interrupted), None);
    assert_eq!(action(&rules, "h", &answered(500, "")), Some(Action::Dead));
}

#[test]
fn a_row_that_could_never_match_or_always_would_is_an_error() {
    let row = RuleRow::default;
    assert!(matches!(fault(row()), RuleFault::NoCondition));
    for host in ["", "*", "*.", "a.*.b", "https://a/", "a b", "a,,b"] {
        assert!(
            matches!(fault(RuleRow { host: text(host), ..row() }), RuleFault::Host(_)),
            "{host}"
        );
    }
    #[expect(clippy::reversed_empty_ranges, reason = "an empty range is what is tested")]
    let status = Some(500..=400);
    assert!(matches!(fault(RuleRow { status, ..row() }), RuleFault::Status));
    for kind in ["timeout", "interrupted", ""] {
        let row = RuleRow { outcome: text(kind), ..row() };
        assert!(matches!(fault(row), RuleFault::Outcome(_)), "{kind}");
    }
    for cause in ["t", "tls_", "dns_failure", "TLS"] {
        let row = RuleRow { cause: text(cause), ..row() };
        assert!(matches!(fault(row), RuleFault::Cause(_)), "{cause}");
    }
    for body in ["(", r"\w{1000}{1000}"] {
        assert!(matches!(fault(RuleRow { body: text(body), ..row() }), RuleFault::Body(_)));
    }
    let row = RuleRow { event_type: text("*"), action: "explode".to_owned(), ..row() };
    assert!(matches!(fault(row), RuleFault::Action(_)));
}

#[test]
fn the_words_of_outcomes_are_all_listed() {
    for (index, outcome) in [
        answered(200, ""),
        Outcome::TimedOut { phase: Phase::Tls },
        unreachable(Cause::Dns),
        Outcome::Refused { why: Refusal::NotHttps, detail: String::new() },
        Outcome::Interrupted,
    ]
    .iter()
    .enumerate()
    {
        assert_eq!(Outcome::KINDS[index], outcome.kind());
    }
}

proptest! {
    #[test]
    fn no_host_makes_it_panic(host: String, pattern: String) {
        if let Ok(pattern) = HostPattern::parse(&pattern) {
            pattern.matches(&host);
        }
        HostPattern::Under(".ü.io".to_owned()).matches(&host);
    }
}
