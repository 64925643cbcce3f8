//! The bytes of an endpoint: accepts connections, reads requests, and answers each with a
//! [`Reply`]. [`Receiver`](super::Receiver) and the soak's endpoints stand on it.
//!
//! It speaks HTTP/1.1 by hand, since no server library would misbehave to order. So it does not
//! stand on `posthaste::receiver::listener`, which is what `posthaste receive` and the demo answer
//! with.

use std::io::{self, ErrorKind};
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use standardwebhooks::Webhook;
use tokio::io::BufReader;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// What an endpoint does with one request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// An ordinary response, with its length told.
    Answer { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// Waits until the gate is opened, then does the other thing.
    Held { gate: Gate, then: Box<Reply> },
    /// Waits so long, then does the other thing.
    Late { by: Duration, then: Box<Reply> },
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

/// Whether a receiver that holds this secret believes the request, by the reference library.
pub fn believed(received: &Received, secret: &str) -> bool {
    let header = |(name, value): &(String, String)| {
        Some((HeaderName::try_from(name).ok()?, HeaderValue::from_str(value).ok()?))
    };
    let headers: HeaderMap = received.headers.iter().filter_map(header).collect();
    Webhook::new(secret).is_ok_and(|webhook| webhook.verify(&received.body, &headers).is_ok())
}

/// Whether the connection may carry another request.
#[derive(Debug, PartialEq, Eq)]
pub enum After {
    KeepAlive,
    Close,
}

/// A plain or TLS connection, with the socket beneath it.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send {
    fn socket(&self) -> &TcpStream;
}

impl Connection for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Connection for TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
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

    /// The same, from an endpoint that takes so long.
    pub fn late(self, by: Duration) -> Self {
        Self::Late { by, then: Box::new(self) }
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

    pub async fn opened(&self) {
        self.0.cancelled().await;
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

/// Serves each connection by itself, counted from 1. Dropping this breaks all of them off.
pub async fn accept<F>(listener: &TcpListener, serve: impl Fn(TcpStream, u64) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut number = 0;
    while let Ok((socket, _)) = listener.accept().await {
        number += 1;
        let served = serve(socket, number);
        // What a peer does to its connection is the test's to judge, by what arrived.
        connections.spawn(async move { drop(served.await) });
        while connections.try_join_next().is_some() {}
    }
}

/// Takes in one request.
///
/// # Errors
/// If the connection ends before the request does: such a request has not arrived.
pub async fn read_request(
    wire: &mut BufReader<impl Connection>,
    connection: u64,
) -> io::Result<Received> {
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
pub async fn give(reply: Reply, wire: &mut impl Connection) -> io::Result<After> {
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
        Reply::DropAfterReading
        | Reply::DropBeforeReading
        | Reply::Held { .. }
        | Reply::Late { .. } => {}
    }
    Ok(After::Close)
}
