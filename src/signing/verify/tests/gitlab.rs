//! GitLab, with a secret token and with a signing token.

use super::{Example, NotVerified, Scheme, VerifierSecretFault, example, fault};

const KEY: &str = "908a6d9e-45fd-46c8-97e6-c4f350f219dd";
const SIGNING: &str = "whsec_cG9zdGhhc3RlIHZlcmlmaWVzIHdoYXQgaXQgaGVhcnM=";

/// The headers are those of
/// <https://docs.gitlab.com/user/project/integrations/webhooks/#delivery-headers>.
pub(super) fn with_token() -> Example {
    let secrets = ["glsecret-7Jx", "glsecret-7Jy"];
    let body = r#"{"object_kind":"push"}"#;
    example(Scheme::Gitlab, secrets, &["X-Gitlab-Token"], body, 0)
        .header("X-Gitlab-Token", "glsecret-7Jx")
        .header("X-Gitlab-Event", "Push Hook")
        .header("X-Gitlab-Webhook-UUID", "02affd2d-2cba-4033-917d-ec22d5dc4b38")
        .header("X-Gitlab-Event-UUID", "13792a34-cac6-4fda-95a8-c58e00a3954e")
        .header("Idempotency-Key", KEY)
        .is(KEY, "Push Hook")
}

/// GitLab publishes no example; the signature was computed with `openssl dgst -sha256 -mac HMAC`.
pub(super) fn signed() -> Example {
    let secrets = [SIGNING, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"];
    let proof = &["webhook-id", "webhook-timestamp", "webhook-signature"];
    let body = r#"{"object_kind":"push"}"#;
    let mut example = example(Scheme::Gitlab, secrets, proof, body, 1_700_000_000)
        .header("X-Gitlab-Event", "Push Hook")
        .header("Idempotency-Key", KEY)
        .header("webhook-id", KEY)
        .header("webhook-timestamp", "1700000000")
        .header("webhook-signature", "v1,K8Oi2WLZIKDCtbovq5l2kEFzFbiHCSNXwZbQz4IYuMY=")
        .is(KEY, "Push Hook");
    example.timestamp = Some("webhook-timestamp");
    example
}

#[test]
fn a_hook_may_send_both_and_a_source_may_know_one() {
    let both = signed().header("X-Gitlab-Token", "glsecret-7Jx");
    both.verify_with(&[SIGNING]).unwrap();
    both.verify_with(&["glsecret-7Jx"]).unwrap();
    both.verify_with(&["glsecret-7Jx", SIGNING]).unwrap();
    with_token().verify_with(&[SIGNING, "glsecret-7Jx"]).unwrap();
}

#[test]
fn a_wrong_signature_is_not_rescued_by_the_right_token() {
    let both = signed().header("X-Gitlab-Token", "glsecret-7Jx");
    let mut changed = both.clone();
    changed.body.push(b' ');
    let secrets = ["glsecret-7Jx", SIGNING];
    assert_eq!(changed.verify_with(&secrets), Err(NotVerified::SignatureMismatch));
    let old = both.verify_at(&secrets, both.at + 301);
    assert_eq!(old, Err(NotVerified::TooOld));
}

#[test]
fn a_signing_token_is_never_a_secret_token() {
    let shown = with_token().header("X-Gitlab-Token", SIGNING);
    assert_eq!(shown.verify_with(&[SIGNING]), Err(NotVerified::Missing("webhook-id")));
    let refusal = shown.verify_with(&[SIGNING, "glsecret-7Jx"]);
    assert_eq!(refusal, Err(NotVerified::TokenMismatch));
    assert_eq!(fault(Scheme::Gitlab, "whsec_"), VerifierSecretFault::EmptyKey);
    assert_eq!(fault(Scheme::Gitlab, "whsec_~"), VerifierSecretFault::NotBase64);
}

#[test]
fn a_token_matches_whole_or_not_at_all() {
    for wrong in ["glsecret-7J", "glsecret-7Jxx", "Glsecret-7Jx", "x", "glsecret-7Jx, glsecret-7Jx"]
    {
        let refusal = with_token().header("X-Gitlab-Token", wrong).verify();
        assert_eq!(refusal, Err(NotVerified::TokenMismatch), "{wrong}");
    }
}

#[test]
fn a_token_need_not_be_ascii() {
    let mut example = with_token();
    let value = hyper::header::HeaderValue::from_bytes("schlüssel".as_bytes()).unwrap();
    example.headers.insert("x-gitlab-token", value);
    example.verify_with(&["schlüssel"]).unwrap();
    assert_eq!(example.verify_with(&["schlussel"]), Err(NotVerified::TokenMismatch));
}

#[test]
fn only_the_idempotency_key_is_the_id_and_a_signed_one_goes_first() {
    let mut old = with_token();
    old.headers.remove("Idempotency-Key");
    assert_eq!(old.verify().unwrap().id, None);
    let swapped = signed().header("Idempotency-Key", "another");
    assert_eq!(swapped.verify().unwrap().id.as_deref(), Some(KEY));
}
