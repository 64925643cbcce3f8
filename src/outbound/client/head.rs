//! The head of an answer, as far as it is kept with the attempt.

use hyper::header::HeaderMap;

use crate::model::outcome::Answer;

/// An answer whose head could be read only in part, and no further than its beginning.
pub(super) fn odd(status: u16, headers: Vec<(String, String)>, why: &str) -> Answer {
    let (headers, dropped) = kept(headers.into_iter());
    let mut detail = format!("the head of the answer is odd, and no more of it was read: {why}");
    if dropped > 0 {
        detail = format!("{detail}; {}", not_kept(dropped));
    }
    Answer { status, headers, body: Vec::new(), body_truncated: true, detail: Some(detail) }
}

/// Bytes of an answer's headers that are kept with the attempt, for weeks and for each attempt:
/// what matters in an answer to a webhook fits into a few hundred, and more is what a receiver
/// might fill our tables with.
const HEADERS_KEPT: usize = 4 * 1024;

pub(super) fn headers(map: &HeaderMap) -> (Vec<(String, String)>, usize) {
    kept(map.iter().map(|(name, value)| (name.as_str().to_owned(), text(value.as_bytes()))))
}

/// As many of these as are kept, in their order, and how many are not. What decides about a retry
/// is kept whatever comes before it.
fn kept(headers: impl Iterator<Item = (String, String)>) -> (Vec<(String, String)>, usize) {
    const DECIDES: &str = "retry-after";
    let (mut room, mut dropped) = (HEADERS_KEPT, 0);
    let kept = headers.filter(|(name, value)| {
        let size = name.len() + value.len();
        let fits = size <= room || (name == DECIDES && size < HEADERS_KEPT / 16);
        room = room.saturating_sub(if fits { size } else { 0 });
        dropped += usize::from(!fits);
        fits
    });
    (kept.collect(), dropped)
}

pub(super) fn not_kept(headers: usize) -> String {
    let (s, are) = if headers == 1 { ("", "is") } else { ("s", "are") };
    format!("{headers} more header{s} of the answer, beyond {HEADERS_KEPT} bytes, {are} not kept")
}

pub(super) fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    }
}
