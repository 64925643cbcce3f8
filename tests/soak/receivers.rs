//! The endpoints as processes see them: an address each, a mood, and an inbox. Every request is
//! checked as it comes: that it belongs here, that its body is the event's to the byte, that its id
//! and its signature are right.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use posthaste::clock::Clock;
use standardwebhooks::Webhook;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::endpoints::{ENDPOINTS, Mood, Spec};
use super::events::Event;
use super::inbox::Inbox;
use super::ledger::{Fate, Ledger};
use crate::support::{After, Received, Reply, accept, give, read_request};

/// How long the endpoint that goes down is up, and how long it is away.
const UP: Duration = Duration::from_secs(40);
const AWAY: Duration = Duration::from_secs(60);

/// All endpoints and a trap, where nothing must arrive. They end with this value.
#[derive(Debug)]
pub struct Receivers {
    pub addresses: Vec<SocketAddr>,
    listeners: Vec<Option<TcpListener>>,
    nobody: Vec<TcpSocket>,
    trap: SocketAddr,
    trap_listener: TcpListener,
}

/// See [`Receivers::serve`].
#[derive(Debug)]
pub struct Serving {
    pub shared: Arc<Shared>,
    _stations: JoinSet<()>,
    /// Hold the ports of endpoints that refuse connections.
    _nobody: Vec<TcpSocket>,
}

#[derive(Debug)]
pub struct Shared {
    pub inboxes: Vec<Inbox>,
    ledger: Arc<Ledger>,
    secrets: Vec<Secret>,
    trap: SocketAddr,
    /// The moods are over: all but the dead accept at once.
    pub healed: watch::Sender<bool>,
    /// Whether the endpoint of that mood says 410.
    pub gone: AtomicBool,
}

struct Secret(Webhook);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// One endpoint at work.
struct Station {
    number: usize,
    spec: &'static Spec,
    shared: Arc<Shared>,
    requests: AtomicU64,
}

/// How one request is answered.
struct Plan {
    after: Duration,
    accepts: bool,
    reply: Reply,
}

impl Receivers {
    /// Takes an address for each endpoint. Addresses of their own, so that no outgoing connection
    /// can take the port of one that is down.
    pub async fn bind() -> std::io::Result<Self> {
        let (mut addresses, mut listeners, mut nobody) = (Vec::new(), Vec::new(), Vec::new());
        for (number, spec) in ENDPOINTS.iter().enumerate() {
            let any = SocketAddr::from(([127, 0, 7, u8::try_from(number + 1).unwrap_or(255)], 0));
            if spec.mood == Mood::Refuses {
                let socket = TcpSocket::new_v4()?;
                socket.bind(any)?;
                addresses.push(socket.local_addr()?);
                nobody.push(socket);
                listeners.push(None);
            } else {
                let listener = TcpListener::bind(any).await?;
                addresses.push(listener.local_addr()?);
                listeners.push(Some(listener));
            }
        }
        let trap_listener = TcpListener::bind(SocketAddr::from(([127, 0, 7, 250], 0))).await?;
        let trap = trap_listener.local_addr()?;
        Ok(Self { addresses, listeners, nobody, trap, trap_listener })
    }

    /// Begins to take requests, signed with these secrets.
    pub fn serve(self, secrets: &[String], ledger: &Arc<Ledger>) -> Serving {
        let webhook = |secret: &String| Secret(Webhook::new(secret).expect("the secret is ours"));
        let shared = Arc::new(Shared {
            inboxes: ENDPOINTS.iter().map(|_| Inbox::default()).collect(),
            ledger: Arc::clone(ledger),
            secrets: secrets.iter().map(webhook).collect(),
            trap: self.trap,
            healed: watch::Sender::new(false),
            gone: AtomicBool::new(false),
        });
        let mut stations = JoinSet::new();
        for (number, listener) in self.listeners.into_iter().enumerate() {
            let Some(listener) = listener else { continue };
            let shared = Arc::clone(&shared);
            let spec = &ENDPOINTS[number];
            let station = Station { number, spec, shared, requests: AtomicU64::new(0) };
            stations.spawn(stand(Arc::new(station), listener, self.addresses[number]));
        }
        stations.spawn(watch_trap(self.trap_listener, Arc::clone(ledger)));
        Serving { shared, _stations: stations, _nobody: self.nobody }
    }
}

async fn watch_trap(listener: TcpListener, ledger: Arc<Ledger>) {
    while let Ok((socket, _)) = listener.accept().await {
        let came = read_request(&mut BufReader::new(socket), 0).await;
        let what = || format!("{:?}", came.map(|received| received.headers));
        ledger.complain("a redirect was followed", what);
    }
}

/// Accepts connections, in the mood of the endpoint.
async fn stand(station: Arc<Station>, listener: TcpListener, address: SocketAddr) {
    let mut listener = Some(listener);
    let mut healed = station.shared.healed.subscribe();
    loop {
        let here = match listener.take() {
            Some(listener) => listener,
            None => TcpListener::bind(address).await.expect("the address is nobody else's"),
        };
        let open = accept(&here, |socket, _| {
            let station = Arc::clone(&station);
            async move {
                drop(socket.set_nodelay(true));
                station.serve(BufReader::new(socket)).await
            }
        });
        if station.spec.mood != Mood::Down || *healed.borrow() {
            return open.await;
        }
        // Dropping breaks off the connections, and closes the socket that listened.
        drop(tokio::time::timeout(UP, open).await);
        drop(here);
        drop(tokio::time::timeout(AWAY, healed.wait_for(|healed| *healed)).await);
    }
}

impl Station {
    async fn serve(&self, mut wire: BufReader<TcpStream>) -> std::io::Result<()> {
        loop {
            if wire.fill_buf().await?.is_empty() {
                return Ok(());
            }
            let n = self.requests.fetch_add(1, Ordering::Relaxed);
            if self.spec.mood == Mood::Resets && !self.is_healed() && n.is_multiple_of(10) {
                return Ok(());
            }
            let received = read_request(&mut wire, 0).await?;
            let Some(event) = self.check(&received) else {
                give(Reply::status(400), wire.get_mut()).await?;
                continue;
            };
            if self.answer(&event, n, &mut wire).await? == After::Close {
                return Ok(());
            }
        }
    }

    async fn answer(
        &self,
        event: &Event,
        n: u64,
        wire: &mut BufReader<TcpStream>,
    ) -> std::io::Result<After> {
        let sent_at = self.shared.ledger.entry(event.serial).sent_at;
        let latency = Clock.now().as_microsecond() - sent_at;
        let in_flight = self.inbox().arrive(event, self.spec.ordered, latency);
        let plan = self.plan(n);
        if !plan.after.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(plan.after) => {}
                // A relay sends no second request before the first is answered: it has gone.
                gone = wire.fill_buf() => {
                    gone?;
                    return Ok(After::Close);
                }
            }
        }
        if plan.accepts {
            in_flight.accept();
        } else if matches!(plan.reply, Reply::Answer { status: 410, .. }) {
            in_flight.tell_gone();
        }
        // Before the answer, which allows the relay to send the next.
        drop(in_flight);
        give(plan.reply, wire.get_mut()).await
    }

    /// How the mood answers the `n`-th request.
    fn plan(&self, n: u64) -> Plan {
        let accept = |after| Plan { after, accepts: true, reply: Reply::ok() };
        let refuse = |reply| Plan { after: Duration::ZERO, accepts: false, reply };
        let at_once = Duration::ZERO;
        if self.is_healed() && !self.spec.is_dead() {
            return accept(at_once);
        }
        match self.spec.mood {
            Mood::Slow(milliseconds) => accept(Duration::from_millis(milliseconds)),
            Mood::FailsTwoOfThree if !n.is_multiple_of(3) => refuse(Reply::status(500)),
            Mood::FailsOneOfThree if n.is_multiple_of(3) => refuse(Reply::status(500)),
            Mood::Busy if n.is_multiple_of(5) => {
                refuse(Reply::status(503).header("retry-after", "1"))
            }
            Mood::Hangs if n.is_multiple_of(40) => refuse(Reply::Hang),
            Mood::Resets if n % 10 == 5 => refuse(Reply::Reset),
            Mood::Gone if self.shared.gone.load(Ordering::Relaxed) => refuse(Reply::status(410)),
            Mood::Endless if n.is_multiple_of(2) => {
                Plan { after: at_once, accepts: true, reply: Reply::EndlessBody }
            }
            Mood::Endless => {
                let (body, every) = (b"slowly".to_vec(), Duration::from_millis(20));
                Plan { after: at_once, accepts: true, reply: Reply::Drip { body, every } }
            }
            Mood::Redirects => {
                let trap = format!("http://{}/trap", self.shared.trap);
                refuse(Reply::status(302).header("location", &trap))
            }
            Mood::Fast | Mood::FailsTwoOfThree | Mood::FailsOneOfThree | Mood::Busy => {
                accept(at_once)
            }
            Mood::Hangs | Mood::Resets | Mood::Down | Mood::Gone | Mood::Refuses => accept(at_once),
        }
    }

    /// The event that was sent, if all of it is right.
    fn check(&self, received: &Received) -> Option<Event> {
        let (ledger, name) = (&self.shared.ledger, self.spec.name);
        let text = String::from_utf8_lossy(&received.body).into_owned();
        let Some(event) = self.event_in(&text) else {
            ledger.complain("a body is not the event's", || format!("to {name}: {text}"));
            return None;
        };
        let id = received.header("webhook-id").unwrap_or_default();
        let entry = ledger.entry(event.serial);
        let case = || format!("event {} ({id}, serial {}) to {name}", entry.event_id, event.serial);
        if entry.fate == Fate::Unwritten || entry.sent_at == 0 {
            ledger.complain("an event was sent before its transaction committed", case);
        } else if ledger.webhook_id(&entry) != id {
            ledger.complain("a webhook-id is not the event's", case);
        }
        if !self.spec.is_owed(&event) {
            ledger.complain("an event was sent to an endpoint that is not owed it", case);
        }
        if !self.verifies(received) {
            ledger.complain("a signature is wrong", case);
        }
        Some(event)
    }

    fn event_in(&self, body: &str) -> Option<Event> {
        let (kind, payload) = if self.spec.raw {
            (None, body)
        } else {
            let (kind, rest) =
                body.strip_prefix(r#"{"type":""#)?.split_once(r#"","timestamp":""#)?;
            let (_, data) = rest.split_once(r#"","data":"#)?;
            (Some(kind), data.strip_suffix('}')?)
        };
        let event = self.shared.ledger.event(Event::serial_in(payload)?);
        let right = kind.is_none_or(|kind| kind == event.event_type) && payload == event.payload();
        right.then_some(event)
    }

    fn verifies(&self, received: &Received) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in &received.headers {
            if name.starts_with("webhook-")
                && let (Ok(name), Ok(value)) =
                    (HeaderName::try_from(name), HeaderValue::from_str(value))
            {
                headers.insert(name, value);
            }
        }
        self.shared.secrets[self.number].0.verify(&received.body, &headers).is_ok()
    }

    fn inbox(&self) -> &Inbox {
        &self.shared.inboxes[self.number]
    }

    fn is_healed(&self) -> bool {
        *self.shared.healed.borrow()
    }
}
