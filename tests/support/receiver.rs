//! An endpoint that does as scripted, down to the bytes: it takes webhooks, keeps them in an inbox
//! that can be waited for, and answers with the next [`Reply`] of its script.
//!
//! It speaks HTTP/1.1 by hand, since no server library would misbehave to order.

use std::collections::{BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::BufReader;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{Identity, within};

/// What a receiver does with one request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// An ordinary response, with its length told.
    Answer { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// Waits until the gate is opened, then does the other thing.
    Held { gate: Gate, then: Box<Reply> },
    /// Reads the request and says nothing; the connection stays open.
    Hang,
    /// Closes the connection on the request's first byte.
    DropBeforeReading,
    /// Reads the request, then closes the connection.
    DropAfterReading,
    /// Reads the request, then resets the connection.
    Reset,
    /// A 200 whose body never ends.
    EndlessBody,
    /// A 200 whose body comes a byte at a time.
    Drip { body: Vec<u8>, every: Duration },
    /// These bytes instead of a response, and then the end of the connection.
    Raw(Vec<u8>),
}

/// Lets the test decide when a [held](Reply::held_by) reply is given.
#[derive(Debug, Clone, Default)]
pub struct Gate(CancellationToken);

/// One request, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub method: String,
    /// With the query.
    pub path: String,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Which connection it came over, counted from 1.
    pub connection: u64,
}

/// A receiver on a free port of the loopback, until it is dropped.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// How many requests have come.
    count: watch::Sender<usize>,
}

#[derive(Debug)]
struct State {
    script: VecDeque<Reply>,
    /// When the script is at its end.
    otherwise: Reply,
    inbox: Vec<Received>,
    /// How many of the inbox [`Receiver::next`] has handed out.
    taken: usize,
    connections: u64,
}

impl Reply {
    pub fn ok() -> Self {
        Self::status(200)
    }

    pub fn status(status: u16) -> Self {
        Self::Answer { status, headers: Vec::new(), body: Vec::new() }
    }

    /// Adds a header to an answer.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Gives an answer its body.
    pub fn body(mut self, text: impl Into<Vec<u8>>) -> Self {
        if let Self::Answer { body, .. } = &mut self {
            *body = text.into();
        }
        self
    }

    /// The same, once the gate is open.
    pub fn held_by(self, gate: &Gate) -> Self {
        Self::Held { gate: gate.clone(), then: Box::new(self) }
    }
}

impl Gate {
    /// Lets every reply pass that waits here now or later.
    pub fn open(&self) {
        self.0.cancel();
    }

    pub fn is_open(&self) -> bool {
        self.0.is_cancelled()
    }
}

impl Received {
    /// The first header of this name (given in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// `webhook-id`.
    pub fn id(&self) -> &str {
        self.header("webhook-id").expect("every webhook has an id")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

/// The `webhook-id`s of these, each once.
pub fn ids(received: &[Received]) -> BTreeSet<String> {
    received.iter().map(|one| one.id().to_owned()).collect()
}

impl Receiver {
    /// Plain HTTP; answers 200 until told otherwise.
    pub async fn start() -> Self {
        Self::listen("http", None).await
    }

    /// HTTPS with this certificate.
    pub async fn start_tls(identity: Identity) -> Self {
        Self::listen("https", Some(identity.server_config())).await
    }

    async fn listen(scheme: &'static str, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind a port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = State {
            script: VecDeque::new(),
            otherwise: Reply::ok(),
            inbox: Vec::new(),
            taken: 0,
            connections: 0,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), count: watch::Sender::new(0) });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, tls, Arc::clone(&shared)));
        Self { address, scheme, shared, _accepting: accepting }
    }

    /// The replies to come next, in order, after those already scripted.
    pub fn script(&self, replies: impl IntoIterator<Item = Reply>) -> &Self {
        self.shared.state().script.extend(replies);
        self
    }

    /// The reply when the script is at its end.
    pub fn otherwise(&self, reply: Reply) -> &Self {
        self.shared.state().otherwise = reply;
        self
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT` and the path, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// The same by name, for certificates: `https://localhost:PORT/…`.
    pub fn url_by_name(&self, path: &str) -> String {
        format!("{}://localhost:{}{path}", self.scheme, self.address.port())
    }

    /// Waits for the next request that this has not returned before.
    #[track_caller]
    pub fn next(&self) -> impl Future<Output = Received> + '_ {
        within("the next request", async move {
            let mut count = self.shared.count.subscribe();
            loop {
                count.borrow_and_update();
                if let Some(received) = self.take() {
                    return received;
                }
                count.changed().await.expect("the receiver keeps the sender");
            }
        })
    }

    /// Waits until `n` requests have come in all, and returns all that have.
    #[track_caller]
    pub fn wait_for(&self, n: usize) -> impl Future<Output = Vec<Received>> + '_ {
        let all = async move {
            let mut count = self.shared.count.subscribe();
            count.wait_for(|&count| count >= n).await.expect("the receiver keeps the sender");
            self.received()
        };
        within("as many requests as the test expects", all)
    }

    /// All requests so far.
    pub fn received(&self) -> Vec<Received> {
        self.shared.state().inbox.clone()
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> u64 {
        self.shared.state().connections
    }

    fn take(&self) -> Option<Received> {
        let mut state = self.shared.state();
        let received = state.inbox.get(state.taken).cloned()?;
        state.taken += 1;
        Some(received)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the state is held")
    }

    fn next_reply(&self) -> Reply {
        let mut state = self.state();
        state.script.pop_front().unwrap_or_else(|| state.otherwise.clone())
    }

    fn keep(&self, received: Received) {
        let mut state = self.state();
        state.inbox.push(received);
        self.count.send_replace(state.inbox.len());
    }
}

/// Whether the connection may carry another request.
#[derive(Debug, PartialEq, Eq)]
pub enum After {
    KeepAlive,
    Close,
}

/// A plain or TLS connection, with the socket beneath it.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {
    fn socket(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Wire for TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

async fn accept(listener: TcpListener, tls: Option<Arc<ServerConfig>>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let number = {
            let mut state = shared.state();
            state.connections += 1;
            state.connections
        };
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            // What a peer does to its connection is the test's to judge, by what arrived.
            let _ended = match tls {
                None => serve(socket, &shared, number).await,
                Some(tls) => match tokio_rustls::TlsAcceptor::from(tls).accept(socket).await {
                    Ok(stream) => serve(stream, &shared, number).await,
                    Err(refused) => Err(refused),
                },
            };
        });
    }
}

async fn serve(wire: impl Wire, shared: &Shared, connection: u64) -> std::io::Result<()> {
    let mut wire = BufReader::new(wire);
    loop {
        if wire.fill_buf().await?.is_empty() {
            return Ok(());
        }
        let mut reply = shared.next_reply();
        if matches!(reply, Reply::DropBeforeReading) {
            return Ok(());
        }
        shared.keep(read_request(&mut wire, connection).await?);
        while let Reply::Held { gate, then } = reply {
            gate.0.cancelled().await;
            reply = *then;
        }
        if give(reply, wire.get_mut()).await? == After::Close {
            return Ok(());
        }
    }
}

/// Takes in one request.
///
/// # Errors
/// If the connection ends before the request does: such a request has not arrived.
pub async fn read_request(
    wire: &mut BufReader<impl Wire>,
    connection: u64,
) -> std::io::Result<Received> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if wire.read_line(&mut line).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        lines.push(line.to_owned());
    }
    let mut request_line = lines.first().map_or("", String::as_str).split(' ');
    let mut words = || request_line.next().unwrap_or_default().to_owned();
    let (method, path) = (words(), words());
    let headers: Vec<(String, String)> = lines
        .iter()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.map_or(0, |(_, value)| value.parse().expect("a length"))];
    wire.read_exact(&mut body).await?;
    Ok(Received { method, path, headers, body, connection })
}

/// Answers, or does whatever the reply says.
///
/// # Errors
/// If the peer has gone.
pub async fn give(reply: Reply, wire: &mut impl Wire) -> std::io::Result<After> {
    match reply {
        Reply::Answer { status, headers, body } => {
            let mut head = format!("HTTP/1.1 {status} As-Scripted\r\n");
            for (name, value) in &headers {
                head += &format!("{name}: {value}\r\n");
            }
            head += &format!("content-length: {}\r\n\r\n", body.len());
            wire.write_all(&[head.as_bytes(), &body].concat()).await?;
            wire.flush().await?;
            return Ok(After::KeepAlive);
        }
        Reply::Hang => {
            // Until the peer gives up, or the receiver is dropped.
            while wire.read(&mut [0; 64]).await? > 0 {}
        }
        Reply::Reset => wire.socket().set_zero_linger()?,
        Reply::EndlessBody => {
            wire.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
            loop {
                wire.write_all(b"400\r\n").await?;
                wire.write_all(&[b'x'; 0x400]).await?;
                wire.write_all(b"\r\n").await?;
            }
        }
        Reply::Drip { body, every } => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            wire.write_all(head.as_bytes()).await?;
            for byte in body {
                wire.write_all(&[byte]).await?;
                wire.flush().await?;
                tokio::time::sleep(every).await;
            }
            return Ok(After::KeepAlive);
        }
        Reply::Raw(bytes) => {
            wire.write_all(&bytes).await?;
            wire.shutdown().await?;
        }
        Reply::DropAfterReading | Reply::DropBeforeReading | Reply::Held { .. } => {}
    }
    Ok(After::Close)
}
