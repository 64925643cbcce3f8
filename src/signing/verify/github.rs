//! GitHub: `X-Hub-Signature-256` is `sha256=` and the HMAC-SHA256 of the body in hex.
//! <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>. The older
//! `X-Hub-Signature` (SHA-1) is not looked at.
//!
//! `X-GitHub-Delivery` names the event, not the request: a redelivery has the same one, and so has
//! the delivery of the same event to another hook
//! (<https://docs.github.com/en/webhooks/using-webhooks/best-practices-for-using-webhooks>,
//! <https://github.com/github/docs/issues/32822>). Two hooks of an organisation and of its
//! repository that point at one source therefore bring an event once.

use hyper::HeaderMap;
use ring::hmac;

use super::{NotVerified, Verified, compare, encoding, headers};

const SIGNATURE: &str = "X-Hub-Signature-256";

pub(super) fn verify(
    keys: &[hmac::Key],
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Verified, NotVerified> {
    let (presented, verified) = read(headers)?;
    let fits = compare::any_mac(keys, &[body], &[presented]);
    fits.then_some(verified).ok_or(NotVerified::SignatureMismatch)
}

/// The signature, and what follows if it is right.
pub(super) fn read(headers: &HeaderMap) -> Result<(encoding::Mac, Verified), NotVerified> {
    let presented = headers::required(headers, SIGNATURE)?
        .strip_prefix(b"sha256=")
        .and_then(encoding::hex)
        .ok_or(NotVerified::Malformed {
            header: SIGNATURE,
            expected: "`sha256=` and 64 hex digits",
        })?;
    let verified = Verified {
        id: headers::name(headers, "X-GitHub-Delivery")?,
        event_type: headers::name(headers, "X-GitHub-Event")?,
    };
    Ok((presented, verified))
}
