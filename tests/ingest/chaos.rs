//! Whatever is killed, and whenever: what was answered with a 2xx arrives.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use posthaste::demo::postgres::StopMode;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::support::{
    Line, Receiver, Relay, RelayBuilder, Server, endpoint, inconsistencies, settled, until,
};

const SENDERS: usize = 8;

/// Sends one webhook after the other until it is over; returns those that were taken.
async fn send(sender: usize, door: SocketAddr, is_over: watch::Receiver<bool>) -> BTreeSet<String> {
    let (mut taken, mut n, mut line) = (BTreeSet::new(), 0, None);
    while !*is_over.borrow() {
        if line.is_none() {
            line = Line::to(door).await.ok();
        }
        let Some(open) = &mut line else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        // What nobody has heard of is sent again under the same id, as a good sender does.
        let id = format!("{sender}-{n}");
        match open.shop(&id, format!("{id:?}")).await {
            Ok(answer) if answer.status < 300 => {
                taken.insert(id);
                n += 1;
            }
            Ok(answer) => assert!([503, 429].contains(&answer.status), "{answer:?}"),
            Err(_) => line = None,
        }
    }
    taken
}

/// Everything that was taken has arrived, and is one event.
async fn reckon_up(taken: &BTreeSet<String>, receiver: &Receiver, client: &Client) {
    settled(client).await;
    let text = |body: Vec<u8>| serde_json::from_slice::<String>(&body).unwrap();
    let arrived: BTreeSet<String> =
        receiver.received().into_iter().map(|received| text(received.body)).collect();
    let missing: Vec<_> = taken.difference(&arrived).collect();
    assert!(missing.is_empty(), "answered 2xx and never arrived: {missing:?}");
    let twice = "select payload::text from posthaste.outbox group by 1 having count(*) > 1";
    assert_eq!(client.query(twice, &[]).await.unwrap().len(), 0);
    assert_eq!(inconsistencies(client).await, [""; 0]);
}

/// Kills relay and server at random for so long while webhooks come, then reckons up.
async fn whatever_is_killed(time: Duration, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut server = Server::start(&[]).await;
    let receiver = Receiver::start().await;
    let raw = endpoint(&receiver.url("/")).with("body_format", "raw");
    raw.with("schedule", "{200 ms}").with("max_attempts", 1000).add(&server.client().await).await;
    let spool = tempfile::tempdir().unwrap();
    let log = spool.path().join("relay.log");
    let build = |relay: RelayBuilder| {
        relay
            .set("ingest.spool", spool.path().to_str().unwrap())
            .set("ingest.database_patience", "500ms")
            .set("health.failures_to_pause", "1000000")
            .log_to(log.clone())
    };
    let mut relay = build(Relay::on(&server.url()).taking_in()).start().await;
    let door = relay.door();
    let again = async |server: &Server| {
        // It takes in also while the server is away.
        let relay = build(Relay::on(&server.url()).taking_in_at(door)).spawn();
        relay.lets_in().await;
        relay
    };

    let (over, is_over) = watch::channel(false);
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        senders.spawn(send(sender, door, is_over.clone()));
    }
    let end = Instant::now() + time;
    let (mut kills, mut restarts) = (0, 0);
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(random.u64(50..1500))).await;
        let (restart, kill) = [(true, true), (true, false), (false, true)][random.usize(0..3)];
        if restart {
            restarts += 1;
            server.stop(StopMode::Immediate).await;
            tokio::time::sleep(Duration::from_millis(random.u64(0..2000))).await;
        }
        // It ends by itself if the server goes away while it begins.
        if kill || relay.ended().is_some() {
            kills += 1;
            if relay.ended().is_none() {
                relay.kill().await;
            }
            relay = again(&server).await;
        }
        if restart {
            server.start_again().await;
        }
    }
    over.send(true).unwrap();
    let taken: BTreeSet<String> = senders.join_all().await.into_iter().flatten().collect();
    eprintln!("seed {seed}: {} taken, {kills} kills, {restarts} restarts", taken.len());
    if relay.ended().is_some() {
        relay = again(&server).await;
    }
    relay.ready().await;
    until("the spool to be empty", || async { (relay.spool().await["files"] == 0).then_some(()) })
        .await;
    reckon_up(&taken, &receiver, &server.client().await).await;
    assert!(taken.len() > 100 && kills > 0 && restarts > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_what_was_answered_arrives_as_one_event() {
    whatever_is_killed(Duration::from_secs(10), 7).await;
}

/// `INGEST_MINUTES` says for how long; 10 unless it is given.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn whatever_is_killed_for_long_what_was_answered_arrives_as_one_event() {
    let given = std::env::vars().find(|(name, _)| name == "INGEST_MINUTES");
    let minutes = given.map_or(10, |(_, minutes)| minutes.parse().expect("a number of minutes"));
    whatever_is_killed(Duration::from_secs(60 * minutes), fastrand::u64(..)).await;
}
