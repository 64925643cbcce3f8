//! Which header names are the relay's own, also to receivers that take one name for another.

/// Bytes that headers take in memory.
#[must_use]
pub fn bytes_of_pairs(headers: &[(String, String)]) -> usize {
    let pair =
        |(name, value): &(String, String)| name.len() + value.len() + size_of::<(String, String)>();
    headers.iter().map(pair).sum()
}

/// Whether a receiver may take one name for the other, both in lower case.
///
/// CGI and what descends from it (WSGI, PHP, Rack) hands headers over as variables, in which `_`
/// stands for a hyphen, and with old servers for every sign that is neither letter nor digit: there
/// `webhook_signature` is `webhook-signature`.
#[must_use]
pub fn read_alike(one: &str, other: &str) -> bool {
    let folded = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
    one.len() == other.len() && one.bytes().map(folded).eq(other.bytes().map(folded))
}

/// Whether a receiver may take this name, in lower case, for one that the relay sets itself or that
/// belongs to one hop. `posthaste_internal.is_header_of_the_relay` has the same list.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    OURS.iter().any(|ours| read_alike(ours, name))
        || name.get(..8).is_some_and(|begins| read_alike(begins, "webhook-"))
}

/// Whether this name, in lower case, is one of [ours](is_ours) and spelled otherwise. The outbox
/// refuses an event that has one: `posthaste_internal.header_problem`.
#[must_use]
pub fn may_be_mistaken(name: &str) -> bool {
    let is_spelled_otherwise = |byte: u8| !byte.is_ascii_alphanumeric() && byte != b'-';
    is_ours(name) && name.bytes().any(is_spelled_otherwise)
}

const OURS: [&str; 15] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "user-agent",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_ours_however_its_hyphens_are_spelled_and_mistaken_only_where_they_are_not() {
        for (name, ours, mistaken) in [
            ("webhook-id", true, false),
            ("webhook_id", true, true),
            ("webhook.anything", true, true),
            ("content_length", true, true),
            ("host", true, false),
            ("x-host", false, false),
            ("x_token", false, false),
            ("webhook", false, false),
            ("", false, false),
            ("ä-webhook-", false, false),
        ] {
            assert_eq!((is_ours(name), may_be_mistaken(name)), (ours, mistaken), "{name}");
        }
    }
}
