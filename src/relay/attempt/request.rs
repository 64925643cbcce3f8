//! The request of one attempt: body, signature, headers.

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::HeaderValue;
use jiff::Timestamp;

use super::endpoint::{ReadyEndpoint, Sending};
use super::headers::{self, TooMany, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use crate::model::body;
use crate::model::delivery::Delivery;
use crate::model::endpoint::BodyFormat;

/// Makes the request and signs it as of now. `id` is the `webhook-id`, `source` what `CloudEvents`
/// name as theirs.
pub(super) fn request(
    ready: &ReadyEndpoint,
    sending: &Sending,
    delivery: &Delivery,
    (id, source): (&str, &str),
    now: Timestamp,
) -> Result<Request<Full<Bytes>>, TooMany> {
    let body = body::render(ready.endpoint.body_format, delivery, id, source);
    let timestamp = now.as_second();
    let signature = (!sending.signer.is_empty()).then(|| sending.signer.sign(id, timestamp, &body));
    let mut request = sending.target.post(body);
    let headers = request.headers_mut();
    headers::put_all(headers, &sending.headers)?;
    headers::put(headers, WEBHOOK_ID, header(id))?;
    headers::put(headers, WEBHOOK_TIMESTAMP, HeaderValue::from(timestamp))?;
    if let Some(signature) = signature {
        headers::put(headers, WEBHOOK_SIGNATURE, header(&signature))?;
    }
    if ready.endpoint.body_format == BodyFormat::Raw {
        headers::pass_on(headers, delivery)?;
    }
    headers::add(headers, &delivery.headers)?;
    Ok(request)
}

fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("base64, digits and underscores are header characters")
}
