//! The intake of requests: reads one request of one source within its bounds, verifies it, and
//! hands it to the writer. A fault of the request is answered with a problem of RFC 9457, a fault
//! of the relay with 503.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use hyper::{Method, Request};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::answer::{self, IngestAnswer, Kept, Refused};
use super::body;
use super::source::Source;
use super::writer::{BytesPermit, RequestPermit, WaitingRequest};
use crate::clock::Present;
use crate::config::IngestSettings;
use crate::observe::metrics::Metrics;
use crate::serve::ration::{Doing, Portion, Ration};

/// How long a connection that is idle, or a body of which no further block is needed, keeps its
/// place and its bytes when they run out. An honest webhook is there in one round trip.
pub(super) const YIELDS_AFTER: Duration = Duration::from_secs(1);

/// Answers requests to `POST /in/SOURCE`.
#[derive(Debug)]
pub(super) struct Intake {
    sources: BTreeMap<String, Source>,
    body_timeout: Duration,
    /// A place for each request at once, over all sources.
    places: Arc<Semaphore>,
    /// Of the bytes of bodies in memory.
    bytes: Ration,
    writer: mpsc::Sender<WaitingRequest>,
    metrics: Arc<Metrics>,
    /// The clock that signed times are compared with.
    present: Present,
    random: SystemRandom,
}

impl Intake {
    pub(super) fn new(
        sources: Vec<Source>,
        settings: &IngestSettings,
        writer: mpsc::Sender<WaitingRequest>,
        metrics: &Arc<Metrics>,
        present: Present,
    ) -> Self {
        Self {
            sources: sources.into_iter().map(|source| (source.name.clone(), source)).collect(),
            body_timeout: settings.body_timeout,
            places: Arc::new(Semaphore::new(settings.max_in_flight)),
            bytes: Ration::of(settings.max_in_flight_bytes, YIELDS_AFTER),
            writer,
            metrics: Arc::clone(metrics),
            present,
            random: SystemRandom::new(),
        }
    }

    /// Answers one request of the connection that has this place, and counts its answer.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        peer: IpAddr,
        place: &Portion,
    ) -> IngestAnswer {
        let answer = match self.take(request, peer, place).await {
            Ok(kept) => answer::kept(kept),
            Err(refused) => answer::refused(refused),
        };
        self.metrics.ingest.answers.of(answer.status().as_u16()).increment(1);
        answer
    }

    async fn take(
        &self,
        request: Request<Incoming>,
        peer: IpAddr,
        place: &Portion,
    ) -> Result<Kept, Refused> {
        let (head, body) = request.into_parts();
        let headers = &head.headers;
        let name = head.uri.path().strip_prefix("/in/");
        let source = name.and_then(|name| self.sources.get(name)).ok_or(Refused::NoSource)?;
        if head.method != Method::POST {
            return Err(Refused::NotPost);
        }
        if !source.admits(peer) {
            return Err(Refused::Client);
        }
        let content = source.content(headers).map_err(Refused::Wrong)?;
        let told = told_length(headers, &body, source.settings.max_body)?;
        let unverified = |refusal| {
            // Not louder: any peer could fill the log with it.
            tracing::debug!(source = source.name, %peer, %refusal, "refused a webhook");
            Refused::Unverified(refusal)
        };
        // A sender whose head proves already that it is none has no byte of its body in memory.
        source.verifier.look(headers, self.present.now()).map_err(unverified)?;
        let mut room = BytesPermit::new(self.bytes.portion(peer), &self.metrics);
        let body = self.read(source.settings.max_body, told, body, &mut room, place).await?;
        let verified = source.verifier.verify(headers, &body, self.present.now());
        let verified = verified.map_err(unverified)?;
        place.now(Doing::Waiting);
        room.portion().now(Doing::Waiting);
        if let Some(challenge) = source.challenge(&verified, &body) {
            return Ok(Kept::Challenge(challenge));
        }
        // Only now: a sender that proves nothing, or drips, keeps no place from the others.
        let permit = self.place(source)?;
        let incoming = source.incoming(verified, headers, content, &body, || self.draw());
        let incoming = incoming.map_err(Refused::Wrong)?;
        let (answer, kept) = oneshot::channel();
        self.writer
            .send(WaitingRequest { incoming, answer, place: permit, room })
            .await
            .map_err(|_| Refused::Away)?;
        kept.await.unwrap_or(Err(Refused::Away))
    }

    /// A place for one request, among its source's and among all.
    fn place(&self, source: &Source) -> Result<RequestPermit, Refused> {
        let of_source = Arc::clone(&source.places).try_acquire_owned();
        let of_all = Arc::clone(&self.places);
        Ok(RequestPermit::new(
            of_source.map_err(|_| Refused::SourceFull)?,
            of_all.try_acquire_owned().map_err(|_| Refused::Full)?,
            &self.metrics,
        ))
    }

    /// The whole body, in time and within the bound, unless another is in need of its room.
    async fn read(
        &self,
        most: usize,
        told: Option<usize>,
        body: Incoming,
        room: &mut BytesPermit,
        place: &Portion,
    ) -> Result<Bytes, Refused> {
        let is_to_go = room.portion().is_to_go.clone();
        room.portion().now(Doing::Sending);
        let reading = body::read(body, most, told, (room, place));
        tokio::select! {
            // First what has come: to its sender nothing else matters.
            biased;
            read = tokio::time::timeout(self.body_timeout, reading) => {
                read.map_err(|_| Refused::TooSlow)?
            }
            () = is_to_go.cancelled() => Err(Refused::Full),
            () = place.is_to_go.cancelled() => Err(Refused::Full),
        }
    }

    /// A random id for a webhook that its sender gave none, drawn before it is stored.
    fn draw(&self) -> String {
        let mut bytes = [0; 16];
        self.random.fill(&mut bytes).expect("the system has random bytes");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("drawn:{hex}")
    }
}

/// The length that the head tells, if it does, within the bound.
fn told_length(
    headers: &HeaderMap,
    body: &Incoming,
    most: usize,
) -> Result<Option<usize>, Refused> {
    if !headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING) {
        return Err(Refused::NoLength);
    }
    let Some(told) = body.size_hint().exact() else { return Ok(None) };
    let told = usize::try_from(told).ok().filter(|&told| told <= most);
    told.map(Some).ok_or(Refused::TooLong { most })
}
