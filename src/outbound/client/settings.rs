//! What the client is told once, at the start.

use std::time::Duration;

use super::proxy::ProxyUrl;
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
    pub resolve_time: Duration,
    /// Longest wait for a TCP connection, over all addresses tried, a proxy's tunnel included.
    pub connect_time: Duration,
    /// Longest wait for a TLS handshake.
    pub tls_time: Duration,
    /// Bytes of a response body that are kept.
    pub response_body_limit: usize,
    /// Longest wait for a response body after its head.
    pub body_timeout: Duration,
    /// Longest response head, in bytes; at least 8 kB are allowed.
    pub head_bytes: usize,
    /// Most response headers.
    pub head_count: usize,
    /// A connection that was idle for longer is not used again. Below what servers and NAT boxes
    /// commonly wait (60 s and more).
    pub idle_kept: Duration,
    /// A connection is not used for longer, so that a changed DNS entry is followed.
    pub connection_life: Duration,
    /// Where all requests go through, if not directly.
    pub proxy: Option<ProxyUrl>,
}

impl ClientSettings {
    /// The defaults.
    #[must_use]
    pub fn new(rules: AddressRules, resolver: Resolver) -> Self {
        Self {
            rules,
            resolver,
            system_roots: true,
            extra_ca: None,
            resolve_time: Duration::from_secs(5),
            connect_time: Duration::from_secs(10),
            tls_time: Duration::from_secs(10),
            response_body_limit: 4 * 1024, // an error page's first lines
            body_timeout: Duration::from_secs(5),
            head_bytes: 64 * 1024,
            head_count: 256, // what proxies add to proxies; httparse has 8 kB for it
            idle_kept: Duration::from_secs(50),
            connection_life: Duration::from_secs(300),
            proxy: None,
        }
    }
}
