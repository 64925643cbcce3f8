//! Shopify: `X-Shopify-Hmac-Sha256` is the HMAC-SHA256 of the body in base64, under the app's
//! client secret. <https://shopify.dev/docs/apps/build/webhooks/verify-deliveries>. After the
//! secret is changed Shopify may go on with the old one for an hour, so a source should know both
//! for a while.
//!
//! A delivery is identified by `X-Shopify-Webhook-Id`, as that page has it. `X-Shopify-Event-Id`
//! names the merchant's action: deliveries of several subscriptions share it, and taking it for the
//! id would lose all but the first.
//!
//! Shopify's newer events name the same headers without the `X-`; those are read where the others
//! are missing.

use hyper::HeaderMap;
use ring::hmac;

use super::{NotVerified, Verified, compare, encoding, headers};

const SIGNATURE: &str = "X-Shopify-Hmac-Sha256";
const NEWER_SIGNATURE: &str = "Shopify-Hmac-Sha256";

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
    let is_newer = !headers.contains_key(SIGNATURE) && headers.contains_key(NEWER_SIGNATURE);
    let (signature, id, topic) = if is_newer {
        (NEWER_SIGNATURE, "Shopify-Webhook-Id", "Shopify-Topic")
    } else {
        (SIGNATURE, "X-Shopify-Webhook-Id", "X-Shopify-Topic")
    };
    let presented = encoding::base64(headers::required(headers, signature)?)
        .ok_or(NotVerified::Malformed { header: signature, expected: "32 bytes in base64" })?;
    let verified =
        Verified { id: headers::name(headers, id)?, event_type: headers::name(headers, topic)? };
    Ok((presented, verified))
}
