//! Requirements for a source's secrets, whatever the scheme.

use ring::hmac;

use super::Scheme;

/// Changing a secret needs 2. Several senders may share a source, each with its own; but for each
/// secret a forger's request costs one more pass over its body.
const SECRETS_MAX: usize = 10;

/// A verifier cannot be made of these secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifierError {
    #[error("scheme `{0}` needs a secret")]
    NoSecret(Scheme),
    #[error("scheme `none` checks nothing: it takes no secret")]
    Needless,
    #[error("more than {SECRETS_MAX} secrets")]
    TooMany,
    /// Says which one and why, and never quotes it.
    #[error("secret {nth} {fault}")]
    Secret {
        /// Counted from 1, in the order given.
        nth: usize,
        fault: VerifierSecretFault,
    },
}

/// The fault of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifierSecretFault {
    #[error("is empty")]
    Empty,
    #[error("begins or ends with white space: was it read with its line break?")]
    WhiteSpace,
    #[error("begins neither with `whsec_` nor with `whpk_`")]
    UnknownPrefix,
    #[error("is the sender's own key (`whsk_`); to verify, take the public key (`whpk_`)")]
    SendersKey,
    #[error("has something else than base64 (standard alphabet, with padding) after its prefix")]
    NotBase64,
    #[error("has nothing after `whsec_`")]
    EmptyKey,
    #[error("holds {found} bytes; a `whpk_` key holds 32")]
    PublicKeyLength { found: usize },
}

/// Checks the requirements of every scheme.
pub(super) fn check(scheme: Scheme, secrets: &[String]) -> Result<(), VerifierError> {
    match (scheme, secrets.len()) {
        (Scheme::None, 0) => return Ok(()),
        (Scheme::None, _) => return Err(VerifierError::Needless),
        (_, 0) => return Err(VerifierError::NoSecret(scheme)),
        (_, count) if count > SECRETS_MAX => return Err(VerifierError::TooMany),
        _ => {}
    }
    each(secrets, |secret| {
        if secret.trim().is_empty() {
            Err(VerifierSecretFault::Empty)
        } else if secret.trim() != secret {
            Err(VerifierSecretFault::WhiteSpace)
        } else {
            Ok(())
        }
    })
}

/// Calls `parse` with each secret and says which one it refused.
pub(super) fn each(
    secrets: &[String],
    mut parse: impl FnMut(&str) -> Result<(), VerifierSecretFault>,
) -> Result<(), VerifierError> {
    for (index, secret) in secrets.iter().enumerate() {
        parse(secret).map_err(|fault| VerifierError::Secret { nth: index + 1, fault })?;
    }
    Ok(())
}

/// The secrets' own characters are the keys, also where they look like something encoded.
pub(super) fn as_they_are(secrets: &[String]) -> Vec<hmac::Key> {
    secrets.iter().map(|it| hmac::Key::new(hmac::HMAC_SHA256, it.as_bytes())).collect()
}
