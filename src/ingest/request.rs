//! The front handler: one request of one source, read within its bounds, verified, and handed to the
//! writer. Whatever is wrong with it is said in a problem of RFC 9457; what is wrong with us is 503.

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

use super::answer::{self, Answer, Kept, Refused};
use super::source::Source;
use super::writer::{BytesPermit, RequestPermit, WaitingRequest};
use crate::clock::Present;
use crate::config::IngestSettings;
use crate::observe::metrics::Metrics;

/// Answers requests to `POST /in/SOURCE`.
#[derive(Debug)]
pub(super) struct Handler {
    sources: BTreeMap<String, Source>,
    body_timeout: Duration,
    /// A place for each request at once, over all sources.
    places: Arc<Semaphore>,
    /// A permit for each byte of a body in memory.
    bytes: Arc<Semaphore>,
    writer: mpsc::Sender<WaitingRequest>,
    metrics: Arc<Metrics>,
    /// By which signed times are judged.
    present: Present,
    random: SystemRandom,
}

impl Handler {
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

    /// The answer to one request. It counts what it says.
    pub(super) async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> Answer {
        let answer = match self.take(request, peer).await {
            Ok(kept) => answer::kept(kept),
            Err(refused) => answer::refused(refused),
        };
        self.metrics.ingest.answers(answer.status().as_u16()).increment(1);
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
                // not louder: anybody can have it said as often as they like
                tracing::debug!(source = source.name, %peer, %refusal, "refused a webhook");
                Refused::Unverified(refusal)
            })?;
        if let Some(challenge) = source.challenge(&verified, &body) {
            return Ok(Kept::Challenge(challenge));
        }
        // Only now: nobody who proves nothing, or drips, keeps others from their places.
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

    /// A place for one request, of its source's and of all.
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

    /// The whole body, no longer than it may be. What has come of it is taken from the room; what is only
    /// told is not, or a few words would keep out everybody else.
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
        // Put together when all are here: one that grows takes twice as much, of each that is refused too.
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

    /// A name for what its sender has not named, drawn before anything is tried.
    fn draw(&self) -> String {
        let mut bytes = [0; 16];
        self.random.fill(&mut bytes).expect("the system has random bytes");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("drawn:{hex}")
    }
}
