//! Signs a request as Standard Webhooks has it, so that the receiver can verify sender and bytes.
//!
//! A [`Signer`] is made once for each revision of an endpoint; the client asks it for the
//! `webhook-signature` of every attempt. The store holds the secrets, and their ends.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519_PUBLIC_KEY_LEN, Ed25519KeyPair};
use ring::{digest, hmac};

use crate::model::secret::Secret;

/// More would make the header grow for nothing: a rotation needs 2, a rotation of a shared and an
/// own key 4.
const SECRETS_MAX: usize = 20;

/// Standard Webhooks asks for 24 to 64 bytes; Svix issues up to 75, and moving from there must not
/// need new secrets.
const SYMMETRIC_BYTES: std::ops::RangeInclusive<usize> = 24..=75;

const SEED_BYTES: usize = 32;

/// The prefix of a key, by its purpose. `signing::verify` reads the same ones.
pub(crate) const WHSEC: &str = "whsec_";
pub(crate) const WHSK: &str = "whsk_";
pub(crate) const WHPK: &str = "whpk_";

/// The prefix of a signature: HMAC-SHA256, ed25519.
pub(crate) const V1_PREFIX: &str = "v1,";
pub(crate) const V1A_PREFIX: &str = "v1a,";

/// Base64 of 32 bytes (HMAC-SHA256) and of 64 (ed25519), with the version before and a space after.
const V1_LEN: usize = V1_PREFIX.len() + 44 + 1;
const V1A_LEN: usize = V1A_PREFIX.len() + 88 + 1;

/// The parsed secrets of one endpoint.
pub struct Signer {
    keys: Vec<Key>,
    /// Bytes of a whole header, so that it is allocated once.
    header_len: usize,
}

enum Key {
    Symmetric(hmac::Key),
    Asymmetric(Ed25519KeyPair),
}

/// A secret cannot be used. Says which one and why, and never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("secret {nth}: {fault}")]
pub struct SecretError {
    /// Counted from 1, in the order given.
    pub nth: usize,
    pub fault: SecretFault,
}

/// The fault of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretFault {
    #[error("begins neither with `whsec_` nor with `whsk_`")]
    UnknownPrefix,
    #[error("is a public key (`whpk_`), which can only verify; the secret key begins with `whsk_`")]
    PublicKey,
    #[error("what follows the prefix is not base64 (standard alphabet, with padding)")]
    NotBase64,
    #[error("a `whsec_` secret holds 24 to 75 bytes, this one holds {found}")]
    SymmetricLength { found: usize },
    #[error(
        "a `whsk_` key holds 32 bytes (seed) or 64 (seed and public key), this one holds {found}"
    )]
    AsymmetricLength { found: usize },
    #[error("the public half of the `whsk_` key does not belong to its seed")]
    KeyMismatch,
    #[error("is one too many: an endpoint may have {SECRETS_MAX}")]
    TooMany,
}

impl Signer {
    /// Parses `whsec_…` (HMAC-SHA256) and `whsk_…` (ed25519) secrets. Without any, it does not
    /// sign.
    ///
    /// # Errors
    /// The first secret that cannot be used: signing with the others alone would look to the
    /// receiver like a forgery.
    pub fn new(secrets: &[Secret]) -> Result<Self, SecretError> {
        let mut keys = Vec::with_capacity(secrets.len().min(SECRETS_MAX));
        for (index, secret) in secrets.iter().enumerate() {
            let nth = index + 1;
            let key = if nth > SECRETS_MAX {
                Err(SecretFault::TooMany)
            } else {
                Key::parse(secret.expose())
            };
            keys.push(key.map_err(|fault| SecretError { nth, fault })?);
        }
        let header_len = keys.iter().map(Key::signature_len).sum();
        Ok(Self { keys, header_len })
    }

    /// Whether there is no secret, and so no `webhook-signature` to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The value of `webhook-signature` for this attempt: one signature for each secret, in the
    /// order given, parted by spaces. `webhook_id` must not contain a dot, `unix_seconds` is what
    /// `webhook-timestamp` says.
    #[must_use]
    pub fn sign(&self, webhook_id: &str, unix_seconds: i64, body: &[u8]) -> String {
        let mut digits = [0; 20]; // as many characters as i64::MIN has
        let mut rest = &mut digits[..];
        write!(rest, "{unix_seconds}").expect("20 bytes hold any i64");
        let unused = rest.len();
        let timestamp = &digits[..digits.len() - unused];
        let parts = signed(webhook_id.as_bytes(), timestamp, body);

        let mut header = String::with_capacity(self.header_len);
        let mut whole = Vec::new(); // ed25519 cannot be fed in parts; stays empty without such a key
        for key in &self.keys {
            if !header.is_empty() {
                header.push(' ');
            }
            match key {
                Key::Symmetric(key) => {
                    header.push_str(V1_PREFIX);
                    STANDARD.encode_string(mac(key, &parts), &mut header);
                }
                Key::Asymmetric(key) => {
                    if whole.is_empty() {
                        whole = parts.concat();
                    }
                    header.push_str(V1A_PREFIX);
                    STANDARD.encode_string(key.sign(&whole), &mut header);
                }
            }
        }
        header
    }
}

/// The text that Standard Webhooks signs, in parts.
pub(crate) fn signed<'a>(id: &'a [u8], timestamp: &'a [u8], body: &'a [u8]) -> [&'a [u8]; 5] {
    [id, b".", timestamp, b".", body]
}

/// The HMAC of the parts as if they were one, without copying them.
pub(crate) fn mac(key: &hmac::Key, parts: &[&[u8]]) -> hmac::Tag {
    let mut hmac = hmac::Context::with_key(key);
    parts.iter().for_each(|part| hmac.update(part));
    hmac.sign()
}

impl Key {
    fn parse(secret: &str) -> Result<Self, SecretFault> {
        if let Some(encoded) = secret.strip_prefix(WHSEC) {
            let key = decode(encoded)?;
            if !SYMMETRIC_BYTES.contains(&key.len()) {
                return Err(SecretFault::SymmetricLength { found: key.len() });
            }
            return Ok(Self::Symmetric(hmac::Key::new(hmac::HMAC_SHA256, &key)));
        }
        if let Some(encoded) = secret.strip_prefix(WHSK) {
            return Self::asymmetric(&decode(encoded)?).map(Self::Asymmetric);
        }
        Err(if secret.starts_with(WHPK) {
            SecretFault::PublicKey
        } else {
            SecretFault::UnknownPrefix
        })
    }

    fn asymmetric(key: &[u8]) -> Result<Ed25519KeyPair, SecretFault> {
        const BOTH: usize = SEED_BYTES + ED25519_PUBLIC_KEY_LEN;
        let pair = match key.len() {
            SEED_BYTES => Ed25519KeyPair::from_seed_unchecked(key),
            BOTH => {
                let (seed, public) = key.split_at(SEED_BYTES);
                Ed25519KeyPair::from_seed_and_public_key(seed, public)
            }
            found => return Err(SecretFault::AsymmetricLength { found }),
        };
        pair.map_err(|_| SecretFault::KeyMismatch)
    }

    fn signature_len(&self) -> usize {
        match self {
            Self::Symmetric(_) => V1_LEN,
            Self::Asymmetric(_) => V1A_LEN,
        }
    }
}

pub(crate) fn decode(encoded: &str) -> Result<Vec<u8>, SecretFault> {
    // The decoder's own error would quote a byte of the secret.
    STANDARD.decode(encoded).map_err(|_| SecretFault::NotBase64)
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({} secrets)", self.keys.len())
    }
}

const _: () = assert!(digest::SHA256_OUTPUT_LEN == 32, "V1_LEN counts on it");

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;
    use jiff::Timestamp;
    use ring::signature::{ED25519, UnparsedPublicKey};
    use standardwebhooks::Webhook;

    use super::*;

    const SYMMETRIC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const OTHER_SYMMETRIC: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const ASYMMETRIC: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    const PUBLIC: &str = "1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const V1: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    const V1A: &str = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";

    fn signer(secrets: &[&str]) -> Result<Signer, SecretError> {
        let secrets: Vec<_> = secrets.iter().map(|s| Secret::new((*s).to_owned())).collect();
        Signer::new(&secrets)
    }

    fn whsec(bytes: usize) -> String {
        format!("whsec_{}", STANDARD.encode(vec![7; bytes]))
    }

    fn fault(secret: &str) -> SecretFault {
        let error = signer(&[SYMMETRIC, secret]).unwrap_err();
        assert_eq!(error.nth, 2);
        error.fault
    }

    #[test]
    fn the_published_vectors_come_out() {
        assert_eq!(signer(&[SYMMETRIC]).unwrap().sign(ID, 1_614_265_330, BODY), V1);
        assert_eq!(signer(&[ASYMMETRIC]).unwrap().sign(ID, 1_614_265_330, BODY), V1A);
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        assert_eq!(
            signer(&[OTHER_SYMMETRIC]).unwrap().sign(
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                1_649_367_553,
                body
            ),
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="
        );
    }

    #[test]
    fn every_secret_signs_in_the_order_given_and_the_header_is_allocated_once() {
        let signer = signer(&[ASYMMETRIC, SYMMETRIC, ASYMMETRIC]).unwrap();
        let header = signer.sign(ID, 1_614_265_330, BODY);
        assert_eq!(header, format!("{V1A} {V1} {V1A}"));
        assert_eq!(header.capacity(), signer.header_len);
    }

    #[test]
    fn the_reference_library_accepts_old_and_new_secret_during_a_rotation() {
        let now = Timestamp::now().as_second();
        let signature = signer(&[SYMMETRIC, OTHER_SYMMETRIC, ASYMMETRIC]).unwrap().sign(
            "evt_1_62d1",
            now,
            "{\"ü\":1}".as_bytes(),
        );
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", "evt_1_62d1".parse().unwrap());
        headers.insert("webhook-timestamp", now.to_string().parse().unwrap());
        headers.insert("webhook-signature", signature.parse().unwrap());
        for secret in [SYMMETRIC, OTHER_SYMMETRIC] {
            let receiver = Webhook::new(secret).unwrap();
            receiver.verify("{\"ü\":1}".as_bytes(), &headers).unwrap();
            receiver.verify("{\"ü\":2}".as_bytes(), &headers).unwrap_err();
        }
        Webhook::new(&whsec(24)).unwrap().verify("{\"ü\":1}".as_bytes(), &headers).unwrap_err();
    }

    #[test]
    fn a_seed_alone_signs_like_seed_and_public_key() {
        let pair = STANDARD.decode(ASYMMETRIC.strip_prefix("whsk_").unwrap()).unwrap();
        let seed = format!("whsk_{}", STANDARD.encode(&pair[..32]));
        let header = signer(&[&seed]).unwrap().sign(ID, -5, b"");
        let signature = STANDARD.decode(header.strip_prefix("v1a,").unwrap()).unwrap();
        UnparsedPublicKey::new(&ED25519, STANDARD.decode(PUBLIC).unwrap())
            .verify(format!("{ID}.-5.").as_bytes(), &signature)
            .unwrap();
    }

    #[test]
    fn any_timestamp_fits() {
        let signer = signer(&[SYMMETRIC]).unwrap();
        let expected = Webhook::new(SYMMETRIC).unwrap();
        for seconds in [i64::MIN, -1, 0, i64::MAX] {
            assert_eq!(signer.sign(ID, seconds, BODY), expected.sign(ID, seconds, BODY).unwrap());
        }
    }

    #[test]
    fn without_secrets_there_is_nothing_to_send() {
        let signer = signer(&[]).unwrap();
        assert!(signer.is_empty());
        assert_eq!(signer.sign(ID, 0, BODY), "");
    }

    #[test]
    fn a_secret_that_cannot_be_used_is_named_and_described() {
        assert_eq!(fault("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), SecretFault::UnknownPrefix);
        assert_eq!(fault(""), SecretFault::UnknownPrefix);
        assert_eq!(fault(&format!("whpk_{PUBLIC}")), SecretFault::PublicKey);
        assert_eq!(fault("whsec_not base64!"), SecretFault::NotBase64);
        assert_eq!(fault("whsec_"), SecretFault::SymmetricLength { found: 0 });
        assert_eq!(fault(&whsec(23)), SecretFault::SymmetricLength { found: 23 });
        assert_eq!(fault(&whsec(76)), SecretFault::SymmetricLength { found: 76 });
        assert_eq!(fault("whsk_AAAA"), SecretFault::AsymmetricLength { found: 3 });
        let foreign = format!("whsk_{}", STANDARD.encode([1; 64]));
        assert_eq!(fault(&foreign), SecretFault::KeyMismatch);
        assert!(signer(&[&whsec(24), &whsec(64), &whsec(75)]).is_ok());
        assert_eq!(signer(&[SYMMETRIC; SECRETS_MAX + 1]).unwrap_err().fault, SecretFault::TooMany);
    }

    #[test]
    fn neither_errors_nor_debug_show_a_secret() {
        let shown = format!("{:?}", signer(&[SYMMETRIC]).unwrap());
        assert_eq!(shown, "Signer(1 secrets)");
        let error = signer(&["whsec_hunter2~"]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
