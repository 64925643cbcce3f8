//! Spellings that must be refused and spellings that must not.

use std::net::{IpAddr, SocketAddr};

use url::Host;

use super::ranges::tables;
use super::{AddressRules, Forbidden, NotAdmitted};
use crate::model::allow::{AllowEntry, AllowEntryError};
use crate::model::outcome::Refusal;
use crate::outbound::target::Target;

/// Addresses that must not be dialled, with the range that each is refused for.
const FORBIDDEN_ADDRESSES: &[(&str, &[&str])] = &[
    (
        "unspecified",
        &["0.0.0.0", "0.0.0.1", "0.1.2.3", "0.255.255.255", "::", "::2", "::ffff:0.0.0.0"],
    ),
    (
        "loopback",
        &[
            "127.0.0.1",
            "127.0.0.53",
            "127.0.1.1",
            "127.1.2.3",
            "127.255.255.255",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:7f00:1",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::7fff:ffff",
            "64:ff9b:1::127.0.0.1",
            "64:ff9b:1:ffff:ffff:ffff:127.0.0.1",
            "2002:7f00:1::",
            "2002:7f00:1::1",
            "2002:7fff:ffff:1:2:3:4:5",
            "2001:0:7f00:1::",
            "2001:0:808:808:0:0:80ff:fffe",
            "2606:4700::5efe:127.0.0.1",
            "2606:4700::200:5efe:127.0.0.1",
            "2a00:1450:4001:82b:0:5efe:7f00:1",
        ],
    ),
    (
        "private (RFC 1918)",
        &[
            "10.0.0.0",
            "10.0.0.1",
            "10.255.255.255",
            "172.16.0.0",
            "172.16.0.1",
            "172.20.10.2",
            "172.31.255.255",
            "192.168.0.1",
            "192.168.1.1",
            "192.168.255.255",
            "::ffff:10.0.0.1",
            "::ffff:172.16.0.1",
            "::ffff:c0a8:101",
            "::10.0.0.1",
            "::192.168.1.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::172.31.255.255",
            "64:ff9b::c0a8:101",
            "2002:a00:1::",
            "2002:ac10:1::1",
            "2002:c0a8:101::1",
            "2001:0:a00:1::",
            "2001:0:808:808:0:0:3f57:fefe",
            "2606:4700::5efe:10.0.0.1",
            "2606:4700::200:5efe:192.168.1.1",
        ],
    ),
    (
        "shared carrier space (CGNAT)",
        &[
            "100.64.0.0",
            "100.64.0.1",
            "100.100.0.1",
            "100.127.255.255",
            "::ffff:100.64.0.1",
            "64:ff9b::100.64.0.1",
        ],
    ),
    (
        "link-local",
        &[
            "169.254.0.1",
            "169.254.1.1",
            "169.254.169.253",
            "169.254.255.255",
            "::ffff:169.254.0.1",
            "64:ff9b::169.254.0.1",
            "fe80::1",
            "fe80::a9fe:a9fe",
            "fe80::5efe:8.8.8.8",
            "fe8f::1",
            "febf:ffff::1",
        ],
    ),
    (
        "cloud metadata",
        &[
            "169.254.169.254",
            "169.254.170.2",
            "169.254.170.23",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd00:ec2::253",
            "fd20:ce::254",
            "::ffff:169.254.169.254",
            "::ffff:a9fe:a9fe",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::a9fe:a9fe",
            "2002:a9fe:a9fe::",
            "2002:a9fe:a9fe::1",
            "2001:0:a9fe:a9fe::",
            "2606:4700::5efe:169.254.169.254",
            "2606:4700::200:5efe:169.254.169.254",
        ],
    ),
    (
        "IETF protocol assignments",
        &["192.0.0.1", "192.0.0.8", "192.0.0.170", "2001:1::1", "2001:1ff::1"],
    ),
    (
        "documentation",
        &[
            "192.0.2.0",
            "192.0.2.1",
            "198.51.100.7",
            "203.0.113.255",
            "2001:db8::1",
            "2001:db8:ffff::1",
            "3fff::1",
            "3fff:fff::1",
            "::ffff:192.0.2.1",
            "64:ff9b::203.0.113.1",
        ],
    ),
    ("benchmarking", &["198.18.0.1", "198.19.255.255", "2001:2::1", "::ffff:198.18.0.1"]),
    ("6to4 relays", &["192.88.99.0", "192.88.99.1", "192.88.99.255"]),
    ("AS112", &["192.31.196.1", "192.175.48.1"]),
    ("AMT relays", &["192.52.193.1"]),
    (
        "multicast",
        &["224.0.0.1", "224.0.0.251", "239.255.255.255", "::ffff:224.0.0.1", "64:ff9b::224.0.0.1"],
    ),
    (
        "reserved (class E)",
        &["240.0.0.0", "240.0.0.1", "250.1.2.3", "255.255.255.254", "::ffff:240.0.0.1"],
    ),
    ("broadcast", &["255.255.255.255", "::ffff:255.255.255.255", "64:ff9b::255.255.255.255"]),
    ("IPv4-compatible", &["::8.8.8.8", "::1.1.1.1"]),
    ("IPv4-translated", &["::ffff:0:8.8.8.8"]),
    ("NAT64 (local use)", &["64:ff9b:1::8.8.8.8", "64:ff9b:1:abcd::808:808"]),
    ("discard-only", &["100::", "100::1"]),
    ("dummy prefix", &["100:0:0:1::1"]),
    ("Teredo", &["2001:0:808:808::f7f7:f7f7", "2001::808:808:0:0:f7f7:f7f7"]),
    ("ORCHID", &["2001:10::1", "2001:1f:ffff::1", "2001:20::1", "2001:2f:ffff::1"]),
    ("6to4", &["2002:808:808::1", "2002:101:101::"]),
    ("SRv6 segments", &["5f00::1", "5f00:ffff::1"]),
    ("unique local (ULA)", &["fc00::1", "fd00::1", "fd12:3456:789a::1", "fdff:ffff::1"]),
    ("site-local", &["fec0::1", "feff::1"]),
    (
        "outside global unicast (2000::/3)",
        &[
            "1::1",
            "200::1",
            "400::1",
            "1000::1",
            "1fff::1",
            "4000::1",
            "6000::1",
            "8000::1",
            "e000::1",
            "64:ff9b:2::1",
            "fe00::1",
        ],
    ),
];

/// URLs whose host is an address in disguise.
const FORBIDDEN_URLS: &[&str] = &[
    "http://127.0.0.1/",
    "http://127.0.0.1./",
    "http://127.1/",
    "http://127.0.1/",
    "http://2130706433/",
    "http://2130706433./",
    "http://0x7f000001/",
    "http://0x7F.0.0.1/",
    "http://0x7f.1/",
    "http://0x7f.0x0.0x0.0x1/",
    "http://017700000001/",
    "http://0177.0.0.1/",
    "http://0177.1/",
    "http://0177.0.0.01/",
    "http://127.0.0.0x1/",
    "http://127.000.000.001/",
    "http://%31%32%37.0.0.1/",
    "http://127%2e0%2e0%2e1/",
    "http://１２７.０.０.１/",
    "http://127。0。0。1/",
    "http://①②⑦.⓪.⓪.①/",
    "http://127\t.0.0.1/",
    "http:\\\\127.0.0.1\\",
    "HTTP://127.0.0.1:8080/",
    "https:127.0.0.1",
    "http:////127.0.0.1/",
    "http://0/",
    "http://0.0.0.0/",
    "http://0x0/",
    "http://00000/",
    "http://0xa9fea9fe/",
    "http://2852039166/",
    "http://025177524776/",
    "http://0251.0376.0251.0376/",
    "http://169.254.43518/",
    "http://169.16689662/",
    "http://0xa9.0xfe.0xa9.0xfe/latest/meta-data/",
    "http://169.254.169.254/latest/meta-data/",
    "http://169。254。169。254/",
    "http://10.1/",
    "http://012.0.0.1/",
    "http://167772161/",
    "http://0xa000001/",
    "http://192.168.257/",
    "http://3232235777/",
    "http://0xc0a80101/",
    "http://172.1048577/",
    "http://4294967295/",
    "http://0xffffffff/",
    "http://255.255.255.255/",
    "http://224.1/",
    "http://[::]/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[0000:0000:0000:0000:0000:0000:0000:0001]/",
    "http://[::0:1]/",
    "http://[::127.0.0.1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::FFFF:7F00:1]/",
    "http://[0:0:0:0:0:ffff:7f00:0001]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[2002:7f00:1::]/",
    "http://[fe80::1]/",
    "http://[fd00:ec2::254]/",
    "http://[FC00::1]/",
    "http://[ff02::1]/",
    "http://[2606:4700::5efe:7f00:1]/",
];

/// Texts that are no target at all, whatever else they are.
const NO_TARGETS: &[&str] = &[
    "http://[fe80::1%25eth0]/",
    "http://[fe80::1%eth0]/",
    "http://[::1%250]/",
    "http://[::1/",
    "http://::1/",
    "http://[127.0.0.1]/",
    "http://[::ffff:256.0.0.1]/",
    "http://256.0.0.1/",
    "http://1.2.3.4.5/",
    "http://4294967296/",
    "http://0x100000000/",
    "http://127.0.0.08/",
    "http://example.1/",
    "http://127.0.0.1:99999/",
    "http://example.com:0/",
    "http://user@example.com/",
    "http://example.com:80@127.0.0.1/",
    "http://:secret@example.com/",
    "http:///",
    "http://",
    "http://exa mple.com/",
    "http://example.com%00/",
    "http://exam<ple.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://127.0.0.1/",
    "unix:/run/docker.sock",
    "javascript:alert(1)",
    "data:,hello",
    "//example.com/",
    "example.com",
    "127.0.0.1:8080",
    "",
];

const ADMITTED_ADDRESSES: &[&str] = &[
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "93.184.216.34",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "140.82.112.3",
    "168.63.129.15",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "172.64.0.1",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.3.0",
    "192.88.98.255",
    "192.88.100.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.99.255",
    "198.51.101.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "::ffff:808:808",
    "64:ff9b::8.8.8.8",
    "64:ff9b::5db8:d822",
    "2000::1",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2001:db7:ffff::1",
    "2001:db9::1",
    "2003::1",
    "2400:cb00::1",
    "2606:4700:4700::1111",
    "2606:4700::5efe:8.8.8.8",
    "2606:4700::200:5efe:8.8.8.8",
    "2606:4700::5eff:7f00:1",
    "2620:fe::fe",
    "2a00:1450:4001:82b::200e",
    "2c0f:f248::1",
    "3ffe:ffff::1",
    "3fff:1000::1",
];

const ADMITTED_URLS: &[&str] = &[
    "https://example.com/",
    "https://EXAMPLE.com./hook",
    "https://bücher.example/",
    "https://xn--bcher-kva.example/",
    "https://under_score.example/",
    "https://example.com:8443/hook?token=a|b",
    "https://127.0.0.1.example.com/",
    "https://localhost.example.com/",
    "https://134744072/",
    "https://0x8.0x8.0x8.0x8/",
    "https://8.8.8.8:1/",
    "https://[2606:4700:4700::1111]/",
    "https://[::ffff:8.8.8.8]/",
    "  https://example.com/hook#fragment\n",
];

fn rules(allow: &[&str], allow_http: &[&str], own: &[&str]) -> AddressRules {
    let entries = |texts: &[&str]| -> Vec<AllowEntry> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    };
    let own = own.iter().map(|text| text.parse().unwrap()).collect();
    AddressRules::new(&entries(allow), &entries(allow_http), own)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> Host {
    Host::Domain(text.to_owned())
}

fn judged(rules: &AddressRules, address: &str) -> Result<(), Forbidden> {
    rules.judge(&name("receiver.example"), ip(address), 443)
}

#[test]
fn every_special_address_is_refused_in_every_spelling_and_says_its_range() {
    let closed = rules(&[], &[], &[]);
    for (expected, addresses) in FORBIDDEN_ADDRESSES {
        for address in *addresses {
            match judged(&closed, address) {
                Err(Forbidden::Range { range, .. } | Forbidden::Spelling { range, .. }) => {
                    assert_eq!(range, *expected, "{address}");
                }
                other => panic!("{address} should be {expected}, but is {other:?}"),
            }
        }
    }
}

#[test]
fn the_tables_are_as_long_as_promised() {
    let addresses: usize = FORBIDDEN_ADDRESSES.iter().map(|(_, list)| list.len()).sum();
    assert!(addresses + FORBIDDEN_URLS.len() >= 150);
    assert!(ADMITTED_ADDRESSES.len() + ADMITTED_URLS.len() >= 50);
}

#[test]
fn an_address_in_disguise_is_seen_through() {
    let closed = rules(&[], &[], &[]);
    for url in FORBIDDEN_URLS {
        let target = Target::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        let ip = target.ip().unwrap_or_else(|| panic!("{url} is a name"));
        assert!(closed.judge(target.host(), ip, target.port()).is_err(), "{url}");
    }
}

#[test]
fn what_cannot_be_dialled_is_no_target() {
    for text in NO_TARGETS {
        assert!(Target::parse(text).is_err(), "{text}");
    }
}

#[test]
fn neighbours_of_special_ranges_are_public() {
    let closed = rules(&[], &[], &[]);
    for address in ADMITTED_ADDRESSES {
        assert_eq!(judged(&closed, address), Ok(()), "{address}");
    }
}

#[test]
fn ordinary_urls_are_admitted() {
    let closed = rules(&[], &[], &[]);
    for url in ADMITTED_URLS {
        let target = Target::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        let ip = target.ip().unwrap_or(ip("93.184.216.34"));
        assert_eq!(closed.admit(target.host(), target.port(), true, &[ip]), Ok(()), "{url}");
    }
}

#[test]
fn private_ranges_are_opened_by_any_cidr_that_covers_them() {
    for (cidr, address) in [
        ("0.0.0.0/0", "10.0.0.1"),
        ("0.0.0.0/0", "192.168.1.1"),
        ("0.0.0.0/0", "100.64.0.1"),
        ("0.0.0.0/0", "::ffff:10.0.0.1"),
        ("0.0.0.0/0", "64:ff9b::10.0.0.1"),
        ("10.0.0.0/8", "10.1.2.3"),
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.0.0.0/104", "10.1.2.3"),
        ("::/0", "fd12::1"),
        ("fc00::/7", "fd12::1"),
    ] {
        assert_eq!(judged(&rules(&[cidr], &[], &[]), address), Ok(()), "{cidr} {address}");
    }
    assert!(judged(&rules(&["10.0.0.0/16"], &[], &[]), "10.1.2.3").is_err());
    assert!(judged(&rules(&["::/0"], &[], &[]), "10.1.2.3").is_err());
}

#[test]
fn opening_everything_opens_nothing_that_must_be_named() {
    let wide = rules(&["0.0.0.0/0", "::/0", "128.0.0.0/1", "0.0.0.0/1", "2000::/3"], &[], &[]);
    for address in [
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "169.254.1.1",
        "fe80::1",
        "169.254.169.254",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.2.1",
        "198.18.0.1",
        "240.0.0.1",
        "2001:db8::1",
        "2002:808:808::1",
        "2001:0:808:808::f7f7:f7f7",
    ] {
        assert!(judged(&wide, address).is_err(), "{address}");
    }
}

#[test]
fn a_named_range_is_opened_by_a_cidr_within_it() {
    for (cidr, address) in [
        ("127.0.0.0/8", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1/32", "::ffff:127.0.0.1"),
        ("[::1]", "::1"),
        ("169.254.0.0/16", "169.254.1.1"),
        ("fe80::/10", "fe80::1"),
        ("169.254.169.254", "169.254.169.254"),
        ("fd00:ec2::254/128", "fd00:ec2::254"),
        ("198.18.0.0/15", "198.19.0.1"),
        ("240.0.0.0/4", "240.0.0.1"),
        ("2002::/16", "2002:808:808::1"),
    ] {
        assert_eq!(judged(&rules(&[cidr], &[], &[]), address), Ok(()), "{cidr} {address}");
    }
    for (cidr, address) in [
        ("169.254.0.0/16", "169.254.169.254"),
        ("100.64.0.0/10", "100.100.100.200"),
        ("fc00::/7", "fd00:ec2::254"),
        ("127.0.0.1", "127.0.0.2"),
        ("2002::/16", "2002:7f00:1::"),
        ("64:ff9b:1::/48", "64:ff9b:1::127.0.0.1"),
    ] {
        assert!(judged(&rules(&[cidr], &[], &[]), address).is_err(), "{cidr} {address}");
    }
}

#[test]
fn some_addresses_cannot_be_opened_at_all() {
    for address in
        ["0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "100::1", "4000::1"]
    {
        let open = rules(&[address, "receiver.example"], &[], &[]);
        assert!(judged(&open, address).is_err(), "{address}");
    }
}

#[test]
fn a_host_is_opened_by_the_name_in_the_url_and_by_no_other() {
    let open = rules(&["LocalHost."], &[], &[]);
    let target = Target::parse("https://LOCALHOST./").unwrap();
    assert_eq!(open.judge(target.host(), ip("127.0.0.1"), 443), Ok(()));
    assert_eq!(open.judge(&name("localhost"), ip("::1"), 443), Ok(()));
    for other in ["localhost.example", "a.localhost", "example.com"] {
        assert!(open.judge(&name(other), ip("127.0.0.1"), 443).is_err(), "{other}");
    }
    let literal = Target::parse("https://127.0.0.1/").unwrap();
    assert!(open.judge(literal.host(), ip("127.0.0.1"), 443).is_err());
}

#[test]
fn one_forbidden_address_refuses_them_all() {
    let closed = rules(&[], &[], &[]);
    let mixed = [ip("8.8.8.8"), ip("10.0.0.1")];
    let refused = closed.admit(&name("rebinding.example"), 443, true, &mixed).unwrap_err();
    assert_eq!(refused.why(), Refusal::ForbiddenAddress);
    assert_eq!(refused.to_string(), "10.0.0.1 is in a forbidden range: private (RFC 1918)");
}

#[test]
fn our_own_listeners_and_database_stay_shut_whatever_is_opened() {
    let allow = ["127.0.0.0/8", "::1", "0.0.0.0/0", "receiver.example"];
    let open = rules(&allow, &[], &["0.0.0.0:7878", "10.0.0.5:5432", "127.0.0.1:9000"]);
    let judge = |address, port| open.judge(&name("receiver.example"), ip(address), port);
    for (address, port) in [
        ("127.0.0.1", 7878),
        ("127.9.9.9", 7878),
        ("::1", 7878),
        ("::ffff:127.0.0.1", 7878),
        ("64:ff9b::127.0.0.1", 7878),
        ("10.0.0.5", 5432),
        ("::ffff:10.0.0.5", 5432),
        ("64:ff9b::10.0.0.5", 5432),
        ("127.0.0.1", 9000),
        ("::1", 9000),
    ] {
        assert!(matches!(judge(address, port), Err(Forbidden::Own(_))), "{address} {port}");
    }
    assert_eq!(judge("127.0.0.1", 7879), Ok(()));
    assert_eq!(judge("10.0.0.5", 443), Ok(()));
    assert_eq!(judge("10.0.0.6", 5432), Ok(()));
}

#[test]
fn our_own_listener_is_known_by_the_address_we_reached_it_from() {
    let open = rules(&["10.0.0.0/8"], &[], &["0.0.0.0:7878", "10.0.0.9:5432"]);
    let connected =
        |peer: &str, local| open.judge_connected(peer.parse::<SocketAddr>().unwrap(), ip(local));
    assert!(connected("10.0.0.5:7878", "10.0.0.5").is_err());
    assert!(connected("[::ffff:10.0.0.5]:7878", "10.0.0.5").is_err());
    assert_eq!(connected("10.0.0.6:7878", "10.0.0.5"), Ok(()));
    assert_eq!(connected("10.0.0.5:7879", "10.0.0.5"), Ok(()));
    assert_eq!(connected("10.0.0.5:5432", "10.0.0.5"), Ok(()));
}

#[test]
fn plain_http_is_opened_by_host_or_by_a_cidr_over_every_address() {
    let plain = |rules: &AddressRules, host: &str, addresses: &[&str]| {
        let addresses: Vec<_> = addresses.iter().map(|text| ip(text)).collect();
        rules.admit(&name(host), 80, false, &addresses)
    };
    let closed = rules(&[], &[], &[]);
    assert_eq!(plain(&closed, "a.example", &["8.8.8.8"]), Err(NotAdmitted::NotHttps));
    assert!(!closed.may_be_plain(&name("a.example")));

    let by_host = rules(&[], &["a.example"], &[]);
    assert_eq!(plain(&by_host, "a.example", &["8.8.8.8"]), Ok(()));
    assert_eq!(plain(&by_host, "b.example", &["8.8.8.8"]), Err(NotAdmitted::NotHttps));
    assert!(by_host.may_be_plain(&name("a.example")) && !by_host.may_be_plain(&name("b.example")));

    let by_net = rules(&[], &["8.8.8.0/24"], &[]);
    assert_eq!(plain(&by_net, "a.example", &["8.8.8.8"]), Ok(()));
    assert_eq!(plain(&by_net, "a.example", &["::ffff:8.8.8.8"]), Ok(()));
    assert_eq!(plain(&by_net, "a.example", &["8.8.8.8", "9.9.9.9"]), Err(NotAdmitted::NotHttps));

    // It opens plain HTTP, not the address.
    let inside = rules(&[], &["10.0.0.0/8"], &[]);
    assert!(matches!(plain(&inside, "a.example", &["10.0.0.1"]), Err(NotAdmitted::Forbidden(_))));
}

#[test]
fn an_entry_says_what_is_wrong_with_it() {
    let error = |text: &str| text.parse::<AllowEntry>().unwrap_err();
    assert_eq!(error("  "), AllowEntryError::Empty);
    assert!(matches!(error("*.example.com"), AllowEntryError::Wildcard { .. }));
    assert!(matches!(error("10.0.0.0/33"), AllowEntryError::NotACidr { .. }));
    assert!(matches!(error("example.com/8"), AllowEntryError::NotACidr { .. }));
    assert!(error("10.0.0.1/8").to_string().contains("write 10.0.0.0/8"));
    assert!(error("127.1").to_string().contains("write 127.0.0.1"));
    assert!(error("0x7f000001").to_string().contains("write 127.0.0.1"));
    for text in ["http://example.com", "example.com:80", "a b", ".", "[::1", "exa<mple"] {
        assert!(matches!(error(text), AllowEntryError::NotAHost { .. }), "{text}");
    }
    assert_eq!(serde_json::from_str::<AllowEntry>("\"::1\"").unwrap().to_string(), "::1/128");
}

#[test]
fn the_narrowest_range_comes_first() {
    for table in tables() {
        for (earlier, range) in table.iter().enumerate() {
            for later in &table[earlier + 1..] {
                assert!(!range.net.contains(&later.net), "{range:?} hides {later:?}");
            }
        }
    }
}
