//! One event's way from the application's transaction to the receiver, and what is said about it.

use std::collections::BTreeSet;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use standardwebhooks::Webhook;
use tokio_postgres::Client;

use crate::support::{
    Received, Receiver, Relay, Reply, TestDatabase, attempted, endpoint, event, inconsistencies,
    migrate, settled, unchecked, value,
};

/// Everything that a parser would change: key order, a repeated key, digits past 2^53, a float's
/// spelling, escapes, white space, and characters of every length.
const AWKWARD: &str = "{ \"b\":1,\"a\" : 9007199254740993,\n\t\"b\": 1.10e+02, \"\\u00fc\\/\": \"üñ€😀\",\r\n \"n\": 123456789012345678901234567890, \"z\": \"\\u0000\" }";

async fn secret(client: &Client, endpoint: i64) -> String {
    let statement = format!(
        "select secret from posthaste.endpoint_secrets where endpoint_id = {endpoint} \
         order by id desc limit 1"
    );
    value(client, &statement).await
}

/// Whether a receiver that holds this secret believes the request, by the specification's own
/// library.
fn verifies(received: &Received, secret: &str) -> bool {
    let headers: HeaderMap = received
        .headers
        .iter()
        .map(|(name, value)| {
            (HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap())
        })
        .collect();
    Webhook::new(secret).unwrap().verify(&received.body, &headers).is_ok()
}

#[tokio::test]
async fn a_committed_event_arrives_as_a_signed_post() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let endpoint = endpoint(&receiver.url("/hook?shop=1")).add(&client).await;
    let _relay = Relay::start(&database).await;
    let event = event("order.paid").with("payload", r#"{"total":1}"#).add(&client).await;

    let received = receiver.next().await;
    assert_eq!((received.method.as_str(), received.path.as_str()), ("POST", "/hook?shop=1"));
    assert_eq!(received.header("content-type"), Some("application/json"));
    let version = concat!("posthaste/", env!("CARGO_PKG_VERSION"));
    assert_eq!(received.header("user-agent"), Some(version));
    assert_eq!(received.header("host"), Some(receiver.address().to_string().as_str()));
    let sent_at: i64 = received.header("webhook-timestamp").unwrap().parse().unwrap();
    assert!((Timestamp::now().as_second() - sent_at).abs() < 60, "{sent_at}");

    let secret = secret(&client, endpoint).await;
    assert!(verifies(&received, &secret));
    let tampered = Received { body: received.body.replace_first(b'1', b'2'), ..received.clone() };
    assert!(!verifies(&tampered, &secret));
    let attempts = attempted(&client, event, 1).await;
    assert_eq!(received.id(), attempts[0].webhook_id);
    let statement = "select webhook_id from posthaste.delivery_status";
    assert_eq!(received.id(), value::<String>(&client, statement).await);
    let statement = format!("select posthaste.event_of('{}')", received.id());
    assert_eq!(value::<i64>(&client, &statement).await, event);
}

#[tokio::test]
async fn an_event_has_another_webhook_id_in_another_database_and_the_same_in_a_copy() {
    // Each test's database is a copy of one that was migrated.
    let (one, copy, other) =
        tokio::join!(TestDatabase::new(), TestDatabase::new(), TestDatabase::empty());
    migrate(&other.url()).await;
    let ids = async |database: &TestDatabase| {
        let client = database.client().await;
        let statement = "select array_agg(posthaste.webhook_id(n, '2026-01-01T00:00:00Z') order by n) \
                         from generate_series(1, 100) n";
        value::<Vec<String>>(&client, statement).await
    };
    let (one, copy, other) = (ids(&one).await, ids(&copy).await, ids(&other).await);
    assert_eq!(one, copy);
    let all: BTreeSet<_> = one.iter().chain(&other).collect();
    assert_eq!(all.len(), 200);
}

trait ReplaceFirst {
    fn replace_first(&self, what: u8, with: u8) -> Vec<u8>;
}

impl ReplaceFirst for Vec<u8> {
    fn replace_first(&self, what: u8, with: u8) -> Vec<u8> {
        let mut bytes = self.clone();
        *bytes.iter_mut().find(|byte| **byte == what).unwrap() = with;
        bytes
    }
}

#[tokio::test]
async fn every_body_format_carries_the_payload_byte_for_byte() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    for format in ["standard", "event_payload", "raw", "cloudevents"] {
        let url = receiver.url(&format!("/{format}"));
        endpoint(&url).with("body_format", format).add(&client).await;
    }
    let _relay =
        Relay::on(&database.url()).set("delivery.cloudevents_source", "urn:shop").start().await;
    event("order.paid").with("payload", AWKWARD).add(&client).await;

    let created_at: Timestamp = value(&client, "select created_at from posthaste.outbox").await;
    let all = receiver.wait_for(4).await;
    let id = all[0].id();
    for received in &all {
        assert_eq!(received.id(), id, "one event has one id");
        let expected = match received.path.as_str() {
            "/standard" => {
                format!(r#"{{"type":"order.paid","timestamp":"{created_at}","data":{AWKWARD}}}"#)
            }
            "/event_payload" => format!(r#"{{"event":"order.paid","payload":{AWKWARD}}}"#),
            "/raw" => AWKWARD.to_owned(),
            _ => format!(
                "{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"urn:shop\",\
                 \"type\":\"order.paid\",\"time\":\"{created_at}\",\
                 \"datacontenttype\":\"application/json\",\"data\":{AWKWARD}}}"
            ),
        };
        assert_eq!(String::from_utf8_lossy(&received.body), expected);
        let json = "application/json";
        let is_cloud = received.path == "/cloudevents";
        let content_type = if is_cloud { "application/cloudevents+json" } else { json };
        assert_eq!(received.header("content-type"), Some(content_type));
    }
}

#[tokio::test]
async fn extra_headers_are_sent_but_replace_none_of_ours() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let own = r#"{"Authorization": "Bearer abc", "X-Shop": "of the endpoint"}"#;
    let endpoint = endpoint(&receiver.url("/")).with("headers", own).add(&client).await;
    let _relay = Relay::start(&database).await;
    // As rows have it that are older than their checks.
    unchecked(&client, "outbox", "headers").await;
    let headers = r#"{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "x-shop": "of the event", "User-Agent": "evil", "Webhook-Id": "evil",
        "webhook-signature": "v1,evil", "webhook-other": "evil", "content-type": "evil",
        "content-length": "1", "transfer-encoding": "chunked", "host": "evil",
        "x-smuggled": "a\r\nx-evil: b"}"#;
    event("order.paid").with("headers", headers).add(&client).await;

    let received = receiver.next().await;
    assert_eq!(received.header("authorization"), Some("Bearer abc"));
    assert!(received.header("traceparent").unwrap().starts_with("00-4bf92f"));
    assert_eq!(received.header("x-shop"), Some("of the endpoint"));
    assert!(received.headers.iter().all(|(_, value)| !value.contains("evil")), "{received:?}");
    let names: BTreeSet<_> = received.headers.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), received.headers.len(), "no header came twice: {received:?}");
    assert!(!names.contains(&"x-evil".to_owned()) && !names.contains(&"x-smuggled".to_owned()));
    assert!(verifies(&received, &secret(&client, endpoint).await));
}

#[tokio::test]
async fn what_is_rolled_back_is_never_sent() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let _relay = Relay::start(&database).await;
    let insert = |name: &str| event(name).sql();
    let (undone, partly) = (insert("undone"), insert("partly.undone"));
    let (kept, other) = (insert("kept"), insert("kept.too"));
    client.batch_execute(&format!("begin; {undone}; rollback")).await.unwrap();
    let savepoint = format!("begin; {kept}; savepoint s; {partly}; rollback to s; {other}; commit");
    client.batch_execute(&savepoint).await.unwrap();

    settled(&client).await;
    let types = |received: &Received| received.json()["type"].as_str().unwrap().to_owned();
    let mut arrived: Vec<_> = receiver.received().iter().map(types).collect();
    arrived.sort();
    assert_eq!(arrived, ["kept", "kept.too"]);
}

#[tokio::test]
async fn each_endpoint_gets_the_event_once_and_signed_with_its_own_secret() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let mut secrets = Vec::new();
    for path in ["/a", "/b", "/c"] {
        let id = endpoint(&receiver.url(path)).add(&client).await;
        secrets.push((path, secret(&client, id).await));
    }
    let _relay = Relay::start(&database).await;
    event("order.paid").add(&client).await;

    settled(&client).await;
    let all = receiver.received();
    assert_eq!(all.len(), 3);
    for received in all {
        let believing: Vec<_> =
            secrets.iter().filter(|(_, s)| verifies(&received, s)).map(|(path, _)| *path).collect();
        assert_eq!(believing, [received.path.as_str()]);
    }
}

#[tokio::test]
async fn while_a_secret_is_rotated_both_sign_and_afterwards_only_the_new() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let endpoint = endpoint(&receiver.url("/")).add(&client).await;
    let first = secret(&client, endpoint).await;
    let _relay = Relay::start(&database).await;
    event("order.paid").add(&client).await;
    assert!(verifies(&receiver.next().await, &first));

    let rotate = format!("select posthaste.rotate_secret({endpoint})");
    let second: String = value(&client, &rotate).await;
    event("order.paid").add(&client).await;
    let received = receiver.next().await;
    assert!(verifies(&received, &first) && verifies(&received, &second));

    let rotate = format!("select posthaste.rotate_secret({endpoint}, '0')");
    let third: String = value(&client, &rotate).await;
    event("order.paid").add(&client).await;
    let received = receiver.next().await;
    let believing = [&first, &second, &third].map(|secret| verifies(&received, secret));
    assert_eq!(believing, [false, false, true]);
}

#[tokio::test]
async fn the_views_say_what_came_back() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let reply =
        Reply::status(201).header("X-Request-Id", "r-7").header("x-a", "1").header("x-a", "2");
    receiver.script([reply.body("thänks\0\u{1F600}")]);
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = Relay::on(&database.url()).set("delivery.keep_responses", "all").start().await;
    let event = event("order.paid").add(&client).await;

    let attempt = attempted(&client, event, 1).await.remove(0);
    assert_eq!(
        (attempt.number, attempt.outcome.as_str(), attempt.status),
        (1, "answered", Some(201))
    );
    assert_eq!((attempt.verdict.as_str(), attempt.next_attempt_at), ("delivered", None));
    assert_eq!(attempt.response_headers["x-request-id"], "r-7");
    assert_eq!(attempt.response_headers["x-a"], "1, 2");
    assert_eq!(attempt.response_body.as_deref(), Some("thänks\u{FFFD}\u{1F600}"));
    assert!(!attempt.body_truncated);
    for statement in [
        "select state || ' ' || attempt_count || ' ' || last_status from posthaste.delivery_status",
        "select state || ' ' || attempt_count || right(last_outcome, 4) from posthaste.explain(1)",
    ] {
        assert_eq!(value::<String>(&client, statement).await, "delivered 1 201");
    }
    assert_eq!(inconsistencies(&client).await, [""; 0]);
    assert_eq!(relay.metric("posthaste_deliveries_total", r#"verdict="delivered""#).await, 1.0);
}
