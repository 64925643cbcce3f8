//! The listener under everything that is served here.
//!
//! It accepts connections, bounded in number and shared among their peers, with or without TLS, and
//! lets them end in order. Its caller decides what happens on a connection, and bounds it in time
//! and size.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use metrics::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::ration::{Portion, Ration};
use super::tls::CertificateFiles;
use crate::stopper::Stopper;

/// When accepting fails for want of files or memory, trying again at once would only burn the core.
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(100);

/// Connections beyond those that have a place: they wait for one, or have lost theirs and end. One
/// in so many, and some.
const BESIDE: (usize, usize) = (8, 16);
/// How often a connection that waits for its place looks for one.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The most files that a listener of so many connections has open.
#[must_use]
pub fn most_files(max_connections: usize) -> usize {
    max_connections + max_connections / BESIDE.0 + BESIDE.1
}

/// The bytes of an accepted connection, plain or in TLS.
pub type ServedStream = Either<TcpStream, TlsStream<TcpStream>>;

/// A port that is taken and accepts no connection yet.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    /// The setting or command that asked for it, for the log.
    name: &'static str,
    /// Of connections at once. Further ones wait.
    places: Ration,
    /// Where peers may be; empty: anywhere.
    peers: Vec<IpNet>,
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
    pub async fn bind(name: &'static str, address: SocketAddr, places: Ration) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (peers, handshakes, gauge) = (Vec::new(), None, None);
        Ok(Self { listener, address, name, places, peers, handshakes, gauge })
    }

    /// Speaks TLS. A peer whose handshake takes longer than the timeout is hung up on.
    #[must_use]
    pub fn with_tls(self, files: CertificateFiles, timeout: Duration) -> Self {
        Self { handshakes: Some(Arc::new(Handshakes { files, timeout })), ..self }
    }

    /// Hangs up on peers that are in none of these networks, unless there are none.
    #[must_use]
    pub fn admitting(self, peers: Vec<IpNet>) -> Self {
        Self { peers, ..self }
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

    /// Hands every connection to `hold`, with its place, until the stop; then gives the port back
    /// and returns when the last connection has ended. `hold` watches the same stop, and whether
    /// the place was taken away.
    pub async fn serve<H, F>(self, hold: H, stopper: &Stopper)
    where
        H: Fn(ServedStream, IpAddr, Arc<Portion>) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let files = Arc::new(Semaphore::new(most_files(self.places.most())));
        let hold = Arc::new(hold);
        let mut connections = JoinSet::new();
        loop {
            let accepted = async {
                let file = Arc::clone(&files).acquire_owned().await;
                (self.listener.accept().await, file)
            };
            // Each arm may be dropped: a permit is given back, and accepting is cancel safe.
            tokio::select! {
                () = stopper.stopping() => break,
                Some(_) = connections.join_next() => {}
                (accepted, file) = accepted => match accepted {
                    Ok((_, peer)) if !self.admits(peer.ip()) => {}
                    Ok((stream, peer)) => {
                        let (hold, stopper) = (Arc::clone(&hold), stopper.clone());
                        let (handshakes, gauge) = (self.handshakes.clone(), self.gauge.clone());
                        let place = Arc::new(self.places.portion(peer.ip()));
                        connections.spawn(async move {
                            if has_place(&place, &stopper).await {
                                gauge.iter().for_each(|gauge| gauge.increment(1));
                                if let Some(stream) = open(stream, handshakes, &place, &stopper).await {
                                    hold(stream, peer.ip(), Arc::clone(&place)).await;
                                }
                                gauge.iter().for_each(|gauge| gauge.decrement(1));
                            }
                            drop(file);
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

    fn admits(&self, peer: IpAddr) -> bool {
        self.peers.is_empty() || self.peers.iter().any(|net| net.contains(&peer.to_canonical()))
    }
}

/// Waits for a place. `false`: the stop came first.
async fn has_place(place: &Portion, stopper: &Stopper) -> bool {
    while !place.take(1) {
        tokio::select! {
            () = time::sleep(LOOK_EVERY) => {}
            () = stopper.stopping() => return false,
        }
    }
    true
}

/// Shakes hands if TLS is spoken here. `None`: the peer could not, was too slow, lost its place, or
/// a stop came first.
async fn open(
    stream: TcpStream,
    handshakes: Option<Arc<Handshakes>>,
    place: &Portion,
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
        () = place.is_to_go.cancelled() => None,
        () = stopper.stopping() => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const ANY: &str = "127.0.0.1:0";

    fn two() -> Ration {
        Ration::of(2, Duration::MAX)
    }

    #[tokio::test]
    async fn a_stop_frees_the_port_and_waits_for_the_last_connection() {
        let listener = Listener::bind("a test", ANY.parse().unwrap(), two()).await.unwrap();
        let (address, stopper) = (listener.address(), Stopper::new());
        let ended = Arc::new(AtomicU64::new(0));
        let hold = {
            let (stopper, ended) = (stopper.clone(), Arc::clone(&ended));
            move |mut stream: ServedStream, peer: IpAddr, _place| {
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
        Listener::bind("a test", address, two()).await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_is_not_admitted_is_hung_up_on_at_once() {
        let listener = Listener::bind("a test", ANY.parse().unwrap(), two()).await.unwrap();
        let listener = listener.admitting(vec!["127.0.0.7/32".parse().unwrap()]);
        let (address, stopper) = (listener.address(), Stopper::new());
        let hold = |mut stream: ServedStream, _, _place| async move {
            stream.write_all(b"hello").await.unwrap();
        };
        let peers = async {
            for (from, expected) in [("127.0.0.1:0", ""), ("127.0.0.7:0", "hello")] {
                let socket = tokio::net::TcpSocket::new_v4().unwrap();
                socket.bind(from.parse().unwrap()).unwrap();
                let mut stream = socket.connect(address).await.unwrap();
                let mut heard = String::new();
                drop(stream.read_to_string(&mut heard).await);
                assert_eq!(heard, expected, "{from}");
            }
            stopper.stop();
        };
        tokio::join!(listener.serve(hold, &stopper), peers);
    }
}
