//! One line of `addresses.allow` or `addresses.allow_http`: a CIDR, an address or a host name.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;
use url::Host;

/// An address range or host that an operator opens.
///
/// ```
/// use posthaste::model::allow::AllowEntry;
///
/// assert_eq!("10.0.0.0/8".parse::<AllowEntry>().unwrap().to_string(), "10.0.0.0/8");
/// assert_eq!("::1".parse::<AllowEntry>().unwrap().to_string(), "::1/128");
/// assert_eq!("Api.Internal.".parse::<AllowEntry>().unwrap().to_string(), "api.internal");
/// assert!("10.0.0.1/8".parse::<AllowEntry>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum AllowEntry {
    /// A single address is a CIDR of one.
    Net(IpNet),
    /// In lower case and Punycode, without a trailing dot.
    Host(String),
}

/// Why a text is no [`AllowEntry`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllowEntryError {
    #[error("an entry is empty: write a CIDR, an address or a host name")]
    Empty,
    #[error("`{text}` is not a CIDR, such as 10.0.0.0/8 or fd00::/8")]
    NotACidr { text: String },
    #[error("`{text}` has bits set after its prefix: write {instead}, or the single address")]
    HostBits { text: String, instead: IpNet },
    #[error("`{text}` is an unusual spelling of an address: write {instead}")]
    OddAddress { text: String, instead: IpAddr },
    #[error("`{text}` has a wildcard: host names are opened one by one, networks by CIDR")]
    Wildcard { text: String },
    #[error(
        "`{text}` is not a host name: write a CIDR, an address or a host, without scheme or port"
    )]
    NotAHost { text: String },
}

impl FromStr for AllowEntry {
    type Err = AllowEntryError;

    fn from_str(text: &str) -> Result<Self, AllowEntryError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(AllowEntryError::Empty);
        }
        if text.contains('*') {
            return Err(AllowEntryError::Wildcard { text: text.to_owned() });
        }
        if let Some(ip) = address(text) {
            return Ok(Self::Net(IpNet::from(ip.to_canonical())));
        }
        if text.contains('/') && !text.contains("://") {
            return cidr(text).map(Self::Net);
        }
        let not_a_host = || AllowEntryError::NotAHost { text: text.to_owned() };
        match Host::parse(text).map_err(|_| not_a_host())? {
            Host::Ipv4(ip) => Err(odd(text, ip.into())),
            Host::Ipv6(ip) => Err(odd(text, ip.into())),
            Host::Domain(name) => match name.strip_suffix('.').unwrap_or(&name) {
                "" => Err(not_a_host()),
                name => Ok(Self::Host(name.to_owned())),
            },
        }
    }
}

/// An address as people write it, with or without the brackets that a URL puts around IPv6.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok()
}

fn cidr(text: &str) -> Result<IpNet, AllowEntryError> {
    let net: IpNet =
        text.parse().map_err(|_| AllowEntryError::NotACidr { text: text.to_owned() })?;
    if net.trunc() != net {
        return Err(AllowEntryError::HostBits { text: text.to_owned(), instead: net.trunc() });
    }
    Ok(unmapped(net))
}

/// A CIDR of IPv4-mapped addresses is the IPv4 CIDR it maps: that is what gets dialled.
fn unmapped(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
        (Some(v4), Some(prefix)) => Ipv4Net::new(v4, prefix).map_or(net, IpNet::V4),
        _ => net,
    }
}

fn odd(text: &str, instead: IpAddr) -> AllowEntryError {
    AllowEntryError::OddAddress { text: text.to_owned(), instead }
}

impl TryFrom<String> for AllowEntry {
    type Error = AllowEntryError;

    fn try_from(text: String) -> Result<Self, AllowEntryError> {
        text.parse()
    }
}

impl fmt::Display for AllowEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) => net.fmt(f),
            Self::Host(name) => name.fmt(f),
        }
    }
}
