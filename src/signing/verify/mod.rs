//! Verifies that an incoming webhook comes from its source, and reads its id and name.
//!
//! A [`Verifier`] is made once for each source. It reads the headers and the exact bytes of the
//! body, before any parser does; it stores nothing, waits for nothing and takes the time as an
//! argument. The listener decides about the request and its answer. The module of each scheme names
//! the page with the sender's rules.
//!
//! # All schemes
//!
//! * **Any one secret suffices**, so that a secret can be changed: both are configured while the
//!   sender still uses the old one.
//! * **A header that comes twice is refused**, also one that only names the event: two readers of
//!   such a request could take different ones.
//! * **Comparisons take the same time whatever is sent** and are made by `ring`; plain tokens are
//!   compared by their digests, so that not even their length shows.
//! * **The work is bounded** before anything is known about the sender: by the length of a header,
//!   by the number of signatures in it and by the number of secrets.
//! * **A signed timestamp is plain digits.** Where it is joined with the body by a dot or a colon
//!   there is then only one way to take the signed bytes apart.
//! * **Headers come first.** A scheme reads all that it needs of them (`read`) before it looks at
//!   the body, so the listener can refuse a request without reading that.
//! * **An id that cannot be stored is no id.** The event is kept and not de-duplicated: twice is
//!   better than never. Most schemes do not sign the id, only the body; a party that has seen a
//!   signed request can send its body again under another id, where no timestamp prevents it.

mod body;
mod compare;
mod encoding;
mod headers;
mod not_verified;
mod scheme;
mod secrets;
mod timestamp;

mod github;
mod gitlab;
mod shopify;
mod slack;
mod standard;
mod stripe;
mod token;

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use hyper::HeaderMap;
use jiff::Timestamp;
use ring::hmac;

pub use self::not_verified::NotVerified;
pub use self::scheme::{Scheme, Verified};
pub use self::secrets::{VerifierError, VerifierSecretFault};

/// Checks what one source sends.
pub struct Verifier {
    scheme: Scheme,
    /// For `Debug` alone.
    secrets: usize,
    keys: Keys,
    tolerance: Duration,
}

/// Keys and digests of the secrets, as the scheme needs them.
enum Keys {
    Gitlab(gitlab::GitlabKeys),
    Github(Vec<hmac::Key>),
    Stripe(Vec<hmac::Key>),
    Standard(standard::StandardKeys),
    Slack(Vec<hmac::Key>),
    Shopify(Vec<hmac::Key>),
    Token(compare::TokenFingerprints),
    None,
}

impl Verifier {
    /// One secret, or several while they are being changed; none for [`Scheme::None`].
    /// `tolerance` is how far a signed timestamp may be from now, either way: for Stripe, Standard
    /// Webhooks, Slack and GitLab's signing token.
    ///
    /// # Errors
    /// The first secret that cannot be used, by its number; or that there are none, or too many.
    pub fn new(
        scheme: Scheme,
        secrets: &[String],
        tolerance: Duration,
    ) -> Result<Self, VerifierError> {
        secrets::check(scheme, secrets)?;
        let keys = match scheme {
            Scheme::Gitlab => Keys::Gitlab(gitlab::GitlabKeys::parse(secrets)?),
            Scheme::Github => Keys::Github(secrets::as_they_are(secrets)),
            Scheme::Stripe => Keys::Stripe(secrets::as_they_are(secrets)),
            Scheme::Standard => Keys::Standard(standard::StandardKeys::parse(secrets)?),
            Scheme::Slack => Keys::Slack(secrets::as_they_are(secrets)),
            Scheme::Shopify => Keys::Shopify(secrets::as_they_are(secrets)),
            Scheme::Token => Keys::Token(compare::TokenFingerprints::new(secrets)),
            Scheme::None => Keys::None,
        };
        Ok(Self { scheme, secrets: secrets.len(), keys, tolerance })
    }

    /// Whether the headers alone tell that the request does not come from the source, before any of
    /// its body is read. Whatever is refused here, [`verify`](Self::verify) refuses too.
    ///
    /// # Errors
    /// The reason, in words that may be told to the sender.
    pub fn look(&self, headers: &HeaderMap, now: Timestamp) -> Result<(), NotVerified> {
        let fresh = timestamp::Freshness { now, tolerance: self.tolerance };
        match &self.keys {
            Keys::Gitlab(keys) => gitlab::read(keys, headers, fresh).map(drop),
            Keys::Github(_) => github::read(headers).map(drop),
            Keys::Stripe(_) => stripe::read(headers, fresh).map(drop),
            Keys::Standard(_) => standard::read(headers, fresh).map(drop),
            Keys::Slack(_) => slack::read(headers, fresh).map(drop),
            Keys::Shopify(_) => shopify::read(headers).map(drop),
            Keys::Token(tokens) => token::verify(tokens, headers).map(drop),
            Keys::None => token::named(headers).map(drop),
        }
    }

    /// Whether the request comes from the source. `headers` as received, `body` the exact bytes.
    ///
    /// # Errors
    /// The reason, in words that may be told to the sender.
    pub fn verify(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        now: Timestamp,
    ) -> Result<Verified, NotVerified> {
        let fresh = timestamp::Freshness { now, tolerance: self.tolerance };
        match &self.keys {
            Keys::Gitlab(keys) => gitlab::verify(keys, headers, body, fresh),
            Keys::Github(keys) => github::verify(keys, headers, body),
            Keys::Stripe(keys) => stripe::verify(keys, headers, body, fresh),
            Keys::Standard(keys) => standard::verify(keys, headers, body, fresh),
            Keys::Slack(keys) => slack::verify(keys, headers, body, fresh),
            Keys::Shopify(keys) => shopify::verify(keys, headers, body),
            Keys::Token(tokens) => token::verify(tokens, headers),
            Keys::None => token::named(headers),
        }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({}, {} secrets)", self.scheme, self.secrets)
    }
}

/// As in the configuration.
impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gitlab => "gitlab",
            Self::Github => "github",
            Self::Stripe => "stripe",
            Self::Standard => "standard",
            Self::Slack => "slack",
            Self::Shopify => "shopify",
            Self::Token => "token",
            Self::None => "none",
        })
    }
}
