//! A raw body leaves as it came in: the same bytes, and the headers that prove whose they are, so
//! that a receiver behind us verifies them as if we were not there.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use standardwebhooks::Webhook;

use crate::support::{
    Received, Receiver, Relay, RelayBuilder, TestDatabase, endpoint, post, settled, value,
};

/// As GitHub sends it: its own order of keys, escapes and characters of every length.
const GITHUB: &str = include_str!("github_push.json");
/// As GitLab sends it.
const GITLAB: &str = include_str!("gitlab_push.json");

fn mac(secret: &str, signed: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

/// One webhook, as a receiver behind the relay gets it.
async fn forwarded(
    source: impl FnOnce(RelayBuilder) -> RelayBuilder,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Received {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).with("body_format", "raw").add(&client).await;
    let relay = source(Relay::on(&database.url()).taking_in()).start().await;
    let answer = post(relay.door(), path, headers, body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let received = receiver.next().await;
    settled(&client).await;
    received
}

#[tokio::test]
async fn githubs_webhook_still_verifies_behind_us() {
    let signature = format!("sha256={}", hex(mac("It's a Secret", GITHUB.as_bytes()).as_ref()));
    let headers = [
        ("x-github-event", "push"),
        ("x-github-delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        ("x-hub-signature-256", &*signature),
        ("user-agent", "GitHub-Hookshot/044aadd"),
    ];
    let source = |relay: RelayBuilder| {
        relay
            .set("ingest.sources.github.verify", "github")
            .set("ingest.sources.github.secret", "It's a Secret")
            .set("ingest.sources.github.headers", "x-hub-signature-256")
    };
    let received = forwarded(source, "/in/github", &headers, GITHUB).await;
    assert_eq!(received.body, GITHUB.as_bytes());
    let said = received.header("x-hub-signature-256").unwrap();
    assert_eq!(said, format!("sha256={}", hex(mac("It's a Secret", &received.body).as_ref())));
    assert_eq!(received.header("x-github-event"), Some("push"));
    assert_eq!(received.header("x-github-delivery"), Some("72d3162e-cc78-11e3-81ab-4c9367dc0958"));
    assert_eq!(received.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn what_is_signed_for_another_body_or_not_at_all_is_refused() {
    let database = TestDatabase::new().await;
    let schemes = ["github", "gitlab", "shopify", "slack", "standard", "stripe"];
    let secret = format!("whsec_{}", STANDARD.encode([7; 24]));
    let taking_in = Relay::on(&database.url()).taking_in();
    let relay = schemes.iter().fold(taking_in, |relay, scheme| {
        relay
            .set(&format!("ingest.sources.{scheme}.verify"), scheme)
            .set(&format!("ingest.sources.{scheme}.secret"), &secret)
    });
    let relay = relay.start().await;
    let now = jiff::Timestamp::now().as_second();
    let (of_another, now) = (mac(&secret, b"another body"), now.to_string());
    let (hex, base64) = (hex(of_another.as_ref()), STANDARD.encode(of_another));
    let (hub, stripe, slack) =
        (format!("sha256={hex}"), format!("t={now},v1={hex}"), format!("v0={hex}"));
    let standard = format!("v1,{base64}");
    let forged = [
        ("x-hub-signature-256", &*hub),
        ("x-gitlab-token", &*base64),
        ("x-shopify-hmac-sha256", &*base64),
        ("x-slack-signature", &*slack),
        ("x-slack-request-timestamp", &*now),
        ("webhook-id", "msg_1"),
        ("webhook-timestamp", &*now),
        ("webhook-signature", &*standard),
        ("stripe-signature", &*stripe),
    ];
    for scheme in schemes {
        for headers in [&[][..], &forged] {
            let answer = post(relay.door(), &format!("/in/{scheme}"), headers, GITHUB).await;
            assert_eq!(answer.status, 401, "{scheme}: {answer:?}");
        }
    }
    let client = database.client().await;
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.outbox").await, 0);
}

#[tokio::test]
async fn gitlabs_token_is_passed_on_where_it_is_named_and_nowhere_else() {
    let headers = [
        ("x-gitlab-event", "Push Hook"),
        ("x-gitlab-token", "a token"),
        ("idempotency-key", "f5e5f430-f57b-4e6e-9fac-d9128cd7232f"),
        ("authorization", "Bearer s3cret"),
    ];
    let source = |relay: RelayBuilder| {
        relay
            .set("ingest.sources.gitlab.verify", "gitlab")
            .set("ingest.sources.gitlab.secret", "a token")
    };
    let named =
        |relay: RelayBuilder| source(relay).set("ingest.sources.gitlab.headers", "x-gitlab-token");
    let received = forwarded(named, "/in/gitlab", &headers, GITLAB).await;
    assert_eq!(received.body, GITLAB.as_bytes());
    assert_eq!(received.header("x-gitlab-token"), Some("a token"));
    assert_eq!(received.header("x-gitlab-event"), Some("Push Hook"));
    assert_eq!(received.header("idempotency-key"), Some(headers[2].1));
    assert_eq!(received.header("authorization"), None);

    let received = forwarded(source, "/in/gitlab", &headers, GITLAB).await;
    assert_eq!(received.header("x-gitlab-token"), None);
    assert_eq!(received.header("authorization"), None);
    assert_eq!(received.header("x-gitlab-event"), Some("Push Hook"));
}

#[tokio::test]
async fn a_standard_webhook_keeps_its_own_id_and_signature_behind_us() {
    let secret = format!("whsec_{}", STANDARD.encode([7; 24]));
    let webhook = Webhook::new(&secret).unwrap();
    let (id, at) = ("msg_loFOjxBNrRLzqYUf", jiff::Timestamp::now().as_second());
    let signature = webhook.sign(id, at, GITHUB.as_bytes()).unwrap();
    let at = at.to_string();
    let headers = [
        ("webhook-id", id),
        ("webhook-timestamp", &*at),
        ("webhook-signature", &*signature),
        ("authorization", "Bearer s3cret"),
    ];
    let source = |relay: RelayBuilder| {
        relay
            .set("ingest.sources.another.verify", "standard")
            .set("ingest.sources.another.secret", &secret)
            .set("ingest.sources.another.headers", "webhook-signature")
    };
    let received = forwarded(source, "/in/another", &headers, GITHUB).await;
    let verified: hyper::HeaderMap = received
        .headers
        .iter()
        .map(|(name, value)| {
            (hyper::header::HeaderName::try_from(name).unwrap(), value.parse().unwrap())
        })
        .collect();
    webhook.verify(&received.body, &verified).unwrap();
    assert_eq!(received.id(), id);
    // Two of the three would verify for no receiver, so ours stand.
    let two = |relay: RelayBuilder| {
        relay.set("ingest.sources.shop.headers", "webhook-timestamp, webhook-signature")
    };
    let received = forwarded(two, "/in/shop", &headers[1..], GITHUB).await;
    assert!(received.id().starts_with("evt_"));
    assert_ne!(received.header("webhook-signature"), Some(&*signature));
}

#[tokio::test]
async fn slack_hears_its_challenge_and_its_events_are_taken() {
    const CHALLENGE: &str =
        r#"{"token":"Jhj5dZrVaK7ZwHHjRyZWjbDl","challenge":"3eZbrw1aB","type":"url_verification"}"#;
    const EVENT: &str =
        r#"{"type":"event_callback","event_id":"Ev123","event":{"type":"reaction_added"}}"#;
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let relay = Relay::on(&database.url())
        .taking_in()
        .set("ingest.sources.slack.verify", "slack")
        .set("ingest.sources.slack.secret", "8f742231b10e8888abcd99yyyzzz85a5")
        .start()
        .await;
    let now = jiff::Timestamp::now().as_second().to_string();
    let said = async |body: &str| {
        let signed = mac("8f742231b10e8888abcd99yyyzzz85a5", format!("v0:{now}:{body}").as_bytes());
        let signature = format!("v0={}", hex(signed.as_ref()));
        let headers = [("x-slack-request-timestamp", &*now), ("x-slack-signature", &*signature)];
        post(relay.door(), "/in/slack", &headers, body).await
    };
    let challenged = said(CHALLENGE).await;
    assert_eq!(challenged.json(), serde_json::json!({ "challenge": "3eZbrw1aB" }));
    assert_eq!(challenged.status, 200);
    assert_eq!(said(EVENT).await.json()["status"], "stored");
    let types: Vec<String> =
        value(&client, "select array_agg(event_type) from posthaste.outbox").await;
    assert_eq!(types, ["slack.reaction_added"]);
}

#[tokio::test]
async fn a_form_leaves_raw_as_it_came_and_can_be_read_otherwise() {
    let form = "token=x&command=%2Fweather&text=94070%20%26+more&payload=%7B%22a%22%3A%201%7D";
    let headers = [
        ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
        (
            "x-slack-signature",
            "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
        ),
        ("authorization", "Bearer s3cret"),
    ];
    let source = |relay: RelayBuilder| {
        relay
            .set("ingest.sources.shop.content_types", "form")
            .set("ingest.sources.shop.event_type", "$.command")
            .set("ingest.sources.shop.headers", "x-slack-*")
    };
    let received = forwarded(source, "/in/shop", &headers, form).await;
    assert_eq!(received.body, form.as_bytes());
    assert_eq!(
        received.header("content-type"),
        Some("application/x-www-form-urlencoded; charset=utf-8")
    );
    assert!(received.header("x-slack-signature").is_some());

    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).with("subscriptions", "{shop.weather}").add(&client).await;
    let relay = source(Relay::on(&database.url()).taking_in()).start().await;
    assert_eq!(post(relay.door(), "/in/shop", &headers, form).await.status, 200);
    let received = receiver.next().await;
    assert_eq!(received.header("content-type"), Some("application/json"));
    assert_eq!(received.json()["data"], form);
}
