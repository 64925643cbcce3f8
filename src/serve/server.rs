//! The relay's own listener (`http.listen`): its bounds, and how it serves pages. A
//! [`Router`](super::router::Router) decides which page answers.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use super::connection::{ConnectionBounds, converse};
use super::listener::Listener;
use super::ration::{Doing, Portion, Ration};
use super::router::Router;
use crate::stopper::Stopper;

/// Probes and a scraper or two. For a further one, the connection that has asked nothing for
/// longest ends: at once, since a probe does not wait.
const MAX_CONNECTIONS: usize = 64;
const BOUNDS: ConnectionBounds = ConnectionBounds {
    // A peer that drips bytes, or holds a connection without asking anything, makes room for
    // others.
    head_timeout: Duration::from_secs(10),
    // Requests here are a line and a few headers. It is the least that hyper takes.
    head_size: 8 * 1024,
    // A connection whose peer does not read its answer would never end by itself.
    lifetime: Duration::from_secs(300),
};

/// The listener cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("listen on {address} (http.listen)")]
    Bind { address: SocketAddr, source: io::Error },
}

/// A port that is taken and accepts no connection yet.
#[derive(Debug)]
pub struct AdminServer(Listener);

impl AdminServer {
    /// Takes the port.
    ///
    /// # Errors
    /// If the address is in use, not this host's, or not allowed to this process.
    pub async fn bind(address: SocketAddr) -> Result<Self, ServerError> {
        let places = Ration::of(MAX_CONNECTIONS, Duration::ZERO);
        let listener = Listener::bind("http.listen", address, places).await;
        listener.map(Self).map_err(|source| ServerError::Bind { address, source })
    }

    /// The address it listens at: with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Answers until the stop; then lets answers on their way end, shortly, and returns.
    pub async fn serve(self, router: Router, stopper: &Stopper) {
        let router = Arc::new(router);
        let told = stopper.clone();
        let hold = move |stream, _peer, place: Arc<Portion>| {
            let (router, stopper) = (Arc::clone(&router), told.clone());
            async move {
                let answer = |request| {
                    place.now(Doing::Idle);
                    async { Ok::<_, Infallible>(router.answer(request).await) }
                };
                tokio::select! {
                    () = converse(stream, BOUNDS, answer, &stopper) => {}
                    () = place.is_to_go.cancelled() => {}
                }
            }
        };
        self.0.serve(hold, stopper).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::task::JoinSet;
    use tokio::time;

    use super::*;
    use crate::clock::Clock;
    use crate::observe::metrics::Metrics;
    use crate::observe::status::Status;
    use crate::serve::admin::Admin;

    const ANY: &str = "127.0.0.1:0";

    struct Running {
        address: SocketAddr,
        closing: Stopper,
        task: JoinSet<()>,
    }

    async fn running() -> Running {
        let server = AdminServer::bind(ANY.parse().unwrap()).await.unwrap();
        let (address, closing) = (server.address(), Stopper::new());
        let status = Status::new(Clock, Stopper::new());
        let admin = Admin { status, metrics: Arc::new(Metrics::new()) };
        let mut task = JoinSet::new();
        let stop = closing.clone();
        task.spawn(async move { server.serve(admin.router(), &stop).await });
        Running { address, closing, task }
    }

    async fn ask(stream: &mut TcpStream, request: &str) -> String {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 64 * 1024];
        let read = stream.read(&mut answer).await.unwrap();
        String::from_utf8(answer[..read].to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_probe_is_answered_and_its_connection_kept() {
        let running = running().await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        for (request, status) in [
            ("GET /live HTTP/1.1\r\nhost: x\r\n\r\n", "200 OK"),
            ("GET /ready HTTP/1.1\r\nhost: x\r\n\r\n", "503 Service Unavailable"),
            ("GET /metrics?x=1 HTTP/1.1\r\nhost: x\r\n\r\n", "200 OK"),
            ("HEAD /live HTTP/1.1\r\nhost: x\r\n\r\n", "200 OK"),
            ("DELETE /live HTTP/1.1\r\nhost: x\r\n\r\n", "405 Method Not Allowed"),
            ("GET /secret HTTP/1.1\r\nhost: x\r\n\r\n", "404 Not Found"),
        ] {
            let answer = ask(&mut stream, request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error_that_names_address_and_setting() {
        let first = AdminServer::bind(ANY.parse().unwrap()).await.unwrap();
        let error = AdminServer::bind(first.address()).await.unwrap_err();
        assert_eq!(error.to_string(), format!("listen on {} (http.listen)", first.address()));
    }

    #[tokio::test]
    async fn a_stop_ends_idle_connections_and_frees_the_port() {
        let mut running = running().await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        ask(&mut stream, "GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await;
        running.closing.stop();
        running.task.join_next().await.unwrap().unwrap();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "closed in order");
        AdminServer::bind(running.address).await.unwrap();
    }

    #[tokio::test]
    async fn a_head_without_end_is_refused() {
        let running = running().await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let endless = format!("GET /live HTTP/1.1\r\nx: {}", "y".repeat(BOUNDS.head_size));
        assert!(ask(&mut stream, &endless).await.starts_with("HTTP/1.1 431 "));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_asks_nothing_is_let_go() {
        let running = running().await;
        let mut silent = TcpStream::connect(running.address).await.unwrap();
        silent.write_all(b"GET /live HTTP/1.1\r\n").await.unwrap();
        let (began, mut answer) = (time::Instant::now(), String::new());
        silent.read_to_string(&mut answer).await.unwrap(); // ends only when the server closes
        assert!(
            (BOUNDS.head_timeout..BOUNDS.lifetime).contains(&began.elapsed()),
            "{:?}",
            began.elapsed()
        );
    }

    #[tokio::test]
    async fn beyond_the_bound_the_connection_that_is_idle_for_longest_makes_room() {
        const LIVE: &str = "GET /live HTTP/1.1\r\nhost: x\r\n\r\n";
        let running = running().await;
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(running.address).await.unwrap();
            ask(&mut stream, LIVE).await;
            held.push(stream);
        }
        ask(&mut held[0], LIVE).await;
        let mut next = TcpStream::connect(running.address).await.unwrap();
        assert!(ask(&mut next, LIVE).await.starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(held[1].read(&mut [0; 1]).await.unwrap(), 0, "it was idle for longest");
        for stays in [0, 2, MAX_CONNECTIONS - 1] {
            assert!(ask(&mut held[stays], LIVE).await.starts_with("HTTP/1.1 200 OK\r\n"));
        }
    }

    /// As in a flood: each of as many connections as there are asks now and then, and comes back
    /// when it is closed.
    #[tokio::test]
    async fn an_address_that_takes_every_place_again_and_again_leaves_probes_and_scrapers_alone() {
        const LIVE: &str = "GET /live HTTP/1.1\r\nhost: x\r\n\r\n";
        async fn from(here: &str, address: SocketAddr) -> TcpStream {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(here.parse().unwrap()).unwrap();
            socket.connect(address).await.unwrap()
        }
        let running = running().await;
        let mut scraper = TcpStream::connect(running.address).await.unwrap();
        assert!(ask(&mut scraper, LIVE).await.starts_with("HTTP/1.1 200 OK\r\n"));
        let mut flood = Vec::new();
        for _ in 0..4 * MAX_CONNECTIONS {
            let mut stream = from("127.0.0.2:0", running.address).await;
            assert!(ask(&mut stream, LIVE).await.starts_with("HTTP/1.1 200 OK\r\n"));
            flood.push(stream);
            let mut probe = TcpStream::connect(running.address).await.unwrap();
            assert!(ask(&mut probe, LIVE).await.starts_with("HTTP/1.1 200 OK\r\n"));
        }
        assert!(ask(&mut scraper, LIVE).await.starts_with("HTTP/1.1 200 OK\r\n"), "it was kept");
    }
}
