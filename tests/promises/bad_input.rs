//! A row that cannot be meant is refused when it is written, by a name that says what would be
//! right.

use crate::support::{NewRow, Relay, TestDatabase, endpoint, event, value};

#[tokio::test]
async fn an_endpoint_that_makes_no_sense_is_refused_by_name() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let good = || endpoint("https://example.com/hook");
    let headers = "headers_are_at_most_64_texts_that_replace_none_of_ours";
    let schedule = "schedule_is_1_to_100_delays_of_1_second_to_30_days";
    let subscriptions = "subscriptions_are_at_most_1000_of_star_prefix_or_exact";
    let url = "url_can_be_posted_to";
    for (row, name) in [
        (endpoint("ftp://example.com/"), url),
        (endpoint("example.com"), url),
        (endpoint("https:///path"), url),
        (endpoint("https://user:pass@example.com/"), url),
        (endpoint("https://user@example.com/"), url),
        (endpoint("https://example.com\\@evil/"), url),
        (endpoint(&format!("https://a/{}", "x".repeat(4096))), url),
        (good().with("subscriptions", "{}"), "at_least_one_subscription"),
        (good().with("subscriptions", "{order.*.paid}"), subscriptions),
        (good().with("subscriptions", "{order*}"), subscriptions),
        (good().with("subscriptions", "{NULL}"), subscriptions),
        (good().with("subscriptions", "{\"order paid\"}"), subscriptions),
        (good().with("tenant", ""), "tenant_is_1_to_256_characters"),
        (good().with("headers", r#"{"x": "a\r\nb: c"}"#), headers),
        (good().with("headers", r#"{"x y": "a"}"#), headers),
        (good().with("headers", r#"{"x": 1}"#), headers),
        (good().with("headers", "[]"), headers),
        (good().with("headers", r#"{"Webhook-Id": "mine"}"#), headers),
        (good().with("headers", r#"{"User-Agent": "mine"}"#), headers),
        (good().with("headers", r#"{"User_Agent": "mine"}"#), headers),
        (good().with("headers", r#"{"Webhook_Signature": "mine"}"#), headers),
        (good().with("headers", r#"{"Transfer-Encoding": "chunked"}"#), headers),
        (good().with("rate_limit", 0), "rate_limit_is_more_than_0_a_second"),
        (good().with("timeout", "10 ms"), "timeout_is_100_ms_to_10_minutes"),
        (good().with("max_attempts", 0), "max_attempts_is_1_to_1000"),
        (good().with("max_concurrency", 0), "max_concurrency_is_1_to_10000"),
        (good().with("schedule", "{}"), schedule),
        (good().with("schedule", "{-1 s}"), schedule),
        (good().with("schedule", "{0.9 s}"), schedule),
        (good().with("filter", "$.total > 1"), "filter_can_be_asked"),
        (
            good().with("body_format", "xml"),
            "body_format_is_standard_event_payload_raw_or_cloudevents",
        ),
        // Syntax errors of the types themselves.
        (good().with("filter", "$ ?? ("), "42601"),
    ] {
        assert_eq!(row.refused_by(&client).await, name, "{row:?}");
    }
    good().add(&client).await;
}

#[tokio::test]
async fn an_event_that_makes_no_sense_is_refused_by_name() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let good = || event("order.paid");
    let own_clock = "id_created_at_and_xid_are_left_to_the_database";
    let headers = "headers_are_at_most_64_texts_of_4_kib_and_16_kib_in_all";
    let length = "event_type_tenant_and_keys_have_1_to_256_characters";
    for (row, name) in [
        (event("order paid"), "event_type_is_dotted_words"),
        (event("order."), "event_type_is_dotted_words"),
        (event("order.*"), "event_type_is_dotted_words"),
        (event(&"x".repeat(257)), length),
        (event("posthaste.endpoint.disabled"), "posthaste_events_are_the_relays_own"),
        // invalid_text_representation
        (good().with("payload", "{\"open\": "), "22P02"),
        (good().with("payload", ""), "22P02"),
        (good().with("tenant", ""), length),
        (good().with("idempotency_key", ""), length),
        (good().with("ordering_key", "x".repeat(257)), length),
        (good().with("headers", r#"["x"]"#), headers),
        (good().with("headers", r#"{"Webhook_Signature": "mine"}"#), headers),
        (good().with("headers", r#"{"Content_Length": "9"}"#), headers),
        (good().with("headers", r#"{"x": 1}"#), headers),
        (good().with("created_at", "2020-01-01"), own_clock),
        (good().with("created_at", "2999-01-01"), own_clock),
        (good().with("xid", 3), own_clock),
    ] {
        assert_eq!(row.refused_by(&client).await, name, "{row:?}");
    }
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.outbox").await, 0);
    good().add(&client).await;
}

/// Hosts, with their ports, as the relay's parser takes them and as it does not.
const AUTHORITIES: &[&str] = &[
    "a.example",
    "A.EXAMPLE",
    "a.example.",
    "a..example",
    "a_b.example",
    "-a.example",
    "a!$&'()*+,;=~.example",
    "bücher.example",
    "日本語。例",
    "１.２.３.４",
    "１.２.３.４００",
    "xn--bcher-kva.example",
    "xn--.example",
    "localhost",
    "a.example:",
    "a.example:0",
    "a.example:00443",
    "a.example:65535",
    "a.example:65536",
    "a.example:99999999999999999999",
    "a.example:http",
    "a.example:-1",
    "a.example:80:80",
    "a.example:８０",
    ":80",
    "%61.example",
    "%zz",
    "%",
    "a%",
    "a%2",
    "a%20b",
    "a%2fb",
    "a%25b",
    "a%00b",
    "a%ffb",
    "b%c3%bccher.example",
    "a\"b",
    "a<b",
    "a>b",
    "a^b",
    "a`b",
    "a{b",
    "a}b",
    "a|b",
    "a[b",
    "a]b",
    "a\u{ad}b.example",
    "\u{ad}",
    "a\u{fffd}b",
    "℀.example",
    "1.2.3.4",
    "1.2.3.4.",
    "1.2.3.4.5",
    "1.2.3",
    "127.1",
    "0x7f.1",
    "0x7f000001",
    "0x",
    "017.0.0.1",
    "08.0.0.1",
    "1.2.3.08",
    "256.1.1.1",
    "1.256.1.1",
    "1.1.1.256",
    "1.2.65535",
    "1.2.65536",
    "4294967295",
    "4294967296",
    "99999999999999999999999999",
    "1..2",
    "a.1",
    "a.0x1",
    "a.1x",
    "1.a",
    "[::1]",
    "[::1]:8443",
    "[::1]:",
    "[::1]:65536",
    "[::1",
    "::1",
    "[::1]a",
    "[2606:4700:0::1]",
    "[2001:DB8::1]",
    "[::ffff:1.2.3.4]",
    "[::ffff:1.2.3.256]",
    "[1:2:3:4:5:6:7:8]",
    "[1:2:3:4:5:6:7:8:9]",
    "[1:2:3:4:5:6:7::]",
    "[1:2:3:4:5:6:7]",
    "[1::2::3]",
    "[12345::]",
    "[g::]",
    "[::1/64]",
    "[fe80::1%25eth0]",
    "[1.2.3.4]",
    "[]",
];

/// What follows a host.
const FOLLOWING: &[&str] = &[
    "",
    "/",
    "?a",
    "#a",
    "/ü/%zz/:99999/[x]?q=ü&r=%&s=[@:]#f@:x",
    "/\"<>`{}|^'?\"<>`{}|^'",
    "/../a/./b//c;d,e",
];

#[tokio::test]
async fn a_url_is_taken_if_the_relay_can_dial_it() {
    use posthaste::outbound::target::Target;
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let mut urls = Vec::new();
    for authority in AUTHORITIES {
        urls.extend(["https", "http", "HTTPS"].map(|scheme| format!("{scheme}://{authority}/")));
    }
    for following in FOLLOWING {
        for host in ["a.example", "a.example:8443", "[::1]:1", "a.example:65536", "%zz"] {
            urls.push(format!("https://{host}{following}"));
        }
    }
    for length in [1300, 1400] {
        for parted_by in ["/", "?", "#"] {
            urls.push(format!("https://a.example{parted_by}{}", "ü".repeat(length / 2)));
            urls.push(format!("https://a.example{parted_by}{}", "日".repeat(length / 3)));
            urls.push(format!("https://a.example{parted_by}{}", "x".repeat(length)));
        }
    }
    let problem = "select posthaste_internal.url_problem($1)";
    let mut apart = Vec::new();
    for url in &urls {
        let said: Option<String> = client.query_one(problem, &[url]).await.unwrap().get(0);
        let parsed = Target::parse(url);
        if said.is_none() != parsed.is_ok() {
            apart.push(format!("{url}: the table says {said:?}, the relay {:?}", parsed.err()));
        }
    }
    assert!(apart.is_empty(), "{}", apart.join("\n"));
}

fn secret(secret: &str) -> NewRow {
    NewRow::into("endpoint_secrets").with("endpoint_id", 1).with("secret", secret)
}

#[tokio::test]
async fn a_secret_that_cannot_sign_is_refused_and_add_endpoint_does_not_repeat_it() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    endpoint("https://example.com/").add(&client).await;
    let name = "secret_is_whsec_of_24_to_75_bytes_or_whsk_of_32_or_64";
    for bad in
        ["hunter2", "whsec_short", "whsec_!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!", "whsk_AAAA"]
    {
        assert_eq!(secret(bad).refused_by(&client).await, name, "{bad}");
    }
    let add = "select posthaste.add_endpoint('https://example.com/', secret => 'hunter2hunter2')";
    let refused = client.query(add, &[]).await.unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(refused.message(), "this is not a signing secret");
    assert!(!format!("{refused:?}").contains("hunter2"), "{refused:?}");
}

#[tokio::test]
async fn no_secret_of_a_row_that_is_refused_stands_in_the_error_or_the_servers_log() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let add = "select posthaste.add_endpoint('https://example.com/', secret => $1)";
    let secret = format!("whsec_{}{:08}", "hunter2".repeat(4), std::process::id());
    client.query(add, &[&secret]).await.unwrap();
    let headers = format!(r#"{{"authorization": "Bearer {secret}"}}"#);
    let smuggled = format!(r#"{{"authorization": "Bearer {secret}", "host": "x"}}"#);
    let endpoints = "insert into posthaste.endpoints (url, headers, ";
    let events = "insert into posthaste.outbox (event_type, payload, headers) values";
    let add = "select posthaste.add_endpoint('https://example.com/', headers => $1::text::jsonb";
    for (statement, value, code) in [
        (format!("{add})"), &smuggled, "23514"),
        (format!("{add}, max_attempts => 0)"), &headers, "23514"),
        (format!("{add}, subscriptions => null)"), &headers, "23502"),
        (
            format!("{endpoints} tenant) values ('https://a.example', $1::text::jsonb, '')"),
            &headers,
            "23514",
        ),
        (
            format!("{endpoints} enabled) values ('https://a.example', $1::text::jsonb, null)"),
            &headers,
            "23502",
        ),
        (
            "insert into posthaste.endpoints (url) values ('https://a.example/ ?' || $1)".into(),
            &secret,
            "23514",
        ),
        (
            "insert into posthaste.endpoints (url) values ('ftp://' || $1 || '@a')".into(),
            &secret,
            "23514",
        ),
        (
            "update posthaste.endpoint_secrets set expires_at = 'infinity' where secret = $1"
                .into(),
            &secret,
            "23514",
        ),
        (
            "update posthaste.endpoint_secrets set endpoint_id = null where secret = $1".into(),
            &secret,
            "23502",
        ),
        ("update posthaste.endpoint_secrets set secret = '!' || $1".into(), &secret, "23514"),
        (
            format!("{events} ('a', '1', $1::text::jsonb || '{{\"a b\": \"x\"}}')"),
            &headers,
            "23514",
        ),
        (format!("{events} ('a', null, $1::text::jsonb)"), &headers, "23502"),
        (format!("{events} (null, '1', $1::text::jsonb)"), &headers, "23502"),
    ] {
        let refused = client.query(&statement, &[value]).await.expect_err(&statement);
        let refused = refused.as_db_error().unwrap();
        assert_eq!(refused.code().code(), code, "{statement}: {refused:?}");
        assert!(!format!("{refused:?}").contains("hunter2"), "{statement}: {refused:?}");
    }
    let log = database.cluster().log().unwrap();
    assert!(log.contains("expires_at_is_a_date_before_2200"), "refusals are logged");
    let told: Vec<_> = log.lines().filter(|line| line.contains(&secret)).collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
}

#[tokio::test]
async fn a_rule_that_could_not_be_asked_is_refused_by_its_name() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let rule = |name: &str| NewRow::into("rules").with("name", name).with("action", "dead");
    let pattern = "body_pattern_is_a_regular_expression";
    for (row, name) in [
        (rule("r").with("body_pattern", "(open"), pattern),
        (rule("r").with("body_pattern", "a(?=b)"), pattern),
        (rule("r").with("body_pattern", r"(a)\1"), pattern),
        (rule("r"), "at_least_one_condition"),
        (rule("r").with("status", "[99,200)"), "status_is_within_100_to_999"),
        (rule("r").with("status", "[200,300)"), "status_is_not_of_2xx_alone"),
        (
            rule("r").with("status", "[500,501)").with("outcome", "timed_out"),
            "status_goes_with_outcome_answered",
        ),
        (rule("r").with("status", 500).with("action", "forget"), "22P02"),
        (rule("r").with("status", "[500,600)").with("action", "forget"), "action_is_known"),
        (rule("r").with("outcome", "answred"), "outcome_is_known"),
        (rule("r").with("cause", "tls_expried"), "cause_is_known"),
        (rule("r").with("host", ".example.com"), "host_is_a_name_or_star_dot_suffix"),
        (rule("r").with("host", "a.example,"), "host_is_a_name_or_star_dot_suffix"),
        (rule("r").with("host", "*"), "host_is_a_name_or_star_dot_suffix"),
        (rule("r").with("event_type", "a b"), "event_type_is_a_subscription"),
    ] {
        assert_eq!(row.refused_by(&client).await, name, "{row:?}");
    }
    let row = rule("tunnels").with("body_pattern", "(open");
    let refused = client.query(&row.sql(), &[]).await.unwrap_err();
    let message = refused.as_db_error().unwrap().message();
    assert!(message.starts_with("rule tunnels: body_pattern is not a regular"), "{message}");
}

#[tokio::test]
async fn a_wrong_password_ends_the_start_with_one_message_that_does_not_repeat_it() {
    let database = TestDatabase::new().await;
    let url = database.url();
    let (user, server) = url.split_once('@').unwrap();
    let (user, _) = user.rsplit_once(':').unwrap();
    let mut relay = Relay::on(&format!("{user}:hunter2@{server}")).spawn();
    assert_eq!(relay.exit().await.code(), Some(1));
    let log = relay.log();
    let said: Vec<_> = log.lines().filter(|line| line.starts_with("posthaste:")).collect();
    assert_eq!(said.len(), 1, "{log}");
    assert!(said[0].contains("password authentication failed for user"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}
