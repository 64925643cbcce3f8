//! Stripe's header is a list.

use super::{Example, NotVerified, Scheme};

const BODY: &str = r#"{"id":"evt_1OqX","object":"event","type":"invoice.paid"}"#;
const V1: &str = "2084bec6ffe9ce65cb610f2fd859b8cde58473e281478c4fddae1d95e8f71590";
/// Of the same with `whsec_older`.
const V1_OLDER: &str = "f987f4202f068a2a151f75d5fb63db3c4f7b99e96d2acd6a0de300b9c4168457";
const V0: &str = "6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39";

/// The header as on <https://docs.stripe.com/webhooks#verify-manually>, which signs nothing one
/// could check; so the signatures were computed with `openssl dgst -sha256 -hmac`.
pub(super) fn example() -> Example {
    let secrets = ["whsec_2bTn0dYqvKx8", "whsec_2bTn0dYqvKx9"];
    let mut example =
        super::example(Scheme::Stripe, secrets, &["Stripe-Signature"], BODY, 1_700_000_000)
            .header("Stripe-Signature", &format!("t=1700000000,v1={V1},v0={V0}"))
            .is("evt_1OqX", "invoice.paid");
    example.timestamp = Some("Stripe-Signature");
    example
}

fn put(header: &str) -> Result<super::Verified, NotVerified> {
    example().header("Stripe-Signature", header).verify()
}

#[test]
fn while_a_secret_is_rolled_there_are_two_signatures_and_one_suffices() {
    let rolled = format!("t=1700000000,v1={V1},v1={V1_OLDER}");
    let example = example().header("Stripe-Signature", &rolled);
    example.verify().unwrap();
    example.verify_with(&["whsec_older"]).unwrap();
    example.verify_with(&["whsec_oldest", "whsec_older"]).unwrap();
    assert_eq!(example.verify_with(&["whsec_oldest"]), Err(NotVerified::SignatureMismatch));
}

#[test]
fn other_schemes_are_passed_over_and_prove_nothing() {
    put(&format!("v2=~,t=1700000000,x,=,v0={V0},v1=short,v1={}, v1={V1}", "0".repeat(64))).unwrap();
    put(&format!("t=1700000000,v1={}", V1.to_uppercase())).unwrap();
    let none = Err(NotVerified::NoSignature("Stripe-Signature"));
    assert_eq!(put(&format!("t=1700000000,v0={V1}")), none);
    assert_eq!(put(&format!("t=1700000000,v1{V1}")), none);
    assert_eq!(put(&format!("t=1700000000,v1={}", &V1[..8])), none);
    assert_eq!(put("t=1700000000,v1="), none);
    assert_eq!(put("t=1700000000"), none);
}

#[test]
fn there_is_one_timestamp() {
    for header in [
        format!("v1={V1}"),
        format!("t=1700000000,t=1700000000,v1={V1}"),
        format!("t=1,v1={V1},t=1700000000"),
        format!("t=,v1={V1}"),
        format!("T=1700000000,v1={V1}"),
        ",".to_owned(),
    ] {
        let refusal = put(&header).unwrap_err();
        assert!(matches!(refusal, NotVerified::Malformed { .. }), "{header}: {refusal:?}");
    }
}

#[test]
fn the_list_is_bounded() {
    let zeros = format!(",v1={}", "0".repeat(64));
    put(&format!("t=1700000000{},v1={V1}", zeros.repeat(7))).unwrap();
    let many = Err(NotVerified::TooManySignatures { header: "Stripe-Signature", most: 8 });
    assert_eq!(put(&format!("t=1700000000{},v1={V1}", zeros.repeat(8))), many);
}

#[test]
fn what_was_signed_cannot_be_taken_apart_otherwise() {
    // `1700000000.` and the body, with the dot moved into the timestamp or out of the body
    let mut moved = example().header("Stripe-Signature", &format!("t=1700000000.{{,v1={V1}"));
    moved.body.remove(0);
    assert!(matches!(moved.verify(), Err(NotVerified::Malformed { .. })));
    let mut moved = example().header("Stripe-Signature", &format!("t=170000000,v1={V1}"));
    moved.at = 170_000_000;
    moved.body.splice(0..0, *b"0.");
    assert_eq!(moved.verify(), Err(NotVerified::SignatureMismatch));
}
