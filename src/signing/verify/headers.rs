//! Reads a request's headers: each at most once, none without end.

use hyper::HeaderMap;

use super::not_verified::{NotVerified, VALUE_MAX};

/// Fits a unique index and a line of a log. Ids are UUIDs and the like.
const NAME_MAX: usize = 255;

/// The header's value without the white space around it; `None` if it is not there. Bytes, because
/// a token need not be ASCII.
pub(super) fn optional<'h>(
    headers: &'h HeaderMap,
    name: &'static str,
) -> Result<Option<&'h [u8]>, NotVerified> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(NotVerified::Repeated(name));
    }
    if value.len() > VALUE_MAX {
        return Err(NotVerified::TooLong(name));
    }
    Ok(Some(value.as_bytes().trim_ascii()))
}

/// The header's value, which must not be empty.
pub(super) fn required<'h>(
    headers: &'h HeaderMap,
    name: &'static str,
) -> Result<&'h [u8], NotVerified> {
    optional(headers, name)?.filter(|value| !value.is_empty()).ok_or(NotVerified::Missing(name))
}

/// The id or the name of an event, from a header that proves nothing: one that cannot be stored
/// counts as missing.
pub(super) fn name(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, NotVerified> {
    match optional(headers, name) {
        Ok(value) => Ok(value.and_then(usable)),
        Err(NotVerified::TooLong(_)) => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// An id or a name as it may be stored: text, not too long, without control characters (Postgres
/// takes no NUL, and the rest would break lines of logs).
pub(super) fn usable(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let fits = !text.is_empty() && text.len() <= NAME_MAX && !text.contains(char::is_control);
    fits.then(|| text.to_owned())
}
