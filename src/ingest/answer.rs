//! The answers to a sender: where its webhook is kept, or why it is not taken, with a status that
//! says which side is at fault. They hold nothing of the relay's inside.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::source::Wrong;
use crate::serve::problem::{JSON, problem, respond};
use crate::signing::verify::NotVerified;
use crate::store::received::Stored;

/// When to try again if the relay is at fault, in seconds: soon, since senders have little patience
/// and few tries.
const SOON: HeaderValue = HeaderValue::from_static("5");
/// When to try again if there are only too many requests at once, in seconds.
const AT_ONCE: HeaderValue = HeaderValue::from_static("1");

pub(super) type IngestAnswer = Response<Full<Bytes>>;

/// Where a webhook is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    Stored(Stored),
    Spooled,
    /// Nowhere: the request only asked whether it had come to the right place, and hears this.
    Challenge(String),
}

/// Why a webhook is not taken.
#[derive(Debug)]
pub(super) enum Refused {
    NoSource,
    NotPost,
    Client,
    Wrong(Wrong),
    NoLength,
    TooLong {
        most: usize,
    },
    TooSlow,
    /// The peer has gone, or its chunks are none.
    Broken,
    Unverified(NotVerified),
    /// Too many of this source at once.
    SourceFull,
    /// Too many at once.
    Full,
    /// The database is well and refuses it.
    NotStorable,
    /// The spool has no room.
    SpoolFull,
    /// The database is away, and there is no spool, or it does not work.
    Away,
}

pub(super) fn kept(kept: Kept) -> IngestAnswer {
    let (status, body) = match kept {
        Kept::Stored(stored) => {
            let status = if stored.is_new { "stored" } else { "duplicate" };
            (StatusCode::OK, json!({ "status": status, "id": stored.webhook_id }))
        }
        Kept::Spooled => (StatusCode::ACCEPTED, json!({ "status": "spooled", "id": null })),
        Kept::Challenge(challenge) => (StatusCode::OK, json!({ "challenge": challenge })),
    };
    respond(status, JSON, body.to_string())
}

/// Problems of RFC 9457.
pub(super) fn refused(refused: Refused) -> IngestAnswer {
    let text = |text| HeaderValue::from_static(text);
    match refused {
        Refused::NoSource => {
            problem(StatusCode::NOT_FOUND, "there is no such source; POST to /in/SOURCE")
        }
        Refused::NotPost => {
            with(ALLOW, text("POST"), problem(StatusCode::METHOD_NOT_ALLOWED, "write POST"))
        }
        Refused::Client => problem(StatusCode::FORBIDDEN, "this address may not send here"),
        Refused::Wrong(Wrong::Body(said)) => problem(StatusCode::BAD_REQUEST, &said),
        Refused::Wrong(Wrong::Content(said)) => problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, &said),
        Refused::Wrong(Wrong::Event(said)) => problem(StatusCode::UNPROCESSABLE_ENTITY, &said),
        Refused::NoLength => {
            let said = "send the body's content-length, or send it chunked";
            closing(problem(StatusCode::LENGTH_REQUIRED, said))
        }
        Refused::TooLong { most } => {
            let said = format!("the body is longer than the {most} bytes that are taken");
            closing(problem(StatusCode::PAYLOAD_TOO_LARGE, &said))
        }
        Refused::TooSlow => {
            closing(problem(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"))
        }
        Refused::Broken => {
            closing(problem(StatusCode::BAD_REQUEST, "the body ended before its end"))
        }
        Refused::Unverified(refusal) => {
            let answer = problem(StatusCode::UNAUTHORIZED, &refusal.to_string());
            with(WWW_AUTHENTICATE, text("Webhook"), answer)
        }
        Refused::SourceFull => {
            let said = "there are too many requests of this source at once";
            closing(with(RETRY_AFTER, AT_ONCE, problem(StatusCode::TOO_MANY_REQUESTS, said)))
        }
        Refused::Full => {
            let said = "there are too many requests at once";
            closing(with(RETRY_AFTER, AT_ONCE, problem(StatusCode::SERVICE_UNAVAILABLE, said)))
        }
        Refused::NotStorable => {
            problem(StatusCode::UNPROCESSABLE_ENTITY, "the database does not take this webhook")
        }
        Refused::SpoolFull => unavailable("it cannot be kept now: there is no room"),
        Refused::Away => unavailable("it cannot be kept now"),
    }
}

/// The answer to a head that does not come to its end. hyper would close its connection without an
/// answer.
pub(super) fn slow_head() -> String {
    let status = StatusCode::REQUEST_TIMEOUT;
    let body = json!({
        "type": "about:blank",
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": "the head did not come in time",
    })
    .to_string();
    format!(
        "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/problem+json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn unavailable(why: &str) -> IngestAnswer {
    with(RETRY_AFTER, SOON, problem(StatusCode::SERVICE_UNAVAILABLE, why))
}

/// The connection ends with this answer: the rest of the request is not read.
fn closing(answer: IngestAnswer) -> IngestAnswer {
    with(CONNECTION, HeaderValue::from_static("close"), answer)
}

fn with(name: HeaderName, value: HeaderValue, mut answer: IngestAnswer) -> IngestAnswer {
    answer.headers_mut().insert(name, value);
    answer
}
