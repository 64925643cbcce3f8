//! One attempt: make the body, sign, send, judge. The heart of the relay, and one screen of it.
//!
//! Runs in a lane's worker. What came of it goes to the recorder; nothing here touches the database,
//! and nothing waits but the request itself.

mod headers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use jiff::Timestamp;

use self::headers::{TooMany, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use super::Shared;
use super::fault;
use super::limits::files::File;
use crate::model::body;
use crate::model::delivery::Delivery;
use crate::model::endpoint::{BodyFormat, Endpoint, EndpointId, OnDead};
use crate::model::outcome::{Outcome, Phases, Refusal};
use crate::model::rules::RuleSet;
use crate::model::schedule::Schedule;
use crate::model::verdict::{self, Verdict, VerdictPolicy};
use crate::outbound::client::{Connection, Exchange};
use crate::outbound::target::Target;
use crate::signing::sign::Signer;

/// An endpoint made ready: parsed, checked and with its keys scheduled, once per revision.
#[derive(Debug)]
pub(super) struct ReadyEndpoint {
    pub(super) endpoint: Endpoint,
    /// `Err`: the endpoint cannot be sent to, and why.
    sending: Result<Sending, Outcome>,
    pub(super) schedule: Schedule,
    pub(super) max_concurrency: u32,
    timeout: Duration,
    /// A secret expires then, and the endpoint is to be read again.
    pub(super) secrets_until: Option<Timestamp>,
}

impl ReadyEndpoint {
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
    pub(super) on_dead: OnDead,
}

/// How long an attempt took, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) all_ms: f64,
    /// To the answer alone, where there was one: a new connection says nothing of how busy the endpoint is.
    pub(super) answer_ms: f64,
}

impl Times {
    pub(super) fn of(sent: &Sent) -> Self {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        Self { all_ms: ms(sent.took), answer_ms: ms(sent.phases.headers.unwrap_or(sent.took)) }
    }
}

/// Makes the next attempt of a delivery.
///
/// A bug that it meets ends this attempt and nothing else: the connection may be half written and is
/// not used again.
pub(super) fn deliver<'a>(
    shared: &'a Arc<Shared>,
    ready: &'a ReadyEndpoint,
    delivery: &'a Delivery,
    line: &'a mut Line,
) -> impl Future<Output = Result<Sent, Fault>> + 'a {
    let began = shared.clock.instant();
    // Not `async`: that would keep room for the attempt twice.
    fault::caught(attempt(shared, ready, delivery, line)).map(move |sent| {
        sent.map_err(|detail| {
            tracing::error!(
                event = delivery.event_id,
                endpoint = delivery.endpoint_id,
                attempt = delivery.attempt_count + 1,
                "a bug: {detail}; the attempt is refused, others go on"
            );
            shared.metrics.faults.increment(1);
            Fault { began, detail }
        })
    })
}

/// An attempt that ended by a panic.
#[derive(Debug)]
pub(super) struct Fault {
    began: Instant,
    detail: String,
}

impl Fault {
    /// What is recorded of it. No rule is asked: one of them may be what the bug is about.
    pub(super) fn sent(
        self,
        shared: &Arc<Shared>,
        ready: &ReadyEndpoint,
        delivery: &Delivery,
    ) -> Sent {
        let Self { began, detail } = self;
        let refused = unfinished(Outcome::Refused { why: Refusal::Fault, detail });
        judged(shared, ready, delivery, began, refused, &RuleSet::default())
    }
}

async fn attempt(
    shared: &Arc<Shared>,
    ready: &ReadyEndpoint,
    delivery: &Delivery,
    line: &mut Line,
) -> Sent {
    let mut began = shared.clock.instant();
    let mut is_sent_again = false;
    #[cfg(test)]
    fault::inject(&delivery.event_type);
    let exchange = match &ready.sending {
        Ok(sending) => {
            let send = async {
                if line.file.is_none() {
                    line.file = Some(shared.files.take().await);
                    began = shared.clock.instant();
                    // It may have waited for long.
                    if !shared.term.may_send() {
                        return unfinished(Outcome::Interrupted);
                    }
                }
                let first = send(shared, ready, sending, delivery, line, ready.timeout).await;
                if !first.unheard || !shared.term.may_send() {
                    return first;
                }
                // The receiver closes connections that it has answered on, and was a moment later than we.
                // Or it fell over this very request, which then comes twice: as it would by the retry.
                is_sent_again = true;
                shared.metrics.sent_again.increment(1);
                let left = ready.timeout.saturating_sub(shared.clock.since(began));
                send(shared, ready, sending, delivery, line, left).await
            };
            tokio::select! {
                exchange = send => exchange,
                // The grace is over. Nobody knows whether it arrived.
                () = shared.term.abort.cancelled() => unfinished(Outcome::Interrupted),
            }
        }
        Err(why) => unfinished(why.clone()),
    };
    if line.connection.is_none() {
        line.file = None;
    }
    let mut sent = judged(shared, ready, delivery, began, exchange, &shared.policy.rules());
    if is_sent_again {
        let reason = sent.verdict.reason.take().map(|reason| format!("; {reason}"));
        sent.verdict.reason = Some(format!("{SENT_AGAIN}{}", reason.unwrap_or_default()));
    }
    sent
}

/// What an operator reads of it: the event may have arrived twice by this attempt.
const SENT_AGAIN: &str = "sent twice, since the kept connection was closed without an answer";

/// Sends the delivery once.
async fn send(
    shared: &Arc<Shared>,
    ready: &ReadyEndpoint,
    sending: &Sending,
    delivery: &Delivery,
    line: &mut Line,
    timeout: Duration,
) -> Exchange {
    match request(shared, ready, sending, delivery) {
        Ok(request) => {
            let connection = &mut line.connection;
            shared.client.send(connection, &sending.target, request, timeout).await
        }
        Err(too_many) => {
            let detail = too_many.to_string();
            unfinished(Outcome::Refused { why: Refusal::BadEvent, detail })
        }
    }
}

fn judged(
    shared: &Shared,
    ready: &ReadyEndpoint,
    delivery: &Delivery,
    began: Instant,
    exchange: Exchange,
    rules: &RuleSet,
) -> Sent {
    let now = shared.clock.now();
    let policy = VerdictPolicy {
        rules,
        schedule: &ready.schedule,
        retry_after_cap: shared.config.retry.retry_after_cap,
    };
    let attempt = verdict::AttemptFacts {
        number: delivery.attempt_count + 1,
        age: Duration::try_from(now.duration_since(delivery.due_at)).unwrap_or_default(),
        host: ready.host(),
        event_type: &delivery.event_type,
    };
    let verdict = verdict::judge(&exchange.outcome, &policy, &attempt, now, shared.draw());
    Sent {
        began,
        took: shared.clock.since(began),
        phases: exchange.phases,
        outcome: exchange.outcome,
        verdict,
        on_dead: ready.endpoint.on_dead,
    }
}

fn request(
    shared: &Shared,
    ready: &ReadyEndpoint,
    sending: &Sending,
    delivery: &Delivery,
) -> Result<hyper::Request<http_body_util::Full<bytes::Bytes>>, TooMany> {
    let body = body::render(
        ready.endpoint.body_format,
        delivery,
        &shared.config.delivery.cloudevents_source,
    );
    let id = delivery.webhook_id();
    let timestamp = shared.clock.now().as_second();
    let signature =
        (!sending.signer.is_empty()).then(|| sending.signer.sign(&id, timestamp, &body));
    let mut request = sending.target.post(body);
    let headers = request.headers_mut();
    headers::put_all(headers, &sending.headers)?;
    headers::put(headers, WEBHOOK_ID, header(&id))?;
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

fn unfinished(outcome: Outcome) -> Exchange {
    Exchange { outcome, phases: Phases::default(), reused: false, unheard: false }
}

impl ReadyEndpoint {
    pub(super) fn new(
        shared: &Shared,
        endpoint: Endpoint,
        secrets_until: Option<Timestamp>,
    ) -> Self {
        #[cfg(test)]
        fault::inject(&endpoint.url);
        let sending = Sending::new(&endpoint, &shared.config.delivery.user_agent);
        let sending =
            sending.map_err(|detail| Outcome::Refused { why: Refusal::BadEndpoint, detail });
        Self::with(shared, endpoint, secrets_until, sending)
    }

    /// Of an endpoint that nothing can be sent to: what is owed to it is refused, for this reason.
    pub(super) fn unusable(
        shared: &Shared,
        id: EndpointId,
        revision: i64,
        (why, detail): (Refusal, String),
    ) -> Self {
        let refused = Err(Outcome::Refused { why, detail });
        Self::with(shared, Endpoint::unread(id, revision), None, refused)
    }

    fn with(
        shared: &Shared,
        endpoint: Endpoint,
        secrets_until: Option<Timestamp>,
        sending: Result<Sending, Outcome>,
    ) -> Self {
        let delivery = &shared.config.delivery;
        Self {
            sending,
            schedule: shared.policy.schedule.for_endpoint(&endpoint).into_owned(),
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
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static(body::content_type(endpoint.body_format)),
        );
        if let Ok(agent) = HeaderValue::from_str(user_agent) {
            headers.insert(USER_AGENT, agent);
        }
        headers::add(&mut headers, &endpoint.headers).map_err(|error| error.to_string())?;
        let host = target.host().to_string();
        Ok(Self { target, host, signer, headers })
    }
}
