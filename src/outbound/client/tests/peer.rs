//! A scripted receiver on a loopback socket, and a client that may dial it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::model::allow::AllowEntry;
use crate::model::outcome::{Answer, Outcome};
use crate::outbound::addresses::AddressRules;
use crate::outbound::client::{Client, ClientSettings, Connection, Exchange};
use crate::outbound::resolve::Resolver;
use crate::outbound::target::Target;

/// A listener that runs a script on each connection it accepts. Ends with the value.
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Peer {
    /// Runs `script` with each connection and its number, from 0.
    pub(super) async fn serving<S, F>(script: S) -> Self
    where
        S: Fn(TcpStream, usize) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(script(stream, count.fetch_add(1, Ordering::SeqCst)));
            }
        });
        Self { address, accepted, _tasks: tasks }
    }

    /// Reads one request from each connection, writes `reply`, then holds the connection open.
    pub(super) async fn replying(reply: impl Into<Vec<u8>>) -> Self {
        let reply = Arc::new(reply.into());
        Self::serving(move |mut stream, _| {
            let reply = Arc::clone(&reply);
            async move {
                while read_request(&mut stream).await.is_some() {
                    if stream.write_all(&reply).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/hook?a=b", self.address)
    }

    pub(super) fn target(&self) -> Target {
        Target::parse(&self.url()).unwrap()
    }
}

/// Reads a request with its body; `None` if the peer closed first.
pub(super) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(text.clone()).unwrap().to_lowercase();
    let length = head
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    text.extend(body);
    Some(String::from_utf8(text).unwrap())
}

pub(super) fn entries(texts: &[&str]) -> Vec<AllowEntry> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Loopback is open, for plain HTTP too; names resolve to 127.0.0.1; no phase is ever too slow.
pub(super) fn settings() -> ClientSettings {
    let open = entries(&["127.0.0.0/8", "::1"]);
    let rules = AddressRules::new(&open, &open, vec![]);
    ClientSettings {
        system_roots: false,
        resolve_timeout: LONG,
        connect_timeout: LONG,
        tls_timeout: LONG,
        body_timeout: LONG,
        ..ClientSettings::new(rules, Resolver::fixed([Ipv4Addr::LOCALHOST.into()]))
    }
}

/// The same with every phase's deadline short, where passing it is the subject.
pub(super) fn impatient() -> ClientSettings {
    ClientSettings {
        resolve_timeout: SHORT,
        connect_timeout: SHORT,
        tls_timeout: SHORT,
        body_timeout: SHORT,
        ..settings()
    }
}

/// A deadline that is meant to pass.
pub(super) const SHORT: Duration = Duration::from_millis(150);

/// A deadline that is not meant to pass.
pub(super) const LONG: Duration = Duration::from_secs(20);

pub(super) fn client() -> Client {
    Client::new(settings()).unwrap()
}

/// One request over a connection of its own.
pub(super) async fn send(client: &Client, target: &Target, timeout: Duration) -> Exchange {
    send_in(client, &mut None, target, timeout).await
}

pub(super) async fn send_in(
    client: &Client,
    slot: &mut Option<Connection>,
    target: &Target,
    timeout: Duration,
) -> Exchange {
    let request = target.post(Bytes::from_static(b"{\"n\":1}"));
    client.send(slot, target, request, timeout, &|| true).await
}

pub(super) fn answer(exchange: Exchange) -> Answer {
    match exchange.outcome {
        Outcome::Answered(answer) => answer,
        other => panic!("no answer, but {other:?}"),
    }
}
