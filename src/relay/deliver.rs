//! One attempt: make the body, sign, send, judge. The heart of the relay, and one screen of it.
//!
//! Runs in a lane's worker. What came of it goes to the recorder; nothing here touches the database,
//! and nothing waits but the request itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use jiff::Timestamp;

use super::Shared;
use super::files::File;
use crate::http::client::{Connection, Exchange};
use crate::http::target::Target;
use crate::model::body;
use crate::model::delivery::Delivery;
use crate::model::endpoint::{BodyFormat, Endpoint, OnDeadHead};
use crate::model::outcome::{Outcome, Phases, Refusal};
use crate::model::schedule::Schedule;
use crate::model::signature::Signer;
use crate::model::verdict::{self, Policy, Verdict};

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// An endpoint made ready: parsed, checked and with its keys scheduled, once per revision.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) endpoint: Endpoint,
    /// `Err`: the endpoint cannot be sent to, and why.
    sending: Result<Sending, String>,
    pub(super) schedule: Schedule,
    pub(super) max_concurrency: u32,
    timeout: Duration,
    /// A secret expires then, and the endpoint is to be read again.
    pub(super) secrets_until: Option<Timestamp>,
}

impl Plan {
    /// Whom it sends to; nothing where that is not known.
    pub(super) fn host(&self) -> &str {
        self.sending.as_ref().map_or("", |sending| &sending.host)
    }
}

#[derive(Debug)]
struct Sending {
    target: Target,
    host: String,
    signer: Signer,
    /// Ours that are always the same, then the endpoint's.
    headers: HeaderMap,
}

/// A worker's connection, if it has one, and its right to have one.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) connection: Option<Connection>,
    pub(super) file: Option<File>,
}

/// A finished attempt.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) began: Instant,
    pub(super) took: Duration,
    pub(super) phases: Phases,
    pub(super) outcome: Outcome,
    pub(super) verdict: Verdict,
    pub(super) on_dead_head: OnDeadHead,
}

/// Makes the next attempt of a delivery.
pub(super) async fn deliver(
    shared: &Arc<Shared>,
    plan: &Plan,
    delivery: &Delivery,
    line: &mut Line,
) -> Sent {
    let mut began = shared.clock.instant();
    let exchange = match &plan.sending {
        Ok(sending) => {
            let send = async {
                if line.file.is_none() {
                    line.file = Some(shared.files.take().await);
                    began = shared.clock.instant();
                    // It may have waited for long.
                    if !shared.may_send() {
                        return unfinished(Outcome::Interrupted);
                    }
                }
                let request = request(shared, plan, sending, delivery);
                let connection = &mut line.connection;
                shared.client.send(connection, &sending.target, request, plan.timeout).await
            };
            tokio::select! {
                exchange = send => exchange,
                // The grace is over. Nobody knows whether it arrived.
                () = shared.abort.cancelled() => unfinished(Outcome::Interrupted),
            }
        }
        Err(why) => unfinished(Outcome::Refused { why: Refusal::BadEndpoint, detail: why.clone() }),
    };
    if line.connection.is_none() {
        line.file = None;
    }
    let now = shared.clock.now();
    let rules = shared.rules();
    let policy = Policy {
        rules: &rules,
        schedule: &plan.schedule,
        retry_after_cap: shared.config.retry.retry_after_cap,
    };
    let attempt = verdict::Attempt {
        number: delivery.attempt_count + 1,
        age: Duration::try_from(now.duration_since(delivery.due_at)).unwrap_or_default(),
        host: plan.host(),
        event_type: &delivery.event_type,
    };
    let verdict = verdict::judge(&exchange.outcome, &policy, &attempt, now, shared.draw());
    Sent {
        began,
        took: shared.clock.since(began),
        phases: exchange.phases,
        outcome: exchange.outcome,
        verdict,
        on_dead_head: plan.endpoint.on_dead_head,
    }
}

fn request(
    shared: &Shared,
    plan: &Plan,
    sending: &Sending,
    delivery: &Delivery,
) -> hyper::Request<http_body_util::Full<bytes::Bytes>> {
    let body = body::render(
        plan.endpoint.body_format,
        delivery,
        &shared.config.delivery.cloudevents_source,
    );
    let id = delivery.webhook_id();
    let timestamp = shared.clock.now().as_second();
    let signature =
        (!sending.signer.is_empty()).then(|| sending.signer.sign(&id, timestamp, &body));
    let mut request = sending.target.post(body);
    let headers = request.headers_mut();
    headers.extend(sending.headers.clone());
    headers.insert(WEBHOOK_ID, header(&id));
    headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(timestamp));
    if let Some(signature) = signature {
        headers.insert(WEBHOOK_SIGNATURE, header(&signature));
    }
    if plan.endpoint.body_format == BodyFormat::Raw {
        pass_on(headers, delivery);
    }
    for (name, value) in &delivery.headers {
        add(headers, name, value);
    }
    request
}

/// What a raw body needs of the event's own headers to be what it was: its type, where it is not JSON; and
/// the three of Standard Webhooks, which only together verify.
fn pass_on(headers: &mut HeaderMap, delivery: &Delivery) {
    let own = |name: &HeaderName| {
        let mut named = delivery.headers.iter().filter(|(theirs, _)| name == theirs.as_str());
        named.next().and_then(|(_, value)| HeaderValue::from_str(value).ok())
    };
    if let Some(kind) = body::own_type(delivery).and_then(|kind| HeaderValue::from_str(kind).ok()) {
        headers.insert(CONTENT_TYPE, kind);
    }
    let signed = [WEBHOOK_ID, WEBHOOK_TIMESTAMP, WEBHOOK_SIGNATURE];
    if let [Some(id), Some(timestamp), Some(signature)] = signed.each_ref().map(own) {
        for (name, value) in signed.into_iter().zip([id, timestamp, signature]) {
            headers.insert(name, value);
        }
    }
}

fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("base64, digits and underscores are header characters")
}

/// Adds a header of the event's or endpoint's: never one of ours, never one that is already there,
/// none that belongs to one hop or could smuggle a request. What cannot be sent is left out.
fn add(headers: &mut HeaderMap, name: &str, value: &str) {
    let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) else {
        return;
    };
    if !OURS.contains(&name.as_str())
        && !name.as_str().starts_with("webhook-")
        && !headers.contains_key(&name)
    {
        headers.insert(name, value);
    }
}

/// The same list that `posthaste_internal.are_endpoint_headers` refuses when an endpoint is written; events
/// are not refused for a header, so it is asked here too.
const OURS: [&str; 15] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "user-agent",
];

fn unfinished(outcome: Outcome) -> Exchange {
    Exchange { outcome, phases: Phases::default(), reused: false }
}

impl Plan {
    pub(super) fn new(
        shared: &Shared,
        endpoint: Endpoint,
        secrets_until: Option<Timestamp>,
    ) -> Self {
        let delivery = &shared.config.delivery;
        Self {
            sending: Sending::new(&endpoint, &delivery.user_agent),
            schedule: shared.schedule.for_endpoint(&endpoint).into_owned(),
            max_concurrency: endpoint.max_concurrency.unwrap_or(delivery.max_concurrency),
            timeout: endpoint.timeout.unwrap_or(delivery.timeout),
            secrets_until,
            endpoint,
        }
    }
}

impl Sending {
    fn new(endpoint: &Endpoint, user_agent: &str) -> Result<Self, String> {
        let target = Target::parse(&endpoint.url).map_err(|error| error.to_string())?;
        let signer = Signer::new(&endpoint.secrets).map_err(|error| error.to_string())?;
        let mut headers = HeaderMap::with_capacity(4 + endpoint.headers.len());
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static(body::content_type(endpoint.body_format)),
        );
        if let Ok(agent) = HeaderValue::from_str(user_agent) {
            headers.insert(USER_AGENT, agent);
        }
        for (name, value) in &endpoint.headers {
            add(&mut headers, name, value);
        }
        let host = target.host().to_string();
        Ok(Self { target, host, signer, headers })
    }
}
