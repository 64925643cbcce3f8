//! Classifies an address: the special ranges of the IANA registries, and the IPv4 address that
//! hides in an IPv6 spelling. A table and arithmetic; [`super`] decides what is opened.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// How a range can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tier {
    /// Always open.
    Global,
    /// Opened by any CIDR that covers the address: networks that an operator means when they say
    /// "inside".
    Private,
    /// Opened only by a CIDR that lies within this very range, so that `0.0.0.0/0` does not open it
    /// by accident.
    Named,
    /// Never: no webhook receiver can live there.
    Never,
}

/// One special range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) name: &'static str,
    pub(super) net: IpNet,
    pub(super) tier: Tier,
}

/// The range this address lies in, the narrowest if it lies in several.
///
/// An IPv4-mapped IPv6 address must have been unwrapped by [`reached`] before.
pub(super) fn range_of(address: IpAddr) -> &'static Range {
    let (table, rest): (&[Range], _) = match address {
        IpAddr::V4(_) => (&V4, &V4_PUBLIC),
        IpAddr::V6(v6) if v6.segments()[0] & 0xe000 == 0x2000 => (&V6, &V6_PUBLIC),
        IpAddr::V6(_) => (&V6, &V6_UNASSIGNED),
    };
    table.iter().find(|range| range.net.contains(&address)).unwrap_or(rest)
}

/// The addresses that a packet to `address` may reach, besides the address itself; every one has to
/// be judged.
///
/// The kernel turns a mapped address into plain IPv4, so of a mapped address only the IPv4 address
/// remains; of the other spellings the outer address remains too.
pub(super) fn reached(address: IpAddr) -> Reached {
    let IpAddr::V6(v6) = address else {
        return Reached { outer: address, inner: [None, None] };
    };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return Reached { outer: IpAddr::V4(v4), inner: [None, None] };
    }
    Reached { outer: address, inner: embedded(v6) }
}

/// An address without its mapped spelling, and the IPv4 addresses that it carries inside.
pub(super) struct Reached {
    pub(super) outer: IpAddr,
    pub(super) inner: [Option<Ipv4Addr>; 2],
}

fn embedded(v6: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let s = v6.segments();
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match s {
        // ::1 and :: are ranges of their own, not IPv4 addresses.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None, None],
        // IPv4-compatible (::a.b.c.d), IPv4-translated (::ffff:0:a.b.c.d), NAT64 with the
        // well-known and the local-use prefix.
        [0, 0, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low] => [v4(high, low), None],
        // 6to4: the relay is the embedded address.
        [0x2002, high, low, ..] => [v4(high, low), None],
        // Teredo: the server in clear, the client with every bit turned over.
        [0x2001, 0, high, low, _, _, client_high, client_low] => {
            [v4(high, low), v4(!client_high, !client_low)]
        }
        // ISATAP: an interface identifier under any prefix.
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => [v4(high, low), None],
        _ => [None, None],
    }
}

const fn v4(name: &'static str, tier: Tier, [a, b, c, d]: [u8; 4], prefix: u8) -> Range {
    let net = Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix);
    Range { name, net: IpNet::V4(net), tier }
}

const fn v6(name: &'static str, tier: Tier, s: [u16; 8], prefix: u8) -> Range {
    let address = Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]);
    Range { name, net: IpNet::V6(Ipv6Net::new_assert(address, prefix)), tier }
}

static V4_PUBLIC: Range = v4("public", Tier::Global, [0; 4], 0);
static V6_PUBLIC: Range = v6("public", Tier::Global, [0x2000, 0, 0, 0, 0, 0, 0, 0], 3);
/// Nothing outside `2000::/3` is handed out as global unicast, so what is not listed is refused.
static V6_UNASSIGNED: Range = v6("outside global unicast (2000::/3)", Tier::Never, [0; 8], 0);

/// Clouds answer with credentials there. Ranges of their own, before those they lie in: an operator
/// who opens link-local or 10.0.0.0/8 has not opened these.
pub(super) const METADATA: &str = "cloud metadata";

/// From the narrowest to the widest where they overlap.
static V4: [Range; 25] = [
    v4(METADATA, Tier::Named, [169, 254, 169, 254], 32), // AWS, Azure, GCP, DigitalOcean, …
    v4(METADATA, Tier::Named, [169, 254, 170, 2], 32),   // ECS task credentials
    v4(METADATA, Tier::Named, [169, 254, 170, 23], 32),  // EKS pod identity
    v4(METADATA, Tier::Named, [100, 100, 100, 200], 32), // Alibaba
    v4(METADATA, Tier::Named, [192, 0, 0, 192], 32),     // Oracle
    v4(METADATA, Tier::Named, [168, 63, 129, 16], 32),   // Azure's wire server, a public address
    v4("unspecified", Tier::Never, [0, 0, 0, 0], 8),
    v4("private (RFC 1918)", Tier::Private, [10, 0, 0, 0], 8),
    v4("shared carrier space (CGNAT)", Tier::Private, [100, 64, 0, 0], 10),
    v4("loopback", Tier::Named, [127, 0, 0, 0], 8),
    v4("link-local", Tier::Named, [169, 254, 0, 0], 16),
    v4("private (RFC 1918)", Tier::Private, [172, 16, 0, 0], 12),
    v4("IETF protocol assignments", Tier::Named, [192, 0, 0, 0], 24),
    v4("documentation", Tier::Named, [192, 0, 2, 0], 24),
    v4("AS112", Tier::Named, [192, 31, 196, 0], 24),
    v4("AMT relays", Tier::Named, [192, 52, 193, 0], 24),
    v4("6to4 relays", Tier::Named, [192, 88, 99, 0], 24),
    v4("private (RFC 1918)", Tier::Private, [192, 168, 0, 0], 16),
    v4("AS112", Tier::Named, [192, 175, 48, 0], 24),
    v4("benchmarking", Tier::Named, [198, 18, 0, 0], 15),
    v4("documentation", Tier::Named, [198, 51, 100, 0], 24),
    v4("documentation", Tier::Named, [203, 0, 113, 0], 24),
    v4("multicast", Tier::Never, [224, 0, 0, 0], 4),
    v4("broadcast", Tier::Never, [255, 255, 255, 255], 32),
    // Class E is in use inside some clouds (GKE pods), so it can be opened by name.
    v4("reserved (class E)", Tier::Named, [240, 0, 0, 0], 4),
];

/// From the narrowest to the widest where they overlap.
static V6: [Range; 22] = [
    v6("unspecified", Tier::Never, [0; 8], 128),
    v6("loopback", Tier::Named, [0, 0, 0, 0, 0, 0, 0, 1], 128),
    v6("IPv4-compatible", Tier::Never, [0; 8], 96),
    v6("IPv4-translated", Tier::Never, [0, 0, 0, 0, 0xffff, 0, 0, 0], 96),
    // With NAT64 every public IPv4 receiver has such an address: what is inside decides.
    v6("NAT64", Tier::Global, [0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96),
    v6("NAT64 (local use)", Tier::Named, [0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48),
    v6("discard-only", Tier::Never, [0x100, 0, 0, 0, 0, 0, 0, 0], 64),
    v6("dummy prefix", Tier::Never, [0x100, 0, 0, 1, 0, 0, 0, 0], 64),
    v6("Teredo", Tier::Named, [0x2001, 0, 0, 0, 0, 0, 0, 0], 32),
    v6("benchmarking", Tier::Named, [0x2001, 2, 0, 0, 0, 0, 0, 0], 48),
    v6("ORCHID", Tier::Never, [0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28),
    v6("ORCHID", Tier::Never, [0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28),
    v6("IETF protocol assignments", Tier::Named, [0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    v6("documentation", Tier::Named, [0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    v6("6to4", Tier::Named, [0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
    v6("documentation", Tier::Named, [0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
    v6("SRv6 segments", Tier::Named, [0x5f00, 0, 0, 0, 0, 0, 0, 0], 16),
    v6(METADATA, Tier::Named, [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32), // AWS
    v6(METADATA, Tier::Named, [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128), // GCP
    v6("unique local (ULA)", Tier::Private, [0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),
    v6("link-local", Tier::Named, [0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    v6("site-local", Tier::Named, [0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),
];

/// Both tables, for the tests.
#[cfg(test)]
pub(super) fn tables() -> [&'static [Range]; 2] {
    [&V4, &V6]
}
