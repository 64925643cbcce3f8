//! Decides which addresses may be dialled: one rule set for checking an endpoint, testing it and
//! delivering to it.
//!
//! Pure: [`resolve`](super::resolve) finds the addresses, and [`client`](super::client) dials them.
//!
//! An address is judged by the narrowest special range it lies in, and by every IPv4 address that
//! its IPv6 spelling may reach (mapped, compatible, translated, NAT64, 6to4, Teredo, ISATAP): all
//! of them must be allowed. Ranges come in tiers:
//!
//! | tier | ranges | opened by |
//! |---|---|---|
//! | global | public addresses; NAT64 of a public address | nothing needed |
//! | private | RFC 1918, ULA, CGNAT | any CIDR that covers the address, or the exact host |
//! | named | loopback, link-local, metadata, documentation, benchmarking, class E, 6to4, … | a CIDR that lies within that very range, or the exact host |
//! | never | unspecified, multicast, broadcast, discard-only, unassigned, … | nothing |
//!
//! So `0.0.0.0/0` opens 10.0.0.1 and neither 127.0.0.1 nor the metadata service, and
//! `169.254.0.0/16` opens link-local but not the metadata service within it. Named ranges other
//! than loopback, link-local and metadata can be opened because laboratories do use them.
//!
//! Two ways inward cannot be seen from here: a NAT64 prefix of the network's own within global
//! unicast space, and a port that a router forwards inward from a public address.
//!
//! This relay's own listeners and its database are always refused: a webhook must not be able to
//! talk to them.

mod objections;
mod ranges;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use url::Host;

pub use objections::Objection;
use ranges::{Tier, range_of, reached};

use crate::model::allow::AllowEntry;
use crate::model::outcome::Refusal;

/// The addresses that the operator has opened, and those that stay shut regardless.
#[derive(Debug, Clone, Default)]
pub struct AddressRules {
    allow: AllowList,
    allow_http: AllowList,
    own: Vec<SocketAddr>,
}

/// Why an address must not be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    #[error("{address} is in a forbidden range: {range}")]
    Range { address: IpAddr, range: &'static str },
    #[error("{address} reaches {reached}, which is in a forbidden range: {range}")]
    Spelling { address: IpAddr, reached: Ipv4Addr, range: &'static str },
    #[error("{0} is this relay's own listener or its database, and no setting opens that")]
    Own(SocketAddr),
}

/// Why a target must not be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    #[error("the URL is plain http, which addresses.allow_http does not open for this host")]
    NotHttps,
}

impl AddressRules {
    /// `always_refused` holds the relay's own listeners and its database, as address and port. An
    /// unspecified or loopback one (`0.0.0.0:7878`) stands for every address of this machine.
    #[must_use]
    pub fn new(
        allow: &[AllowEntry],
        allow_http: &[AllowEntry],
        always_refused: Vec<SocketAddr>,
    ) -> Self {
        Self {
            allow: AllowList::new(allow),
            allow_http: AllowList::new(allow_http),
            own: always_refused,
        }
    }

    /// Judges one address that `host`, as written in the URL, resolved to.
    ///
    /// # Errors
    ///
    /// [`Forbidden`] says which range the address, or an address that it reaches, lies in.
    pub fn judge(&self, host: &Host, ip: IpAddr, port: u16) -> Result<(), Forbidden> {
        let reached = reached(ip);
        for v4 in reached.inner.into_iter().flatten() {
            self.judge_range(host, v4.into()).map_err(|range| Forbidden::Spelling {
                address: ip,
                reached: v4,
                range,
            })?;
            self.judge_own(v4.into(), ip, port)?;
        }
        self.judge_range(host, reached.outer)
            .map_err(|range| Forbidden::Range { address: ip, range })?;
        self.judge_own(reached.outer, ip, port)
    }

    /// Judges every address that a target resolved to, and whether it may do without TLS.
    ///
    /// One forbidden address among several refuses them all. An honest name has no reason to point
    /// both outside and inside; a rebinding attack answers with both and waits for the outside one
    /// to fail.
    ///
    /// # Errors
    ///
    /// [`NotAdmitted`], for the first address that is not admitted.
    pub fn admit(
        &self,
        host: &Host,
        port: u16,
        https: bool,
        addresses: &[IpAddr],
    ) -> Result<(), NotAdmitted> {
        for &ip in addresses {
            self.judge(host, ip, port)?;
            if !https
                && !self.allow_http.has_host(host)
                && !self.allow_http.covers(reached(ip).outer)
            {
                return Err(NotAdmitted::NotHttps);
            }
        }
        Ok(())
    }

    /// Whether plain HTTP to `host` could be admitted once its addresses are known; if not, there
    /// is no need to resolve it.
    #[must_use]
    pub fn may_be_plain(&self, host: &Host) -> bool {
        self.allow_http.has_host(host) || !self.allow_http.nets.is_empty()
    }

    /// Judges a connection that stands, before a byte is sent on it: a peer with our own address is
    /// this machine under a name that no list of ours holds.
    ///
    /// # Errors
    ///
    /// [`Forbidden::Own`] if one of the relay's own ports was reached that way.
    pub fn judge_connected(&self, peer: SocketAddr, local: IpAddr) -> Result<(), Forbidden> {
        let here = peer.ip().to_canonical() == local.to_canonical();
        let ours = |own: &SocketAddr| own.port() == peer.port() && is_this_machine(own.ip());
        if here && self.own.iter().any(ours) { Err(Forbidden::Own(peer)) } else { Ok(()) }
    }

    fn judge_range(&self, host: &Host, ip: IpAddr) -> Result<(), &'static str> {
        let range = range_of(ip);
        let opened = match range.tier {
            Tier::Global => true,
            Tier::Private => self.allow.has_host(host) || self.allow.covers(ip),
            Tier::Named => self.allow.has_host(host) || self.allow.covers_within(ip, &range.net),
            Tier::Never => false,
        };
        if opened { Ok(()) } else { Err(range.name) }
    }

    fn judge_own(&self, reached: IpAddr, written: IpAddr, port: u16) -> Result<(), Forbidden> {
        let ours = |own: &SocketAddr| {
            let ip = own.ip().to_canonical();
            own.port() == port && (ip == reached || (is_this_machine(ip) && reached.is_loopback()))
        };
        if self.own.iter().any(ours) {
            Err(Forbidden::Own(SocketAddr::new(written, port)))
        } else {
            Ok(())
        }
    }
}

impl NotAdmitted {
    /// The word for it in an outcome.
    #[must_use]
    pub fn why(&self) -> Refusal {
        match self {
            Self::Forbidden(_) => Refusal::ForbiddenAddress,
            Self::NotHttps => Refusal::NotHttps,
        }
    }
}

fn is_this_machine(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_unspecified() || ip.is_loopback()
}

/// The entries of one list, sorted by kind.
#[derive(Debug, Clone, Default)]
struct AllowList {
    nets: Vec<IpNet>,
    hosts: Vec<String>,
}

impl AllowList {
    fn new(entries: &[AllowEntry]) -> Self {
        let mut list = Self::default();
        for entry in entries {
            match entry {
                AllowEntry::Net(net) => list.nets.push(*net),
                AllowEntry::Host(name) => list.hosts.push(name.clone()),
            }
        }
        list
    }

    fn has_host(&self, host: &Host) -> bool {
        let Host::Domain(name) = host else { return false };
        let name = name.strip_suffix('.').unwrap_or(name);
        self.hosts.iter().any(|opened| opened == name)
    }

    fn covers(&self, ip: IpAddr) -> bool {
        self.nets.iter().any(|net| net.contains(&ip))
    }

    fn covers_within(&self, ip: IpAddr, range: &IpNet) -> bool {
        self.nets.iter().any(|net| net.contains(&ip) && range.contains(net))
    }
}

#[cfg(test)]
mod tests;
