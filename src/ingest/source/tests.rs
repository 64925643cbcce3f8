use hyper::header::{HeaderName, HeaderValue};

use super::*;
use crate::config::{Sources, load};

/// A source with these settings.
fn source(settings: &[(&str, &str)]) -> Source {
    let mut flags = vec![
        ("database.url".to_owned(), "postgres://localhost/x".to_owned()),
        ("ingest.sources.shop.verify".to_owned(), "none".to_owned()),
    ];
    let key = |key: &str| format!("ingest.sources.shop.{key}");
    flags.extend(settings.iter().map(|(name, value)| (key(name), (*value).to_owned())));
    let config = load(&Sources { flags, ..Sources::default() }).unwrap();
    Source::new("shop", &config.ingest.sources["shop"]).unwrap()
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        (HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap())
    };
    let mut headers = HeaderMap::new();
    for (name, value) in pairs.iter().map(pair) {
        headers.append(name, value);
    }
    headers
}

fn incoming(
    source: &Source,
    verified: Verified,
    pairs: &[(&str, &str)],
    body: &'static str,
) -> Result<Incoming, Wrong> {
    let headers = headers(pairs);
    let content = if body.starts_with("a=") { Content::Form } else { Content::Json };
    let body = Bytes::from_static(body.as_bytes());
    source.incoming(verified, &headers, content, &body, || "drawn:0".to_owned())
}

fn named(event_type: &str) -> Verified {
    Verified { id: None, event_type: Some(event_type.to_owned()) }
}

#[test]
fn a_type_is_what_the_sender_says_behind_the_sources_name_in_dotted_words() {
    let conventional = source(&[]);
    for (said, event_type) in [
        ("Push Hook", "shop.push_hook"),
        ("pull_request", "shop.pull_request"),
        ("invoice.payment.paid", "shop.invoice.payment.paid"),
        ("orders/create", "shop.orders.create"),
        ("..a..*b\u{a0}c.", "shop.a._b_c"),
    ] {
        let made = incoming(&conventional, named(said), &[], "{}").unwrap();
        assert_eq!(made.event_type, event_type);
    }
    assert_eq!(
        incoming(&conventional, Verified { id: None, event_type: None }, &[], "{}")
            .unwrap()
            .event_type,
        "shop"
    );
    assert!(matches!(incoming(&conventional, named(" . "), &[], "{}"), Err(Wrong::Event(_))));
    let long = "x".repeat(252);
    assert!(matches!(incoming(&conventional, named(&long), &[], "{}"), Err(Wrong::Event(_))));

    let by_header = source(&[("event_type", "header:X-Kind")]);
    let made = incoming(&by_header, named("other"), &[("x-kind", "a")], "{}").unwrap();
    assert_eq!(made.event_type, "shop.a");
    let fixed = source(&[("event_type", "Build.finished")]);
    assert_eq!(incoming(&fixed, named("x"), &[], "{}").unwrap().event_type, "Build.finished");
    let in_form =
        source(&[("event_type", "$.b"), ("content_types", "form"), ("ordering_key", "$.a")]);
    let made = incoming(&in_form, named("x"), &[], "a=1+%26&b=%2Fdo").unwrap();
    assert_eq!((made.event_type.as_str(), made.ordering_key.as_deref()), ("shop.do", Some("1 &")));
    assert_eq!(made.payload.as_str(), "\"a=1+%26&b=%2Fdo\"");
}

#[test]
fn what_a_column_does_not_hold_is_told_apart_by_its_digest() {
    let source = source(&[("ordering_key", "$.key")]);
    let id = |id: &str| Verified { id: Some(id.to_owned()), event_type: None };
    let made = |name: &str| incoming(&source, id(name), &[], "{}").unwrap().sender_id;
    assert_eq!(made("a b"), "a b");
    assert_eq!(made(""), "drawn:0");
    assert_eq!(made("a\u{0}b").len(), "sha256:".len() + 64);
    assert_ne!(made(&"x".repeat(257)), made(&"x".repeat(258)));
    assert_eq!(made(&"\u{fc}".repeat(256)), "\u{fc}".repeat(256));
    let key = |body| incoming(&source, id("1"), &[], body).unwrap().ordering_key;
    assert_eq!(key(r#"{"key": 7}"#).as_deref(), Some("7"));
    assert_eq!(key(r#"{"key": ""}"#), None);
    assert_eq!(key("[]"), None);
    assert!(key(r#"{"key": "\u0000"}"#).unwrap().starts_with("sha256:"));
}

fn kept(settings: &[(&str, &str)], pairs: &[(&str, &str)]) -> Vec<String> {
    let made = incoming(&source(settings), named("x"), pairs, "{}").unwrap();
    let kept: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&made.headers).unwrap();
    kept.into_iter().map(|(name, value)| format!("{name}: {}", value.as_str().unwrap())).collect()
}

#[test]
fn headers_of_one_hop_and_secrets_are_not_kept_unless_they_are_named() {
    let pairs = [
        ("host", "x"),
        ("x-kind", "a"),
        ("x-kind", "b"),
        ("authorization", "Basic x"),
        ("x-amz-security-token", "x"),
        ("x-auth-token", "x"),
        ("x-csrf-token", "x"),
        ("x-client-secret", "x"),
        ("set-cookie2", "x"),
        ("x-gitlab-token", "x"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-api-key", "key=s3cret"),
        ("webhook-signature", "v1,x"),
        // The outbox refuses them.
        ("webhook_signature", "v1,x"),
        ("content_length", "1"),
        ("proxy_authorization", "x"),
    ];
    let secret = [("verify", "token"), ("secret", "s3cret")];
    assert_eq!(kept(&secret, &pairs), [""; 0]);
    let all = [secret[0], secret[1], ("headers", "*")];
    assert_eq!(kept(&all, &pairs), ["webhook-signature: v1,x", "x-kind: a, b"]);
    let named = "x-kind, x-gitlab-token, X-Api-Key, x-forwarded-for, proxy_authorization";
    let named = [secret[0], secret[1], ("headers", named)];
    assert_eq!(
        kept(&named, &pairs),
        ["x-api-key: key=s3cret", "x-forwarded-for: 10.0.0.1", "x-gitlab-token: x", "x-kind: a, b"]
    );
    assert_eq!(kept(&[("headers", "x-*")], &pairs), ["x-kind: a, b"]);
}

/// Names of credentials that no list of secrets knows: a company's own, and a signature.
#[test]
fn of_a_scheme_its_list_is_kept_and_nothing_that_is_on_none() {
    let pairs = [
        ("x-github-event", "push"),
        ("x-github-delivery", "1"),
        ("x-hub-signature-256", "sha256=x"),
        ("x-gitlab-event", "Push Hook"),
        ("x-shopify-topic", "orders/create"),
        ("x-acme-pass", "x"),
        ("x-vault", "x"),
        ("x-real-ip", "10.0.0.1"),
        ("content-type", "application/json"),
        ("user-agent", "GitHub-Hookshot/1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("x-request-id", "it was s3cret"),
    ];
    let of_all = ["content-type: application/json", pairs[10].1, "user-agent: GitHub-Hookshot/1"];
    let traceparent = format!("traceparent: {}", of_all[1]);
    let of_github = ["x-github-delivery: 1", "x-github-event: push"];
    for (scheme, of_scheme) in [
        ("github", &of_github[..]),
        ("gitlab", &["x-gitlab-event: Push Hook"]),
        ("shopify", &["x-shopify-topic: orders/create"]),
        ("token", &[]),
    ] {
        let common = [of_all[0], traceparent.as_str(), of_all[2]];
        let expected = [&common[..], of_scheme].concat();
        assert_eq!(kept(&[("verify", scheme), ("secret", "s3cret")], &pairs), expected, "{scheme}");
    }
}

#[test]
fn what_is_kept_fits_into_the_outbox_and_what_is_named_comes_first() {
    let many: Vec<_> = (0..100).map(|n| (format!("x-a{n:03}"), "v".repeat(100))).collect();
    let mut pairs: Vec<_> = many.iter().map(|(n, value)| (n.as_str(), value.as_str())).collect();
    let (long, whole) = ("v".repeat(4097), "v".repeat(4096));
    pairs.extend([("x-long", long.as_str()), ("x-named", "it"), ("x-whole", whole.as_str())]);
    let kept = |pairs: &[(&str, &str)]| {
        let named_too = [("verify", "token"), ("secret", "s3cret"), ("headers", "x-*, x-named")];
        let made = incoming(&source(&named_too), named("x"), pairs, "{}").unwrap();
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&made.headers).unwrap()
    };
    let all = kept(&pairs);
    assert_eq!(all.len(), 64);
    assert!(all.contains_key("x-named") && !all.contains_key("x-long"));
    let wholes: Vec<_> = (0..9).map(|n| (format!("x-{n}"), whole.clone())).collect();
    let wholes: Vec<_> = wholes.iter().map(|(n, value)| (n.as_str(), value.as_str())).collect();
    assert_eq!(kept(&wholes).len(), 3, "16 KiB in all, with the names");
    assert_eq!(kept(&[("x-whole", whole.as_str())]).len(), 1);
}

#[test]
fn an_address_is_looked_up_as_it_is_also_where_it_came_by_the_other_family() {
    let source = source(&[("clients", "10.0.0.0/8, 2001:db8::/32")]);
    for (address, admitted) in [
        ("10.1.2.3", true),
        ("::ffff:10.1.2.3", true),
        ("2001:db8::1", true),
        ("11.0.0.1", false),
        ("::ffff:11.0.0.1", false),
        ("::1", false),
    ] {
        assert_eq!(source.admits(address.parse().unwrap()), admitted, "{address}");
    }
}
