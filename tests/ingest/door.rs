//! The door keeps its places for honest senders: a sender that only takes room, or proves nothing,
//! keeps out neither those of other addresses nor, for long, those of its own.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::bounds::peak;
use crate::support::{Answer, Line, Relay, RelayBuilder, TestDatabase, until};

const HOSTILE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const HONEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const MIB: usize = 1 << 20;

/// Of a form that is right, by no secret: which cannot be told before the body is there.
fn forged(path: &str, rest: &str) -> String {
    let mac = "0".repeat(64);
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         x-hub-signature-256: sha256={mac}\r\n{rest}"
    )
}

/// With a source besides `shop` whose proof covers the body.
async fn door(database: &TestDatabase, set: fn(RelayBuilder) -> RelayBuilder) -> Relay {
    let relay = Relay::on(&database.url())
        .taking_in()
        .set("ingest.sources.github.verify", "github")
        .set("ingest.sources.github.secret", "s3cret");
    set(relay).start().await
}

/// Two kilobytes, as most webhooks are.
async fn honest(from: Ipv4Addr, door: SocketAddr) -> std::io::Result<Answer> {
    let body = format!("[\"{}\"]", "x".repeat(2_000));
    let headers = [("authorization", "Bearer s3cret")];
    Line::from(from, door).await?.post("/in/shop", &headers, body).await
}

/// Another address is let in at once; the hostile one's own within a moment.
async fn honest_are_let_in(relay: &Relay) {
    for _ in 0..15 {
        let answer = honest(HONEST, relay.door()).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    for _ in 0..15 {
        until("a neighbour of the hostile to be let in", || async {
            let answer = honest(HOSTILE, relay.door()).await.ok();
            answer.filter(|answer| answer.status == 200)
        })
        .await;
    }
}

/// Long enough for every test, and for none to end by it.
fn patient(relay: RelayBuilder) -> RelayBuilder {
    relay.set("ingest.body_timeout", "10m").set("ingest.head_timeout", "10m")
}

#[tokio::test]
async fn bodies_that_never_end_leave_room_for_those_that_do() {
    let database = TestDatabase::new().await;
    let relay = door(&database, |relay| {
        patient(relay).set("ingest.max_in_flight_bytes", "8MiB").set("ingest.max_connections", "64")
    })
    .await;
    let mut hostile = Vec::new();
    for _ in 0..8 {
        let mut line = Line::from(HOSTILE, relay.door()).await.unwrap();
        line.say(forged("/in/github", &format!("content-length: {MIB}\r\n\r\n"))).await.unwrap();
        // A byte is missing.
        drop(line.say("1".repeat(MIB - 1)).await);
        hostile.push(line);
    }
    until("the room to be taken", || async {
        let bytes = relay.metric("posthaste_ingest_in_flight_bytes", "").await;
        (bytes > 7.0 * 1024.0 * 1024.0).then_some(())
    })
    .await;
    honest_are_let_in(&relay).await;
    let mut told = JoinSet::new();
    for mut line in hostile {
        told.spawn(async move { line.hear().await.unwrap().status });
    }
    assert_eq!(told.join_next().await.unwrap().unwrap(), 503, "the first that was made to go");
}

#[tokio::test]
async fn connections_that_ask_nothing_leave_places_for_those_that_do() {
    let database = TestDatabase::new().await;
    let relay = door(&database, |relay| patient(relay).set("ingest.max_connections", "32")).await;
    let mut hostile = Vec::new();
    for n in 0..32 {
        let mut line = Line::from(HOSTILE, relay.door()).await.unwrap();
        if n % 2 == 0 {
            line.say("POST /in/shop HTTP/1.1\r\n").await.unwrap();
        }
        hostile.push(line);
    }
    until("every place to be taken", || async {
        (relay.metric("posthaste_ingest_connections", "").await >= 32.0).then_some(())
    })
    .await;
    honest_are_let_in(&relay).await;
    hostile[0].ended().await;
}

#[tokio::test]
async fn bodies_in_chunks_of_a_byte_take_no_more_memory_than_is_counted() {
    const SENDERS: usize = 4;
    let database = TestDatabase::new().await;
    let relay =
        door(&database, |relay| patient(relay).set("ingest.max_in_flight_bytes", "2MiB")).await;
    let at_rest = peak(relay.pid());
    let mut hostile = JoinSet::new();
    for _ in 0..SENDERS {
        let door = relay.door();
        hostile.spawn(async move {
            let mut line = Line::from(HOSTILE, door).await.unwrap();
            line.say(forged("/in/github", "transfer-encoding: chunked\r\n\r\n")).await.unwrap();
            let chunks = "1\r\n1\r\n".repeat(1 << 14);
            for _ in 0..(MIB / 2) >> 14 {
                if line.say(&chunks).await.is_err() {
                    break;
                }
            }
            line
        });
    }
    until("the chunks to come", || async {
        let bytes = relay.metric("posthaste_ingest_in_flight_bytes", "").await;
        (bytes > 1.8 * 1024.0 * 1024.0).then_some(())
    })
    .await;
    let mut lines = hostile.join_all().await;
    honest_are_let_in(&relay).await;
    let taken = peak(relay.pid()) - at_rest;
    assert!(taken < 32 * MIB, "{taken} bytes beyond rest");
    drop(lines.drain(..));
}

#[tokio::test]
async fn what_the_head_decides_is_answered_before_a_byte_of_the_body_is_there() {
    let database = TestDatabase::new().await;
    let relay = door(&database, patient).await;
    let shop = |rest: &str| {
        format!("POST /in/shop HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{rest}")
    };
    let length = "content-length: 1000\r\n\r\n";
    for (head, status) in [
        (shop(length), 401),
        (shop(&format!("authorization: Bearer wr0ng\r\n{length}")), 401),
        (
            shop(&format!("authorization: Bearer s3cret\r\ncontent-length: {}\r\n\r\n", 2 * MIB)),
            413,
        ),
        (shop("authorization: Bearer s3cret\r\n\r\n"), 411),
        (shop(length).replace("/in/shop", "/in/github"), 401),
        (forged("/in/github", length).replace("sha256", "sha1"), 401),
        (forged("/in/nothing", length), 404),
    ] {
        let mut line = Line::from(HOSTILE, relay.door()).await.unwrap();
        line.say(&head).await.unwrap();
        assert_eq!(line.hear().await.unwrap().status, status, "{head}");
    }
}

#[tokio::test]
async fn an_address_that_no_source_admits_is_hung_up_on_at_once() {
    let database = TestDatabase::new().await;
    let relay = door(&database, |relay| {
        let relay = patient(relay).set("ingest.sources.shop.clients", "127.0.0.3, 10.0.0.0/8");
        relay.set("ingest.sources.github.clients", "127.0.0.4")
    })
    .await;
    for _ in 0..3 {
        let mut line = Line::from(HOSTILE, relay.door()).await.unwrap();
        line.ended().await;
    }
    assert_eq!(honest(HONEST, relay.door()).await.unwrap().status, 200);
    let other = honest(Ipv4Addr::new(127, 0, 0, 4), relay.door()).await.unwrap();
    assert_eq!(other.status, 403, "another source admits it: it hears which does not");
    TcpStream::connect(relay.door()).await.unwrap();
}
