//! One connection, from its first request to its end: HTTP/1.1 within bounds of time and size.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time;

use super::listener::ServedStream;
use crate::stopper::Stopper;

/// How long an answer that is on its way may take when the connection is to end.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The bounds of a connection.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionBounds {
    /// A request's head must be whole this long after the connection or the last answer.
    pub head_timeout: Duration,
    /// Bytes of a request's head; hyper takes 8 KiB at the least.
    pub head_size: usize,
    /// No connection is kept longer.
    pub lifetime: Duration,
}

/// Answers one request after the other until the peer hangs up, the stop, or the end of its
/// lifetime. An answer that is an error hangs up.
pub async fn converse<S, F, E>(
    stream: ServedStream,
    bounds: ConnectionBounds,
    answer: S,
    stopper: &Stopper,
) where
    S: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Response<Full<Bytes>>, E>>,
    E: Error + Send + Sync + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head_timeout)
        .max_buf_size(bounds.head_size)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    tokio::pin!(connection);
    let over = async {
        tokio::select! {
            () = stopper.stopping() => {}
            () = time::sleep(bounds.lifetime) => {}
        }
    };
    // How a connection ends is its peer's affair: a peer that hangs up is no news.
    tokio::select! {
        ended = &mut connection => drop(ended),
        () = over => {
            connection.as_mut().graceful_shutdown();
            drop(time::timeout(LAST_WORD, connection).await);
        }
    }
}
