//! Makes the body of a request from the event.
//!
//! Runs once for each attempt, before [`signature`](super::signature) signs the very bytes that are
//! made here. The payload is never parsed: the receiver reads the application's own bytes.

use std::io::Write as _;

use bytes::Bytes;

use super::delivery::Delivery;
use super::endpoint::BodyFormat;

/// Bytes for the fixed text of the longest envelope, a webhook id (36 characters) and a
/// timestamp (at most 35).
const ENVELOPE: usize = 256;

/// A character of a JSON string takes at most this many times its own bytes (`\u0000`).
const ESCAPED: usize = 6;

/// The body of a request. `id` is the event's `webhook-id`; `source` is the `CloudEvents` attribute
/// that says which system the events come from, a URI reference; other formats do not carry it.
///
/// Copies the payload once into a buffer that is sized up front; `raw` shares it without a copy.
#[must_use]
pub fn render(format: BodyFormat, delivery: &Delivery, id: &str, source: &str) -> Bytes {
    let kind = delivery.event_type.as_str();
    let capacity = ENVELOPE + ESCAPED * (kind.len() + source.len()) + delivery.payload.len();
    let mut body = Body(Vec::new());
    match format {
        BodyFormat::Raw => return raw(delivery),
        BodyFormat::Standard => {
            body.0.reserve_exact(capacity);
            body.text(r#"{"type":"#).string(kind);
            body.text(r#","timestamp":""#).display(delivery.event_created_at);
            body.text(r#"","data":"#).bytes(&delivery.payload).text("}");
        }
        BodyFormat::EventPayload => {
            body.0.reserve_exact(capacity);
            body.text(r#"{"event":"#).string(kind);
            body.text(r#","payload":"#).bytes(&delivery.payload).text("}");
        }
        BodyFormat::CloudEvents => {
            body.0.reserve_exact(capacity);
            body.text(r#"{"specversion":"1.0","id":""#).text(id);
            body.text(r#"","source":"#).string(source).text(r#","type":"#).string(kind);
            body.text(r#","time":""#).display(delivery.event_created_at);
            body.text(r#"","datacontenttype":"application/json","data":"#);
            body.bytes(&delivery.payload).text("}");
        }
    }
    debug_assert!(body.0.len() <= capacity, "the buffer was to be sized up front");
    body.0.into()
}

/// The `content-type` that goes with the format.
#[must_use]
pub fn content_type(format: BodyFormat) -> &'static str {
    match format {
        BodyFormat::Standard | BodyFormat::EventPayload | BodyFormat::Raw => "application/json",
        BodyFormat::CloudEvents => "application/cloudevents+json",
    }
}

/// The content type of an event whose body is not JSON: its headers name the type, and its payload
/// is a JSON string that holds the body.
#[must_use]
pub fn own_type(delivery: &Delivery) -> Option<&str> {
    let mut named =
        delivery.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    let kind = named.next().map(|(_, kind)| kind.as_str())?;
    let media = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = media.ends_with("/json") || media.ends_with("+json");
    let is_text = delivery.payload.trim_ascii_start().first() == Some(&b'"');
    (!is_json && is_text).then_some(kind)
}

/// The payload as inserted or, if it is a string that holds a body, that body.
fn raw(delivery: &Delivery) -> Bytes {
    let held =
        own_type(delivery).and_then(|_| serde_json::from_slice::<String>(&delivery.payload).ok());
    held.map_or_else(|| delivery.payload.clone(), Bytes::from)
}

/// A JSON text in the making, written from left to right.
struct Body(Vec<u8>);

impl Body {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// A JSON string with its quotes, escaped as far as needed.
    fn string(&mut self, text: &str) -> &mut Self {
        serde_json::to_writer(&mut self.0, text).expect("a string written to a Vec cannot fail");
        self
    }

    /// For values that need no escaping.
    fn display(&mut self, value: impl std::fmt::Display) -> &mut Self {
        write!(self.0, "{value}").expect("writing to a Vec cannot fail");
        self
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const FORMATS: [BodyFormat; 4] =
        [BodyFormat::Standard, BodyFormat::EventPayload, BodyFormat::Raw, BodyFormat::CloudEvents];

    /// Everything a parser would change: key order, a repeated key, digits past 2^53, a float's
    /// spelling, escapes and white space.
    const AWKWARD: &str = "{ \"b\":1,\"a\" : 9007199254740993,\n\t\"b\": 1.10e+02, \"\\u00fc\\/\": \"ü\", \"n\": 123456789012345678901234567890 }";

    const ID: &str = "evt_e9c4e173a31d5c8ab9b35d16e8984e13";

    fn delivery(event_type: &str, payload: &str) -> Delivery {
        Delivery {
            event_id: 42,
            endpoint_id: 7,
            claim_token: 1,
            batch: None,
            attempt_count: 0,
            endpoint_revision: 1,
            event_type: event_type.to_owned(),
            event_created_at: "2024-02-29T23:59:59.000125Z".parse().unwrap(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            ordering_key: None,
            headers: Vec::new(),
            is_suspect: false,
            due_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn text(format: BodyFormat, delivery: &Delivery) -> String {
        String::from_utf8(render(format, delivery, ID, "urn:shop").to_vec()).unwrap()
    }

    #[test]
    fn each_format_has_its_envelope() {
        let d = delivery("order.paid", r#"{"id":1}"#);
        assert_eq!(
            text(BodyFormat::Standard, &d),
            r#"{"type":"order.paid","timestamp":"2024-02-29T23:59:59.000125Z","data":{"id":1}}"#
        );
        assert_eq!(
            text(BodyFormat::EventPayload, &d),
            r#"{"event":"order.paid","payload":{"id":1}}"#
        );
        assert_eq!(text(BodyFormat::Raw, &d), r#"{"id":1}"#);
        let cloud: Value = serde_json::from_str(&text(BodyFormat::CloudEvents, &d)).unwrap();
        assert_eq!(
            cloud,
            json!({
                "specversion": "1.0", "id": ID, "source": "urn:shop",
                "type": "order.paid", "time": "2024-02-29T23:59:59.000125Z",
                "datacontenttype": "application/json", "data": {"id": 1},
            })
        );
    }

    #[test]
    fn the_payload_arrives_byte_for_byte() {
        for format in FORMATS {
            let body = text(format, &delivery("order.paid", AWKWARD));
            assert!(body.contains(AWKWARD), "{format:?}: {body}");
            serde_json::from_str::<Value>(&body).unwrap();
        }
    }

    #[test]
    fn raw_shares_the_payload() {
        let d = delivery("order.paid", AWKWARD);
        assert_eq!(render(BodyFormat::Raw, &d, ID, "").as_ptr(), d.payload.as_ptr());
    }

    #[test]
    fn a_body_that_is_not_json_is_sent_raw_as_it_was_and_under_its_own_type() {
        let form = "payload=%7B%22a%22%3A1%7D&text=\"\u{fc}\"";
        let mut d = delivery("slack.command", &serde_json::to_string(form).unwrap());
        assert_eq!(own_type(&d), None);
        assert_eq!(text(BodyFormat::Raw, &d), serde_json::to_string(form).unwrap());
        d.headers =
            vec![("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned())];
        assert_eq!(own_type(&d), Some("application/x-www-form-urlencoded"));
        assert_eq!(text(BodyFormat::Raw, &d), form);
        let standard: Value = serde_json::from_str(&text(BodyFormat::Standard, &d)).unwrap();
        assert_eq!(standard["data"], form);
        for kind in ["application/json; charset=utf-8", "application/vnd.acme+json"] {
            d.headers[0].1 = kind.to_owned();
            assert_eq!(own_type(&d), None, "{kind}");
        }
        let object = Delivery {
            headers: vec![("content-type".into(), "text/plain".into())],
            ..delivery("a", "{}")
        };
        assert_eq!((own_type(&object), text(BodyFormat::Raw, &object)), (None, "{}".to_owned()));
    }

    #[test]
    fn cloud_events_say_so_in_the_content_type() {
        assert_eq!(content_type(BodyFormat::CloudEvents), "application/cloudevents+json");
        assert_eq!(content_type(BodyFormat::default()), "application/json");
    }

    proptest! {
        #[test]
        fn no_event_type_breaks_out_of_its_string(kind in any::<String>(), source in any::<String>()) {
            let d = delivery(&kind, "null");
            for (format, key) in [
                (BodyFormat::Standard, "type"),
                (BodyFormat::EventPayload, "event"),
                (BodyFormat::CloudEvents, "type"),
            ] {
                let body: Value = serde_json::from_slice(&render(format, &d, ID, &source)).unwrap();
                prop_assert_eq!(&body[key], &json!(kind));
                if format == BodyFormat::CloudEvents {
                    prop_assert_eq!(&body["source"], &json!(source));
                }
            }
        }

        #[test]
        fn the_buffer_never_grows(kind in "[\u{0}-\u{1f}]{0,300}") {
            let mut d = delivery(&kind, AWKWARD);
            d.event_id = i64::MIN;
            d.event_created_at = Timestamp::MIN;
            for format in FORMATS {
                prop_assert!(!render(format, &d, ID, &kind).is_empty()); // asserts its own capacity
            }
        }
    }
}
