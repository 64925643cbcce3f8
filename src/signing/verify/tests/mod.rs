//! Properties of every scheme, tested with an example of each. Properties of one scheme stand in
//! its own module; the examples' sources are named where they are made.

mod gitlab;
mod hmacs;
mod properties;
mod standard;
mod stripe;
mod token;

use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use jiff::Timestamp;

use super::{NotVerified, Scheme, Verified, Verifier, VerifierError, VerifierSecretFault};

const TOLERANCE: Duration = Duration::from_secs(300);

/// A request that its source signed, and the secrets around it.
#[derive(Debug, Clone)]
struct Example {
    scheme: Scheme,
    secret: &'static str,
    /// Another secret of the same kind, which did not sign this.
    other: &'static str,
    /// The headers without which it is not verified.
    proof: &'static [&'static str],
    /// The one of them that holds the timestamp.
    timestamp: Option<&'static str>,
    headers: HeaderMap,
    body: Vec<u8>,
    /// When it was signed, or any time at all.
    at: i64,
    is: Verified,
}

impl Example {
    fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(named(name), HeaderValue::from_str(value).unwrap());
        self
    }

    fn is(mut self, id: &str, event_type: &str) -> Self {
        let said = |it: &str| Some(it.to_owned()).filter(|it| !it.is_empty());
        self.is = Verified { id: said(id), event_type: said(event_type) };
        self
    }

    fn verify(&self) -> Result<Verified, NotVerified> {
        self.verify_with(&[self.secret])
    }

    fn verify_with(&self, secrets: &[&str]) -> Result<Verified, NotVerified> {
        self.verify_at(secrets, self.at)
    }

    fn verify_at(&self, secrets: &[&str], now: i64) -> Result<Verified, NotVerified> {
        let now = Timestamp::from_second(now).unwrap();
        let verifier = verifier(self.scheme, secrets).unwrap();
        let verified = verifier.verify(&self.headers, &self.body, now);
        // Whatever the headers alone tell is told without the body, and nothing else.
        let by_headers =
            verified.as_ref().err().filter(|&&it| it != NotVerified::SignatureMismatch);
        assert_eq!(verifier.look(&self.headers, now).err().as_ref(), by_headers, "{self:?}");
        verified
    }
}

fn named(name: &str) -> HeaderName {
    name.parse().unwrap()
}

fn verifier(scheme: Scheme, secrets: &[&str]) -> Result<Verifier, VerifierError> {
    let secrets: Vec<String> = secrets.iter().map(|&it| it.to_owned()).collect();
    Verifier::new(scheme, &secrets, TOLERANCE)
}

fn fault(scheme: Scheme, secret: &str) -> VerifierSecretFault {
    match verifier(scheme, &[secret]) {
        Err(VerifierError::Secret { nth: 1, fault }) => fault,
        other => panic!("{scheme} made of `{secret}` {other:?}"),
    }
}

fn example(
    scheme: Scheme,
    secrets: [&'static str; 2],
    proof: &'static [&'static str],
    body: &str,
    at: i64,
) -> Example {
    Example {
        scheme,
        secret: secrets[0],
        other: secrets[1],
        proof,
        timestamp: None,
        headers: HeaderMap::new(),
        body: body.as_bytes().to_vec(),
        at,
        is: Verified { id: None, event_type: None },
    }
}

fn examples() -> Vec<Example> {
    vec![
        gitlab::with_token(),
        gitlab::signed(),
        hmacs::github(),
        hmacs::slack(),
        hmacs::shopify(),
        stripe::example(),
        standard::symmetric(),
        standard::asymmetric(),
        token::bearer(),
    ]
}

#[test]
fn a_signed_request_is_verified_and_says_what_it_is() {
    for example in examples() {
        assert_eq!(example.verify(), Ok(example.is.clone()), "{example:?}");
    }
}

#[test]
fn a_flipped_bit_of_a_signed_body_is_noticed() {
    for example in examples().into_iter().filter(Example::signs_its_body) {
        for bit in 0..8 * example.body.len() {
            let mut forged = example.clone();
            forged.body[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                forged.verify(),
                Err(NotVerified::SignatureMismatch),
                "bit {bit}: {example:?}"
            );
        }
        let mut longer = example.clone();
        longer.body.push(b' ');
        assert_eq!(longer.verify(), Err(NotVerified::SignatureMismatch), "{example:?}");
        let mut empty = example.clone();
        empty.body.clear();
        assert_eq!(empty.verify(), Err(NotVerified::SignatureMismatch), "{example:?}");
    }
}

impl Example {
    fn signs_its_body(&self) -> bool {
        !self.proof.iter().any(|it| ["X-Gitlab-Token", "Authorization"].contains(it))
    }
}

#[test]
fn a_header_of_the_proof_must_be_there_once() {
    for example in examples() {
        for &name in example.proof {
            let mut without = example.clone();
            without.headers.remove(name);
            assert_eq!(without.verify(), Err(NotVerified::Missing(name)), "{example:?}");

            for empty in ["", "   "] {
                let empty = example.clone().header(name, empty);
                assert_eq!(empty.verify(), Err(NotVerified::Missing(name)), "{example:?}");
            }

            let mut twice = example.clone();
            let value = twice.headers[name].clone();
            twice.headers.append(named(name), value);
            assert_eq!(twice.verify(), Err(NotVerified::Repeated(name)), "{example:?}");

            let mut huge = example.clone();
            let value = format!("{},{}", huge.headers[name].to_str().unwrap(), "1".repeat(4096));
            huge = huge.header(name, &value);
            assert_eq!(huge.verify(), Err(NotVerified::TooLong(name)), "{example:?}");

            let mut strange = example.clone();
            strange.headers.insert(named(name), HeaderValue::from_bytes(b"\xff\xfe=\xfd").unwrap());
            strange.verify().unwrap_err();
        }
    }
}

#[test]
fn another_secret_did_not_sign_it_and_any_of_several_may_have() {
    for example in examples() {
        let (right, wrong) = (example.secret, example.other);
        let mismatch = example.verify_with(&[wrong]).unwrap_err();
        assert!(
            matches!(mismatch, NotVerified::SignatureMismatch | NotVerified::TokenMismatch),
            "{mismatch:?}: {example:?}"
        );
        example.verify_with(&[wrong, right]).unwrap();
        example.verify_with(&[right, wrong]).unwrap();
        example.verify_with(&[wrong, wrong]).unwrap_err();
    }
}

#[test]
fn a_timestamp_too_far_from_now_is_refused_either_way() {
    let mut timed = 0;
    for example in examples() {
        let at = |now| example.verify_at(&[example.secret], now);
        if example.timestamp.is_none() {
            at(0).unwrap();
            at(253_402_000_000).unwrap();
            continue;
        }
        timed += 1;
        at(example.at - 300).unwrap();
        at(example.at + 300).unwrap();
        assert_eq!(at(example.at + 301), Err(NotVerified::TooOld), "{example:?}");
        assert_eq!(at(example.at - 301), Err(NotVerified::TooNew), "{example:?}");
        assert_eq!(at(Timestamp::MIN.as_second()), Err(NotVerified::TooNew), "{example:?}");
        assert_eq!(at(Timestamp::MAX.as_second()), Err(NotVerified::TooOld), "{example:?}");
    }
    assert_eq!(timed, 5, "gitlab signed, slack, stripe, standard twice");
}

#[test]
fn a_timestamp_is_digits_that_fit_and_those_that_were_signed() {
    for example in examples() {
        let Some(name) = example.timestamp else { continue };
        let signed = example.at.to_string();
        let put = |timestamp: &str| {
            let value = example.headers[name].to_str().unwrap().replace(&signed, timestamp);
            example.clone().header(name, &value).verify().unwrap_err()
        };
        let is_malformed = |it: &NotVerified| matches!(it, NotVerified::Malformed { header, .. } if *header == name);
        for timestamp in [
            format!("+{signed}"),
            format!("-{signed}"),
            format!("{signed}.0"),
            format!("0x{signed}"),
            "9223372036854775808".to_owned(),
            "1".repeat(400),
            "soon".to_owned(),
        ] {
            let refusal = put(&timestamp);
            assert!(is_malformed(&refusal), "{timestamp}: {refusal:?}");
        }
        assert_eq!(put("9223372036854775807"), NotVerified::TooNew);
        assert_eq!(put("0"), NotVerified::TooOld);
        assert_eq!(put(&(example.at + 1).to_string()), NotVerified::SignatureMismatch);
        assert_eq!(put(&format!("0{signed}")), NotVerified::SignatureMismatch, "the same number");
    }
}

#[test]
fn the_proof_of_one_scheme_is_none_for_another() {
    let verifiers: Vec<_> = examples()
        .iter()
        .map(|it| (it.secret, verifier(it.scheme, &[it.secret]).unwrap()))
        .collect();
    for example in examples() {
        for (secret, other) in verifiers.iter().filter(|(secret, _)| *secret != example.secret) {
            let now = Timestamp::from_second(example.at).unwrap();
            let verified = other.verify(&example.headers, &example.body, now);
            assert!(verified.is_err(), "{other:?} with {secret} took {example:?}");
        }
    }
}

#[test]
fn a_header_that_names_the_event_counts_once_or_not_at_all() {
    let names = ["Idempotency-Key", "X-GitHub-Delivery", "X-Shopify-Webhook-Id", "X-GitHub-Event"];
    // where GitLab signs, the id is part of what it signs
    for example in examples().into_iter().filter(|it| !it.proof.contains(&"webhook-id")) {
        for name in names.into_iter().filter(|name| example.headers.contains_key(*name)) {
            let mut twice = example.clone();
            twice.headers.append(named(name), HeaderValue::from_static("b"));
            assert_eq!(twice.verify(), Err(NotVerified::Repeated(name)), "{example:?}");

            // not a reason to lose the event
            for unusable in [&[b'a'; 256][..], &[b'a'; 5000], b"a\tb", b"\xff\xff", b"", b"  "] {
                let mut example = example.clone();
                example.headers.insert(named(name), HeaderValue::from_bytes(unusable).unwrap());
                let verified = example.verify().unwrap();
                let (id, event_type) = (&verified.id, &verified.event_type);
                assert!(id.is_none() || event_type.is_none(), "{name}: {verified:?}");
                assert_ne!(verified, example.is);
            }
            let longest = "a".repeat(255);
            let verified = example.clone().header(name, &longest).verify().unwrap();
            assert!([verified.id, verified.event_type].contains(&Some(longest)));
        }
    }
}

#[test]
fn without_a_scheme_every_request_is_accepted() {
    let everybody = example(Scheme::None, ["", ""], &[], "anything", 0);
    assert_eq!(everybody.verify_with(&[]), Ok(everybody.is.clone()));
    let named = everybody.header("Idempotency-Key", "5");
    assert_eq!(named.verify_with(&[]).unwrap().id.as_deref(), Some("5"));
}

#[test]
fn a_secret_that_cannot_be_used_is_named_and_described() {
    let all = [
        Scheme::Gitlab,
        Scheme::Github,
        Scheme::Stripe,
        Scheme::Standard,
        Scheme::Slack,
        Scheme::Shopify,
        Scheme::Token,
    ];
    for scheme in all {
        assert_eq!(verifier(scheme, &[]).unwrap_err(), VerifierError::NoSecret(scheme));
        assert_eq!(fault(scheme, ""), VerifierSecretFault::Empty);
        assert_eq!(fault(scheme, " \n"), VerifierSecretFault::Empty);
        assert_eq!(
            fault(scheme, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"),
            VerifierSecretFault::WhiteSpace
        );
        let many = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"; 11];
        verifier(scheme, &many[..10]).unwrap();
        assert_eq!(verifier(scheme, &many).unwrap_err(), VerifierError::TooMany);
    }
    assert_eq!(verifier(Scheme::None, &["a"]).unwrap_err(), VerifierError::Needless);
    assert_eq!(
        verifier(Scheme::Github, &["good", ""]).unwrap_err().to_string(),
        "secret 2 is empty"
    );
    assert_eq!(
        verifier(Scheme::Slack, &[]).unwrap_err().to_string(),
        "scheme `slack` needs a secret"
    );
}

#[test]
fn neither_errors_nor_debug_show_a_secret() {
    for example in examples() {
        let shown = format!("{:?}", verifier(example.scheme, &[example.secret]).unwrap());
        assert_eq!(shown, format!("Verifier({}, 1 secrets)", example.scheme));
    }
    for (scheme, secret) in [
        (Scheme::Standard, "whsec_hunter2~"),
        (Scheme::Standard, "whpk_hunter2"),
        (Scheme::Standard, "hunter2"),
        (Scheme::Gitlab, "whsec_hunter2~"),
        (Scheme::Token, " hunter2"),
    ] {
        let error = verifier(scheme, &[secret]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}

#[test]
fn a_refusal_tells_the_sender_what_is_wrong() {
    let expected = "Authorization is longer than 4096 bytes";
    assert_eq!(NotVerified::TooLong("Authorization").to_string(), expected);
    let many = NotVerified::TooManySignatures { header: "Stripe-Signature", most: 8 }.to_string();
    assert_eq!(many, "Stripe-Signature holds more than 8 signatures");
    let github = hmacs::github().header("X-Hub-Signature-256", "sha1=12");
    let expected = "X-Hub-Signature-256 is not `sha256=` and 64 hex digits";
    assert_eq!(github.verify().unwrap_err().to_string(), expected);
}

#[test]
fn a_scheme_is_written_small() {
    let read = |text: &str| serde_json::from_str::<Scheme>(text);
    assert_eq!(read("\"gitlab\"").unwrap(), Scheme::Gitlab);
    assert_eq!(read("\"none\"").unwrap(), Scheme::None);
    read("\"GitLab\"").unwrap_err();
    for example in examples() {
        assert_eq!(read(&format!("\"{}\"", example.scheme)).unwrap(), example.scheme);
    }
}
