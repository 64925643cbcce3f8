//! The receiving side of the demo: endpoints with moods, each under a path of its own.
//!
//! They remember the webhooks they accepted. Signatures are checked by code of its own, so that the
//! receiver is a witness and not an echo.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::{HeaderMap, StatusCode};
use ring::hmac;
use serde::Deserialize;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use crate::receiver::listener::{ReceiverAnswer, ReceiverListener, Taken};
use crate::stopper::Stopper;

/// An event of the demo has some 150 bytes.
const BODY_MAX: usize = 16 * 1024;
/// How long a slow endpoint thinks.
const SLOW: Duration = Duration::from_millis(300);
/// A flaky endpoint fails this often in a row, and no event more often than this: two requests of
/// three fail, and still every event arrives with its third attempt.
const FAILURES: u32 = 2;

/// How an endpoint answers its webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// 200 at once.
    Good,
    /// Now a 500, now a broken connection, now a 200.
    Flaky,
    /// 200, but not soon.
    Slow,
}

/// The webhooks that one endpoint has accepted.
#[derive(Debug, Clone, Default)]
pub struct OrderInbox {
    /// How often each webhook was accepted, by its `webhook-id`.
    pub accepted: HashMap<String, u32>,
    /// Event type and order number of each event accepted.
    pub orders: HashSet<(String, i64)>,
    /// Requests that were failed on purpose.
    pub failed: u64,
    /// Requests whose signature was not right; none of them was accepted.
    pub forged: u64,
}

/// A server on the loopback until it is dropped, and a port that refuses connections.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    refusing: TcpSocket,
    shared: Arc<DemoEndpoints>,
    _accepting: JoinSet<()>,
}

#[derive(Debug)]
struct DemoEndpoints {
    endpoints: BTreeMap<String, (Mood, Mutex<State>)>,
}

#[derive(Debug, Default)]
struct State {
    /// None: nothing is genuine yet.
    key: Option<hmac::Key>,
    inbox: OrderInbox,
    failures_in_a_row: u32,
    failures_of: HashMap<String, u32>,
}

/// Why there is no receiver.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    #[error("listen on the loopback")]
    Listen(#[source] std::io::Error),
    #[error("the secret is not whsec_ and base64")]
    Secret,
}

/// The part of the body that the witness reads.
#[derive(Deserialize)]
struct Webhook {
    r#type: String,
    data: OrderData,
}

#[derive(Deserialize)]
struct OrderData {
    order_id: i64,
}

impl Receiver {
    /// Listens; one endpoint a path (such as `/billing`).
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start(moods: &[(&str, Mood)]) -> Result<Self, ReceiverError> {
        let any = (Ipv4Addr::LOCALHOST, 0);
        let listener = ReceiverListener::bind(any.into()).await.map_err(ReceiverError::Listen)?;
        let address = listener.address();
        // Bound and not listening: no other process can get the port, and it refuses connections.
        let refusing = TcpSocket::new_v4().map_err(ReceiverError::Listen)?;
        refusing.bind(any.into()).map_err(ReceiverError::Listen)?;
        let endpoints =
            moods.iter().map(|&(path, mood)| (path.to_owned(), (mood, Mutex::default()))).collect();
        let shared = Arc::new(DemoEndpoints { endpoints });
        let mut accepting = JoinSet::new();
        accepting.spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { address, refusing, shared, _accepting: accepting })
    }

    /// Tells an endpoint its secret; until then it accepts nothing. Unserved paths need none.
    ///
    /// # Errors
    /// If the secret is not a symmetric one of Standard Webhooks.
    pub fn trust(&self, path: &str, secret: &str) -> Result<(), ReceiverError> {
        let encoded = secret.strip_prefix("whsec_").ok_or(ReceiverError::Secret)?;
        let key = STANDARD.decode(encoded).map_err(|_not_base64| ReceiverError::Secret)?;
        if let Some((_, state)) = self.shared.endpoints.get(path) {
            locked(state).key = Some(hmac::Key::new(hmac::HMAC_SHA256, &key));
        }
        Ok(())
    }

    /// `http://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same for a port that refuses connections as long as this receiver lives.
    ///
    /// # Errors
    /// If the system does not tell which port it is.
    pub fn refusing_url(&self) -> Result<String, ReceiverError> {
        let address = self.refusing.local_addr().map_err(ReceiverError::Listen)?;
        Ok(format!("http://{address}"))
    }

    /// The webhooks that an endpoint has accepted so far; empty for a path that is not served.
    #[must_use]
    pub fn inbox(&self, path: &str) -> OrderInbox {
        let endpoint = self.shared.endpoints.get(path);
        endpoint.map_or_else(OrderInbox::default, |(_, state)| locked(state).inbox.clone())
    }

    /// How many different webhooks an endpoint has accepted so far.
    #[must_use]
    pub fn accepted(&self, path: &str) -> usize {
        let endpoint = self.shared.endpoints.get(path);
        endpoint.map_or(0, |(_, state)| locked(state).inbox.accepted.len())
    }
}

impl OrderInbox {
    /// Webhooks that were accepted more than once: sent again after a relay died, with the same id.
    #[must_use]
    pub fn duplicates(&self) -> usize {
        self.accepted.values().filter(|&&times| times > 1).count()
    }
}

impl State {
    /// Whether a flaky endpoint fails this request, and how.
    fn failure(&mut self, id: &str) -> Option<Failure> {
        let of_this = self.failures_of.entry(id.to_owned()).or_default();
        if self.failures_in_a_row >= FAILURES || *of_this >= FAILURES {
            self.failures_in_a_row = 0;
            return None;
        }
        self.failures_in_a_row += 1;
        *of_this += 1;
        self.inbox.failed += 1;
        Some(if self.failures_in_a_row == 1 { Failure::Status } else { Failure::HangUp })
    }

    fn accept(&mut self, id: &str, body: &[u8]) {
        *self.inbox.accepted.entry(id.to_owned()).or_default() += 1;
        if let Ok(webhook) = serde_json::from_slice::<Webhook>(body) {
            self.inbox.orders.insert((webhook.r#type, webhook.data.order_id));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Status,
    HangUp,
}

/// Until it is dropped.
async fn serve(listener: ReceiverListener, shared: Arc<DemoEndpoints>) {
    let handler = move |taken| {
        let shared = Arc::clone(&shared);
        async move { answer(&taken, &shared).await }
    };
    listener.serve(BODY_MAX, handler, &Stopper::new()).await;
}

async fn answer(taken: &Taken, shared: &DemoEndpoints) -> ReceiverAnswer {
    let Some((mood, state)) = shared.endpoints.get(&taken.path) else {
        return ReceiverAnswer::Status(StatusCode::NOT_FOUND);
    };
    let Some(body) = &taken.body else {
        return ReceiverAnswer::Status(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let key = locked(state).key.clone();
    let Some(id) = key.and_then(|key| genuine(&key, &taken.headers, body)) else {
        locked(state).inbox.forged += 1;
        return ReceiverAnswer::Status(StatusCode::UNAUTHORIZED);
    };
    match mood {
        Mood::Good => {}
        Mood::Slow => tokio::time::sleep(SLOW).await,
        Mood::Flaky => match locked(state).failure(id) {
            None => {}
            Some(Failure::Status) => {
                return ReceiverAnswer::Status(StatusCode::INTERNAL_SERVER_ERROR);
            }
            Some(Failure::HangUp) => return ReceiverAnswer::HangUp,
        },
    }
    locked(state).accept(id, body);
    ReceiverAnswer::Status(StatusCode::OK)
}

/// The webhook's id, if one of its signatures is right (Standard Webhooks, `v1`).
fn genuine<'a>(key: &hmac::Key, headers: &'a HeaderMap, body: &[u8]) -> Option<&'a str> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let (id, timestamp) = (header("webhook-id")?, header("webhook-timestamp")?);
    let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
    header("webhook-signature")?
        .split(' ')
        .filter_map(|signature| STANDARD.decode(signature.strip_prefix("v1,")?).ok())
        .any(|tag| hmac::verify(key, &signed, &tag).is_ok())
        .then_some(id)
}

/// A panicking request leaves a wrong count behind at worst.
fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const BODY: &str = r#"{"type":"order.paid","timestamp":"x","data":{"order_id":7}}"#;

    /// The status of the answer, or nothing if the connection was closed without.
    async fn post(receiver: &Receiver, path: &str, id: &str, secret: &str) -> Option<u16> {
        let signer = standardwebhooks::Webhook::new(secret).unwrap();
        let signature = signer.sign(id, 1_700_000_000, BODY.as_bytes()).unwrap();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nwebhook-id: {id}\r\n\
             webhook-timestamp: 1700000000\r\nwebhook-signature: v2,x {signature}\r\n\
             content-length: {}\r\n\r\n{BODY}",
            BODY.len()
        );
        let mut stream = TcpStream::connect(receiver.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).map(|status| status.parse().unwrap())
    }

    #[tokio::test]
    async fn a_good_endpoint_keeps_what_is_rightly_signed_and_nothing_else() {
        let receiver = Receiver::start(&[("/good", Mood::Good)]).await.unwrap();
        assert_eq!(post(&receiver, "/good", "msg_0", SECRET).await, Some(401));
        receiver.trust("/good", SECRET).unwrap();
        assert_eq!(post(&receiver, "/good", "msg_1", SECRET).await, Some(200));
        assert_eq!(post(&receiver, "/good", "msg_1", SECRET).await, Some(200));
        let other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
        assert_eq!(post(&receiver, "/good", "msg_2", other).await, Some(401));
        assert_eq!(post(&receiver, "/elsewhere", "msg_3", SECRET).await, Some(404));
        let inbox = receiver.inbox("/good");
        assert_eq!(inbox.accepted, HashMap::from([("msg_1".to_owned(), 2)]));
        assert_eq!(inbox.orders, HashSet::from([("order.paid".to_owned(), 7)]));
        assert_eq!((inbox.duplicates(), inbox.forged), (1, 2));
    }

    #[tokio::test]
    async fn a_flaky_endpoint_takes_every_event_with_its_third_attempt_at_the_latest() {
        let receiver = Receiver::start(&[("/flaky", Mood::Flaky)]).await.unwrap();
        receiver.trust("/flaky", SECRET).unwrap();
        let mut answers = Vec::new();
        for _ in 0..3 {
            answers.push(post(&receiver, "/flaky", "msg_1", SECRET).await);
        }
        assert_eq!(answers, [Some(500), None, Some(200)]);
        assert_eq!(receiver.inbox("/flaky").failed, 2);
        assert_eq!(receiver.accepted("/flaky"), 1);
    }

    #[tokio::test]
    async fn the_port_of_a_down_endpoint_refuses_connections() {
        let receiver = Receiver::start(&[]).await.unwrap();
        let url = receiver.refusing_url().unwrap();
        let refused = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}
