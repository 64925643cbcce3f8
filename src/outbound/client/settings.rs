//! Settings of the client, given once at the start.

use std::time::Duration;

use crate::model::proxy::ProxyUrl;
use crate::outbound::addresses::AddressRules;
use crate::outbound::resolve::Resolver;

/// Everything a [`Client`](super::Client) needs to know.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    pub rules: AddressRules,
    pub resolver: Resolver,
    /// Whether the certificate authorities that the system trusts are trusted.
    pub system_roots: bool,
    /// Further certificate authorities, as PEM.
    pub extra_ca: Option<Vec<u8>>,
    /// Longest wait for the resolver.
    pub resolve_timeout: Duration,
    /// Longest wait for a TCP connection, over all addresses tried, a proxy's tunnel included.
    pub connect_timeout: Duration,
    /// Longest wait for a TLS handshake.
    pub tls_timeout: Duration,
    /// Bytes of a response body that are kept.
    pub response_body_limit: usize,
    /// Longest wait for a response body after its head.
    pub body_timeout: Duration,
    /// Longest response head, in bytes; at least 8 kB are allowed.
    pub head_bytes: usize,
    /// Most response headers.
    pub head_count: usize,
    /// A connection that was idle for longer is not used again. Receivers close theirs after 5 to
    /// 75 s.
    pub idle_timeout: Duration,
    /// A connection is not used for longer, so that a changed DNS entry is followed.
    pub connection_life: Duration,
    /// The proxy of all requests, if there is one.
    pub proxy: Option<ProxyUrl>,
}

impl ClientSettings {
    /// The defaults: those of `default.toml`, for what is a setting (`tests/house/told_once.rs`).
    #[must_use]
    pub fn new(rules: AddressRules, resolver: Resolver) -> Self {
        Self {
            rules,
            resolver,
            system_roots: true,
            extra_ca: None,
            resolve_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            tls_timeout: Duration::from_secs(10),
            response_body_limit: 4 * 1024, // an error page's first lines
            body_timeout: Duration::from_secs(5),
            head_bytes: 64 * 1024,
            head_count: 256, // what proxies add to proxies; httparse has 8 kB for it
            idle_timeout: Duration::from_secs(60),
            connection_life: Duration::from_secs(300),
            proxy: None,
        }
    }
}

/// How many bytes are read, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) head_bytes: usize,
    pub(super) head_count: usize,
    pub(super) response_body_limit: usize,
    pub(super) body_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) connection_life: Duration,
}
