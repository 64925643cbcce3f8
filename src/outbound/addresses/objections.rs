//! The objections to a target, in words that name the setting and the value that would open it. All
//! at once, so that an operator need not try again after each.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use url::Host;

use super::AddressRules;
use super::ranges::{METADATA, Tier, range_of, reached};
use crate::model::allow::AllowEntry;

/// A name may have many addresses; the first few say what there is to say.
const TOLD: usize = 3;

/// A reason that keeps a relay from sending to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objection {
    what: String,
    opening: Opening,
}

/// The setting that would open it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Opening {
    Nothing,
    /// This entry of a setting, or the host by its name.
    Entry {
        setting: &'static str,
        entry: AllowEntry,
        or: Option<AllowEntry>,
    },
    /// The same, where it is not to be recommended.
    OnlyEntry {
        setting: &'static str,
        entry: AllowEntry,
    },
}

impl AddressRules {
    /// The objections to sending to `host`, at these addresses as far as they are known.
    #[must_use]
    pub fn objections(
        &self,
        host: &Host,
        port: u16,
        https: bool,
        addresses: &[IpAddr],
    ) -> Vec<Objection> {
        let mut found = Vec::new();
        if !https && !self.is_plain(host, addresses) {
            let entry = match host {
                Host::Domain(name) => AllowEntry::Host(name.clone()),
                Host::Ipv4(ip) => single((*ip).into()),
                Host::Ipv6(ip) => single((*ip).into()),
            };
            let opening = Opening::Entry { setting: "addresses.allow_http", entry, or: None };
            found.push(Objection { what: format!("plain http is not opened for {host}"), opening });
        }
        for &address in addresses {
            for objection in self.against(host, address, port) {
                if !found.contains(&objection) {
                    found.push(objection);
                }
            }
        }
        found
    }

    fn is_plain(&self, host: &Host, addresses: &[IpAddr]) -> bool {
        let covered = |ip: &IpAddr| self.allow_http.covers(reached(*ip).outer);
        self.allow_http.has_host(host) || (self.may_be_plain(host) && addresses.iter().all(covered))
    }

    /// The objections to one address.
    fn against(&self, host: &Host, address: IpAddr, port: u16) -> Vec<Objection> {
        let reached = reached(address);
        let mut found = Vec::new();
        let inner = reached.inner.into_iter().flatten().map(IpAddr::from);
        for ip in inner.chain([reached.outer]) {
            if self.judge_range(host, ip).is_err() {
                found.push(out_of_range(host, address, ip));
            }
            if self.judge_own(ip, address, port).is_err() {
                let own = SocketAddr::new(address, port);
                let what = format!("{own} is this relay's own listener or its database");
                found.push(Objection { what, opening: Opening::Nothing });
            }
        }
        found
    }
}

fn out_of_range(host: &Host, address: IpAddr, reached: IpAddr) -> Objection {
    let range = range_of(reached);
    let what = if address.to_canonical() == reached {
        format!("{reached} is {}", range.name)
    } else {
        format!("{address} reaches {reached}, which is {}", range.name)
    };
    let (setting, entry) = ("addresses.allow", single(reached));
    let opening = match (range.tier, host) {
        (Tier::Never, _) => Opening::Nothing,
        _ if range.name == METADATA => Opening::OnlyEntry { setting, entry },
        (_, Host::Domain(name)) => {
            Opening::Entry { setting, entry, or: Some(AllowEntry::Host(name.clone())) }
        }
        (_, Host::Ipv4(_) | Host::Ipv6(_)) => Opening::Entry { setting, entry, or: None },
    };
    Objection { what, opening }
}

/// A CIDR of one address.
fn single(ip: IpAddr) -> AllowEntry {
    AllowEntry::Net(IpNet::from(ip.to_canonical()))
}

impl Objection {
    /// The setting and the entry that would open it, if anything does.
    #[must_use]
    pub fn opened_by(&self) -> Option<(&'static str, &AllowEntry)> {
        match &self.opening {
            Opening::Nothing => None,
            Opening::Entry { setting, entry, .. } | Opening::OnlyEntry { setting, entry } => {
                Some((setting, entry))
            }
        }
    }

    /// All of them, as one text.
    #[must_use]
    pub fn in_words(objections: &[Self]) -> String {
        let mut told: Vec<_> = objections.iter().take(TOLD).map(Self::to_string).collect();
        if objections.len() > TOLD {
            told.push(format!("and {} more", objections.len() - TOLD));
        }
        told.join("; ")
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = &self.what;
        match &self.opening {
            Opening::Nothing => write!(f, "{what}, and no setting opens that"),
            Opening::Entry { setting, entry, or: None } => {
                write!(f, "{what}: add {entry} to {setting}")
            }
            Opening::Entry { setting, entry, or: Some(host) } => {
                write!(f, "{what}: add {entry} (or {host}) to {setting}")
            }
            Opening::OnlyEntry { setting, entry } => {
                write!(f, "{what}, which gives out credentials: only {entry} in {setting} opens it")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::target::Target;

    fn told(url: &str, addresses: &[&str]) -> String {
        let target = Target::parse(url).unwrap();
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let closed = AddressRules::new(&[], &[], vec!["127.0.0.1:9000".parse().unwrap()]);
        let (host, port) = (target.host(), target.port());
        let against = closed.objections(host, port, target.is_https(), &addresses);
        Objection::in_words(&against)
    }

    #[test]
    fn everything_that_stands_against_a_target_is_told_at_once_with_what_opens_it() {
        for (url, addresses, expected) in [
            (
                "http://127.0.0.1:9310/hooks",
                &["127.0.0.1"][..],
                "plain http is not opened for 127.0.0.1: add 127.0.0.1/32 to addresses.allow_http; \
                 127.0.0.1 is loopback: add 127.0.0.1/32 to addresses.allow",
            ),
            (
                "http://receiver.example/",
                &[],
                "plain http is not opened for receiver.example: add receiver.example to addresses.allow_http",
            ),
            (
                "https://receiver.example/",
                &["10.0.0.5"],
                "10.0.0.5 is private (RFC 1918): add 10.0.0.5/32 (or receiver.example) to addresses.allow",
            ),
            (
                "https://169.254.169.254/",
                &["169.254.169.254"],
                "169.254.169.254 is cloud metadata, which gives out credentials: \
                 only 169.254.169.254/32 in addresses.allow opens it",
            ),
            (
                "https://[64:ff9b::10.0.0.1]/",
                &["64:ff9b::10.0.0.1"],
                "64:ff9b::a00:1 reaches 10.0.0.1, which is private (RFC 1918): \
                 add 10.0.0.1/32 to addresses.allow",
            ),
            ("https://0.0.0.0/", &["0.0.0.0"], "0.0.0.0 is unspecified, and no setting opens that"),
            (
                "https://127.0.0.1:9000/",
                &["127.0.0.1"],
                "127.0.0.1 is loopback: add 127.0.0.1/32 to addresses.allow; \
                 127.0.0.1:9000 is this relay's own listener or its database, and no setting opens that",
            ),
            (
                "https://many.example/",
                &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.4", "8.8.8.8"],
                "10.0.0.1 is private (RFC 1918): add 10.0.0.1/32 (or many.example) to addresses.allow; \
                 10.0.0.2 is private (RFC 1918): add 10.0.0.2/32 (or many.example) to addresses.allow; \
                 10.0.0.3 is private (RFC 1918): add 10.0.0.3/32 (or many.example) to addresses.allow; \
                 and 1 more",
            ),
            ("https://public.example/", &["8.8.8.8", "2606:4700:4700::1111"], ""),
        ] {
            assert_eq!(told(url, addresses), expected, "{url}");
        }
    }

    /// Every special address, in the spellings that reach it, by number and by name.
    #[test]
    fn what_is_said_to_open_it_opens_it() {
        let mut opened = 0;
        for range in super::super::ranges::tables().into_iter().flatten() {
            let first = range.net.addr();
            let mut spellings = vec![first];
            if let IpAddr::V4(v4) = first {
                spellings.push(v4.to_ipv6_mapped().into());
                spellings.push(format!("64:ff9b::{v4}").parse().unwrap());
            }
            for address in spellings {
                let by_number = match address {
                    IpAddr::V4(v4) => Host::Ipv4(v4),
                    IpAddr::V6(v6) => Host::Ipv6(v6),
                };
                for host in [by_number, Host::Domain("receiver.example".to_owned())] {
                    let closed = AddressRules::default();
                    let against = closed.objections(&host, 80, false, &[address]);
                    let Err(_) = closed.admit(&host, 80, false, &[address]) else {
                        panic!("{address} is admitted");
                    };
                    let entries = |setting| -> Vec<AllowEntry> {
                        let those = against.iter().filter_map(Objection::opened_by);
                        those.filter(|one| one.0 == setting).map(|one| one.1.clone()).collect()
                    };
                    let shut = against.iter().any(|one| one.opened_by().is_none());
                    let (allow, http) =
                        (entries("addresses.allow"), entries("addresses.allow_http"));
                    let open = AddressRules::new(&allow, &http, vec![]);
                    let admitted = open.admit(&host, 80, false, &[address]);
                    assert_eq!(admitted.is_ok(), !shut, "{host} {address}: {against:?}");
                    opened += usize::from(!shut);
                }
            }
        }
        assert!(opened > 100, "{opened}");
    }
}
