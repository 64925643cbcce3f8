//! The HTTP side of every receiver here: takes webhooks on one address, bounded in connections, size and
//! time, and hands each of them over. What is answered, its caller decides.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Collected, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time;

use crate::stopper::Stopper;

/// More than a relay opens to one endpoint. What comes beyond waits in the kernel's backlog.
const CONNECTIONS_MAX: usize = 128;
/// For a request's head. Longer than a relay keeps an idle connection, so that none is closed under a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// For its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long answers that are on their way may take when the listener is to end.
const LAST_WORD: Duration = Duration::from_secs(1);
/// When accepting fails for want of files, trying again at once would only burn the core.
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(100);

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

/// What the sender is to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Status(StatusCode),
    /// The connection ends without an answer.
    HangUp,
}

/// A port that is taken, and accepts no connection yet.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

/// Makes hyper close the connection without a response.
#[derive(Debug, thiserror::Error)]
#[error("hang up, as was asked for")]
struct HangUp;

impl Listener {
    /// Takes the port; 0 is any that is free.
    ///
    /// # Errors
    /// If the address is in use, or not ours.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Hands over every request until the stop; then lets those that are being answered end, shortly.
    pub async fn serve<H, F>(self, body_max: usize, handler: H, stopper: &Stopper)
    where
        H: Fn(Taken) -> F + Clone + Send + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let accepted = async {
                let permit = Arc::clone(&room).acquire_owned().await;
                (self.listener.accept().await, permit)
            };
            // Each arm may be dropped: a permit is given back, and accepting is cancel safe.
            tokio::select! {
                () = stopper.stopping() => break,
                Some(_) = connections.join_next() => {}
                (accepted, permit) = accepted => match accepted {
                    Ok((stream, _)) => {
                        let (handler, stopper) = (handler.clone(), stopper.clone());
                        connections.spawn(async move {
                            converse(stream, body_max, handler, &stopper).await;
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        time::sleep(AFTER_FAILED_ACCEPT).await;
                    }
                },
            }
        }
        drop(self.listener);
        while connections.join_next().await.is_some() {}
    }
}

/// One connection, from its first request to its end.
async fn converse<H, F>(stream: TcpStream, body_max: usize, handler: H, stopper: &Stopper)
where
    H: Fn(Taken) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let service = service_fn(move |request| {
        let handler = handler.clone();
        async move {
            let Some(taken) = take(request, body_max).await else { return Err(HangUp) };
            match handler(taken).await {
                Answer::Status(status) => Ok(respond(status)),
                Answer::HangUp => Err(HangUp),
            }
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // An error is a connection that was broken, by us or by its peer.
    tokio::select! {
        ended = &mut connection => drop(ended),
        () = stopper.stopping() => {
            connection.as_mut().graceful_shutdown();
            drop(time::timeout(LAST_WORD, connection).await);
        }
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

/// The status's own words are the body, so that there is something to be kept.
fn respond(status: StatusCode) -> Response<Full<Bytes>> {
    let words = status.canonical_reason().unwrap_or_default();
    let mut response = Response::new(Full::new(words.into()));
    *response.status_mut() = status;
    response
}
