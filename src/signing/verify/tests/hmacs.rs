//! GitHub, Slack and Shopify: one header with one HMAC.

use hyper::header::HeaderValue;

use super::{Example, NotVerified, Scheme, example, named};

/// "Testing the webhook payload validation" on
/// <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>.
pub(super) fn github() -> Example {
    let secrets = ["It's a Secret to Everybody", "It's another Secret"];
    example(Scheme::Github, secrets, &["X-Hub-Signature-256"], "Hello, World!", 0)
        .header(
            "X-Hub-Signature-256",
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
        )
        .header("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")
        .header("X-GitHub-Event", "issues")
        .is("72d3162e-cc78-11e3-81ab-4c9367dc0958", "issues")
}

/// The walk-through on <https://docs.slack.dev/authentication/verifying-requests-from-slack>. It is
/// a slash command: no JSON, so nothing in it is an event's id.
pub(super) fn slack() -> Example {
    let secrets = ["8f742231b10e8888abcd99yyyzzz85a5", "8f742231b10e8888abcd99yyyzzz85a6"];
    let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&\
                channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&\
                command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2F\
                commands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&\
                trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    let proof = &["X-Slack-Request-Timestamp", "X-Slack-Signature"];
    let mut example = example(Scheme::Slack, secrets, proof, body, 1_531_420_618)
        .header("X-Slack-Request-Timestamp", "1531420618")
        .header(
            "X-Slack-Signature",
            "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
        );
    example.timestamp = Some("X-Slack-Request-Timestamp");
    example
}

/// Shopify publishes no example; this one was computed with
/// `openssl dgst -sha256 -hmac hush -binary | base64`.
pub(super) fn shopify() -> Example {
    let body = r#"{"id":820982911946154508,"total_price":"403.00"}"#;
    example(Scheme::Shopify, ["hush", "hush!"], &["X-Shopify-Hmac-Sha256"], body, 0)
        .header("X-Shopify-Hmac-Sha256", "gHDQy76+38chKmG/hW2suoASSgJPriCh7sYbzaB7OQI=")
        .header("X-Shopify-Webhook-Id", "b54557e4-bdd9-4b37-8a5f-bf7d70bcd043")
        .header("X-Shopify-Event-Id", "98880550-7158-44d4-b7cd-2c97c8a091b5")
        .header("X-Shopify-Topic", "orders/create")
        .is("b54557e4-bdd9-4b37-8a5f-bf7d70bcd043", "orders/create")
}

#[test]
fn shopifys_newer_events_name_the_same_headers_without_the_x() {
    let mut newer = shopify();
    for name in ["Hmac-Sha256", "Webhook-Id", "Event-Id", "Topic"] {
        let value = newer.headers.remove(format!("X-Shopify-{name}")).unwrap();
        newer.headers.insert(named(&format!("Shopify-{name}")), value);
    }
    let verified = newer.verify().unwrap();
    assert_eq!(verified, shopify().verify().unwrap());
    newer.headers.insert(
        named("Shopify-Hmac-Sha256"),
        HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    );
    assert_eq!(newer.verify(), Err(NotVerified::SignatureMismatch));
    newer.headers.remove("Shopify-Hmac-Sha256");
    assert_eq!(newer.verify(), Err(NotVerified::Missing("X-Shopify-Hmac-Sha256")));
}

#[test]
fn capital_hex_digits_say_the_same() {
    for (example, name, prefix) in
        [(github(), "X-Hub-Signature-256", "sha256="), (slack(), "X-Slack-Signature", "v0=")]
    {
        let value = example.headers[name].to_str().unwrap().to_owned();
        let hex = value.strip_prefix(prefix).unwrap();
        let put = |value: &str| example.clone().header(name, value).verify();
        put(&format!("{prefix}{}", hex.to_uppercase())).unwrap();
        for malformed in [
            hex.to_owned(),
            format!("{}{hex}", prefix.to_uppercase()),
            format!("{prefix}{prefix}{hex}"),
            format!("{prefix} {hex}"),
            format!("{prefix}{}", &hex[1..]),
            format!("{prefix}{}", &hex[..8]),
            format!("{prefix}{hex}00"),
            format!("{prefix}{}", hex.replacen('a', "g", 1)),
            format!("{prefix}{}", hex.replacen('1', "+", 1)),
            prefix.to_owned(),
            format!("{prefix}{hex},{prefix}{hex}"),
        ] {
            let refusal = put(&malformed).unwrap_err();
            let is_malformed =
                matches!(refusal, NotVerified::Malformed { header, .. } if header == name);
            assert!(is_malformed, "{malformed}: {refusal:?}");
        }
        let zeros = put(&format!("{prefix}{}", "0".repeat(64)));
        assert_eq!(zeros, Err(NotVerified::SignatureMismatch));
    }
}

#[test]
fn githubs_older_signature_is_no_proof() {
    let mut old =
        github().header("X-Hub-Signature", "sha1=01dc10d0c83e72ed246219cdd91669667fe2ca59");
    old.headers.remove("X-Hub-Signature-256");
    assert_eq!(old.verify(), Err(NotVerified::Missing("X-Hub-Signature-256")));
}

#[test]
fn shopifys_signature_is_canonical_base64_of_32_bytes() {
    let put = |value: &'static str| {
        let mut example = shopify();
        example.headers.insert(named("X-Shopify-Hmac-Sha256"), HeaderValue::from_static(value));
        example.verify().unwrap_err()
    };
    for malformed in [
        "gHDQy76+38chKmG/hW2suoASSgJPriCh7sYbzaB7OQI",
        "gHDQy76+38chKmG/hW2suoASSgJPriCh7sYbzaB7OQJ=",
        "gHDQy76-38chKmG_hW2suoASSgJPriCh7sYbzaB7OQI=",
        "gHDQy76+38chKmG/hW2suoASSgJPriCh7sYbzaB7OQI= =",
        "gHDQy76+38chKmG/hW2suoASSgJPriCh7sYbzaB7OQ==",
        "8070d0cbbebedfc7212a61bf856dacba80124a024fae20a1eec61bcda07b3902",
    ] {
        assert!(matches!(put(malformed), NotVerified::Malformed { .. }), "{malformed}");
    }
    let zeros = put("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    assert_eq!(zeros, NotVerified::SignatureMismatch);
}

/// Signed by the HMAC of the code under test, because these tests are about the reading afterwards.
fn slack_says(body: &str) -> super::Verified {
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, slack().secret.as_bytes());
    let tag = ring::hmac::sign(&secret, format!("v0:1531420618:{body}").as_bytes());
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut example = slack().header("X-Slack-Signature", &format!("v0={hex}"));
    example.body = body.as_bytes().to_vec();
    example.verify().unwrap()
}

#[test]
fn a_slack_event_is_known_by_its_event_id_and_inner_type() {
    let said = slack_says(
        r#"{"type":"event_callback","event_id":"Ev123ABC456","event":{"type":"reaction_added","n":1}}"#,
    );
    assert_eq!(said.id.as_deref(), Some("Ev123ABC456"));
    assert_eq!(said.event_type.as_deref(), Some("reaction_added"));

    let said = slack_says(r#"{"type":"url_verification","challenge":"3eZbrw1aB"}"#);
    assert_eq!((said.id, said.event_type.as_deref()), (None, Some("url_verification")));

    let said = slack_says(r#"{"type":"event_callback","event_id":7,"event":"none"}"#);
    assert_eq!((said.id, said.event_type.as_deref()), (None, Some("event_callback")));
}

#[test]
fn a_body_that_is_no_object_has_neither_id_nor_type() {
    let nothing = super::Verified { id: None, event_type: None };
    let deep = format!("{{\"event\":{}", "[".repeat(100_000));
    let open = "{\"type\":".repeat(100_000);
    let nul = r#"{"event_id":"a\u0000b","type":"\n"}"#;
    let long = format!(r#"{{"event_id":"{}"}}"#, "a".repeat(256));
    for body in
        ["", "[]", r#"["Ev1","b",{"type":"c"}]"#, "{", "null", "1", nul, &deep, &open, &long]
    {
        assert_eq!(slack_says(body), nothing, "{}", &body[..body.len().min(40)]);
    }
}
