//! Answers of this process's listeners: a text, or a problem, for programs and people alike.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::json;

pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// RFC 9457.
#[must_use]
pub fn problem(status: StatusCode, detail: &str) -> Response<Full<Bytes>> {
    let body = json!({
        "type": "about:blank",
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": detail,
    });
    respond(status, PROBLEM, body.to_string())
}

/// An answer that no cache may keep.
#[must_use]
pub fn respond(status: StatusCode, kind: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
