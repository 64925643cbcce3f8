//! Egress through an HTTP CONNECT proxy.
//!
//! The address guard stays ours: we resolve and judge as without a proxy, and ask the proxy for a
//! tunnel to the judged address, for http and https alike; TLS inside the tunnel still proves the
//! name, and `Host` still says it. What the proxy changes: it sees addresses, so rules of its own
//! that go by name do not work; it must let CONNECT through to the ports in use (many allow 443
//! only); the name must resolve on this side; and the addresses are judged as seen from here, so
//! the proxy's own loopback and metadata service are refused by number only. The proxy itself is
//! the operator's choice and is not judged.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Host;

use super::dial::race;
use super::failure;
use crate::model::outcome::{Cause, Outcome};
use crate::model::proxy::ProxyUrl;
use crate::outbound::resolve::Resolver;

/// A proxy says little before the tunnel stands.
const PROXY_HEAD_MAX: usize = 8 * 1024;

/// A tunnel through the proxy to the first of these addresses that it can reach.
pub(super) async fn tunnel(
    proxy: &ProxyUrl,
    resolver: &Resolver,
    addresses: &[SocketAddr],
) -> Result<TcpStream, Outcome> {
    let proxies = addresses_of(proxy, resolver).await?;
    let mut failed = String::from("no address to ask the proxy for");
    for &address in addresses {
        let mut tcp = race(&proxies).await.map_err(|error| {
            failed_to("the proxy cannot be reached", &failure::describe(&error))
        })?;
        match ask(proxy, &mut tcp, address).await {
            Ok(()) => return Ok(tcp),
            Err(error) => failed = failure::describe(&error),
        }
    }
    Err(failed_to("the proxy opened no tunnel", &failed))
}

fn failed_to(what: &str, detail: &str) -> Outcome {
    failure::unreachable(Cause::Proxy, &format!("{what}: {detail}"))
}

/// Why a proxy opened no tunnel.
#[derive(Debug, thiserror::Error)]
enum TunnelError {
    #[error("talk to the proxy")]
    Io(#[from] io::Error),
    #[error("the proxy answered {0}")]
    Status(u16),
    #[error("the proxy's answer is not HTTP")]
    NotHttp,
    #[error("the proxy's answer has more than {PROXY_HEAD_MAX} bytes")]
    TooLong,
}

async fn addresses_of(proxy: &ProxyUrl, resolver: &Resolver) -> Result<Vec<SocketAddr>, Outcome> {
    let found: Vec<IpAddr> = match proxy.host() {
        Host::Ipv4(ip) => vec![(*ip).into()],
        Host::Ipv6(ip) => vec![(*ip).into()],
        Host::Domain(name) => resolver.lookup(name).await.map_err(|error| {
            failed_to("the proxy's name does not resolve", &failure::describe(&error))
        })?,
    };
    Ok(found.into_iter().map(|ip| SocketAddr::new(ip, proxy.port())).collect())
}

async fn ask(
    proxy: &ProxyUrl,
    tcp: &mut TcpStream,
    address: SocketAddr,
) -> Result<(), TunnelError> {
    let mut request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n");
    if let Some(authorization) = proxy.authorization() {
        request.push_str("Proxy-Authorization: ");
        request.push_str(authorization);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    tcp.write_all(request.as_bytes()).await?;

    // Byte by byte, because what follows the head belongs to the tunnel. It is one short head
    // for each new connection.
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == PROXY_HEAD_MAX {
            return Err(TunnelError::TooLong);
        }
        head.push(tcp.read_u8().await?);
    }
    match status(&head).ok_or(TunnelError::NotHttp)? {
        200..=299 => Ok(()),
        other => Err(TunnelError::Status(other)),
    }
}

/// The status of `HTTP/1.x NNN …`.
fn status(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.")?;
    let digits = rest.get(2..5).filter(|_| rest.get(1) == Some(&b' '))?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
