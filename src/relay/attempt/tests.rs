use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use super::*;
use crate::config::{Config, Sources, load};
use crate::model::endpoint::Endpoint;
use crate::model::outcome::Cause;
use crate::model::verdict::Decision;
use crate::model::webhook_id::WEBHOOK_ID_KEY_BYTES;
use crate::outbound::addresses::AddressRules;
use crate::outbound::client::ClientSettings;
use crate::outbound::resolve::Resolver;
use crate::relay::fault::tests::{BUG, delivery};
use crate::store::relays::Registration;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

pub(in crate::relay) fn config() -> Config {
    let flags = vec![("database.url".to_owned(), "postgres://localhost/nowhere".to_owned())];
    load(&Sources { flags, ..Sources::default() }).unwrap()
}

/// Of a term that never asks its database anything. They may dial loopback, and have `files`
/// connections open.
pub(in crate::relay) fn attempts(files: usize, lease: Duration) -> Attempts {
    let config = config();
    let loopback = ["127.0.0.0/8".parse().unwrap()];
    let rules = AddressRules::new(&loopback, &loopback, vec![]);
    let resolver = Resolver::fixed([Ipv4Addr::LOCALHOST.into()]);
    let settings = ClientSettings { system_roots: false, ..ClientSettings::new(rules, resolver) };
    Attempts {
        client: Client::new(settings).unwrap(),
        files: Files::new(files),
        retry_after_cap: config.retry.retry_after_cap,
        policy: Arc::new(Policy::new(&config, RuleSet::default())),
        webhook_ids: WebhookIds::new([7; WEBHOOK_ID_KEY_BYTES]),
        term: Arc::new(Term::new(Registration::nowhere(), lease, TaskTracker::new())),
        clock: Present::default(),
        metrics: Arc::default(),
        settings: config.delivery,
    }
}

/// Of a term whose lease is fresh.
fn fresh() -> Attempts {
    attempts(1, Duration::from_secs(60))
}

/// Of a term whose lease may have been taken over.
fn stale() -> Attempts {
    attempts(1, Duration::ZERO)
}

fn ready(attempts: &Attempts, url: &str) -> ReadyEndpoint {
    let endpoint = Endpoint { url: url.to_owned(), ..Endpoint::unread(3, 1) };
    ReadyEndpoint::new(attempts.defaults(), endpoint, None)
}

/// A receiver on loopback that runs a script on each connection.
pub(in crate::relay) struct LoopbackReceiver {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    _connections: JoinSet<()>,
}

impl LoopbackReceiver {
    /// `script` has each connection's number, from 0.
    async fn serving<F>(script: impl Fn(ReceiverConnection, usize) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&requests);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                let heard = ReceiverConnection { stream, requests: Arc::clone(&count) };
                connections.spawn(script(heard, number));
            }
        });
        Self { address, requests, _connections: tasks }
    }

    /// It accepts every event.
    pub(in crate::relay) async fn accepting() -> Self {
        Self::serving(async |mut heard, _| {
            loop {
                heard.answer(OK).await;
            }
        })
        .await
    }

    /// It accepts an event for each permit of this gate.
    pub(in crate::relay) async fn held_by(gate: &Arc<Semaphore>) -> Self {
        let gate = Arc::clone(gate);
        Self::serving(move |mut heard, _| {
            let gate = Arc::clone(&gate);
            async move {
                loop {
                    heard.request().await;
                    gate.acquire().await.unwrap().forget();
                    heard.stream.write_all(OK).await.unwrap();
                }
            }
        })
        .await
    }

    pub(in crate::relay) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub(in crate::relay) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// A connection of a [`LoopbackReceiver`].
struct ReceiverConnection {
    stream: TcpStream,
    requests: Arc<AtomicUsize>,
}

impl ReceiverConnection {
    /// Reads a request with its body, which is `delivery`'s in the standard format.
    async fn request(&mut self) {
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            text.push(self.stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(text).unwrap().to_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap();
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        self.stream.read_exact(&mut vec![0; length]).await.unwrap();
        self.requests.fetch_add(1, Ordering::SeqCst);
    }

    async fn answer(&mut self, answer: &[u8]) {
        self.request().await;
        self.stream.write_all(answer).await.unwrap();
    }
}

#[tokio::test]
async fn an_accepted_event_is_delivered_and_its_connection_is_kept_with_its_file() {
    let receiver = LoopbackReceiver::serving(async |mut heard, _| {
        heard.answer(OK).await;
        // Holds the connection open.
        std::future::pending::<()>().await;
    })
    .await;
    let (attempts, mut slot) = (fresh(), ConnectionSlot::default());
    let ready = ready(&attempts, &receiver.url());
    let sent = attempts.make(&ready, &delivery("order.paid"), &mut slot).await.unwrap();
    assert_eq!(sent.verdict.decision, Decision::Delivered);
    assert_eq!(sent.verdict.reason, None);
    assert!(slot.connection.is_some() && slot.file.is_some());
}

#[tokio::test]
async fn a_connection_that_is_not_kept_frees_its_file() {
    let close = b"HTTP/1.1 503 Down\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let receiver =
        LoopbackReceiver::serving(async move |mut heard, _| heard.answer(close).await).await;
    let (attempts, mut slot) = (fresh(), ConnectionSlot::default());
    let ready = ready(&attempts, &receiver.url());
    let sent = attempts.make(&ready, &delivery("order.paid"), &mut slot).await.unwrap();
    assert!(matches!(sent.verdict.decision, Decision::Retry { .. }));
    assert!(slot.connection.is_none() && slot.file.is_none());
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_sent_to_is_refused_without_a_connection() {
    let attempts = fresh();
    let no_url = ready(&attempts, "no URL");
    let detail = "its row cannot be read".to_owned();
    let refusal = (Refusal::BadEndpoint, detail);
    let unread = ReadyEndpoint::unusable(attempts.defaults(), 3, 1, refusal);
    for ready in [no_url, unread] {
        let mut slot = ConnectionSlot::default();
        let sent = attempts.make(&ready, &delivery("order.paid"), &mut slot).await.unwrap();
        let is_refused = matches!(sent.outcome, Outcome::Refused { why: Refusal::BadEndpoint, .. });
        assert!(is_refused, "{:?}", sent.outcome);
        assert_eq!(sent.verdict.decision, Decision::Retry { after: Duration::ZERO });
        assert!(slot.file.is_none());
        assert_eq!(ready.host(), "");
    }
}

#[tokio::test]
async fn a_request_that_waited_for_a_file_until_the_lease_was_stale_is_interrupted() {
    for (attempts, is_sent) in [(stale(), false), (fresh(), true)] {
        let receiver = LoopbackReceiver::serving(async |mut heard, _| heard.answer(OK).await).await;
        let ready = ready(&attempts, &receiver.url());
        let mut slot = ConnectionSlot::default();
        let held = attempts.files.take().await;
        let other = async {
            attempts.files.needed().await;
            drop(held);
        };
        let delivery = delivery("order.paid");
        let (sent, ()) = tokio::join!(attempts.make(&ready, &delivery, &mut slot), other);
        let sent = sent.unwrap();
        assert_eq!(sent.outcome != Outcome::Interrupted, is_sent, "{:?}", sent.outcome);
        assert_eq!(receiver.requests(), usize::from(is_sent));
    }
}

/// A receiver that answers the first request of a connection and closes it over the second.
async fn closing_over_the_second() -> LoopbackReceiver {
    LoopbackReceiver::serving(async |mut heard, number| {
        heard.answer(OK).await;
        heard.request().await;
        if number > 0 {
            heard.stream.write_all(OK).await.unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn a_kept_connection_that_is_closed_without_an_answer_has_the_event_sent_again() {
    let receiver = closing_over_the_second().await;
    let (attempts, mut slot) = (fresh(), ConnectionSlot::default());
    let ready = ready(&attempts, &receiver.url());
    for reason in [None, Some(SENT_AGAIN)] {
        let sent = attempts.make(&ready, &delivery("order.paid"), &mut slot).await.unwrap();
        assert_eq!(sent.verdict.decision, Decision::Delivered);
        assert_eq!(sent.verdict.reason.as_deref(), reason);
    }
    assert_eq!(receiver.requests(), 3);
    assert!(attempts.metrics.render().contains("posthaste_sent_again_total 1"));
}

#[tokio::test]
async fn under_a_stale_lease_nothing_is_sent_over_a_kept_connection_either() {
    let receiver = closing_over_the_second().await;
    let (attempts, mut slot) = (fresh(), ConnectionSlot::default());
    let ready = ready(&attempts, &receiver.url());
    attempts.make(&ready, &delivery("order.paid"), &mut slot).await.unwrap();
    let sent = stale().make(&ready, &delivery("order.paid"), &mut slot).await.unwrap();
    assert_eq!(sent.outcome, Outcome::Interrupted);
    assert_eq!(receiver.requests(), 1);
}

#[tokio::test]
async fn a_request_whose_connection_is_closed_when_the_lease_is_stale_is_not_sent_again() {
    let (attempts, mut slot) = (attempts(1, Duration::from_secs(3)), ConnectionSlot::default());
    let term = Arc::clone(&attempts.term);
    let receiver = LoopbackReceiver::serving(move |mut heard, _| {
        let term = Arc::clone(&term);
        async move {
            heard.answer(OK).await;
            heard.request().await;
            while term.may_send() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    })
    .await;
    let ready = ready(&attempts, &receiver.url());
    attempts.make(&ready, &delivery("order.paid"), &mut slot).await.unwrap();
    let sent = attempts.make(&ready, &delivery("order.paid"), &mut slot).await.unwrap();
    let is_closed =
        matches!(sent.outcome, Outcome::Unreachable { cause: Cause::Closed | Cause::Reset, .. });
    assert!(is_closed, "{:?}", sent.outcome);
    assert_eq!(receiver.requests(), 2);
}

#[tokio::test]
async fn when_the_grace_is_over_a_request_in_flight_is_interrupted_and_its_connection_is_dropped() {
    let arrived = Arc::new(Notify::new());
    let tell = Arc::clone(&arrived);
    let receiver = LoopbackReceiver::serving(move |mut heard, _| {
        let tell = Arc::clone(&tell);
        async move {
            heard.request().await;
            tell.notify_one();
            std::future::pending::<()>().await;
        }
    })
    .await;
    let (attempts, mut slot) = (fresh(), ConnectionSlot::default());
    let ready = ready(&attempts, &receiver.url());
    let stop = async {
        arrived.notified().await;
        attempts.term.abort.cancel();
    };
    let delivery = delivery("order.paid");
    let (sent, ()) = tokio::join!(attempts.make(&ready, &delivery, &mut slot), stop);
    let sent = sent.unwrap();
    assert_eq!(sent.outcome, Outcome::Interrupted);
    assert_eq!(sent.verdict.decision, Decision::Retry { after: Duration::ZERO });
    assert!(slot.connection.is_none() && slot.file.is_none());
}

#[tokio::test]
async fn a_bug_that_one_event_meets_refuses_it_and_the_next_one_goes_its_way() {
    let receiver = LoopbackReceiver::serving(async |mut heard, _| heard.answer(OK).await).await;
    let (attempts, mut slot) = (fresh(), ConnectionSlot::default());
    let ready = ready(&attempts, &receiver.url());
    let unlucky = delivery(&format!("{BUG}sending"));
    let panicked = attempts.make(&ready, &unlucky, &mut slot).await.unwrap_err();
    let sent = attempts.refused(panicked, &ready, &unlucky);
    let detail = "the relay panicked: assertion `left != right` failed".to_owned();
    assert_eq!(sent.outcome, Outcome::Refused { why: Refusal::Fault, detail });
    assert!(matches!(sent.verdict.decision, Decision::Retry { .. }));
    assert!(attempts.metrics.render().contains("posthaste_faults_total 1"));
    let next = attempts.make(&ready, &delivery("order.paid"), &mut slot).await.unwrap();
    assert_eq!(next.verdict.decision, Decision::Delivered);
}

#[tokio::test]
async fn a_bug_in_judging_itself_refuses_the_attempt_and_gives_up_after_eleven() {
    let receiver = LoopbackReceiver::accepting().await;
    let (attempts, mut slot) = (fresh(), ConnectionSlot::default());
    let ready = ready(&attempts, &receiver.url());
    for (made, decision) in [(0, "retry"), (9, "retry"), (10, "dead")] {
        let unlucky = Delivery { attempt_count: made, ..delivery(&format!("{BUG}judging")) };
        let panicked = attempts.make(&ready, &unlucky, &mut slot).await.unwrap_err();
        let sent = attempts.refused(panicked, &ready, &unlucky);
        assert!(matches!(sent.outcome, Outcome::Refused { why: Refusal::Fault, .. }));
        assert_eq!(sent.verdict.decision.as_str(), decision);
    }
}

#[tokio::test]
async fn a_request_that_waited_for_a_file_while_its_endpoint_changed_is_not_sent() {
    for is_outdated in [true, false] {
        let receiver = LoopbackReceiver::serving(async |mut heard, _| heard.answer(OK).await).await;
        let (attempts, mut slot) = (fresh(), ConnectionSlot::default());
        let ready = ready(&attempts, &receiver.url());
        let held = attempts.files.take().await;
        let change = async {
            attempts.files.needed().await;
            ready.is_outdated.store(is_outdated, Ordering::Relaxed);
            drop(held);
        };
        let delivery = delivery("order.paid");
        let (sent, ()) = tokio::join!(attempts.make(&ready, &delivery, &mut slot), change);
        assert_eq!(sent.unwrap().outcome == Outcome::Interrupted, is_outdated);
        assert_eq!(receiver.requests(), usize::from(!is_outdated));
    }
}

#[tokio::test]
async fn an_event_with_more_headers_than_are_sent_is_dead_and_takes_no_connection() {
    let receiver = LoopbackReceiver::serving(async |mut heard, _| heard.answer(OK).await).await;
    let (attempts, mut slot) = (fresh(), ConnectionSlot::default());
    let ready = ready(&attempts, &receiver.url());
    let mut loaded = delivery("order.paid");
    loaded.headers = (0..1_001).map(|n| (format!("x-{n}"), "v".to_owned())).collect();
    let sent = attempts.make(&ready, &loaded, &mut slot).await.unwrap();
    let Outcome::Refused { why: Refusal::BadEvent, detail } = &sent.outcome else {
        panic!("{:?}", sent.outcome)
    };
    assert_eq!(detail, "1001 headers are more than the 1000 that are sent at most");
    assert_eq!(sent.verdict.decision, Decision::Dead);
    assert!(slot.file.is_none());
    assert_eq!(receiver.requests(), 0);
}

#[tokio::test]
async fn an_attempt_is_judged_by_its_number_and_the_endpoints_own_schedule() {
    let attempts = fresh();
    let endpoint = Endpoint {
        url: "http://10.0.0.1/".to_owned(),
        max_attempts: Some(3),
        timeout: Some(Duration::from_secs(2)),
        max_concurrency: Some(5),
        ..Endpoint::unread(3, 1)
    };
    let until = Timestamp::UNIX_EPOCH;
    let ready = ReadyEndpoint::new(attempts.defaults(), endpoint, Some(until));
    assert_eq!(ready.timeout, Duration::from_secs(2));
    let limits = ready.limits();
    assert_eq!((limits.max_concurrency, limits.secrets_until), (5, Some(until)));
    for (made, decision) in [(1, "retry"), (2, "dead")] {
        let delivery = Delivery { attempt_count: made, ..delivery("order.paid") };
        let timed_out =
            unfinished(Outcome::TimedOut { phase: crate::model::outcome::Phase::Connect });
        let began = attempts.clock.instant();
        let sent = attempts.judged(&ready, &delivery, began, timed_out, &RuleSet::default());
        assert_eq!(sent.verdict.decision.as_str(), decision);
    }
}
