//! How a received webhook is printed: for people, or as one JSON object a line.

use std::borrow::Cow;
use std::fmt::Write as _;

use hyper::HeaderMap;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::listener::{ReceiverAnswer, Taken};
use crate::signing::verify::NotVerified;

/// Bytes of a body that people are shown; JSON has all of it.
const BODY_SHOWN: usize = 4 * 1024;
/// Headers of every request: no news.
const PLAIN: [&str; 4] = ["host", "content-length", "accept", "connection"];

/// How it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputForm {
    Text,
    Json,
}

/// The verdict on a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature {
    Right,
    Wrong(NotVerified),
    /// There is no secret to check it with, or no whole body.
    Unchecked,
}

/// A webhook with its verdict and its answer.
pub(super) struct ShownWebhook<'a> {
    pub(super) number: u64,
    pub(super) at: Timestamp,
    pub(super) taken: &'a Taken,
    pub(super) signature: Signature,
    /// The request that brought the same `webhook-id` first.
    pub(super) first: Option<u64>,
    pub(super) answer: ReceiverAnswer,
}

impl OutputForm {
    pub(super) fn write(self, seen: &ShownWebhook<'_>) -> String {
        match self {
            Self::Text => text(seen),
            Self::Json => format!("{}\n", object(seen)),
        }
    }
}

fn text(seen: &ShownWebhook<'_>) -> String {
    let ShownWebhook { number, taken, .. } = seen;
    let mut text = format!("\n#{number} {} {}\n", taken.method, harmless(&taken.path));
    for (name, value) in &taken.headers {
        if !PLAIN.contains(&name.as_str()) {
            let value = String::from_utf8_lossy(value.as_bytes());
            writeln!(text, "   {name}: {}", harmless(&value)).expect("a string takes all");
        }
    }
    text.push('\n');
    match &taken.body {
        Some(body) => {
            let shown = &body[..body.len().min(BODY_SHOWN)];
            for line in String::from_utf8_lossy(shown).lines() {
                writeln!(text, "   {}", harmless(line)).expect("a string takes all");
            }
            if shown.len() < body.len() {
                writeln!(text, "   … {} bytes in all", body.len()).expect("a string takes all");
            }
        }
        None => text.push_str("   (longer than --max-body)\n"),
    }
    let signature = match seen.signature {
        Signature::Right => "signature verified".to_owned(),
        Signature::Wrong(refusal) => format!("signature not verified: {refusal}"),
        Signature::Unchecked => "signature not checked".to_owned(),
    };
    let again = seen.first.map(|first| format!("; the same webhook-id as #{first}"));
    let answered = match seen.answer {
        ReceiverAnswer::Status(status) => format!("answered {}", status.as_u16()),
        ReceiverAnswer::HangUp => "connection closed".to_owned(),
    };
    writeln!(text, "\n   {signature}{}; {answered}", again.unwrap_or_default())
        .expect("a string takes all");
    text
}

fn object(seen: &ShownWebhook<'_>) -> Value {
    let ShownWebhook { number, at, taken, signature, first, answer } = seen;
    let body = taken.body.as_ref().map(|body| String::from_utf8_lossy(body));
    let (signature, reason) = match signature {
        Signature::Right => ("verified", None),
        Signature::Wrong(refusal) => ("not verified", Some(refusal.to_string())),
        Signature::Unchecked => ("not checked", None),
    };
    let answered = match answer {
        ReceiverAnswer::Status(status) => json!(status.as_u16()),
        ReceiverAnswer::HangUp => json!("closed"),
    };
    json!({
        "number": number,
        "at": at.to_string(),
        "method": taken.method.as_str(),
        "path": taken.path,
        "headers": headers(&taken.headers),
        "body": body,
        "signature": signature,
        "reason": reason,
        "duplicate_of": first,
        "answered": answered,
    })
}

/// A header that came more than once has its values in one, as HTTP allows.
fn headers(headers: &HeaderMap) -> Value {
    let mut all = Map::new();
    for name in headers.keys() {
        let values = headers.get_all(name).iter();
        let values: Vec<_> = values.map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
        all.insert(name.to_string(), values.join(", ").into());
    }
    all.into()
}

/// A sender's text must not steer the terminal.
fn harmless(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && c != '\t';
    if !text.contains(steers) {
        return text.into();
    }
    text.chars()
        .map(|c| if steers(c) { c.escape_default().to_string() } else { c.into() })
        .collect::<String>()
        .into()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hyper::{Method, StatusCode};

    use super::*;

    fn taken(body: Option<Bytes>) -> Taken {
        let mut headers = HeaderMap::new();
        headers.insert("host", "127.0.0.1:9310".parse().unwrap());
        headers.insert("webhook-id", "evt_1".parse().unwrap());
        headers.append("x-shop", "a".parse().unwrap());
        headers.append("x-shop", "b".parse().unwrap());
        Taken { method: Method::POST, path: "/hooks?x=1".to_owned(), headers, body }
    }

    fn seen(taken: &Taken, signature: Signature, answer: ReceiverAnswer) -> ShownWebhook<'_> {
        let at = Timestamp::UNIX_EPOCH;
        ShownWebhook { number: 2, at, taken, signature, first: Some(1), answer }
    }

    #[test]
    fn people_read_the_request_its_signature_and_its_answer() {
        let taken = taken(Some("{\"a\":\n1}".into()));
        let answer = ReceiverAnswer::Status(StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            OutputForm::Text.write(&seen(&taken, Signature::Right, answer)),
            "\n#2 POST /hooks?x=1\n   webhook-id: evt_1\n   x-shop: a\n   x-shop: b\n\n   \
             {\"a\":\n   1}\n\n   signature verified; the same webhook-id as #1; answered 503\n"
        );
    }

    #[test]
    fn programs_read_an_object_a_line() {
        let taken = taken(Some("{\"a\":\n1}".into()));
        let wrong = Signature::Wrong(NotVerified::SignatureMismatch);
        let line = OutputForm::Json.write(&seen(&taken, wrong, ReceiverAnswer::HangUp));
        assert_eq!(line.matches('\n').count(), 1);
        let object: Value = serde_json::from_str(&line).unwrap();
        let expected = json!({
            "number": 2, "at": "1970-01-01T00:00:00Z", "method": "POST", "path": "/hooks?x=1",
            "headers": { "host": "127.0.0.1:9310", "webhook-id": "evt_1", "x-shop": "a, b" },
            "body": "{\"a\":\n1}", "signature": "not verified",
            "reason": "the signature does not match", "duplicate_of": 1, "answered": "closed",
        });
        assert_eq!(object, expected);
    }

    #[test]
    fn a_long_body_is_cut_and_what_steers_a_terminal_is_spelled_out() {
        let taken = taken(Some(format!("\u{1b}[2J{}", "y".repeat(BODY_SHOWN)).into()));
        let answer = ReceiverAnswer::Status(StatusCode::OK);
        let text = OutputForm::Text.write(&seen(&taken, Signature::Unchecked, answer));
        assert!(text.contains("\n   \\u{1b}[2Jyyy"), "{text}");
        assert!(text.contains("\n   … 4100 bytes in all\n"), "{text}");
    }
}
