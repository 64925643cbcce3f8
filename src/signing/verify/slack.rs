//! Slack: `X-Slack-Signature` is `v0=` and, in hex, the HMAC-SHA256 of `v0:{timestamp}:{body}`; the
//! timestamp stands in `X-Slack-Request-Timestamp`.
//! <https://docs.slack.dev/authentication/verifying-requests-from-slack>
//!
//! An event's id is the body's `event_id`, the same in every retry, and its name the inner
//! `event.type` (<https://docs.slack.dev/apis/events-api>). Requests without an inner event
//! (`url_verification`, which wants its `challenge` back) are named by the outer `type`.

use hyper::HeaderMap;
use ring::hmac;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::body::{self, Text};
use super::timestamp::Freshness;
use super::{NotVerified, Verified, compare, encoding, headers};

const SIGNATURE: &str = "X-Slack-Signature";
const TIMESTAMP: &str = "X-Slack-Request-Timestamp";

#[derive(Deserialize, Default)]
struct Envelope {
    event_id: Option<Text>,
    r#type: Option<Text>,
    event: Option<InnerEvent>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum InnerEvent {
    Event { r#type: String },
    Something(IgnoredAny),
}

pub(super) fn verify(
    keys: &[hmac::Key],
    headers: &HeaderMap,
    body: &[u8],
    window: Freshness,
) -> Result<Verified, NotVerified> {
    let (timestamp, presented) = read(headers, window)?;
    if !compare::any_mac(keys, &[b"v0:", timestamp, b":", body], &[presented]) {
        return Err(NotVerified::SignatureMismatch);
    }
    let envelope: Envelope = body::peek(body);
    let event_type = match envelope.event {
        Some(InnerEvent::Event { r#type }) => headers::usable(r#type.as_bytes()),
        Some(InnerEvent::Something(_)) | None => Text::usable(envelope.r#type),
    };
    Ok(Verified { id: Text::usable(envelope.event_id), event_type })
}

/// The time and the signature.
pub(super) fn read(
    headers: &HeaderMap,
    window: Freshness,
) -> Result<(&[u8], encoding::Mac), NotVerified> {
    let timestamp = headers::required(headers, TIMESTAMP)?;
    let presented = headers::required(headers, SIGNATURE)?
        .strip_prefix(b"v0=")
        .and_then(encoding::hex)
        .ok_or(NotVerified::Malformed { header: SIGNATURE, expected: "`v0=` and 64 hex digits" })?;
    window.check(TIMESTAMP, timestamp)?;
    Ok((timestamp, presented))
}
