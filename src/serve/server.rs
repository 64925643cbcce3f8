//! The relay's own listener: accepts connections, bounded in number, time and size, and ends them in order.
//! What is answered is decided in [`admin`](super::admin).

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time,
};

use super::admin::Admin;
use crate::stopper::Stopper;

/// Probes and a scraper or two; what comes beyond waits in the kernel's backlog.
const MAX_CONNECTIONS: usize = 64;
/// A request's head must be whole this long after the connection or the last answer. Whoever drips bytes, or
/// holds a connection without asking anything, makes room for others.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// No connection is kept longer: one whose peer does not read its answer would never end by itself.
const CONNECTION_TIME: Duration = Duration::from_secs(300);
/// How long an answer that is on its way may take when the connection is to end.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Requests here are a line and a few headers. It is the least that hyper takes.
const HEAD_SIZE: usize = 8 * 1024;
/// When accepting fails for want of files or memory, trying again at once would only burn the core.
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(100);

/// The listener cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("listen on {address} (http.listen)")]
    Bind { address: SocketAddr, source: io::Error },
}

/// A listener that is bound and accepts nobody yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Takes the port, so that one that is taken already is known before anything else starts.
    ///
    /// # Errors
    ///
    /// If the address is in use, not ours, or not allowed to us.
    pub async fn bind(address: SocketAddr) -> Result<Self, ServerError> {
        let refused = |source| ServerError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Self { listener, address })
    }

    /// Where it listens: the port is the one that was given by the system if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until the stop; then lets what is being answered end, shortly, and returns.
    pub async fn serve(self, admin: Arc<Admin>, stopper: &Stopper) {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
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
                    Ok((stream, _)) => {
                        let (admin, stopper) = (Arc::clone(&admin), stopper.clone());
                        connections.spawn(async move {
                            converse(stream, &admin, &stopper).await;
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection on http.listen");
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
async fn converse(stream: TcpStream, admin: &Arc<Admin>, stopper: &Stopper) {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = admin.answer(request.method(), request.uri().path());
        async { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_SIZE)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let over = async {
        tokio::select! {
            () = stopper.stopping() => {}
            () = time::sleep(CONNECTION_TIME) => {}
        }
    };
    // how a connection ends is its peer's affair: a probe that hangs up is no news
    tokio::select! {
        ended = &mut connection => drop(ended),
        () = over => {
            connection.as_mut().graceful_shutdown();
            drop(time::timeout(LAST_WORD, connection).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::clock::Clock;
    use crate::observe::metrics::Metrics;
    use crate::observe::status::Status;

    const ANY: &str = "127.0.0.1:0";

    struct Running {
        address: SocketAddr,
        closing: Stopper,
        task: JoinSet<()>,
    }

    async fn running() -> Running {
        let server = Server::bind(ANY.parse().unwrap()).await.unwrap();
        let (address, closing) = (server.address(), Stopper::new());
        let status = Status::new(Clock, Stopper::new());
        let admin = Arc::new(Admin { status, metrics: Arc::new(Metrics::new()) });
        let mut task = JoinSet::new();
        let stop = closing.clone();
        task.spawn(async move { server.serve(admin, &stop).await });
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
        let first = Server::bind(ANY.parse().unwrap()).await.unwrap();
        let error = Server::bind(first.address()).await.unwrap_err();
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
        Server::bind(running.address).await.unwrap();
    }

    #[tokio::test]
    async fn a_head_without_end_is_refused() {
        let running = running().await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let endless = format!("GET /live HTTP/1.1\r\nx: {}", "y".repeat(HEAD_SIZE));
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
            (HEAD_TIMEOUT..CONNECTION_TIME).contains(&began.elapsed()),
            "{:?}",
            began.elapsed()
        );
    }

    #[tokio::test]
    async fn beyond_the_bound_a_connection_waits_until_another_ends() {
        let running = running().await;
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(running.address).await.unwrap();
            ask(&mut stream, "GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await;
            held.push(stream);
        }
        let mut next = TcpStream::connect(running.address).await.unwrap();
        next.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        // the server still answers the others, so it has had its turn and has not taken this one
        ask(&mut held[0], "GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut byte = [0; 1];
        assert_eq!(next.try_read(&mut byte).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held.pop());
        assert_eq!(next.read(&mut byte).await.unwrap(), 1);
    }
}
