//! Bounds: of time, of size, of number; and a stop that answers what had come.

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::{Line, Relay, TestDatabase, post, until, value, waits_for_a_lock};

const HEAD: &str = "POST /in/shop HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                    authorization: Bearer s3cret\r\n";

#[tokio::test]
async fn a_sender_that_drips_bytes_is_cut_off_and_told_why() {
    let database = TestDatabase::new().await;
    let relay = Relay::on(&database.url())
        .taking_in()
        .set("ingest.head_timeout", "300ms")
        .set("ingest.body_timeout", "300ms")
        .start()
        .await;
    for dripping in [HEAD.to_owned(), format!("{HEAD}content-length: 100\r\n\r\n{{\"a\": ")] {
        let mut line = Line::to(relay.door()).await.unwrap();
        line.say(dripping.as_bytes()).await.unwrap();
        // Neither silence nor a byte now and then helps.
        let answer = loop {
            let byte =
                tokio::time::timeout(std::time::Duration::from_millis(50), line.hear()).await;
            match byte {
                Ok(answer) => break answer.unwrap(),
                Err(_) => drop(line.say(b"x").await),
            }
        };
        assert_eq!(answer.status, 408, "{dripping}: {answer:?}");
        assert!(answer.problem().contains("did not come in time"));
        line.ended().await;
    }
    // A connection that asks nothing is closed without a word.
    Line::to(relay.door()).await.unwrap().ended().await;
    let mut line = Line::to(relay.door()).await.unwrap();
    assert_eq!(line.shop("one", "{}").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_sender_that_shuts_its_half_after_its_request_hears_what_became_of_it() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let relay = Relay::on(&database.url()).taking_in().start().await;
    let locker = database.client().await;
    locker.batch_execute("begin; lock table posthaste.received in share mode").await.unwrap();
    let request = format!("{HEAD}content-length: 2\r\n\r\n{{}}");
    let mut line = Line::to(relay.door()).await.unwrap();
    line.say(&request).await.unwrap();
    line.say_no_more().await.unwrap();
    // It has been read to its end, and the end of what its sender says with it.
    waits_for_a_lock(&client, "receive").await;
    locker.batch_execute("commit").await.unwrap();
    assert_eq!(line.hear().await.unwrap().status, 200);
    line.ended().await;
    // A sender that shuts it too early is not waited for.
    for (early, status) in [(HEAD.len() / 2, None), (request.len() - 1, Some(400))] {
        let mut line = Line::to(relay.door()).await.unwrap();
        line.say(&request[..early]).await.unwrap();
        line.say_no_more().await.unwrap();
        assert_eq!(line.hear().await.ok().map(|answer| answer.status), status);
        line.ended().await;
    }
    // Nor is a sender that has gone away altogether while its webhook waits.
    locker.batch_execute("begin; lock table posthaste.received in share mode").await.unwrap();
    let mut line = Line::to(relay.door()).await.unwrap();
    line.say(&request).await.unwrap();
    waits_for_a_lock(&client, "receive").await;
    drop(line);
    locker.batch_execute("commit").await.unwrap();
    until("every connection to end", || async {
        (relay.metric("posthaste_ingest_connections", "").await == 0.0).then_some(())
    })
    .await;
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.outbox").await, 2);
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let database = TestDatabase::new().await;
    let relay = Relay::on(&database.url()).taking_in().start().await;
    let mut line = Line::to(relay.door()).await.unwrap();
    line.say(format!("{HEAD}x: {}", "y".repeat(20_000))).await.unwrap();
    assert_eq!(line.hear().await.unwrap().status, 431);
}

#[tokio::test]
async fn one_source_at_its_bound_is_told_so_and_leaves_room_for_others() {
    let database = TestDatabase::new().await;
    let relay = Relay::on(&database.url())
        .taking_in()
        .set("ingest.max_in_flight", "3")
        .set("ingest.sources.shop.max_in_flight", "2")
        .set("ingest.sources.other.secret", "s3cret")
        .start()
        .await;
    let in_flight = |count: f64| {
        let relay = &relay;
        until("requests in flight", move || async move {
            (relay.metric("posthaste_ingest_in_flight", "").await == count).then_some(())
        })
    };
    // A sender that drips, or proves nothing, takes no other's place.
    let mut dripping = Vec::new();
    for _ in 0..5 {
        let mut line = Line::to(relay.door()).await.unwrap();
        line.say(format!("{HEAD}content-length: 2\r\n\r\n{{")).await.unwrap();
        dripping.push(line);
    }
    let locker = database.client().await;
    locker.batch_execute("begin; lock table posthaste.received in share mode").await.unwrap();
    let mut held = JoinSet::new();
    let mut hold = |path: &'static str| {
        let door = relay.door();
        held.spawn(async move {
            post(door, path, &[("authorization", "Bearer s3cret")], "{}").await.status
        });
    };
    hold("/in/shop");
    hold("/in/shop");
    in_flight(2.0).await;
    let mut line = Line::to(relay.door()).await.unwrap();
    let answer = line.shop("x", "{}").await.unwrap();
    assert_eq!(answer.status, 429);
    assert!(answer.problem().contains("too many requests of this source"));
    assert!(answer.header("retry-after").is_some());

    hold("/in/other");
    in_flight(3.0).await;
    let answer = post(relay.door(), "/in/other", &[("authorization", "Bearer s3cret")], "{}").await;
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some());
    locker.batch_execute("commit").await.unwrap();
    assert_eq!(held.join_all().await, [200; 3], "what was let in is taken");
    in_flight(0.0).await;
    for mut line in dripping {
        line.say("}").await.unwrap();
        assert_eq!(line.hear().await.unwrap().status, 200);
    }
}

/// The memory that a process has had at most, in bytes.
pub(super) fn peak(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn a_flood_takes_no_more_memory_than_it_may() {
    const SENDERS: usize = 100;
    const BOUND: usize = 8 << 20;
    let database = TestDatabase::new().await;
    let relay = Relay::on(&database.url())
        .taking_in()
        .set("ingest.max_in_flight_bytes", "8MiB")
        .set("ingest.max_connections", "100")
        .set("ingest.sources.shop.max_body", "4MiB")
        .start()
        .await;
    let at_rest = peak(relay.pid());
    // 400 MiB at once.
    let body = format!("[{}", "1,".repeat((1 << 21) - 8));
    let mut senders = JoinSet::new();
    for n in 0..SENDERS {
        let (door, body) = (relay.door(), body.clone());
        senders.spawn(async move {
            let mut line = Line::to(door).await.unwrap();
            let rest = "1]";
            // Some tell the length before, the others come in chunks without end.
            let whole = if n % 2 == 0 {
                format!("{HEAD}content-length: {}\r\n\r\n{body}", body.len() + rest.len())
            } else {
                format!("{HEAD}transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n", body.len())
            };
            let end =
                if n % 2 == 0 { rest.to_owned() } else { format!("2\r\n{rest}\r\n0\r\n\r\n") };
            // A request that is refused need not have been read to the end.
            drop(line.say(whole).await);
            drop(line.say(end).await);
            line.hear().await.map_or(0, |answer| answer.status)
        });
    }
    let mut answers = senders.join_all().await;
    let taken = peak(relay.pid()) - at_rest;
    answers.sort_unstable();
    eprintln!("{taken} bytes beyond {at_rest}; {answers:?}");
    // A reset may overtake an answer where the sender does not stop sending.
    assert!(answers.iter().all(|status| [0, 200, 503, 429].contains(status)), "{answers:?}");
    assert!(answers.contains(&200), "{answers:?}");
    // The bodies, the copy that is sent to the database, and what the connections hold.
    assert!(taken < 8 * BOUND, "{taken} bytes beyond rest");
    until("all room to be given back", || async {
        let bytes = relay.metric("posthaste_ingest_in_flight_bytes", "").await;
        let requests = relay.metric("posthaste_ingest_in_flight", "").await;
        (bytes == 0.0 && requests == 0.0).then_some(())
    })
    .await;
    let client = database.client().await;
    let stored = value::<i64>(&client, "select count(*) from posthaste.outbox").await;
    let said = answers.iter().filter(|&&status| status == 200).count();
    assert!(stored >= i64::try_from(said).unwrap());
}

#[tokio::test]
async fn a_stop_answers_what_had_come_and_lets_no_new_sender_in() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let mut relay = Relay::on(&database.url()).taking_in().start().await;
    let locker = database.client().await;
    locker.batch_execute("begin; lock table posthaste.received in share mode").await.unwrap();
    let mut senders = JoinSet::new();
    for n in 0..10 {
        let door = relay.door();
        senders.spawn(async move {
            let mut line = Line::to(door).await.unwrap();
            let answer = line.shop(&format!("id {n}"), "{}").await.unwrap();
            line.ended().await;
            answer.status
        });
    }
    until("all to wait", || async {
        (relay.metric("posthaste_ingest_in_flight", "").await == 10.0).then_some(())
    })
    .await;
    waits_for_a_lock(&client, "receive").await;
    let mut idle = Line::to(relay.door()).await.unwrap();
    relay.signal("TERM");
    idle.ended().await;
    until("the door to be shut", || async { TcpStream::connect(relay.door()).await.err() }).await;
    locker.batch_execute("commit").await.unwrap();
    assert!(senders.join_all().await.iter().all(|&status| status == 200));
    assert_eq!(relay.exit().await.code(), Some(0));
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.outbox").await, 10);
}
