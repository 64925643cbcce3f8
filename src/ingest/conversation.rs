//! One connection, from its first byte to its end: HTTP/1.1 within bounds of time and size, on whatever
//! carries bytes. What is answered is decided by the [`handler`](super::handler).

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time;

use super::answer;
use super::request::Handler;
use crate::stopper::Stopper;

/// No connection is kept longer: one whose peer does not read its answers would never end by itself.
const CONNECTION_TIME: Duration = Duration::from_secs(3600);
/// How long the peer may take to hear the last answer and hang up. Whoever closes while bytes are still
/// coming takes the answer away with it.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What is asked on one connection, and by whom.
pub(super) struct Conversation {
    pub(super) handler: Arc<Handler>,
    pub(super) peer: IpAddr,
    pub(super) head_timeout: Duration,
    pub(super) max_head: usize,
    pub(super) grace: Duration,
    pub(super) stopper: Stopper,
}

impl Conversation {
    pub(super) async fn hold(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let (handler, peer) = (self.handler, self.peer);
        let service = service_fn(move |request: Request<Incoming>| {
            let handler = Arc::clone(&handler);
            Box::pin(async move { Ok::<_, Infallible>(handler.answer(request, peer).await) })
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // whoever has said all it has to say may still hear what we say of it
            .half_close(true)
            .header_read_timeout(self.head_timeout)
            .max_buf_size(self.max_head)
            .serve_connection(TokioIo::new(stream), service);
        let over = async {
            tokio::select! {
                () = self.stopper.stopping() => {}
                () = time::sleep(CONNECTION_TIME) => {}
            }
        };
        let ended = tokio::select! {
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => Some(ended),
            () = over => None,
        };
        let ended = match ended {
            Some(ended) => Ok(ended),
            None => {
                Pin::new(&mut connection).graceful_shutdown();
                time::timeout(self.grace, poll_fn(|cx| connection.poll_without_shutdown(cx))).await
            }
        };
        // how a connection ends is its peer's affair, but for the one that dripped
        let Ok(ended) = ended else { return };
        let parts = connection.into_parts();
        let dripped = ended.is_err_and(|error| error.is_timeout()) && !parts.read_buf.is_empty();
        drop(time::timeout(LAST_WORD, part(parts.io.into_inner(), dripped)).await);
    }
}

/// Says the last word, hangs up, and listens until the peer has too.
async fn part(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    dripped: bool,
) -> std::io::Result<()> {
    if dripped {
        stream.write_all(answer::slow_head().as_bytes()).await?;
    }
    stream.shutdown().await?;
    let mut rest = pin!(stream);
    let mut buffer = [0; 4096];
    while rest.read(&mut buffer).await? > 0 {}
    Ok(())
}
