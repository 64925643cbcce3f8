//! Compares a presented value with the right one, in a time that depends on neither.

use ring::hmac;

use super::NotVerified;
use super::encoding::Mac;
use crate::signing::sign::mac;

/// A sender that changes its secret sends 2 signatures; if it also signs in two ways, 4. Each may
/// have to be checked against every secret, before the sender is known.
pub(super) const SIGNATURES_MAX: usize = 8;

/// Signatures of ed25519, each of which costs a multiple of a MAC of a short body: the old key's,
/// the new one's, and one to spare. With all the keys that a source may have, a forger's request
/// costs 30 checks, 2 to 3 ms.
pub(super) const ED25519_MAX: usize = 3;

/// Whether one of the presented MACs is that of `parts` under one of the keys. The body is hashed
/// once for each key, however many MACs there are.
pub(super) fn any_mac(keys: &[hmac::Key], parts: &[&[u8]], presented: &[Mac]) -> bool {
    keys.iter().any(|key| {
        let right = mac(key, parts);
        presented.iter().any(|it| same(&fingerprint(right.as_ref()), it))
    })
}

/// The source's tokens, as fingerprints.
pub(super) struct TokenFingerprints(Vec<hmac::Tag>);

impl TokenFingerprints {
    pub(super) fn new<'a>(tokens: impl IntoIterator<Item = &'a String>) -> Self {
        Self(tokens.into_iter().map(|token| fingerprint(token.as_bytes())).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn check(&self, presented: &[u8]) -> Result<(), NotVerified> {
        let known = self.0.iter().any(|token| same(token, presented));
        known.then_some(()).ok_or(NotVerified::TokenMismatch)
    }
}

/// `ring` compares in constant time only values that it has hashed itself; so both sides are
/// hashed, and have always the same length.
fn same(fingerprint: &hmac::Tag, presented: &[u8]) -> bool {
    hmac::verify(&fingerprint_key(), presented, fingerprint.as_ref()).is_ok()
}

fn fingerprint(bytes: &[u8]) -> hmac::Tag {
    hmac::sign(&fingerprint_key(), bytes)
}

/// No secret: it only makes a hash function of HMAC.
fn fingerprint_key() -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, b"fingerprint")
}
