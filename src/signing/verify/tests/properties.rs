//! Properties of any request, secret and change.

use hyper::header::HeaderValue;
use proptest::prelude::*;

use super::{Example, Scheme, Verified, examples, named, verifier};
use crate::{model::secret::Secret, signing::sign::Signer};

/// Another letter case says the same in hex digits and in the word `Bearer`, nowhere else.
fn says_the_same(name: &str, at: usize, before: u8, after: u8) -> bool {
    let ignored = match name {
        "Stripe-Signature" => at >= "t=1700000000,v1=".len(),
        "X-Hub-Signature-256" => at >= "sha256=".len(),
        "X-Slack-Signature" => at >= "v0=".len(),
        "Authorization" => at < "Bearer".len(),
        _ => false,
    };
    ignored && before.eq_ignore_ascii_case(&after)
}

/// Text behind the signature that counts in Stripe's header is passed over.
fn proves_something(name: &str, at: usize) -> bool {
    name != "Stripe-Signature" || at < "t=1700000000,v1=".len() + 64
}

fn some_example() -> impl Strategy<Value = Example> {
    proptest::sample::select(examples())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_change_of_a_body_verifies(
        example in some_example(),
        at in any::<prop::sample::Index>(),
        removed in 0usize..4,
        put in prop::collection::vec(any::<u8>(), 0..4),
    ) {
        prop_assume!(example.signs_its_body());
        let mut forged = example.clone();
        let start = at.index(forged.body.len() + 1);
        let end = (start + removed).min(forged.body.len());
        forged.body.splice(start..end, put);
        prop_assume!(forged.body != example.body);
        prop_assert!(forged.verify().is_err());
    }

    #[test]
    fn no_change_of_the_proof_verifies(
        example in some_example(),
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in prop_oneof![0x20u8..0x7f, 0x80u8..=0xff],
    ) {
        let name = *which.get(example.proof);
        let mut value = example.headers[name].as_bytes().to_vec();
        let at = at.index(value.len());
        prop_assume!(byte != value[at] && proves_something(name, at));
        prop_assume!(!says_the_same(name, at, value[at], byte));
        value[at] = byte;
        let mut forged = example.clone();
        forged.headers.insert(named(name), HeaderValue::from_bytes(&value).unwrap());
        prop_assert!(forged.verify().is_err(), "{name}: {:?}", String::from_utf8_lossy(&value));
    }

    #[test]
    fn what_we_sign_the_standard_scheme_verifies(
        id in "[!-~&&[^.]]{1,255}",
        seconds in 0i64..253_402_206_000,
        off in -300i64..=300,
        body in prop::collection::vec(any::<u8>(), 0..200),
        keys in prop::collection::vec((any::<[u8; 32]>(), any::<bool>()), 1..4),
        verify_with in any::<prop::sample::Index>(),
    ) {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        use ring::signature::{Ed25519KeyPair, KeyPair as _};
        let pair = |(key, symmetric): &([u8; 32], bool)| {
            let encoded = STANDARD.encode(key);
            if *symmetric {
                return (format!("whsec_{encoded}"), format!("whsec_{encoded}"));
            }
            let pair = Ed25519KeyPair::from_seed_unchecked(key).unwrap();
            let public = STANDARD.encode(pair.public_key().as_ref());
            (format!("whsk_{encoded}"), format!("whpk_{public}"))
        };
        let pairs: Vec<_> = keys.iter().map(pair).collect();
        let ours: Vec<_> = pairs.iter().map(|(ours, _)| Secret::new(ours.clone())).collect();
        let signature = Signer::new(&ours).unwrap().sign(&id, seconds, &body);

        let mut headers = hyper::HeaderMap::new();
        headers.insert("webhook-id", id.parse().unwrap());
        headers.insert("webhook-timestamp", seconds.to_string().parse().unwrap());
        headers.insert("webhook-signature", signature.parse().unwrap());
        let theirs = verifier(Scheme::Standard, &[&verify_with.get(&pairs).1]).unwrap();
        let now = jiff::Timestamp::from_second((seconds + off).max(0)).unwrap();
        let verified = theirs.verify(&headers, &body, now).unwrap();
        prop_assert_eq!(&verified.id, &Some(id));

        let mut longer = body.clone();
        longer.push(0);
        prop_assert!(theirs.verify(&headers, &longer, now).is_err());
        let stranger = verifier(Scheme::Standard, &["whsec_bm9ib2R5"]).unwrap();
        prop_assert!(stranger.verify(&headers, &body, now).is_err());
    }

    #[test]
    fn nothing_is_verified_by_chance_and_nothing_panics(
        example in some_example(),
        values in prop::collection::vec(prop::collection::vec(prop_oneof![0x20u8..0x7f, 0x80u8..=0xff], 0..120), 3),
        body in prop::collection::vec(any::<u8>(), 0..100),
        now in jiff::Timestamp::MIN.as_second()..=jiff::Timestamp::MAX.as_second(),
    ) {
        let mut random = example;
        for (name, value) in random.proof.iter().zip(values) {
            random.headers.insert(named(name), HeaderValue::from_bytes(&value).unwrap());
        }
        random.body = body;
        prop_assert!(random.verify_at(&[random.secret], now).is_err());
    }

    #[test]
    fn what_is_verified_can_be_stored(text in "(?s).{0,300}") {
        let everybody = verifier(Scheme::None, &[]).unwrap();
        let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) else { return Ok(()) };
        let headers = [(named("Idempotency-Key"), value)].into_iter().collect();
        let now = jiff::Timestamp::UNIX_EPOCH;
        let Verified { id, .. } = everybody.verify(&headers, &[], now).unwrap();
        if let Some(id) = id {
            prop_assert!((1..=255).contains(&id.len()) && !id.contains(char::is_control));
            prop_assert_eq!(id.as_str(), text.trim());
        }
    }
}
