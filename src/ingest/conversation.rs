//! One connection, from its first byte to its end: HTTP/1.1 within bounds of time and size, on any
//! stream of bytes. The [`request`](super::request) intake decides the answers. Unlike
//! [`serve::connection`](crate::serve::connection) it tells a slow sender so before it hangs up.

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
use super::request::Intake;
use crate::serve::ration::{Doing, Portion};
use crate::stopper::Stopper;

/// No connection is kept longer: one whose peer does not read its answers would never end by
/// itself.
const CONNECTION_TIME: Duration = Duration::from_secs(3600);
/// How long the peer may take to hear the last answer and hang up. Closing while bytes are still
/// coming would take the answer away.
const LAST_WORD: Duration = Duration::from_secs(1);

/// One connection: its peer, the intake of its requests, and its bounds.
pub(super) struct Conversation {
    pub(super) intake: Arc<Intake>,
    pub(super) peer: IpAddr,
    /// Its place among all connections.
    pub(super) place: Arc<Portion>,
    pub(super) bounds: ConversationBounds,
    pub(super) stopper: Stopper,
}

/// The bounds of a conversation, from the settings.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConversationBounds {
    /// A request's head must be whole this long after the connection or the last answer.
    pub(super) head_timeout: Duration,
    /// Bytes of a request's head.
    pub(super) max_head: usize,
    /// How long a request may take to its answer after a stop.
    pub(super) grace: Duration,
}

impl Conversation {
    pub(super) async fn hold(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let (intake, peer, place) = (self.intake, self.peer, Arc::clone(&self.place));
        let service = service_fn(move |request: Request<Incoming>| {
            let (intake, place) = (Arc::clone(&intake), Arc::clone(&place));
            Box::pin(async move {
                place.now(Doing::Sending);
                let answer = intake.answer(request, peer, &place).await;
                place.now(Doing::Idle);
                Ok::<_, Infallible>(answer)
            })
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // A peer that has sent all may close its half and still hear the answer.
            .half_close(true)
            .header_read_timeout(self.bounds.head_timeout)
            .max_buf_size(self.bounds.max_head)
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
            // Another has its place already.
            () = displaced(&self.place) => return,
        };
        let ended = match ended {
            Some(ended) => Ok(ended),
            None => {
                Pin::new(&mut connection).graceful_shutdown();
                time::timeout(self.bounds.grace, poll_fn(|cx| connection.poll_without_shutdown(cx)))
                    .await
            }
        };
        // How a connection ends is its peer's affair, unless the peer dripped.
        let Ok(ended) = ended else { return };
        let parts = connection.into_parts();
        if self.place.is_to_go.is_cancelled() {
            return;
        }
        let dripped = ended.is_err_and(|error| error.is_timeout()) && !parts.read_buf.is_empty();
        drop(time::timeout(LAST_WORD, part(parts.io.into_inner(), dripped)).await);
    }
}

/// The place was taken away, and a sender that was sending has had time to hear so.
async fn displaced(place: &Portion) {
    place.is_to_go.cancelled().await;
    if place.is_busy() {
        time::sleep(LAST_WORD).await;
    }
}

/// Sends the last word, hangs up, and reads until the peer has hung up too.
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
