//! The relay's own machine: a clock that jumps, no file left to open, payloads larger than memory.

use jiff::{SignedDuration, Timestamp};
use posthaste::clock::{Clock, Present};
use posthaste::stopper::Stopper;
use tokio_postgres::Client;

use crate::support::{
    Gate, Receiver, Relay, Reply, TestDatabase, attempted, attempts, endpoint, event, holds,
    inconsistencies, run_inside, settled, value, within,
};

/// Adds `count` endpoints, all at one receiver.
async fn endpoints(client: &Client, receiver: &Receiver, count: i64) {
    let many = "insert into posthaste.endpoints (url) \
                select $1::text || n from generate_series(1, $2::bigint) n";
    client.execute(many, &[&receiver.url("/"), &count]).await.unwrap();
}

#[tokio::test]
async fn a_relay_out_of_files_waits_for_one_and_blames_no_endpoint() {
    const ENDPOINTS: usize = 150;
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let gate = Gate::default();
    receiver.otherwise(Reply::ok().held_by(&gate));
    endpoints(&client, &receiver, i64::try_from(ENDPOINTS).unwrap()).await;
    // A connection each would take three times as many.
    let relay = Relay::on(&database.url()).with_files(64).start().await;
    let first = event("order.paid").add(&client).await;
    relay.logs("the limit of files").await;
    assert!(receiver.received().len() < 64);
    gate.open();
    settled(&client).await;

    // Connections that are kept for a next request make room for others' first.
    let second = event("order.refunded").add(&client).await;
    settled(&client).await;
    assert_eq!(receiver.received().len(), 2 * ENDPOINTS, "each endpoint got each event once");
    for id in [first, second] {
        let attempts = attempts(&client, id).await;
        assert_eq!(attempts.len(), ENDPOINTS);
        assert!(attempts.iter().all(|attempt| attempt.verdict == "delivered"));
    }
    let failed = "select coalesce(sum(consecutive_failures), 0) from posthaste.endpoint_health";
    assert_eq!(value::<i64>(&client, failed).await, 0);
    assert_eq!(relay.get("/live").await.unwrap().0, 200);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

/// The most memory that a process has had, in bytes.
fn peak(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn payloads_in_memory_are_bounded_when_routed_and_when_claimed_from_a_backlog() {
    const ENDPOINTS: i64 = 10;
    const EVENTS: i32 = 24;
    const BOUND: usize = 16 << 20;
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.otherwise(Reply::Hang);
    endpoints(&client, &receiver, ENDPOINTS).await;
    let relay = || Relay::on(&database.url()).set("relay.max_in_flight_bytes", "16MiB");
    let mut first = relay().start().await;
    let at_rest = peak(first.pid());
    let large = "insert into posthaste.outbox (event_type, payload) \
         select 'order.large', to_json(repeat('x', 1024 * 1024)) from generate_series(1, $1)";
    client.execute(large, &[&EVENTS]).await.unwrap();
    // All is routed, and as much is in flight as may be.
    let waiting = "not exists (select from posthaste.unrouted_events) \
         and count(*) > 0 from posthaste.live_deliveries where claimed_by is not null";
    holds(&client, waiting).await;
    receiver.wait_for(BOUND >> 21).await;
    let routed = peak(first.pid()) - at_rest;
    first.kill().await;
    // Now 240 MiB are due at once, and the next relay knows nothing of their size.
    let mut second = relay().start().await;
    let before = receiver.received().len();
    receiver.wait_for(before + (BOUND >> 21)).await;
    let claimed = peak(second.pid()) - at_rest;
    println!("at rest {at_rest}, routed {routed}, claimed {claimed}");
    // The payloads, a copy in each request's body, and what the driver has read and not handed out.
    assert!(routed < 4 * BOUND, "{routed} bytes beyond rest");
    assert!(claimed < 4 * BOUND, "{claimed} bytes beyond rest");
    second.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relays_clock_that_jumps_by_a_day_makes_nothing_due_and_gives_nothing_up() {
    const DAY: i64 = 24 * 3600;
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).with("schedule", "{1 s}").add(&client).await;
    let (stopper, present) = (Stopper::new(), Present::default());
    let settings = [("relay.heartbeat", "200ms"), ("relay.lease", "2s"), ("retry.max_age", "1h")];
    let relay = run_inside(&database, &settings, present.clone(), stopper.clone());
    let story = async {
        for wrong in [DAY, -DAY, 0] {
            present.set_wrong(SignedDuration::from_secs(wrong));
            receiver.script([Reply::status(500)]);
            let retried = event("order.paid").add(&client).await;
            let attempts = attempted(&client, retried, 2).await;
            let told: Vec<_> = attempts.iter().map(|a| a.verdict.as_str()).collect();
            assert_eq!(told, ["retry", "delivered"], "{wrong}");
            assert!(attempts[0].next_attempt_at.unwrap() <= attempts[1].started_at);
            let later = "insert into posthaste.outbox (event_type, payload, deliver_at) \
                 values ('order.later', '{}', clock_timestamp() + interval '500 ms') \
                 returning id, deliver_at";
            let later = client.query_one(later, &[]).await.unwrap();
            let sent = attempted(&client, later.get(0), 1).await;
            assert!(sent[0].started_at >= later.get::<_, Timestamp>(1), "{wrong}");
            // Wrong is only what we say to receivers.
            let said = receiver.received().pop().unwrap();
            let said: i64 = said.header("webhook-timestamp").unwrap().parse().unwrap();
            let off = said - Clock.now().as_second() - wrong;
            assert!((-60..=60).contains(&off), "{wrong}: {off}");
        }
        let lease = "count(*) = 1 and bool_and(id = 1 and heartbeat_at > clock_timestamp() - interval '2 s') \
                     from posthaste.relays";
        holds(&client, lease).await;
        let interrupted =
            "select count(*) from posthaste.delivery_attempts where outcome = 'interrupted'";
        assert_eq!(value::<i64>(&client, interrupted).await, 0);
        stopper.stop();
    };
    let (ended, ()) = Box::pin(within("the days", async { tokio::join!(relay, story) })).await;
    ended.unwrap();
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}
