//! The headers of a request: the relay's, the endpoint's, then the event's own. Asked by
//! [`attempt`](super).
//!
//! Nothing here panics, whatever a row holds: a name or value that cannot be a header is left out,
//! and more headers than are sent are an error that says so.

use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use crate::model::body;
use crate::model::delivery::Delivery;
use crate::model::header::{is_ours, read_alike};

pub(in crate::relay) const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
pub(in crate::relay) const WEBHOOK_TIMESTAMP: HeaderName =
    HeaderName::from_static("webhook-timestamp");
pub(in crate::relay) const WEBHOOK_SIGNATURE: HeaderName =
    HeaderName::from_static("webhook-signature");

/// No known server takes more in its default configuration (most take 100 names and 8 to 64 KiB,
/// Go's takes 1 MiB). The schema's bound is far lower; rows from before it are sent as long as a
/// receiver might take them. A [`HeaderMap`] holds 24,576.
const NAMES_MAX: usize = 1_000;
const BYTES_MAX: usize = 1024 * 1024;

/// Why the headers of an event or endpoint are not sent.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(in crate::relay) enum TooMany {
    #[error("{0} headers are more than the {NAMES_MAX} that are sent at most")]
    Names(usize),
    #[error("headers of {0} bytes are more than the {BYTES_MAX} that are sent at most")]
    Bytes(usize),
    #[error("the headers together are more than a request holds")]
    Together,
}

/// Adds the headers of an event or endpoint, but none of the relay's own names, none that is
/// already there, and none that belongs to one hop or could smuggle a request.
pub(in crate::relay) fn add(
    headers: &mut HeaderMap,
    theirs: &[(String, String)],
) -> Result<(), TooMany> {
    let bytes = theirs.iter().map(|(name, value)| name.len() + value.len()).sum();
    if theirs.len() > NAMES_MAX {
        return Err(TooMany::Names(theirs.len()));
    }
    if bytes > BYTES_MAX {
        return Err(TooMany::Bytes(bytes));
    }
    for (name, value) in theirs {
        let (Ok(name), Ok(value)) =
            (HeaderName::try_from(name.as_str()), HeaderValue::from_str(value))
        else {
            continue;
        };
        let is_there = || headers.keys().any(|there| read_alike(there.as_str(), name.as_str()));
        if !is_ours(name.as_str()) && !is_there() {
            put(headers, name, value)?;
        }
    }
    Ok(())
}

/// Sets one of the relay's own.
pub(in crate::relay) fn put(
    headers: &mut HeaderMap,
    name: HeaderName,
    value: HeaderValue,
) -> Result<(), TooMany> {
    headers.try_insert(name, value).map(drop).map_err(|_| TooMany::Together)
}

/// Adds all of a map, in place of what is there under the same names.
pub(in crate::relay) fn put_all(headers: &mut HeaderMap, more: &HeaderMap) -> Result<(), TooMany> {
    headers.try_reserve(more.len()).map_err(|_| TooMany::Together)?;
    more.iter().try_for_each(|(name, value)| put(headers, name.clone(), value.clone()))
}

/// Passes on the event's own headers that a raw body needs to be what it was: its type, where it is
/// not JSON; and the three of Standard Webhooks, which verify only together.
pub(in crate::relay) fn pass_on(
    headers: &mut HeaderMap,
    delivery: &Delivery,
) -> Result<(), TooMany> {
    let own = |name: &HeaderName| {
        let mut named = delivery.headers.iter().filter(|(theirs, _)| name == theirs.as_str());
        named.next().and_then(|(_, value)| HeaderValue::from_str(value).ok())
    };
    if let Some(kind) = body::own_type(delivery).and_then(|kind| HeaderValue::from_str(kind).ok()) {
        put(headers, CONTENT_TYPE, kind)?;
    }
    let signed = [WEBHOOK_ID, WEBHOOK_TIMESTAMP, WEBHOOK_SIGNATURE];
    if let [Some(id), Some(timestamp), Some(signature)] = signed.each_ref().map(own) {
        for (name, value) in signed.into_iter().zip([id, timestamp, signature]) {
            put(headers, name, value)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(theirs: &[(&str, &str)]) -> Vec<String> {
        let theirs: Vec<_> =
            theirs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut headers = HeaderMap::new();
        add(&mut headers, &theirs).unwrap();
        headers.keys().map(|name| name.as_str().to_owned()).collect()
    }

    #[test]
    fn a_name_that_a_receiver_may_take_for_one_of_ours_is_left_out() {
        for name in [
            "Webhook-Signature",
            "Webhook_Signature",
            "webhook.id",
            "WEBHOOK_anything",
            "Content_Length",
            "Transfer_Encoding",
            "User_Agent",
            "host",
        ] {
            assert!(added(&[(name, "x")]).is_empty(), "{name}");
        }
        assert_eq!(added(&[("X_Mine", "x"), ("webhooks", "x")]), ["x_mine", "webhooks"]);
        assert_eq!(added(&[("X-Token", "1"), ("x_token", "2"), ("X.Token", "3")]), ["x-token"]);
    }

    #[test]
    fn what_is_no_header_is_left_out_and_the_others_are_sent() {
        assert_eq!(added(&[("x y", "1"), ("x", "a\r\nb: c"), ("", "2"), ("z", "3")]), ["z"]);
    }

    #[test]
    fn more_than_are_sent_is_an_error_and_no_panic() {
        let many: Vec<_> = (0..25_000).map(|n| (format!("x-{n}"), "v".to_owned())).collect();
        let mut headers = HeaderMap::new();
        assert_eq!(add(&mut headers, &many), Err(TooMany::Names(25_000)));
        let long = [("x".to_owned(), "v".repeat(BYTES_MAX))];
        assert_eq!(add(&mut headers, &long), Err(TooMany::Bytes(BYTES_MAX + 1)));
        assert_eq!(add(&mut headers, &many[..NAMES_MAX]), Ok(()));
    }

    #[test]
    fn a_map_that_is_full_is_an_error_and_no_panic() {
        let mut headers = HeaderMap::new();
        let name = |n: usize| HeaderName::try_from(format!("x-{n}")).unwrap();
        let full = (0..40_000)
            .find(|n| put(&mut headers, name(*n), HeaderValue::from_static("v")).is_err());
        assert_eq!(full, Some(24_576));
    }
}
