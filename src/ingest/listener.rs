//! The listener for webhooks: connections, bounded in number and time, with or without TLS, and their end
//! in order. What is answered is decided by the [`door`](super::door).

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time;
use tokio_rustls::TlsAcceptor;

use super::IngestError;
use super::answer;
use super::door::Door;
use crate::config::IngestSettings;
use crate::metrics::Metrics;
use crate::stopper::Stopper;

/// No connection is kept longer: one whose peer does not read its answers would never end by itself.
const CONNECTION_TIME: Duration = Duration::from_secs(3600);
/// How long the peer may take to hear the last answer and hang up. Whoever closes while bytes are still
/// coming takes the answer away with it.
const LAST_WORD: Duration = Duration::from_secs(1);
/// When accepting fails for want of files or memory, trying again at once would only burn the core.
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(100);

/// A listener that is bound and accepts nobody yet.
#[derive(Debug)]
pub(super) struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsHolder>,
    max_connections: usize,
    head_time: Duration,
    max_head: usize,
    metrics: Arc<Metrics>,
}

/// Holds a private key. Not shown.
#[derive(Clone)]
struct TlsHolder(TlsAcceptor);

impl std::fmt::Debug for TlsHolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsHolder(…)")
    }
}

impl Listener {
    pub(super) async fn bind(
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
        settings: &IngestSettings,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, IngestError> {
        let refused = |source| IngestError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        Ok(Self {
            address: listener.local_addr().map_err(refused)?,
            listener,
            tls: tls.map(TlsHolder),
            max_connections: settings.max_connections,
            head_time: settings.head_time,
            max_head: settings.max_head,
            metrics: Arc::clone(metrics),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets connections in until the stop; then lets what is being answered end, and returns.
    pub(super) async fn serve(self, door: Door, grace: Duration, stopper: &Stopper) {
        let room = Arc::new(Semaphore::new(self.max_connections));
        let door = Arc::new(door);
        let mut connections = JoinSet::new();
        loop {
            let accepted = async {
                let permit = Arc::clone(&room).acquire_owned().await;
                (self.listener.accept().await, permit)
            };
            // each arm may be dropped: a permit is given back, and accepting is cancel safe
            tokio::select! {
                () = stopper.stopping() => break,
                Some(_) = connections.join_next() => {}
                (accepted, permit) = accepted => match accepted {
                    Ok((stream, peer)) => {
                        let conversation = Conversation {
                            door: Arc::clone(&door),
                            peer: peer.ip(),
                            head_time: self.head_time,
                            max_head: self.max_head,
                            grace,
                            stopper: stopper.clone(),
                        };
                        let (tls, metrics) = (self.tls.clone(), Arc::clone(&self.metrics));
                        connections.spawn(async move {
                            metrics.ingest.connections.increment(1);
                            conversation.hold(stream, tls).await;
                            metrics.ingest.connections.decrement(1);
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection on ingest.listen");
                        time::sleep(AFTER_FAILED_ACCEPT).await;
                    }
                },
            }
        }
        drop(self.listener);
        drop(door);
        while connections.join_next().await.is_some() {}
    }
}

/// One connection, from its first byte to its end.
struct Conversation {
    door: Arc<Door>,
    peer: IpAddr,
    head_time: Duration,
    max_head: usize,
    grace: Duration,
    stopper: Stopper,
}

impl Conversation {
    async fn hold(self, stream: TcpStream, tls: Option<TlsHolder>) {
        // small answers, and a sender waits for each
        drop(stream.set_nodelay(true));
        match tls {
            None => self.converse(stream).await,
            Some(TlsHolder(acceptor)) => {
                // whoever cannot shake hands hears so in TLS's own words
                let shaken = time::timeout(self.head_time, acceptor.accept(stream));
                let shaken = tokio::select! {
                    shaken = shaken => shaken,
                    () = self.stopper.stopping() => return,
                };
                if let Ok(Ok(stream)) = shaken {
                    self.converse(stream).await;
                }
            }
        }
    }

    async fn converse(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let (door, peer) = (self.door, self.peer);
        let service = service_fn(move |request: Request<Incoming>| {
            let door = Arc::clone(&door);
            Box::pin(async move { Ok::<_, Infallible>(door.answer(request, peer).await) })
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.head_time)
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
