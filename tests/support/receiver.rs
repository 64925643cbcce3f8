//! An endpoint that does as scripted: it takes webhooks, keeps them in an inbox that can be waited
//! for, and answers with the next [`Reply`] of its script.

use std::collections::{BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use rustls::ServerConfig;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::scripted::{After, Connection, Received, Reply, accept, give, read_request};
use super::{Identity, within};

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
        accepting.spawn(serve(listener, tls, Arc::clone(&shared)));
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

async fn serve(listener: TcpListener, tls: Option<Arc<ServerConfig>>, shared: Arc<Shared>) {
    let tls = tls.map(TlsAcceptor::from);
    accept(&listener, |socket, number| {
        shared.state().connections = number;
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        async move {
            match tls {
                None => answer(socket, &shared, number).await,
                Some(tls) => answer(tls.accept(socket).await?, &shared, number).await,
            }
        }
    })
    .await;
}

async fn answer(wire: impl Connection, shared: &Shared, connection: u64) -> std::io::Result<()> {
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
        let reply = loop {
            reply = match reply {
                Reply::Held { gate, then } => {
                    gate.opened().await;
                    *then
                }
                Reply::Late { by, then } => {
                    tokio::time::sleep(by).await;
                    *then
                }
                reply => break reply,
            };
        };
        if give(reply, wire.get_mut()).await? == After::Close {
            return Ok(());
        }
    }
}
