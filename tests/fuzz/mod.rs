//! Throws forged webhooks at the verifiers: requests that were signed as their senders do it and
//! then changed, and what comes of them when they are bytes on a connection.
//!
//! A case is made of bytes ([`case`]), so a seed or a fuzzer can drive it. After each one: nothing
//! panicked, it did not take long, and what was believed an independent reading of the senders'
//! documents ([`oracle`]) believes too, and the other way round. Some go over a connection to the
//! door ([`boundary`]); then every answer must be one ([`answers`]), and say what was done.

mod answers;
mod boundary;
mod case;
mod oracle;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hyper::HeaderMap;
use jiff::Timestamp;
use posthaste::clock::Clock;
use posthaste::signing::verify::{NotVerified, Verified, Verifier};

use self::case::{Bytes, Case};

const TOLERANCE: Duration = Duration::from_secs(300);

/// Far more than the largest case needs on a busy machine.
const SLOW: Duration = Duration::from_secs(5);

/// Every so manieth case goes through a connection, which takes longer.
const THROUGH_HTTP: u64 = 4;

/// Bytes of which a case is made; more would only make its body longer.
const BYTES: usize = 512;

type Counts = BTreeMap<String, u64>;

struct Budget {
    seed: u64,
    cases: u64,
    time: Duration,
}

/// A request, and what the verifier and the oracle say of it. Panics if they do not agree.
fn judge(case: &Case, verifier: &Verifier, headers: &HeaderMap, body: &[u8]) -> String {
    let now = Timestamp::from_second(case.now).expect("the case keeps within the range");
    let verified = verifier.verify(headers, body, now);
    let said: Vec<_> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let believed = oracle::believes(case, &said, body);
    match verified {
        Ok(Verified { id, event_type }) => {
            assert!(believed, "took what nobody signed: {case:?} as {headers:?} {body:?}");
            for name in [id, event_type].into_iter().flatten() {
                assert!((1..=255).contains(&name.len()), "{name:?} of {case:?}");
                assert!(!name.contains(char::is_control), "{name:?} of {case:?}");
            }
            "believed".to_owned()
        }
        Err(refusal) => {
            let bound = matches!(
                refusal,
                NotVerified::Repeated(_)
                    | NotVerified::TooLong(_)
                    | NotVerified::TooManySignatures { .. }
            );
            assert!(bound || !believed, "{refusal}, but it is signed: {case:?} as {headers:?}");
            let text = refusal.to_string();
            assert!(text.is_ascii() && text.len() < 120, "{text}");
            format!("refused: {}", sort(refusal))
        }
    }
}

fn sort(refusal: NotVerified) -> &'static str {
    match refusal {
        NotVerified::Missing(_) => "a header is missing",
        NotVerified::Repeated(_) => "a header comes more than once",
        NotVerified::TooLong(_) => "a header is too long",
        NotVerified::Malformed { .. } => "a header is malformed",
        NotVerified::TooManySignatures { .. } => "too many signatures",
        NotVerified::NoSignature(_) => "no signature of a known kind",
        NotVerified::SignatureMismatch => "the signature does not match",
        NotVerified::TokenMismatch => "the token does not match",
        NotVerified::TooOld => "too old",
        NotVerified::TooNew => "too new",
    }
}

/// One case, from any bytes; what became of it, for the count.
pub(crate) fn one(data: &[u8], through_http: bool) -> Vec<String> {
    let mut bytes = Bytes::new(data);
    let case = Case::make(&mut bytes);
    let verifier = Verifier::new(case.scheme, &case.secrets, TOLERANCE).expect("usable secrets");
    let mut became = if through_http {
        boundary::serve(&case, &verifier, &mut bytes)
    } else {
        vec![judge(&case, &verifier, &case.header_map(), &case.body)]
    };
    if case.untouched && !through_http {
        assert_eq!(became, ["believed"], "signed and not changed: {case:?}");
        became.push("signed and not changed".to_owned());
    }
    became.push(format!("of {}", case.scheme));
    became
}

fn fuzz(budget: &Budget) -> Counts {
    let mut counts = Counts::new();
    let mut slowest = Duration::ZERO;
    let began: Instant = Clock.instant();
    for seed in budget.seed..budget.seed.saturating_add(budget.cases) {
        if Clock.since(began) > budget.time {
            break;
        }
        let start = Clock.instant();
        let mut data = [0; BYTES];
        fastrand::Rng::with_seed(seed).fill(&mut data);
        let run = std::panic::catch_unwind(|| one(&data, seed.is_multiple_of(THROUGH_HTTP)));
        let became = run.unwrap_or_else(|_| panic!("seed {seed} fails"));
        for what in became.into_iter().chain(["cases".to_owned()]) {
            *counts.entry(what).or_default() += 1;
        }
        let mut took = Clock.since(start);
        if took >= SLOW {
            // was it the case, or a machine that stood still?
            *counts.entry("slow, then not".to_owned()).or_default() += 1;
            let again = Clock.instant();
            drop(one(&data, seed.is_multiple_of(THROUGH_HTTP)));
            took = Clock.since(again);
        }
        assert!(took < SLOW, "seed {seed} took {took:?}, twice");
        slowest = slowest.max(took);
    }
    counts
        .insert("microseconds for the slowest".to_owned(), slowest.as_micros().try_into().unwrap());
    counts
}

#[test]
fn what_is_believed_was_signed_and_what_was_signed_is_believed() {
    let counts = fuzz(&Budget { seed: 1, cases: 10_000, time: Duration::from_secs(120) });
    for what in [
        "believed",
        "signed and not changed",
        "signed, sent and not changed",
        "refused: the signature does not match",
        "refused: the token does not match",
        "refused: too old",
        "refused: too new",
        "refused: a header is missing",
        "refused: a header comes more than once",
        "refused: a header is malformed",
        "refused: no signature of a known kind",
        "through HTTP: 200",
        "through HTTP: 202",
        "through HTTP: 400",
        "through HTTP: 401",
        "through HTTP: 403",
        "through HTTP: 408",
        "through HTTP: 413",
        "through HTTP: 503",
        "through HTTP: hung up",
    ] {
        assert!(
            counts.get(what).is_some_and(|&count| count > 5),
            "{what}: hardly ever in {counts:#?}"
        );
    }
}

/// `make fuzz`: other seeds, for as long as one likes.
#[test]
#[ignore = "runs for as long as one likes: make fuzz"]
fn fuzz_for_long() {
    let setting = |name: &str, otherwise: u64| {
        let said = std::env::vars().find(|(known, _)| known == name).map(|(_, value)| value);
        said.map_or(otherwise, |value| value.parse().expect("a number"))
    };
    let budget = Budget {
        seed: setting("SEED", 1_000_000),
        cases: setting("CASES", u64::MAX),
        time: Duration::from_secs(60 * setting("MINUTES", 10)),
    };
    for (what, count) in fuzz(&budget) {
        eprintln!("{count:>12} {what}");
    }
}
