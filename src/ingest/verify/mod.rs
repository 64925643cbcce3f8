//! How a source proves who it is: by a token, a signature, or not at all. Pure: the time is handed in.

use std::time::Duration;

use hyper::header::{AUTHORIZATION, HeaderMap};
use jiff::Timestamp;

/// How a source proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    Gitlab,
    Github,
    Stripe,
    Standard,
    Slack,
    Shopify,
    Token,
    None,
}

/// Checks requests of one source.
pub struct Verifier {
    scheme: Scheme,
    secrets: Vec<String>,
}

/// What a verified request says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// The sender's id of this delivery, for telling one that is sent again.
    pub id: Option<String>,
    /// The sender's name of the event.
    pub event_type: Option<String>,
}

/// Why a request is not believed. Says what the sender may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("Authorization is missing")]
    Missing,
    #[error("the token does not match")]
    Mismatch,
}

/// The settings do not make a verifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifierError {
    #[error("there is no secret")]
    NoSecret,
    #[error("this scheme is not there yet")]
    NotThere,
}

impl Verifier {
    /// One or several secrets, during rotation; `tolerance` is how far a signed timestamp may be from now.
    ///
    /// # Errors
    /// When the secrets do not fit the scheme.
    pub fn new(
        scheme: Scheme,
        secrets: &[String],
        _tolerance: Duration,
    ) -> Result<Self, VerifierError> {
        if scheme != Scheme::None && secrets.is_empty() {
            return Err(VerifierError::NoSecret);
        }
        match scheme {
            Scheme::Token | Scheme::None => Ok(Self { scheme, secrets: secrets.to_vec() }),
            _ => Err(VerifierError::NotThere),
        }
    }

    /// `headers` as received, `body` the exact bytes.
    ///
    /// # Errors
    /// When the request does not prove that it is the source's.
    pub fn verify(
        &self,
        headers: &HeaderMap,
        _body: &[u8],
        _now: Timestamp,
    ) -> Result<Verified, Refusal> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let verified =
            Verified { id: text("idempotency-key").map(str::to_owned), event_type: None };
        if self.scheme == Scheme::None {
            return Ok(verified);
        }
        let told = headers.get(AUTHORIZATION).ok_or(Refusal::Missing)?.as_bytes();
        let token = told.strip_prefix(b"Bearer ").ok_or(Refusal::Missing)?;
        let digest = |bytes: &[u8]| ring::digest::digest(&ring::digest::SHA256, bytes);
        let same = |secret: &String| digest(secret.as_bytes()).as_ref() == digest(token).as_ref();
        if self.secrets.iter().any(same) { Ok(verified) } else { Err(Refusal::Mismatch) }
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}
