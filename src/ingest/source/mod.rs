//! A source made ready: decides whether a sender is admitted, and makes the event of its request.
//! Reads no clock and waits for nothing.

mod kept;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use ring::digest::{SHA256, digest};
use tokio::sync::Semaphore;

use crate::config::{Content, EventType, SourceSettings};
use crate::model::incoming::{Incoming, Payload, TEXT_MAX};
use crate::model::selector::{Selector, is_json};
use crate::signing::verify::{Scheme, Verified, Verifier, VerifierError};

/// One section of the settings, with its verifier.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) settings: SourceSettings,
    pub(super) verifier: Verifier,
    /// A permit for each request in flight.
    pub(super) places: Arc<Semaphore>,
}

/// An error in a request, in words for its sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wrong {
    /// 400
    Body(String),
    /// 415
    Content(String),
    /// 422
    Event(String),
}

impl Source {
    pub(super) fn new(name: &str, settings: &SourceSettings) -> Result<Self, VerifierError> {
        let secrets = settings.exposed_secrets();
        Ok(Self {
            name: name.to_owned(),
            verifier: Verifier::new(settings.verify, &secrets, settings.tolerance)?,
            places: Arc::new(Semaphore::new(settings.max_in_flight)),
            settings: settings.clone(),
        })
    }

    /// Whether a sender at this address is admitted.
    pub(super) fn admits(&self, peer: IpAddr) -> bool {
        let clients = &self.settings.clients;
        clients.is_empty() || clients.iter().any(|net| net.contains(&peer.to_canonical()))
    }

    /// The content type that the headers name, if this source takes it.
    pub(super) fn content(&self, headers: &HeaderMap) -> Result<Content, Wrong> {
        let may = &self.settings.content_types;
        let wanted: Vec<_> = may
            .iter()
            .map(|content| match content {
                Content::Json => "application/json",
                Content::Form => "application/x-www-form-urlencoded",
            })
            .collect();
        let wanted = wanted.join(" or ");
        let encoded = headers.get(CONTENT_ENCODING);
        if encoded.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(Wrong::Content("send the body without a content-encoding".to_owned()));
        }
        let said = headers.get(CONTENT_TYPE).and_then(|said| said.to_str().ok());
        let Some(said) = said else {
            return Err(Wrong::Content(format!("the content-type is missing; send {wanted}")));
        };
        let media = said.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let content = if media == "application/x-www-form-urlencoded" {
            Some(Content::Form)
        } else if media == "application/json" || media == "text/json" || media.ends_with("+json") {
            Some(Content::Json)
        } else {
            None
        };
        content.filter(|content| may.contains(content)).ok_or_else(|| {
            Wrong::Content(format!("this content-type is not accepted; send {wanted}"))
        })
    }

    /// The answer to a request that is no event: Slack verifies a URL once, when it is configured
    /// (<https://docs.slack.dev/reference/events/url_verification>).
    pub(super) fn challenge(&self, verified: &Verified, body: &[u8]) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct UrlVerification {
            challenge: String,
        }
        let asks = self.settings.verify == Scheme::Slack
            && verified.event_type.as_deref() == Some("url_verification");
        if !asks {
            return None;
        }
        serde_json::from_slice(body).ok().map(|asked: UrlVerification| asked.challenge)
    }

    /// The event to be stored of a verified request. `draw` makes an id if the sender gave none.
    pub(super) fn incoming(
        &self,
        verified: Verified,
        headers: &HeaderMap,
        content: Content,
        body: &Bytes,
        draw: impl FnOnce() -> String,
    ) -> Result<Incoming, Wrong> {
        let not_utf8 = || Wrong::Body("the body is not UTF-8".to_owned());
        let text = Payload::new(body.clone()).ok_or_else(not_utf8)?;
        if content == Content::Json && !is_json(text.as_str()) {
            return Err(Wrong::Body("the body is not JSON".to_owned()));
        }
        let select = |selector: &Selector| match (selector, content) {
            (Selector::Header(name), _) => {
                headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
            }
            (Selector::Path(path), Content::Json) => path.find(body),
            (Selector::Path(path), Content::Form) => {
                let field = path.field()?;
                let mut fields = url::form_urlencoded::parse(body);
                fields.find(|(name, _)| name == field).map(|(_, value)| value.into_owned())
            }
        };
        let event_type = self.event_type(verified.event_type, select)?;
        let ordering_key = self.settings.ordering_key.as_ref().and_then(select);
        Ok(Incoming {
            source: self.name.clone(),
            sender_id: verified.id.filter(|id| !id.is_empty()).map_or_else(draw, |id| fitting(&id)),
            event_type,
            tenant: self.settings.tenant.clone(),
            ordering_key: ordering_key.filter(|key| !key.is_empty()).map(|key| fitting(&key)),
            headers: kept::kept(&self.settings, headers, content),
            payload: match content {
                Content::Json => text,
                Content::Form => quoted(text.as_str()),
            },
        })
    }

    fn event_type(
        &self,
        conventional: Option<String>,
        select: impl Fn(&Selector) -> Option<String>,
    ) -> Result<String, Wrong> {
        let said = match &self.settings.event_type {
            EventType::Fixed(event_type) => return Ok(event_type.clone()),
            EventType::Conventional => match conventional {
                None => return Ok(self.name.clone()),
                Some(said) => said,
            },
            EventType::Picked(place) => select(place).ok_or_else(|| {
                Wrong::Event("the value that names the event's type is missing".to_owned())
            })?,
        };
        let words = dotted_words(&said).map(|words| format!("{}.{words}", self.name));
        words.filter(|words| words.chars().count() <= TEXT_MAX).ok_or_else(|| {
            Wrong::Event("the value that names the event's type is no event type".to_owned())
        })
    }
}

/// An event type as the outbox has it: no white space, no star, no empty word; in lower case.
fn dotted_words(said: &str) -> Option<String> {
    let plain: String = said
        .trim()
        .chars()
        .map(|c| match c {
            '/' | ':' => '.',
            c if c.is_whitespace() || c.is_control() || c == '*' => '_',
            c => c.to_ascii_lowercase(),
        })
        .collect();
    let words: Vec<_> = plain.split('.').filter(|word| !word.is_empty()).collect();
    (!words.is_empty()).then(|| words.join("."))
}

/// The text itself if it fits the column; else its digest, which identifies it as well.
fn fitting(text: &str) -> String {
    if text.chars().count() <= TEXT_MAX && !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    let hash = digest(&SHA256, text.as_bytes());
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// The text as one JSON string.
fn quoted(text: &str) -> Payload {
    let quoted = serde_json::to_vec(text).expect("a text is always written");
    Payload::new(quoted.into()).expect("JSON is UTF-8")
}

#[cfg(test)]
mod tests;
