//! The ways in which sources prove their identity, and the result of a proof.

/// How a source proves its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// A secret token in a header, or a signing token (`whsec_…`).
    Gitlab,
    Github,
    Stripe,
    /// Standard Webhooks: shared secrets (`whsec_…`) and public keys (`whpk_…`).
    Standard,
    Slack,
    Shopify,
    /// A token in a header, for senders that sign nothing.
    Token,
    /// Every request that reaches the listener is accepted.
    None,
}

/// The id and name of a verified request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The sender's id of this delivery, the same when it is sent again. 1 to 255 bytes without
    /// control characters.
    pub id: Option<String>,
    /// The sender's name of the event, within the same bounds.
    pub event_type: Option<String>,
}
