//! Why a request is not verified, in words that help an honest sender and tell a forger nothing
//! beyond its own request.

/// The longest header a scheme needs holds [`SIGNATURES_MAX`](super::compare::SIGNATURES_MAX)
/// ed25519 signatures in base64: under 1 KB. Tokens are short.
pub(super) const VALUE_MAX: usize = 4096;

/// A request was not verified. Its text may be told to the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotVerified {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{0} comes more than once")]
    Repeated(&'static str),
    #[error("{0} is longer than {VALUE_MAX} bytes")]
    TooLong(&'static str),
    #[error("{header} is not {expected}")]
    Malformed { header: &'static str, expected: &'static str },
    #[error("{header} holds more than {most} signatures")]
    TooManySignatures { header: &'static str, most: usize },
    /// Signatures of versions this source does not check are passed over; here nothing was left.
    #[error("{0} holds no signature that can be checked here")]
    NoSignature(&'static str),
    #[error("the signature does not match")]
    SignatureMismatch,
    #[error("the token does not match")]
    TokenMismatch,
    #[error("the timestamp is too old")]
    TooOld,
    #[error("the timestamp is too far in the future")]
    TooNew,
}
