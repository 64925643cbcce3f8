//! Hostile endpoints of every kind beside a healthy one, all on one relay: each gets the outcome
//! that tells what it did, memory stays bounded, and the healthy one has every event at its first
//! attempt.
//!
//! How each kind looks on the wire, down to the byte, is pinned beside the client
//! (`src/outbound/client/tests`); here they meet the whole relay.

use std::io::Write as _;

use tokio::net::TcpListener;
use tokio_postgres::Client;

use crate::support::{Authority, Receiver, Relay, Reply, TestDatabase, until};

const EVENTS: usize = 10;
/// In all, while twenty endpoints do their worst. A debug build with its TLS needs some 30 MB.
const MEMORY_KB: u64 = 130_000;

/// Held by the relay's own settings, and so not counted against its deliveries.
const HELD: &str = "is the metadata service";

/// The attempts that are expected of an endpoint: outcome, cause, status and verdict.
type Expected = (&'static str, Option<&'static str>, Option<i32>, &'static str);

struct Hostile {
    name: &'static str,
    url: String,
    expected: Expected,
}

async fn answering(name: &'static str, reply: Reply, expected: Expected) -> (Hostile, Receiver) {
    let receiver = Receiver::start().await;
    receiver.otherwise(reply);
    (Hostile { name, url: receiver.url("/hook"), expected }, receiver)
}

fn flood(line: &str, times: usize) -> Reply {
    Reply::Raw(line.repeat(times).into_bytes())
}

/// Those that speak plain HTTP, and what they do.
fn plain() -> Vec<(&'static str, Reply, Expected)> {
    let dead = |cause| ("unreachable", Some(cause), None, "dead");
    let slow = ("timed_out", Some("headers"), None, "dead");
    let long_head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let many_headers = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(5_000));
    let drip =
        Reply::Drip { body: vec![b'x'; 1 << 20], every: std::time::Duration::from_millis(50) };
    let to_metadata =
        Reply::status(302).header("location", "http://169.254.169.254/latest/meta-data");
    vec![
        ("says nothing", Reply::Hang, slow),
        ("hangs up at once", Reply::DropBeforeReading, dead("closed")),
        ("reads and hangs up", Reply::DropAfterReading, dead("closed")),
        ("resets", Reply::Reset, dead("reset")),
        ("speaks no HTTP", Reply::Raw(b"220 mail.example ESMTP\r\n".to_vec()), dead("protocol")),
        // They say 200, whatever we make of the rest.
        (
            "has a head without end",
            Reply::Raw(long_head.into_bytes()),
            ("answered", None, Some(200), "delivered"),
        ),
        (
            "has headers without number",
            Reply::Raw(many_headers.into_bytes()),
            ("answered", None, Some(200), "delivered"),
        ),
        ("says 100 for ever", flood("HTTP/1.1 100 Continue\r\n\r\n", 30_000), dead("protocol")),
        (
            "says 103 for ever",
            flood("HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n", 30_000),
            dead("protocol"),
        ),
        ("has a body without end", Reply::EndlessBody, ("answered", None, Some(200), "delivered")),
        ("drips its body", drip, ("answered", None, Some(200), "delivered")),
        ("redirects to the metadata", to_metadata, ("answered", None, Some(302), "dead")),
        (
            "speaks HTTP/1.0",
            Reply::Raw(b"HTTP/1.0 200 OK\r\n\r\nok".to_vec()),
            ("answered", None, Some(200), "delivered"),
        ),
        (
            "sends bytes that are no text",
            Reply::Raw(
                b"HTTP/1.1 200 OK\r\nx-odd: \xff\xfe\r\ncontent-length: 2\r\n\r\n\xff\0".to_vec(),
            ),
            ("answered", None, Some(200), "delivered"),
        ),
    ]
}

/// All of them, and what must live for as long as they do.
struct Neighbourhood {
    hostile: Vec<Hostile>,
    _receivers: Vec<Receiver>,
    _mute: TcpListener,
}

impl Neighbourhood {
    async fn of(ours: &Authority) -> Self {
        let (mut hostile, mut receivers) = (Vec::new(), Vec::new());
        for (name, reply, expected) in plain() {
            let (endpoint, receiver) = answering(name, reply, expected).await;
            hostile.push(endpoint);
            receivers.push(receiver);
        }
        let dead = |cause| ("unreachable", Some(cause), None, "dead");
        let stranger = Authority::named("a stranger");
        for (name, identity, cause) in [
            ("shows an old certificate", ours.expired_identity(&["localhost"]), "tls_expired"),
            (
                "shows another's certificate",
                ours.identity(&["elsewhere.example"]),
                "tls_wrong_name",
            ),
            (
                "shows a stranger's certificate",
                stranger.identity(&["localhost"]),
                "tls_unknown_issuer",
            ),
        ] {
            let receiver = Receiver::start_tls(identity).await;
            hostile.push(Hostile {
                name,
                url: receiver.url_by_name("/hook"),
                expected: dead(cause),
            });
            receivers.push(receiver);
        }
        // Accepts, by its kernel, and never says a word of TLS.
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = format!("https://{}/", mute.local_addr().unwrap());
        for (name, url, expected) in [
            ("never shakes hands", silent, ("timed_out", Some("tls"), None, "dead")),
            ("is not there", "http://127.0.0.1:1/".to_owned(), dead("connection_refused")),
            (
                HELD,
                "http://169.254.169.254/".to_owned(),
                ("refused", Some("forbidden_address"), None, "retry"),
            ),
        ] {
            hostile.push(Hostile { name, url, expected });
        }
        Self { hostile, _receivers: receivers, _mute: mute }
    }
}

/// Outcome, cause, status, verdict and number of an endpoint's attempts.
type Told = (String, Option<String>, Option<i32>, String, i64);

async fn told(client: &Client, name: &str) -> Vec<Told> {
    let statement =
        "select outcome, cause, status, verdict, count(*) from posthaste.delivery_attempts a
                       join posthaste.endpoints e on e.id = a.endpoint_id where e.description = $1
                      group by 1, 2, 3, 4";
    let rows = client.query(statement, &[&name]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_gets_its_outcome_and_the_healthy_one_notices_nothing() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let ours = Authority::new();
    let mut ca = tempfile::NamedTempFile::new().unwrap();
    ca.write_all(ours.pem().as_bytes()).unwrap();
    let neighbourhood = Neighbourhood::of(&ours).await;
    let healthy = Receiver::start_tls(ours.identity(&["localhost"])).await;

    let insert = "insert into posthaste.endpoints (url, description, timeout, max_attempts)
                  values ($1, $2, '2 s', 1)";
    for endpoint in &neighbourhood.hostile {
        client.execute(insert, &[&endpoint.url, &endpoint.name]).await.unwrap();
    }
    client.execute(insert, &[&healthy.url_by_name("/"), &"healthy"]).await.unwrap();
    // The attempt that pauses it shall be the only one: of two at once, both would be recorded.
    let alone = "update posthaste.endpoints set max_concurrency = 1 where description = $1";
    assert_eq!(client.execute(alone, &[&HELD]).await.unwrap(), 1);

    let relay = Relay::on(&database.url())
        .set("addresses.allow", "127.0.0.0/8,localhost")
        .set("addresses.allow_http", "127.0.0.0/8,169.254.169.254")
        .set("delivery.ca_file", ca.path().to_str().unwrap())
        .set("delivery.body_timeout", "100ms")
        // Each attempt shall be seen, none be put off.
        .set("health.failure_threshold", "1000")
        .set("health.first_pause", "1h")
        .start()
        .await;
    let all = i64::try_from(EVENTS).unwrap();
    let insert = "insert into posthaste.outbox (event_type, payload)
                  select 'a.b', to_json(n) from generate_series(1, $1::bigint) n";
    client.execute(insert, &[&all]).await.unwrap();

    assert_eq!(healthy.wait_for(EVENTS).await.len(), EVENTS);
    until("every delivery to end but those that are held", || async {
        let open = "select count(*) filter (where description <> $1), count(*)
                      from posthaste.deliveries d join posthaste.endpoints e on e.id = d.endpoint_id";
        let open = client.query_one(open, &[&HELD]).await.unwrap();
        (open.get::<_, i64>(0) == 0 && open.get::<_, i64>(1) == all).then_some(())
    })
    .await;

    for Hostile { name, expected: (outcome, cause, status, verdict), .. } in &neighbourhood.hostile
    {
        let times = if *name == HELD { 1 } else { all };
        let expected = (
            (*outcome).to_owned(),
            cause.map(str::to_owned),
            *status,
            (*verdict).to_owned(),
            times,
        );
        assert_eq!(told(&client, name).await, [expected], "the endpoint that {name}");
    }
    let accepted = ("answered".to_owned(), None, Some(200), "delivered".to_owned(), all);
    assert_eq!(told(&client, "healthy").await, [accepted]);
    let peak = peak_memory_kb(relay.pid());
    assert!(peak < MEMORY_KB, "the relay took {peak} kB");
}

fn peak_memory_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
