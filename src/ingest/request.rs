//! The intake of requests: reads one request of one source within its bounds, verifies it, and
//! hands it to the writer. A fault of the request is answered with a problem of RFC 9457, a fault
//! of the relay with 503.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use hyper::{Method, Request};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::answer::{self, IngestAnswer, Kept, Refused};
use super::source::Source;
use super::writer::{BytesPermit, RequestPermit, WaitingRequest};
use crate::clock::Present;
use crate::config::IngestSettings;
use crate::observe::metrics::Metrics;

/// Answers requests to `POST /in/SOURCE`.
#[derive(Debug)]
pub(super) struct Intake {
    sources: BTreeMap<String, Source>,
    body_timeout: Duration,
    /// A place for each request at once, over all sources.
    places: Arc<Semaphore>,
    /// A permit for each byte of a body in memory.
    bytes: Arc<Semaphore>,
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
            bytes: Arc::new(Semaphore::new(settings.max_in_flight_bytes)),
            writer,
            metrics: Arc::clone(metrics),
            present,
            random: SystemRandom::new(),
        }
    }

    /// Answers one request, and counts its answer.
    pub(super) async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> IngestAnswer {
        let answer = match self.take(request, peer).await {
            Ok(kept) => answer::kept(kept),
            Err(refused) => answer::refused(refused),
        };
        self.metrics.ingest.answers.of(answer.status().as_u16()).increment(1);
        answer
    }

    async fn take(&self, request: Request<Incoming>, peer: IpAddr) -> Result<Kept, Refused> {
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
        let mut room = BytesPermit::new(self.some_bytes(0)?, &self.metrics);
        let reading = self.read(source, headers, body, &mut room);
        let body = tokio::time::timeout(self.body_timeout, reading);
        let body = body.await.map_err(|_| Refused::TooSlow)??;
        let verified =
            source.verifier.verify(headers, &body, self.present.now()).map_err(|refusal| {
                // Not louder: any peer could fill the log with it.
                tracing::debug!(source = source.name, %peer, %refusal, "refused a webhook");
                Refused::Unverified(refusal)
            })?;
        if let Some(challenge) = source.challenge(&verified, &body) {
            return Ok(Kept::Challenge(challenge));
        }
        // Only now: a sender that proves nothing, or drips, keeps no place from the others.
        let place = self.place(source)?;
        let incoming = source.incoming(verified, headers, content, &body, || self.draw());
        let incoming = incoming.map_err(Refused::Wrong)?;
        let (answer, kept) = oneshot::channel();
        self.writer
            .send(WaitingRequest { incoming, answer, place, room })
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

    fn some_bytes(&self, more: usize) -> Result<OwnedSemaphorePermit, Refused> {
        let more = u32::try_from(more).map_err(|_| Refused::Full)?;
        Arc::clone(&self.bytes).try_acquire_many_owned(more).map_err(|_| Refused::Full)
    }

    /// The whole body, within its source's bound. The bytes that have come take room; a length that
    /// is only announced does not, or a few heads would keep out all other senders.
    async fn read(
        &self,
        source: &Source,
        headers: &HeaderMap,
        mut body: Incoming,
        room: &mut BytesPermit,
    ) -> Result<Bytes, Refused> {
        let most = source.settings.max_body;
        if !headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING) {
            return Err(Refused::NoLength);
        }
        let told = body.size_hint().exact().map_or(Ok(0), usize::try_from);
        told.ok().filter(|&told| told <= most).ok_or(Refused::TooLong { most })?;
        // Put together when all are here: a buffer that grows would take twice the memory, and for
        // bodies that are refused too.
        let mut pieces = Vec::new();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Refused::Broken)?.into_data() else { continue };
            length += data.len();
            if length > most {
                return Err(Refused::TooLong { most });
            }
            room.grow(self.some_bytes(data.len())?);
            pieces.push(data);
        }
        let mut whole = BytesMut::with_capacity(length);
        pieces.into_iter().for_each(|piece| whole.extend_from_slice(&piece));
        Ok(whole.freeze())
    }

    /// A random id for a webhook that its sender gave none, drawn before it is stored.
    fn draw(&self) -> String {
        let mut bytes = [0; 16];
        self.random.fill(&mut bytes).expect("the system has random bytes");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("drawn:{hex}")
    }
}
