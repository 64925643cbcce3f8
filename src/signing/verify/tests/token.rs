//! A token where the sender can put it.

use hyper::header::HeaderValue;
use jiff::Timestamp;

use super::{Example, NotVerified, Scheme, example, named, verifier};

pub(super) fn bearer() -> Example {
    let secrets = ["a-token", "b-token"];
    example(Scheme::Token, secrets, &["Authorization"], "{}", 0)
        .header("Authorization", "Bearer a-token")
        .header("Idempotency-Key", "8e03978e")
        .is("8e03978e", "")
}

fn put(authorization: &str) -> Result<super::Verified, NotVerified> {
    bearer().header("Authorization", authorization).verify()
}

#[test]
fn the_word_bearer_may_be_written_in_any_way_or_be_missing() {
    for right in ["bearer a-token", "BEARER a-token", "Bearer   a-token", "a-token"] {
        put(right).unwrap();
    }
    for wrong in [
        "Bearer",
        "Bearer ",
        "Bearer a-toke",
        "Bearer a-token2",
        "Bearer A-TOKEN",
        "Bearera-token",
        "Basic a-token",
        "Bearer Bearer a-token",
        "Bearer a-token, Bearer a-token",
        "Bearer b-token",
    ] {
        assert_eq!(put(wrong), Err(NotVerified::TokenMismatch), "{wrong}");
    }
}

#[test]
fn the_secret_may_be_the_whole_value() {
    let basic = bearer().header("Authorization", "Basic YWRtaW46c3VwZXJzZWNyZXQ=");
    basic.verify_with(&["Basic YWRtaW46c3VwZXJzZWNyZXQ="]).unwrap();
    basic.verify_with(&["YWRtaW46c3VwZXJzZWNyZXQ="]).unwrap_err();
    bearer().verify_with(&["Bearer a-token"]).unwrap();
}

#[test]
fn a_header_of_its_own_alone_counts() {
    let mut own =
        bearer().header("Authorization", "Basic cHJveHk=").header("X-Webhook-Token", "a-token");
    own.verify().unwrap();
    own = bearer().header("X-Webhook-Token", "b-token");
    assert_eq!(own.verify(), Err(NotVerified::TokenMismatch));
    own = bearer().header("X-Webhook-Token", "");
    assert_eq!(own.verify(), Err(NotVerified::TokenMismatch));
    own.headers.append(named("X-Webhook-Token"), "a-token".parse().unwrap());
    assert_eq!(own.verify(), Err(NotVerified::Repeated("X-Webhook-Token")));
}

#[test]
fn a_token_of_any_length_is_compared_whole() {
    // HMAC takes a key of more than 64 bytes for its hash, and fills up a shorter one with zeros
    let long = "k".repeat(65);
    let hash = ring::digest::digest(&ring::digest::SHA256, long.as_bytes());
    let mut example = bearer();
    let tokens = verifier(Scheme::Token, &[&long]).unwrap();
    let mut verify = |value: &[u8]| {
        let value = HeaderValue::from_bytes(value).ok()?;
        example.headers.insert("authorization", value);
        Some(tokens.verify(&example.headers, &[], Timestamp::UNIX_EPOCH).is_ok())
    };
    assert_eq!(verify(long.as_bytes()), Some(true));
    assert_ne!(verify(hash.as_ref()), Some(true));
    assert_eq!(verify(&[b'k'; 64]), Some(false));
    assert_eq!(verify(&[b'k'; 66]), Some(false));
}
