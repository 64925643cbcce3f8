//! A token that the sender got, for senders that sign nothing.
//!
//! Most send `Authorization: Bearer …` (RFC 6750); others send the configured text as the whole of
//! `Authorization`, among them Okta
//! (<https://developer.okta.com/docs/guides/secure-hooks/-/main/>), where the text may be `Basic
//! …`. So the secret is compared with the whole value, and with the text after `Bearer`. Where a
//! proxy consumes `Authorization`, `X-Webhook-Token` takes its place; if present, it alone counts.
//!
//! The only id known by convention is `Idempotency-Key`
//! (<https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>); the event has
//! no name.

use hyper::HeaderMap;

use super::compare::TokenFingerprints;
use super::{NotVerified, Verified, headers};

const AUTHORIZATION: &str = "Authorization";

pub(super) fn verify(
    tokens: &TokenFingerprints,
    headers: &HeaderMap,
) -> Result<Verified, NotVerified> {
    if let Some(token) = headers::optional(headers, "X-Webhook-Token")? {
        tokens.check(token)?;
    } else {
        let value = headers::required(headers, AUTHORIZATION)?;
        tokens.check(value).or_else(|refusal| tokens.check(bearer(value).ok_or(refusal)?))?;
    }
    named(headers)
}

/// The id of a request that need not prove anything.
pub(super) fn named(headers: &HeaderMap) -> Result<Verified, NotVerified> {
    Ok(Verified { id: headers::name(headers, "Idempotency-Key")?, event_type: None })
}

/// The token after `Bearer`, which like every such word may be written in capitals.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii_start())
}
