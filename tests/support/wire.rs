//! The network between a relay and its database, for tests that break it: a proxy on the loopback
//! that can fall silent, lose the answers, forget what is open, cut it, and come back.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How the wire is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    /// Connections are taken and kept, and nothing goes through. What is sent meanwhile is held
    /// back.
    Silent,
    /// Only towards the database. Answers are held back.
    Deaf,
    /// New connections are reset.
    Refusing,
}

#[derive(Debug, Clone, Copy)]
struct State {
    mood: Mood,
    /// Connections that were made before are silent for good.
    forgotten: u64,
}

/// One way through a connection.
#[derive(Debug, Clone, Copy)]
enum Way {
    There,
    Back,
}

/// A proxy to one server, until it is dropped.
#[derive(Debug)]
pub struct Wire {
    port: u16,
    /// Taken in turn, connection by connection.
    servers: Arc<Mutex<Vec<u16>>>,
    state: watch::Sender<State>,
    connections: Arc<Mutex<Connections>>,
    _accepting: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Connections {
    open: JoinSet<()>,
    made: u64,
}

impl Wire {
    /// A wire to the server at this port of the loopback.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind a port");
        let own = listener.local_addr().expect("a bound socket has an address").port();
        let state = watch::Sender::new(State { mood: Mood::Well, forgotten: 0 });
        let connections = Arc::new(Mutex::default());
        let servers = Arc::new(Mutex::new(vec![port]));
        let mut accepting = JoinSet::new();
        let ways = (Arc::clone(&servers), Arc::clone(&connections));
        accepting.spawn(accept(listener, state.subscribe(), ways));
        Self { port: own, servers, state, connections, _accepting: accepting }
    }

    /// Where the server seems to be.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection string of the server, by way of this wire.
    pub fn url(&self, direct: &str) -> String {
        let (before, rest) = direct.rsplit_once(':').expect("the URL names a port");
        let database = rest.split_once('/').map_or("", |(_port, database)| database);
        format!("{before}:{}/{database}", self.port)
    }

    /// New connections lead to the servers at these ports in turn, as where a name has several
    /// addresses.
    pub fn lead_to(&self, ports: &[u16]) {
        *self.servers.lock().unwrap_or_else(PoisonError::into_inner) = ports.to_vec();
    }

    /// All is well again; what was held back goes through.
    pub fn fix(&self) {
        self.become_(Mood::Well);
    }

    /// Half open: everything stays connected and can be connected, and neither side hears anything.
    pub fn silence(&self) {
        self.become_(Mood::Silent);
    }

    /// Statements arrive, and their answers do not.
    pub fn lose_answers(&self) {
        self.become_(Mood::Deaf);
    }

    /// As a firewall that has lost its memory: what is open is silent for good, on both sides, and
    /// new connections are served.
    pub fn forget(&self) {
        let made = connections(&self.connections).made;
        self.state.send_modify(|state| state.forgotten = made);
    }

    /// Resets what is open.
    pub async fn cut(&self) {
        let mut cut = std::mem::take(&mut connections(&self.connections).open);
        cut.shutdown().await;
    }

    /// Resets what is open, and all that comes.
    pub async fn refuse(&self) {
        self.become_(Mood::Refusing);
        self.cut().await;
    }

    fn become_(&self, mood: Mood) {
        self.state.send_modify(|state| state.mood = mood);
    }
}

impl State {
    fn lets_pass(self, number: u64, way: Way) -> bool {
        self.forgotten <= number
            && match way {
                Way::There => self.mood != Mood::Silent,
                Way::Back => self.mood == Mood::Well,
            }
    }
}

fn connections(shared: &Mutex<Connections>) -> MutexGuard<'_, Connections> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(
    listener: TcpListener,
    state: watch::Receiver<State>,
    (servers, shared): (Arc<Mutex<Vec<u16>>>, Arc<Mutex<Connections>>),
) {
    while let Ok((near, _)) = listener.accept().await {
        if state.borrow().mood == Mood::Refusing {
            near.set_zero_linger().expect("have it reset");
            continue;
        }
        let mut connections = connections(&shared);
        let number = connections.made;
        connections.made += 1;
        let ports = servers.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = usize::try_from(number).expect("a test makes few connections") % ports.len();
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, ports[turn]));
        connections.open.spawn(carry(number, near, server, state.clone()));
    }
}

/// Carries one connection until either side ends it.
async fn carry(number: u64, near: TcpStream, server: SocketAddr, state: watch::Receiver<State>) {
    let Ok(far) = TcpStream::connect(server).await else { return };
    for socket in [&near, &far] {
        socket.set_nodelay(true).expect("have it sent at once");
        socket.set_zero_linger().expect("have it reset when it is cut");
    }
    let (from_near, to_near) = near.into_split();
    let (from_far, to_far) = far.into_split();
    tokio::select! {
        () = pump(number, Way::There, from_near, to_far, state.clone()) => {}
        () = pump(number, Way::Back, from_far, to_near, state) => {}
    }
}

/// Copies one way, while the wire lets it; the end of a connection is held back as well.
async fn pump(
    number: u64,
    way: Way,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read) = from.read(&mut buffer).await {
        if state.wait_for(|state| state.lets_pass(number, way)).await.is_err()
            || read == 0
            || to.write_all(&buffer[..read]).await.is_err()
        {
            return;
        }
    }
}
