//! Standard Webhooks, with shared secrets and with key pairs.

use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::{Example, NotVerified, Scheme, VerifierSecretFault, example, fault};

const SYMMETRIC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
const V1: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
const V1A: &str =
    "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";
const PROOF: [&str; 3] = ["webhook-id", "webhook-timestamp", "webhook-signature"];

fn signed(secrets: [&'static str; 2], signature: &str) -> Example {
    let body = r#"{"test": 2432232314}"#;
    let mut example = example(Scheme::Standard, secrets, &PROOF, body, 1_614_265_330)
        .header("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek")
        .header("webhook-timestamp", "1614265330")
        .header("webhook-signature", signature)
        .is("msg_p5jXN8AQM9LWM0D4loKWxJek", "");
    example.timestamp = Some("webhook-timestamp");
    example
}

/// In the tests of all libraries of <https://github.com/standard-webhooks/standard-webhooks>.
pub(super) fn symmetric() -> Example {
    signed([SYMMETRIC, "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"], V1)
}

/// In the tests of <https://github.com/svix/svix-webhooks> (`worker.rs`).
pub(super) fn asymmetric() -> Example {
    signed([PUBLIC, "whpk_0QTPLmiyimvaLSmGxPVDb2AyUFLn7R53ZHgQNiDGCHo="], V1A)
}

fn put(signature: &str) -> Result<super::Verified, NotVerified> {
    symmetric().header("webhook-signature", signature).verify()
}

#[test]
fn one_of_the_list_suffices_and_other_versions_are_passed_over() {
    let wrong = "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    put(&format!("v2,abc {wrong}  {V1A} {V1}")).unwrap();
    put(&format!("{V1} {wrong}")).unwrap();
    assert_eq!(put(&format!("{wrong} {wrong}")), Err(NotVerified::SignatureMismatch));
    // only another kind of secret could check this one
    assert_eq!(put(V1A), Err(NotVerified::SignatureMismatch));
    assert_eq!(asymmetric().header(PROOF[2], V1).verify(), Err(NotVerified::SignatureMismatch));
    let mixed = symmetric().header("webhook-signature", &format!("{V1A} {wrong}"));
    mixed.verify_with(&[SYMMETRIC, PUBLIC]).unwrap();
}

#[test]
fn what_is_no_signature_is_none() {
    let mac = V1.strip_prefix("v1,").unwrap();
    for nothing in [
        "v1,",
        "v1",
        mac,
        &V1[..11],
        &format!("v2,{mac}"),
        &format!("V1,{mac}"),
        &format!("v1a,{mac}"),
        &format!("v1={mac}"),
        &format!("v1,{}", mac.trim_end_matches('=')),
        &format!("v1,{mac}="),
        &format!("v1,{}", mac.replace('+', "-")),
        &format!("{V1},{V1}"),
    ] {
        assert_eq!(put(nothing), Err(NotVerified::NoSignature("webhook-signature")), "{nothing}");
    }
}

#[test]
fn the_list_is_bounded() {
    let wrong = format!("v1,{}= ", "A".repeat(43));
    put(&format!("{}{V1}", wrong.repeat(7))).unwrap();
    let many = |most| Err(NotVerified::TooManySignatures { header: "webhook-signature", most });
    assert_eq!(put(&format!("{}{V1}", wrong.repeat(8))), many(8));
    // Each of these is checked against every public key, before anything is known about the sender.
    let wrong = format!("v1a,{}== ", "A".repeat(86));
    let put = |list: &str| asymmetric().header("webhook-signature", list).verify();
    put(&format!("{}{V1A}", wrong.repeat(2))).unwrap();
    assert_eq!(put(&format!("{}{V1A}", wrong.repeat(3))), many(3));
    // also where no key is there to check them
    let known = symmetric().header("webhook-signature", &format!("{V1} {}", wrong.repeat(4)));
    assert_eq!(known.verify(), many(3));
}

#[test]
fn an_id_with_a_dot_would_let_the_signed_bytes_be_read_in_two_ways() {
    let mut moved = symmetric().header("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330");
    moved.verify().unwrap_err();
    moved = symmetric().header("webhook-id", "msg.1");
    let expected = "webhook-id is not an id without a dot";
    assert_eq!(moved.verify().unwrap_err().to_string(), expected);
}

#[test]
fn svix_names_the_same_headers_otherwise() {
    let mut svix = symmetric();
    for name in PROOF {
        let value = svix.headers.remove(name).unwrap();
        svix.headers.insert(super::named(&name.replace("webhook", "svix")), value);
    }
    assert_eq!(svix.verify(), Ok(svix.is.clone()));
    svix.headers.remove("svix-id");
    assert_eq!(svix.verify(), Err(NotVerified::Missing("svix-id")));
    // no header of one name with one of the other
    let mut both = symmetric().header("svix-signature", V1);
    both.verify().unwrap();
    both.headers.remove("webhook-signature");
    assert_eq!(both.verify(), Err(NotVerified::Missing("svix-id")));
}

#[test]
fn the_bodys_type_names_the_event() {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let encode = |bytes: &[u8]| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(bytes)
    };
    let public: &'static str = format!("whpk_{}", encode(pair.public_key().as_ref())).leak();
    let body = r#"{"type":"user.created","data":{"type":"inner"}}"#;
    let signature = pair.sign(format!("msg_1.1614265330.{body}").as_bytes());
    let mut example = signed([public, PUBLIC], &format!("v1a,{}", encode(signature.as_ref())))
        .header("webhook-id", "msg_1");
    example.body = body.as_bytes().to_vec();
    assert_eq!(example.verify(), Ok(example.clone().is("msg_1", "user.created").is));
}

#[test]
fn the_body_may_be_empty() {
    use crate::{model::secret::Secret, signing::sign::Signer};
    let signer = Signer::new(&[Secret::new(SYMMETRIC.to_owned())]).unwrap();
    let mut empty = symmetric().header(
        "webhook-signature",
        &signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b""),
    );
    empty.body.clear();
    assert_eq!(empty.verify(), Ok(empty.is.clone()));
}

#[test]
fn keys_of_another_kind_are_explained() {
    let standard = |secret| fault(Scheme::Standard, secret);
    assert_eq!(standard("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), VerifierSecretFault::UnknownPrefix);
    assert_eq!(standard("whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), VerifierSecretFault::SendersKey);
    assert_eq!(standard("whsec_"), VerifierSecretFault::EmptyKey);
    assert_eq!(standard("whsec_not base64"), VerifierSecretFault::NotBase64);
    assert_eq!(standard("whpk_"), VerifierSecretFault::PublicKeyLength { found: 0 });
    assert_eq!(standard("whpk_AAAA"), VerifierSecretFault::PublicKeyLength { found: 3 });
}
