//! Standard Webhooks: `webhook-signature` is a list, parted by spaces, of `v1,` (HMAC-SHA256) and
//! `v1a,` (ed25519) with the signature of `{id}.{timestamp}.{body}` in base64; id and timestamp
//! stand in `webhook-id` and `webhook-timestamp`.
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>.
//! The signed text and the form of secrets are those of the sending side
//! ([`sign`](crate::signing::sign)).
//!
//! Senders that go through Svix name the same headers `svix-…`
//! (<https://docs.svix.com/receiving/verifying-payloads/how-manual>); those are read where the
//! others are missing.
//!
//! `webhook-id` stays the same over retries. It must not contain a dot: with one, the signed bytes
//! could be taken apart in more than one way. The event's name is the body's `type`.

use hyper::HeaderMap;
use ring::hmac;
use ring::signature::{ED25519, ED25519_PUBLIC_KEY_LEN, UnparsedPublicKey};
use serde::Deserialize;

use super::body::{self, Text};
use super::secrets::{self, VerifierError, VerifierSecretFault};
use super::timestamp::Freshness;
use super::{NotVerified, Verified, compare, encoding, headers};
use crate::signing::sign::{V1_PREFIX, V1A_PREFIX, WHPK, WHSEC, WHSK, decode, signed};

/// Bytes of an ed25519 signature.
const ED25519_LEN: usize = 64;

struct Names {
    id: &'static str,
    timestamp: &'static str,
    signature: &'static str,
}

const STANDARD: Names =
    Names { id: "webhook-id", timestamp: "webhook-timestamp", signature: "webhook-signature" };

const SVIX: Names =
    Names { id: "svix-id", timestamp: "svix-timestamp", signature: "svix-signature" };

#[derive(Default)]
pub(super) struct StandardKeys {
    symmetric: Vec<hmac::Key>,
    public: Vec<UnparsedPublicKey<Vec<u8>>>,
}

#[derive(Deserialize, Default)]
struct PayloadType {
    r#type: Option<Text>,
}

impl StandardKeys {
    pub(super) fn parse(secrets: &[String]) -> Result<Self, VerifierError> {
        let mut keys = Self::default();
        secrets::each(secrets, |secret| keys.add(secret))?;
        Ok(keys)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.symmetric.is_empty() && self.public.is_empty()
    }

    pub(super) fn add(&mut self, secret: &str) -> Result<(), VerifierSecretFault> {
        let decode = |encoded| decode(encoded).map_err(|_| VerifierSecretFault::NotBase64);
        if let Some(encoded) = secret.strip_prefix(WHSEC) {
            let key = decode(encoded)?;
            // The sender chose the length; a short key is weak, and an empty one is a mistake.
            if key.is_empty() {
                return Err(VerifierSecretFault::EmptyKey);
            }
            self.symmetric.push(hmac::Key::new(hmac::HMAC_SHA256, &key));
        } else if let Some(encoded) = secret.strip_prefix(WHPK) {
            let key = decode(encoded)?;
            if key.len() != ED25519_PUBLIC_KEY_LEN {
                return Err(VerifierSecretFault::PublicKeyLength { found: key.len() });
            }
            self.public.push(UnparsedPublicKey::new(&ED25519, key));
        } else if secret.starts_with(WHSK) {
            return Err(VerifierSecretFault::SendersKey);
        } else {
            return Err(VerifierSecretFault::UnknownPrefix);
        }
        Ok(())
    }
}

pub(super) fn verify(
    keys: &StandardKeys,
    headers: &HeaderMap,
    body: &[u8],
    window: Freshness,
) -> Result<Verified, NotVerified> {
    let proof = read(headers, window)?;
    proof.check(keys, body)?;
    let payload: PayloadType = body::peek(body);
    Ok(Verified { id: headers::usable(proof.id), event_type: Text::usable(payload.r#type) })
}

/// The headers of a request that may be signed.
pub(super) struct StandardProof<'h> {
    pub(super) id: &'h [u8],
    timestamp: &'h [u8],
    signatures: Signatures,
}

impl StandardProof<'_> {
    /// Whether they sign this body.
    pub(super) fn check(&self, keys: &StandardKeys, body: &[u8]) -> Result<(), NotVerified> {
        let fits = self.signatures.fit(keys, &signed(self.id, self.timestamp, body));
        fits.then_some(()).ok_or(NotVerified::SignatureMismatch)
    }
}

/// The signed id, the time and the signatures.
pub(super) fn read(
    headers: &HeaderMap,
    window: Freshness,
) -> Result<StandardProof<'_>, NotVerified> {
    let is_svix = !is_signed(headers) && headers.contains_key(SVIX.signature);
    let names = if is_svix { SVIX } else { STANDARD };
    let id = headers::required(headers, names.id)?;
    let timestamp = headers::required(headers, names.timestamp)?;
    let list = headers::required(headers, names.signature)?;
    if id.contains(&b'.') {
        return Err(NotVerified::Malformed { header: names.id, expected: "an id without a dot" });
    }
    window.check(names.timestamp, timestamp)?;
    Ok(StandardProof { id, timestamp, signatures: Signatures::parse(list, names.signature)? })
}

/// Whether there is a signature under the standard's own name.
pub(super) fn is_signed(headers: &HeaderMap) -> bool {
    headers.contains_key(STANDARD.signature)
}

#[derive(Default)]
struct Signatures {
    v1: Vec<encoding::Mac>,
    v1a: Vec<[u8; ED25519_LEN]>,
}

impl Signatures {
    /// Unknown versions, and words that are no signature, are passed over.
    fn parse(list: &[u8], header: &'static str) -> Result<Self, NotVerified> {
        let mut found = Self::default();
        for item in list.split(|&byte| byte == b' ') {
            if let Some(mac) = item.strip_prefix(V1_PREFIX.as_bytes()).and_then(encoding::base64) {
                found.v1.push(mac);
            } else if let Some(signature) =
                item.strip_prefix(V1A_PREFIX.as_bytes()).and_then(encoding::base64)
            {
                found.v1a.push(signature);
            }
            let all = found.v1.len() + found.v1a.len();
            for (count, most) in
                [(all, compare::SIGNATURES_MAX), (found.v1a.len(), compare::ED25519_MAX)]
            {
                if count > most {
                    return Err(NotVerified::TooManySignatures { header, most });
                }
            }
        }
        if found.v1.is_empty() && found.v1a.is_empty() {
            return Err(NotVerified::NoSignature(header));
        }
        Ok(found)
    }

    fn fit(&self, keys: &StandardKeys, parts: &[&[u8]]) -> bool {
        if !self.v1.is_empty() && compare::any_mac(&keys.symmetric, parts, &self.v1) {
            return true;
        }
        if self.v1a.is_empty() || keys.public.is_empty() {
            return false;
        }
        let whole = parts.concat(); // ed25519 cannot be fed in parts
        let fits = |key: &UnparsedPublicKey<_>| {
            self.v1a.iter().any(|signature| key.verify(&whole, signature).is_ok())
        };
        keys.public.iter().any(fits)
    }
}
