//! The listener under everything that is served here.
//!
//! It accepts connections, bounded in number, with or without TLS, and lets them end in order. Its
//! caller decides what happens on a connection, and bounds it in time and size.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use metrics::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::tls::CertificateFiles;
use crate::stopper::Stopper;

/// When accepting fails for want of files or memory, trying again at once would only burn the core.
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(100);

/// The bytes of an accepted connection, plain or in TLS.
pub type ServedStream = Either<TcpStream, TlsStream<TcpStream>>;

/// A port that is taken and accepts no connection yet.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    /// The setting or command that asked for it, for the log.
    name: &'static str,
    /// Connections at once; further ones wait in the kernel's backlog.
    max_connections: usize,
    handshakes: Option<Arc<Handshakes>>,
    /// Shows how many connections there are.
    gauge: Option<Gauge>,
}

#[derive(Debug)]
struct Handshakes {
    files: CertificateFiles,
    timeout: Duration,
}

impl Listener {
    /// Takes the port, so that one that is in use is known before anything else starts; 0 is any
    /// free one.
    ///
    /// # Errors
    /// If the address is in use, not this host's, or not allowed to this process.
    pub async fn bind(
        name: &'static str,
        address: SocketAddr,
        max_connections: usize,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, name, max_connections, handshakes: None, gauge: None })
    }

    /// Speaks TLS. A peer whose handshake takes longer than the timeout is hung up on.
    #[must_use]
    pub fn with_tls(self, files: CertificateFiles, timeout: Duration) -> Self {
        Self { handshakes: Some(Arc::new(Handshakes { files, timeout })), ..self }
    }

    /// Counts its open connections there.
    #[must_use]
    pub fn counted_by(self, gauge: Gauge) -> Self {
        Self { gauge: Some(gauge), ..self }
    }

    /// The address it listens at: with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Hands every connection to `hold` until the stop; then gives the port back and returns when
    /// the last connection has ended. `hold` watches the same stop.
    pub async fn serve<H, F>(self, hold: H, stopper: &Stopper)
    where
        H: Fn(ServedStream, IpAddr) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let room = Arc::new(Semaphore::new(self.max_connections));
        let hold = Arc::new(hold);
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
                    Ok((stream, peer)) => {
                        let (hold, stopper) = (Arc::clone(&hold), stopper.clone());
                        let (handshakes, gauge) = (self.handshakes.clone(), self.gauge.clone());
                        connections.spawn(async move {
                            gauge.iter().for_each(|gauge| gauge.increment(1));
                            if let Some(stream) = open(stream, handshakes, &stopper).await {
                                hold(stream, peer.ip()).await;
                            }
                            gauge.iter().for_each(|gauge| gauge.decrement(1));
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        let name = self.name;
                        tracing::warn!(%error, "cannot accept a connection on {name}");
                        time::sleep(AFTER_FAILED_ACCEPT).await;
                    }
                },
            }
        }
        drop(self.listener);
        // The connections alone keep it now: it ends with the last of them.
        drop(hold);
        while connections.join_next().await.is_some() {}
    }
}

/// Shakes hands if TLS is spoken here. `None`: the peer could not, was too slow, or a stop came
/// first.
async fn open(
    stream: TcpStream,
    handshakes: Option<Arc<Handshakes>>,
    stopper: &Stopper,
) -> Option<ServedStream> {
    // Answers are small, and a peer waits for each.
    drop(stream.set_nodelay(true));
    let Some(handshakes) = handshakes else { return Some(Either::Left(stream)) };
    // A peer that cannot shake hands hears so in TLS's own words.
    let shaken = time::timeout(handshakes.timeout, async {
        handshakes.files.acceptor().await.accept(stream).await
    });
    tokio::select! {
        shaken = shaken => shaken.ok()?.ok().map(Either::Right),
        () = stopper.stopping() => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const ANY: &str = "127.0.0.1:0";

    #[tokio::test]
    async fn a_stop_frees_the_port_and_waits_for_the_last_connection() {
        let listener = Listener::bind("a test", ANY.parse().unwrap(), 2).await.unwrap();
        let (address, stopper) = (listener.address(), Stopper::new());
        let ended = Arc::new(AtomicU64::new(0));
        let hold = {
            let (stopper, ended) = (stopper.clone(), Arc::clone(&ended));
            move |mut stream: ServedStream, peer: IpAddr| {
                let (stopper, ended) = (stopper.clone(), Arc::clone(&ended));
                async move {
                    assert!(peer.is_loopback());
                    stream.write_all(b"hello").await.unwrap();
                    stopper.stopping().await;
                    stream.write_all(b"!").await.unwrap();
                    ended.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let peers = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let mut heard = [0; 5];
            stream.read_exact(&mut heard).await.unwrap();
            stopper.stop();
            let mut rest = String::new();
            stream.read_to_string(&mut rest).await.unwrap();
            assert_eq!((&heard, rest.as_str()), (b"hello", "!"));
        };
        tokio::join!(listener.serve(hold, &stopper), peers);
        assert_eq!(ended.load(Ordering::Relaxed), 1);
        Listener::bind("a test", address, 2).await.unwrap();
    }
}
