//! Which headers of a webhook are kept and sent on with its event: those of a list for each scheme,
//! and those that the settings name. What is on no list is not kept, so no credential of a kind
//! that is not known here is either.

use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName};

use crate::config::{Content, SourceSettings};
use crate::model::header::may_be_mistaken;
use crate::model::incoming::{HEADER_BYTES_MAX, HEADER_VALUE_MAX, HEADERS_MAX};
use crate::signing::verify::Scheme;

/// Kept of every scheme: how to read the body, who sent it, and by which request.
const OF_ALL: [&str; 6] =
    ["content-type", "user-agent", "traceparent", "tracestate", "x-request-id", "idempotency-key"];

/// Kept of one scheme: what kind of event it is, of which delivery, from where and when. No token
/// and no signature: a receiver that verifies the sender's again has them named in the settings.
fn of_scheme(scheme: Scheme) -> &'static [&'static str] {
    match scheme {
        Scheme::Gitlab => &[
            "x-gitlab-event",
            "x-gitlab-event-uuid",
            "x-gitlab-webhook-uuid",
            "x-gitlab-instance",
            "webhook-id",
            "webhook-timestamp",
        ],
        Scheme::Github => &[
            "x-github-event",
            "x-github-delivery",
            "x-github-hook-id",
            "x-github-hook-installation-target-id",
            "x-github-hook-installation-target-type",
            "x-github-enterprise-host",
            "x-github-enterprise-version",
        ],
        Scheme::Standard => &["webhook-id", "webhook-timestamp", "svix-id", "svix-timestamp"],
        Scheme::Slack => {
            &["x-slack-request-timestamp", "x-slack-retry-num", "x-slack-retry-reason"]
        }
        Scheme::Shopify => &[
            "x-shopify-topic",
            "x-shopify-webhook-id",
            "x-shopify-event-id",
            "x-shopify-shop-domain",
            "x-shopify-api-version",
            "x-shopify-triggered-at",
            "shopify-topic",
            "shopify-webhook-id",
            "shopify-event-id",
            "shopify-shop-domain",
            "shopify-api-version",
            "shopify-triggered-at",
        ],
        // The body has it all.
        Scheme::Stripe | Scheme::Token | Scheme::None => &[],
    }
}

/// Headers that no beginning (`x-*`) keeps: of one hop, or Posthaste's own.
const HOP: [&str; 17] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "content-length",
    "content-encoding",
    "user-agent",
    "accept",
    "accept-encoding",
    "accept-language",
    "via",
    "forwarded",
];
/// Nor does it keep headers whose names contain one of these: they hold a plain secret, or identify
/// a person.
const SECRET: [&str; 17] = [
    "authori",
    "authenticat",
    "x-auth",
    "cookie",
    "token",
    "secret",
    "password",
    "passwd",
    "credential",
    "api-key",
    "apikey",
    "access-key",
    "private-key",
    "session",
    "csrf",
    "jwt",
    "real-ip",
];

/// The headers that are sent on with the event, as JSON: within the bounds of the outbox, those
/// first that the settings name.
pub(super) fn kept(settings: &SourceSettings, headers: &HeaderMap, content: Content) -> String {
    let mut kept = serde_json::Map::new();
    let mut room = HEADER_BYTES_MAX;
    let is_first = |name: &&HeaderName| {
        *name == CONTENT_TYPE || settings.headers.iter().any(|named| named == name.as_str())
    };
    let (first, others): (Vec<_>, Vec<_>) = headers.keys().partition(is_first);
    for name in first.into_iter().chain(others) {
        let mut values = headers
            .get_all(name)
            .iter()
            .filter_map(|value| std::str::from_utf8(value.as_bytes()).ok());
        let Some(first) = values.next() else { continue };
        let value = values.fold(first.to_owned(), |all, value| all + ", " + value);
        // A body that is not JSON cannot be sent on without its type.
        let needed = name == CONTENT_TYPE && content == Content::Form;
        let bytes = name.as_str().len() + value.len();
        let fits = kept.len() < HEADERS_MAX && value.len() <= HEADER_VALUE_MAX && bytes <= room;
        if fits && (needed || keeps(settings, name.as_str(), &value)) {
            room -= bytes;
            kept.insert(name.as_str().to_owned(), value.into());
        }
    }
    serde_json::Value::Object(kept).to_string()
}

fn keeps(settings: &SourceSettings, name: &str, value: &str) -> bool {
    // The outbox refuses an event with one of these.
    if may_be_mistaken(name) {
        return false;
    }
    if settings.headers.iter().any(|named| named == name) {
        return true;
    }
    if settings.secrets.iter().any(|secret| value.contains(secret.expose())) {
        return false;
    }
    if OF_ALL.contains(&name) || of_scheme(settings.verify).contains(&name) {
        return true;
    }
    let tells = HOP.contains(&name)
        || SECRET.iter().any(|part| name.contains(part))
        || name.starts_with("x-forwarded-");
    let begins = |pattern: &String| {
        pattern.strip_suffix('*').is_some_and(|beginning| name.starts_with(beginning))
    };
    !tells && settings.headers.iter().any(begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMES: [Scheme; 8] = [
        Scheme::Gitlab,
        Scheme::Github,
        Scheme::Stripe,
        Scheme::Standard,
        Scheme::Slack,
        Scheme::Shopify,
        Scheme::Token,
        Scheme::None,
    ];

    #[test]
    fn no_list_has_a_secret_and_the_manual_has_every_name_of_each() {
        let manual = include_str!("../../../docs/INGEST.md");
        for name in SCHEMES.into_iter().flat_map(of_scheme).chain(&OF_ALL) {
            assert!(!SECRET.iter().any(|part| name.contains(part)), "{name}");
            assert!(!name.contains("signature") && !name.contains("hmac"), "{name}");
            assert!(manual.contains(&format!("`{name}`")), "docs/INGEST.md lacks {name}");
        }
    }
}
