//! A second reading of what the senders document, for comparison with the first: it computes what a
//! header must say and looks for that text, with another implementation of HMAC; it is neither fast
//! nor careful about time. It shares nothing with the verifiers.

use hmac_sha256::HMAC;
use posthaste::signing::verify::Scheme;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::TOLERANCE;
use super::case::Case;

type Headers<'a> = [(&'a str, &'a [u8])];

/// Whether the request is as its source would have signed it. Says nothing of bounds.
pub(super) fn believes(case: &Case, headers: &Headers<'_>, body: &[u8]) -> bool {
    let any = |believes: &dyn Fn(&str) -> bool| case.secrets.iter().any(|it| believes(it));
    match case.scheme {
        Scheme::None => true,
        Scheme::Github => any(&|secret| {
            let right = format!("sha256={}", hex(&mac(secret.as_bytes(), &[body])));
            only(headers, "x-hub-signature-256").is_some_and(|it| hex_equal(it, "sha256=", &right))
        }),
        Scheme::Shopify => any(&|secret| {
            let right = base64(&mac(secret.as_bytes(), &[body]));
            only(headers, "x-shopify-hmac-sha256").is_some_and(|it| it == right.as_bytes())
        }),
        Scheme::Slack => any(&|secret| slack(secret, headers, body, case.now)),
        Scheme::Stripe => any(&|secret| stripe(secret, headers, body, case.now)),
        Scheme::Standard => any(&|secret| standard(secret, headers, body, case.now)),
        Scheme::Token => any(&|secret| token(secret, headers)),
        Scheme::Gitlab => {
            let signs = case.secrets.iter().any(|it| it.starts_with("whsec_"));
            let is_signed = headers.iter().any(|(name, _)| *name == "webhook-signature");
            let has_token = case.secrets.iter().any(|it| !it.starts_with("whsec_"));
            any(&|secret| match secret.starts_with("whsec_") {
                true => (is_signed || !has_token) && standard(secret, headers, body, case.now),
                false => {
                    !(signs && is_signed)
                        && only(headers, "x-gitlab-token") == Some(secret.as_bytes())
                }
            })
        }
    }
}

fn slack(secret: &str, headers: &Headers<'_>, body: &[u8], now: i64) -> bool {
    let Some(time) = only(headers, "x-slack-request-timestamp") else { return false };
    let right = format!("v0={}", hex(&mac(secret.as_bytes(), &[b"v0:", time, b":", body])));
    is_fresh(time, now)
        && only(headers, "x-slack-signature").is_some_and(|it| hex_equal(it, "v0=", &right))
}

fn stripe(secret: &str, headers: &Headers<'_>, body: &[u8], now: i64) -> bool {
    let Some(header) = only(headers, "stripe-signature") else { return false };
    let items: Vec<_> = header.split(|it| *it == b',').map(<[u8]>::trim_ascii).collect();
    let times: Vec<_> = items.iter().filter_map(|it| it.strip_prefix(b"t=")).collect();
    let [time] = times[..] else { return false };
    let right = format!("v1={}", hex(&mac(secret.as_bytes(), &[time, b".", body])));
    is_fresh(time, now) && items.iter().any(|it| hex_equal(it, "v1=", &right))
}

fn standard(secret: &str, headers: &Headers<'_>, body: &[u8], now: i64) -> bool {
    let has = |name: &str| headers.iter().any(|(it, _)| *it == name);
    let family =
        if !has("webhook-signature") && has("svix-signature") { "svix" } else { "webhook" };
    let header = |name: &str| only(headers, &format!("{family}-{name}"));
    let (Some(id), Some(time), Some(list)) =
        (header("id"), header("timestamp"), header("signature"))
    else {
        return false;
    };
    let right = standard_signature(secret, id, time, body);
    let is_in = list.split(|it| *it == b' ').any(|it| it == right.as_bytes());
    is_in && is_fresh(time, now) && !id.contains(&b'.')
}

/// For a public key too: the cases' key pairs are known.
pub(super) fn standard_signature(secret: &str, id: &[u8], time: &[u8], body: &[u8]) -> String {
    if secret.starts_with("whpk_") {
        let seed = (0..=u8::MAX).find(|seed| public_key(*seed) == secret).expect("a key of a case");
        let message = [id, b".", time, b".", body].concat();
        return format!("v1a,{}", base64(pair(seed).sign(&message).as_ref()));
    }
    let key = from_base64(secret.strip_prefix("whsec_").expect("a secret of a case"));
    format!("v1,{}", base64(&mac(&key, &[id, b".", time, b".", body])))
}

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("any 32 bytes are a seed")
}

pub(super) fn public_key(seed: u8) -> String {
    format!("whpk_{}", base64(pair(seed).public_key().as_ref()))
}

fn token(secret: &str, headers: &Headers<'_>) -> bool {
    if headers.iter().any(|(name, _)| *name == "x-webhook-token") {
        return only(headers, "x-webhook-token") == Some(secret.as_bytes());
    }
    let Some(value) = only(headers, "authorization") else { return false };
    let bearer = value.to_ascii_lowercase().starts_with(b"bearer ");
    value == secret.as_bytes() || bearer && value[6..].trim_ascii() == secret.as_bytes()
}

/// The value of a header that is there once and says something.
fn only<'a>(headers: &Headers<'a>, name: &str) -> Option<&'a [u8]> {
    let values: Vec<_> = headers.iter().filter(|(it, _)| *it == name).collect();
    let [(_, value)] = values[..] else { return None };
    Some(value.trim_ascii()).filter(|it| !it.is_empty())
}

fn is_fresh(time: &[u8], now: i64) -> bool {
    let digits = time.iter().all(u8::is_ascii_digit);
    let seconds = std::str::from_utf8(time).ok().and_then(|it| it.parse::<i64>().ok());
    let off = |it: i64| (i128::from(it) - i128::from(now)).unsigned_abs();
    digits && seconds.is_some_and(|it| off(it) <= u128::from(TOLERANCE.as_secs()))
}

/// Hex digits in any case behind a prefix in one.
fn hex_equal(said: &[u8], prefix: &str, right: &str) -> bool {
    said.starts_with(prefix.as_bytes()) && said.eq_ignore_ascii_case(right.as_bytes())
}

pub(super) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    HMAC::mac(parts.concat(), key)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub(super) fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - three.len()));
        for place in 0..4 {
            let six = bits >> (18 - 6 * place) & 63;
            let digit = char::from(ALPHABET[six as usize]);
            text.push(if place > three.len() { '=' } else { digit });
        }
    }
    text
}

fn from_base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut bits, mut held) = (0_u32, 0);
    for digit in text.bytes().filter(|it| *it != b'=') {
        let six = ALPHABET.iter().position(|it| *it == digit).expect("base64");
        (bits, held) = (bits << 6 | u32::try_from(six).expect("less than 64"), held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).expect("eight bits"));
        }
    }
    bytes
}
