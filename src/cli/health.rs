//! `posthaste health`: asks the relay beside it whether it is ready, for container health checks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;

use super::error::CliError;
use super::output::say;
use crate::config::Config;
use crate::serve::probe;

/// Below the time-out of a container's health check, so that the reason is still printed.
const WITHIN: Duration = Duration::from_secs(2);

/// The URL at which a relay with these settings says whether it is ready.
pub(super) fn url(config: &Config) -> Result<String, CliError> {
    let listen = config.http.listen.ok_or(CliError::NoListener)?;
    Ok(format!("http://{}/ready", dialled(listen)))
}

/// Not every system can dial the address that stands for all; the loopback is one of them.
fn dialled(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    (ip, listen.port()).into()
}

pub(super) async fn run(url: &str) -> Result<(), CliError> {
    let (status, text) = probe::get(url, WITHIN).await?;
    if status.is_success() {
        return say(&text);
    }
    let problem: Option<Value> = serde_json::from_str(&text).ok();
    let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
    let why = detail.map_or_else(|| status.to_string(), str::to_owned);
    Err(CliError::NotHealthy { url: url.to_owned(), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_for_all_addresses_is_dialled_at_the_loopback() {
        for (listen, expected) in [
            ("0.0.0.0:7878", "127.0.0.1:7878"),
            ("[::]:7878", "[::1]:7878"),
            ("10.0.0.7:80", "10.0.0.7:80"),
        ] {
            assert_eq!(dialled(listen.parse().unwrap()).to_string(), expected);
        }
    }
}
