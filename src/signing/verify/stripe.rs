//! Stripe: `Stripe-Signature` is `t={timestamp},v1={hex},…`, where each `v1` is the HMAC-SHA256 of
//! `{timestamp}.{body}`. While a secret is being rolled there are several; other schemes (`v0` of
//! test events) are passed over, so that a forger cannot choose a weaker one.
//! <https://docs.stripe.com/webhooks#verify-manually>. The key is the signing secret as it is
//! shown, with its `whsec_`; unlike in Standard Webhooks nothing is decoded.
//!
//! The id and the name of an event are `id` and `type` in the body; each attempt is signed anew,
//! with its own timestamp.

use hyper::HeaderMap;
use ring::hmac;
use serde::Deserialize;

use super::body::{self, Text};
use super::timestamp::Freshness;
use super::{NotVerified, Verified, compare, encoding, headers};

const SIGNATURE: &str = "Stripe-Signature";

#[derive(Deserialize, Default)]
struct Event {
    id: Option<Text>,
    r#type: Option<Text>,
}

pub(super) fn verify(
    keys: &[hmac::Key],
    headers: &HeaderMap,
    body: &[u8],
    window: Freshness,
) -> Result<Verified, NotVerified> {
    let (timestamp, signatures) = read(headers, window)?;
    if !compare::any_mac(keys, &[timestamp, b".", body], &signatures) {
        return Err(NotVerified::SignatureMismatch);
    }
    let event: Event = body::peek(body);
    Ok(Verified { id: Text::usable(event.id), event_type: Text::usable(event.r#type) })
}

/// The time and the signatures.
pub(super) fn read(
    headers: &HeaderMap,
    window: Freshness,
) -> Result<(&[u8], Vec<encoding::Mac>), NotVerified> {
    let (timestamp, signatures) = parse(headers::required(headers, SIGNATURE)?)?;
    window.check(SIGNATURE, timestamp)?;
    Ok((timestamp, signatures))
}

/// The timestamp's digits and every `v1` that can be one.
fn parse(header: &[u8]) -> Result<(&[u8], Vec<encoding::Mac>), NotVerified> {
    let malformed = NotVerified::Malformed {
        header: SIGNATURE,
        expected: "`t=`, a time, and `v1=`, 64 hex digits",
    };
    let mut timestamp = None;
    let mut signatures = Vec::new();
    for item in header.split(|&byte| byte == b',') {
        let item = item.trim_ascii();
        if let Some(digits) = item.strip_prefix(b"t=") {
            if timestamp.replace(digits).is_some() {
                return Err(malformed);
            }
        } else if let Some(mac) = item.strip_prefix(b"v1=").and_then(encoding::hex) {
            if signatures.len() == compare::SIGNATURES_MAX {
                let most = compare::SIGNATURES_MAX;
                return Err(NotVerified::TooManySignatures { header: SIGNATURE, most });
            }
            signatures.push(mac);
        }
    }
    let timestamp = timestamp.ok_or(malformed)?;
    if signatures.is_empty() {
        return Err(NotVerified::NoSignature(SIGNATURE));
    }
    Ok((timestamp, signatures))
}
