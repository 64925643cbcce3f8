//! The HTTP side of every receiver here: takes webhooks at one address, bounded in connections,
//! size and time, and hands each of them over. Its caller decides the answers.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Collected, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::time;

use crate::serve::connection::{ConnectionBounds, converse};
use crate::serve::listener::Listener;
use crate::serve::ration::{Portion, Ration};
use crate::stopper::Stopper;

/// More than a relay opens to one endpoint. Further ones wait.
const CONNECTIONS_MAX: usize = 128;
const BOUNDS: ConnectionBounds = ConnectionBounds {
    // Longer than a relay keeps an idle connection, so that none is closed under a request.
    head_timeout: Duration::from_secs(75),
    // More than other servers take: a relay that is tried out may send any header.
    head_size: 400 * 1024,
    // A relay keeps its connections for as long as it sends.
    lifetime: Duration::MAX,
};
/// For a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A webhook as it was received.
#[derive(Debug)]
pub struct Taken {
    pub method: Method,
    /// With the query.
    pub path: String,
    pub headers: HeaderMap,
    /// `None`: it is longer than the listener takes.
    pub body: Option<Bytes>,
}

/// A receiver's answer to one webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiverAnswer {
    Status(StatusCode),
    /// The connection ends without an answer.
    HangUp,
}

/// A port that is taken, and accepts no connection yet.
#[derive(Debug)]
pub struct ReceiverListener(Listener);

/// Makes hyper close the connection without a response.
#[derive(Debug, thiserror::Error)]
#[error("hang up, as was asked for")]
struct HangUp;

impl ReceiverListener {
    /// Takes the port; 0 is any that is free.
    ///
    /// # Errors
    /// If the address is in use, or not this host's.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        // A relay's idle connections are left alone.
        let places = Ration::of(CONNECTIONS_MAX, Duration::MAX);
        Listener::bind("the receiver's address", address, places).await.map(Self)
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Hands over every request until the stop; then lets answers on their way end, shortly.
    pub async fn serve<H, F>(self, body_max: usize, handler: H, stopper: &Stopper)
    where
        H: Fn(Taken) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ReceiverAnswer> + Send + 'static,
    {
        let told = stopper.clone();
        let hold = move |stream, _peer, place: Arc<Portion>| {
            let (handler, stopper) = (handler.clone(), told.clone());
            async move {
                let answer = |request| answer(request, body_max, &handler);
                tokio::select! {
                    () = converse(stream, BOUNDS, answer, &stopper) => {}
                    () = place.is_to_go.cancelled() => {}
                }
            }
        };
        self.0.serve(hold, stopper).await;
    }
}

async fn answer<F>(
    request: Request<Incoming>,
    body_max: usize,
    handler: impl Fn(Taken) -> F,
) -> Result<Response<Full<Bytes>>, HangUp>
where
    F: Future<Output = ReceiverAnswer>,
{
    match handler(take(request, body_max).await.ok_or(HangUp)?).await {
        ReceiverAnswer::Status(status) => Ok(respond(status)),
        ReceiverAnswer::HangUp => Err(HangUp),
    }
}

/// Reads the request to its end. `None`: its sender went away or did not go on.
async fn take(request: Request<Incoming>, body_max: usize) -> Option<Taken> {
    let (head, body) = request.into_parts();
    let body = time::timeout(BODY_TIMEOUT, Limited::new(body, body_max).collect()).await.ok()?;
    let body = match body.map(Collected::to_bytes) {
        Ok(body) => Some(body),
        Err(error) if error.is::<LengthLimitError>() => None,
        Err(_) => return None,
    };
    let path = head.uri.path_and_query().map_or_else(|| head.uri.path(), |path| path.as_str());
    Some(Taken { method: head.method, path: path.to_owned(), headers: head.headers, body })
}

/// The status's own words are the body, so that the relay has a body to keep.
fn respond(status: StatusCode) -> Response<Full<Bytes>> {
    let words = status.canonical_reason().unwrap_or_default();
    let mut response = Response::new(Full::new(words.into()));
    *response.status_mut() = status;
    response
}
