//! From judged addresses to a TCP connection: in which order they are dialled, and how long each is
//! waited for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

/// A name may have thousands of addresses; if none of the first few answers, the next attempt may
/// find others first.
const ADDRESSES_TRIED: usize = 6;

/// How long an address is waited for before the next one is tried beside it (RFC 8305).
const HEAD_START: Duration = Duration::from_millis(250);

/// Dials one address after the other, each with a head start, and takes the first that answers.
pub(super) async fn race(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut tries = FuturesUnordered::new();
    let mut left = addresses.iter();
    let mut first_error = None;
    loop {
        if let Some(address) = left.next() {
            tries.push(TcpStream::connect(*address));
        }
        tokio::select! {
            Some(tried) = tries.next() => match tried {
                Ok(tcp) => return Ok(tcp),
                Err(error) => { first_error.get_or_insert(error); }
            },
            () = sleep(HEAD_START), if left.len() > 0 => {}
            else => {
                return Err(first_error.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()));
            }
        }
    }
}

/// IPv6 and IPv4 in turn, so that a network without one of them costs one head start only.
pub(super) fn in_turn(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    let dialled = || addresses.iter().map(IpAddr::to_canonical);
    let mut six = dialled().filter(IpAddr::is_ipv6);
    let mut four = dialled().filter(IpAddr::is_ipv4);
    let mut ordered = Vec::new();
    for _ in 0..addresses.len().min(ADDRESSES_TRIED) {
        ordered.extend(six.next());
        ordered.extend(four.next());
    }
    ordered.truncate(ADDRESSES_TRIED);
    ordered.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
}
