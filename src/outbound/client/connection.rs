//! One open connection and the exchanges on it. Owned by one worker at a time: there is no pool, no
//! lock and no task besides the caller's; hyper's connection future is polled along with the
//! exchange, and between exchanges nothing runs.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Instant;

use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::{Body, Incoming};

use super::alarm::Alarm;
use super::ear::{Ear, Stream};
use super::failure;
use super::head::{headers, not_kept, odd};
use super::protocol::{Http, Post};
use super::settings::Limits;
use super::wire::ReadAllowance;
use crate::clock::Clock;
use crate::model::outcome::{Answer, Cause, Outcome, Phase, Phases};
use crate::outbound::target::Target;

/// An open connection to one origin, kept between requests in the caller's slot.
pub struct Connection {
    target: Target,
    http: Http,
    allowance: ReadAllowance,
    ear: Ear,
    alarm: Alarm,
    opened: Instant,
    used: Instant,
}

/// The end of an exchange.
pub(super) enum Exchanged {
    /// The connection may serve another request if it is reusable.
    Finished { outcome: Outcome, reusable: bool },
    /// The connection was closed and no byte of an answer had come. The request may have arrived.
    Unheard(Outcome),
    /// The connection was closed before a byte of the request was written: sending it elsewhere is
    /// not a second attempt.
    Unsent(Box<Post>),
}

/// Bytes that are read of a body beyond those that are kept, since a new connection costs more;
/// then the connection is dropped.
const DRAINED: usize = 64 * 1024;

/// Bytes of the body, or of HTTP/2's own frames, that hyper may read besides those that are
/// counted. An honest peer sends far fewer, and this many do not hurt.
const READ_AHEAD: usize = 256 * 1024;

impl Connection {
    /// Takes over a stream that is ready for HTTP.
    pub(super) async fn handshake(
        stream: Stream,
        allowance: ReadAllowance,
        target: &Target,
        deadline: Instant,
        limits: &Limits,
    ) -> hyper::Result<Self> {
        let ear = stream.inner().ear();
        let http = Http::handshake(stream, limits).await?;
        let now = Clock.instant();
        Ok(Self {
            target: target.clone(),
            http,
            allowance,
            ear,
            alarm: Alarm::at(deadline),
            opened: now,
            used: now,
        })
    }

    /// Whether this connection goes where `target` is and is not stale. An old connection is not
    /// kept for ever, because the name may point elsewhere by now; an idle one may have been
    /// forgotten by something on the way without a word.
    pub(super) fn serves(&self, target: &Target, now: Instant, limits: &Limits) -> bool {
        self.target.same_origin(target)
            && now.saturating_duration_since(self.opened) < limits.connection_life
            && now.saturating_duration_since(self.used) < limits.idle_timeout
    }

    /// Looks whether the peer has closed it in the meantime, which only polling tells.
    pub(super) async fn is_open(&mut self) -> bool {
        self.allowance.grant(READ_AHEAD);
        poll_fn(|cx| {
            self.http.poll(cx);
            Poll::Ready(self.http.is_ready())
        })
        .await
    }

    /// Sends one request and reads the answer.
    pub(super) async fn exchange(
        &mut self,
        target: &Target,
        mut request: Post,
        deadline: Instant,
        limits: &Limits,
        phases: &mut Phases,
    ) -> Exchanged {
        self.http.address(&mut request, target);
        self.allowance.grant(limits.head_bytes.saturating_add(READ_AHEAD));
        self.alarm.set(deadline);
        let is_heard = matches!(self.http, Http::One { .. });
        if is_heard {
            self.ear.listen();
        }
        let started = Clock.instant();
        let response = self.http.send(request);
        let head = self.drive(pin!(response)).await;
        phases.headers = Some(Clock.since(started));
        let outcome = match head {
            Ok(Ok(response)) => {
                self.ear.stop();
                return self.answer(response, deadline, limits, phases).await;
            }
            Ok(Err(mut error)) => match error.take_message() {
                Some(request) => return Exchanged::Unsent(Box::new(request)),
                None => failure::of(error.error(), Phase::Headers),
            },
            Err(Stopped::Late) => Outcome::TimedOut { phase: Phase::Headers },
            Err(Stopped::Closed) => {
                failure::unreachable(Cause::Closed, "the connection was closed before an answer")
            }
        };
        match &outcome {
            Outcome::Unreachable { cause: Cause::Protocol, detail } => {
                let odd = self
                    .ear
                    .understood()
                    .map(|(status, headers)| Outcome::Answered(odd(status, headers, detail)));
                Exchanged::Finished { outcome: odd.unwrap_or(outcome), reusable: false }
            }
            Outcome::Unreachable { cause: Cause::Closed | Cause::Reset, .. }
                if is_heard && self.ear.has_heard_nothing() =>
            {
                Exchanged::Unheard(outcome)
            }
            _ => Exchanged::Finished { outcome, reusable: false },
        }
    }

    /// The head is here, so the request is answered whatever becomes of the body.
    async fn answer(
        &mut self,
        response: Response<Incoming>,
        deadline: Instant,
        limits: &Limits,
        phases: &mut Phases,
    ) -> Exchanged {
        let (head, body) = response.into_parts();
        let mut read = ReadBody::default();
        if !body.is_end_stream() {
            let started = Clock.instant();
            self.allowance.grant(limits.response_body_limit.saturating_add(DRAINED + READ_AHEAD));
            self.alarm.set(deadline.min(started + limits.body_timeout));
            read.complete = self.read_body(body, limits.response_body_limit, &mut read).await;
            phases.body = Some(Clock.since(started));
        } else {
            read.complete = true;
        }
        let (headers, dropped) = headers(&head.headers);
        let answer = Answer {
            status: head.status.as_u16(),
            headers,
            body_truncated: read.dropped > 0 || !read.complete,
            body: read.kept,
            detail: (dropped > 0).then(|| not_kept(dropped)),
        };
        self.used = Clock.instant();
        let reusable = read.complete && self.is_open().await;
        Exchanged::Finished { outcome: Outcome::Answered(answer), reusable }
    }

    /// Whether the body was read to its end.
    async fn read_body(&mut self, mut body: Incoming, keep: usize, read: &mut ReadBody) -> bool {
        while !body.is_end_stream() {
            let frame = match self.drive(pin!(body.frame())).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => return true,
                Ok(Some(Err(_))) | Err(_) => return false,
            };
            let Ok(bytes) = frame.into_data() else { continue };
            let room = keep - read.kept.len();
            read.kept.extend_from_slice(&bytes[..room.min(bytes.len())]);
            read.dropped += bytes.len().saturating_sub(room);
            if read.dropped > DRAINED {
                return false;
            }
        }
        true
    }

    /// Polls a part of the exchange and what moves its bytes, until it is done, the connection ends
    /// without it, or the alarm rings.
    async fn drive<F: Future>(&mut self, mut part: Pin<&mut F>) -> Result<F::Output, Stopped> {
        poll_fn(|cx| {
            if let Poll::Ready(done) = part.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            self.http.poll(cx);
            if let Poll::Ready(done) = part.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            if self.http.has_ended() {
                return Poll::Ready(Err(Stopped::Closed));
            }
            self.alarm.poll(cx).map(|()| Err(Stopped::Late))
        })
        .await
    }
}

#[derive(Default)]
struct ReadBody {
    kept: Vec<u8>,
    dropped: usize,
    complete: bool,
}

enum Stopped {
    Late,
    Closed,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = match self.http {
            Http::One { .. } => "HTTP/1.1",
            Http::Two { .. } => "HTTP/2",
        };
        f.debug_struct("Connection").field("to", &self.target).field("speaks", &version).finish()
    }
}
