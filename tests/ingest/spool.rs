//! The spool: what comes while the database is away is kept on disk, and becomes an event when it
//! is back: each once, in order, whatever was killed meanwhile.

use std::fs;
use std::path::Path;

use posthaste::sandbox::postgres::StopMode;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::support::{
    Line, Receiver, Relay, RelayBuilder, Server, TestDatabase, Wire, endpoint, inconsistencies,
    settled, until, value, waits_for_a_lock,
};

fn spooling(url: &str, spool: &Path) -> RelayBuilder {
    Relay::on(url)
        .taking_in()
        .set("ingest.spool", spool.to_str().unwrap())
        .set("ingest.sources.shop.ordering_key", "header:x-key")
}

/// A receiver that gets them one by one, in the order in which they were committed.
async fn in_order(client: &Client) -> Receiver {
    let receiver = Receiver::start().await;
    let row = endpoint(&receiver.url("/")).with("body_format", "raw");
    row.with("ordered", true).with("max_concurrency", 1).add(client).await;
    receiver
}

/// Sends number n, one after the other; returns the status.
async fn send(line: &mut Line, n: usize) -> u16 {
    let headers = [
        ("authorization", "Bearer s3cret"),
        ("idempotency-key", &*format!("id {n}")),
        ("x-key", "all"),
    ];
    line.post("/in/shop", &headers, n.to_string()).await.unwrap().status
}

fn numbers(receiver: &Receiver) -> Vec<usize> {
    let number = |body: Vec<u8>| String::from_utf8(body).unwrap().parse().unwrap();
    receiver.received().into_iter().map(|received| number(received.body)).collect()
}

async fn spool_is_empty(relay: &Relay) {
    until("the spool to be empty", || async { (relay.spool().await["files"] == 0).then_some(()) })
        .await;
}

fn files(spool: &Path, kind: &str) -> Vec<String> {
    let names = fs::read_dir(spool).unwrap().map(|file| file.unwrap().file_name());
    let names = names.map(|name| name.to_str().unwrap().to_owned());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(kind)).collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_comes_while_the_database_is_away_arrives_once_and_in_order_when_it_is_back() {
    let mut server = Server::start(&[]).await;
    let spool = tempfile::tempdir().unwrap();
    let receiver = in_order(&server.client().await).await;
    let relay = spooling(&server.url(), spool.path()).start().await;
    let mut line = Line::to(relay.door()).await.unwrap();
    for n in 0..10 {
        assert_eq!(send(&mut line, n).await, 200);
    }
    server.stop(StopMode::Fast).await;
    for n in 10..30 {
        assert_eq!(send(&mut line, n).await, 202);
    }
    let said = relay.spool().await;
    assert_eq!((&said["files"], &said["is_full"]), (&20.into(), &false.into()));
    assert_eq!(relay.metric("posthaste_spool_files", "").await, 20.0);
    assert_eq!(files(spool.path(), ".event").len(), 20);
    // No other user may read them.
    let mode = fs::metadata(spool.path().join(&files(spool.path(), ".event")[0])).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);

    server.start_again().await;
    // While it is emptied, more comes, and some of it again.
    let mut statuses = Vec::new();
    for n in 25..200 {
        statuses.push(send(&mut line, n).await);
    }
    assert!(statuses.iter().all(|status| [200, 202].contains(status)), "{statuses:?}");
    spool_is_empty(&relay).await;
    assert_eq!(send(&mut line, 200).await, 200);
    let client = server.client().await;
    settled(&client).await;
    receiver.wait_for(201).await;
    assert_eq!(numbers(&receiver), (0..201).collect::<Vec<_>>());
    assert_eq!(files(spool.path(), ".event"), [""; 0]);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_is_emptied_although_more_comes_all_the_while() {
    const SENDERS: usize = 16;
    let mut server = Server::start(&[]).await;
    let spool = tempfile::tempdir().unwrap();
    let relay = spooling(&server.url(), spool.path()).start().await;
    server.stop(StopMode::Fast).await;
    let (over, is_over) = tokio::sync::watch::channel(false);
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let (door, is_over) = (relay.door(), is_over.clone());
        senders.spawn(async move {
            let mut line = Line::to(door).await.unwrap();
            let mut sent = 0;
            // None of them waits for anything but its answer.
            while !*is_over.borrow() {
                let answer =
                    line.shop(&format!("{sender}-{sent}"), sent.to_string()).await.unwrap();
                assert!([200, 202].contains(&answer.status), "{answer:?}");
                sent += 1;
            }
            sent
        });
    }
    let many =
        async |many: u64| (relay.spool().await["files"].as_u64() >= Some(many)).then_some(());
    until("the spool to fill", || many(1000)).await;
    server.start_again().await;
    spool_is_empty(&relay).await;
    over.send(true).unwrap();
    let sent: i64 = senders.join_all().await.into_iter().sum();
    let client = server.client().await;
    spool_is_empty(&relay).await;
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.outbox").await, sent);
}

#[tokio::test]
async fn a_relay_that_is_started_while_the_database_is_away_takes_in_and_finds_what_was_left() {
    let mut server = Server::start(&[]).await;
    let spool = tempfile::tempdir().unwrap();
    let receiver = in_order(&server.client().await).await;
    server.stop(StopMode::Fast).await;
    let start = || spooling(&server.url(), spool.path()).set("database.startup_timeout", "0s");
    let mut first = start().spawn();
    first.lets_in().await;
    let mut line = Line::to(first.door()).await.unwrap();
    for n in 0..5 {
        assert_eq!(send(&mut line, n).await, 202);
    }
    first.kill().await;
    // As if it had been killed at the next one, and a disk had lost half of another.
    let names = files(spool.path(), ".event");
    let whole = fs::read(spool.path().join(&names[4])).unwrap();
    fs::write(spool.path().join("00000000000000000006.unfinished"), &whole[..whole.len() / 2])
        .unwrap();
    let cut = spool.path().join("00000000000000000007.event");
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();

    let mut second = start().spawn();
    second.lets_in().await;
    assert_eq!(files(spool.path(), ".unfinished"), [""; 0]);
    let mut line = Line::to(second.door()).await.unwrap();
    for n in 5..10 {
        assert_eq!(send(&mut line, n).await, 202);
    }
    let other = spooling(&server.url(), spool.path()).spawn();
    other.logs("is in use by another process").await;

    server.start_again().await;
    second.ready().await;
    spool_is_empty(&second).await;
    receiver.wait_for(10).await;
    let client = server.client().await;
    settled(&client).await;
    assert_eq!(numbers(&receiver), (0..10).collect::<Vec<_>>());
    assert_eq!(files(spool.path(), ".set-aside"), ["00000000000000000007.set-aside"]);
    second.logs("it is not whole").await;
    assert_eq!(second.spool().await["set_aside"], 1);
}

#[tokio::test]
async fn a_full_spool_is_said_to_the_sender_and_takes_in_again_when_it_is_emptied() {
    let mut server = Server::start(&[]).await;
    let spool = tempfile::tempdir().unwrap();
    let relay = spooling(&server.url(), spool.path()).set("ingest.spool_files", "3").start().await;
    server.stop(StopMode::Fast).await;
    let mut line = Line::to(relay.door()).await.unwrap();
    for n in 0..3 {
        assert_eq!(send(&mut line, n).await, 202);
    }
    let answer = line.shop("id 3", "{}").await.unwrap();
    assert_eq!(answer.status, 503);
    assert!(answer.problem().contains("no room"));
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!(relay.spool().await["is_full"], true);
    server.start_again().await;
    spool_is_empty(&relay).await;
    assert_eq!(send(&mut line, 3).await, 200);
    let client = server.client().await;
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.outbox").await, 4);
}

#[tokio::test]
async fn a_spool_is_bounded_in_bytes() {
    let server = Server::start(&[]).await;
    let wire = Wire::to(server.port()).await;
    let spool = tempfile::tempdir().unwrap();
    let relay = spooling(&wire.url(&server.url()), spool.path())
        .set("ingest.spool_bytes", "64KiB")
        .start()
        .await;
    wire.refuse().await;
    let mut line = Line::to(relay.door()).await.unwrap();
    let body = format!("{:?}", "x".repeat(20_000));
    let mut statuses = Vec::new();
    for n in 0..5 {
        statuses.push(line.shop(&n.to_string(), &body).await.unwrap().status);
    }
    assert_eq!(statuses, [202, 202, 202, 503, 503]);
    assert!(relay.spool().await["bytes"].as_u64().unwrap() <= 65_536);
}

#[tokio::test]
async fn without_a_spool_the_sender_is_told_to_come_again() {
    let server = Server::start(&[]).await;
    let wire = Wire::to(server.port()).await;
    let relay = Relay::on(&wire.url(&server.url())).taking_in().start().await;
    wire.refuse().await;
    let mut line = Line::to(relay.door()).await.unwrap();
    let answer = line.shop("one", "{}").await.unwrap();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    assert_eq!(answer.problem(), "it cannot be kept now");
    wire.fix();
    until("it to be taken", || async {
        let mut line = Line::to(relay.door()).await.unwrap();
        (line.shop("one", "{}").await.unwrap().status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_commit_that_takes_too_long_goes_to_the_spool_and_is_one_event_all_the_same() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let spool = tempfile::tempdir().unwrap();
    let relay =
        spooling(&database.url(), spool.path()).set("ingest.commit_timeout", "300ms").start().await;
    let locker = database.client().await;
    locker.batch_execute("begin; lock table posthaste.received in share mode").await.unwrap();
    let mut line = Line::to(relay.door()).await.unwrap();
    // The statement that was given up is still there, and will be committed beside that of the
    // spool.
    assert_eq!(send(&mut line, 0).await, 202);
    waits_for_a_lock(&client, "receive").await;
    assert_eq!(send(&mut line, 1).await, 202);
    locker.batch_execute("commit").await.unwrap();
    spool_is_empty(&relay).await;
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.outbox").await, 2);
}

/// Holds up the first statement that comes there, and none that comes after it, as long as the test
/// has the lock.
fn gate(table: &str, when: &str) -> String {
    format!(
        "create sequence public.comers;
         create function public.hold_up_the_first() returns trigger language plpgsql as $$ begin
           if nextval('public.comers') = 1 then perform pg_advisory_xact_lock(1); end if;
           return new;
         end $$;
         create trigger held_up {when} insert on posthaste.{table}
           for each row execute function public.hold_up_the_first();"
    )
}

#[tokio::test]
async fn a_statement_that_still_runs_while_its_webhook_is_stored_from_the_spool_adds_nothing() {
    // Before it has noted the name, so that the spool's copy is the event; and after it has, so
    // that the copy waits to see what becomes of it.
    for (table, when, overtaken) in [("received", "before", true), ("outbox", "after", false)] {
        let database = TestDatabase::new().await;
        let client = database.client().await;
        client.batch_execute(&gate(table, when)).await.unwrap();
        let receiver = Receiver::start().await;
        endpoint(&receiver.url("/")).with("body_format", "raw").add(&client).await;
        let spool = tempfile::tempdir().unwrap();
        let relay = spooling(&database.url(), spool.path())
            .set("ingest.commit_timeout", "300ms")
            .start()
            .await;
        let locker = database.client().await;
        locker.batch_execute("select pg_advisory_lock(1)").await.unwrap();
        let mut line = Line::to(relay.door()).await.unwrap();
        assert_eq!(send(&mut line, 0).await, 202);
        let running = async || {
            let running = "select count(*) from pg_stat_activity where datname = current_database() \
                           and query like '-- receive:%' and state = 'active'";
            value::<i64>(&client, running).await
        };
        waits_for_a_lock(&client, "receive").await;
        if overtaken {
            spool_is_empty(&relay).await;
            receiver.wait_for(1).await;
            assert_eq!(running().await, 1, "the first is still under way");
        } else {
            until("the copy to wait for the first", || async {
                (running().await == 2).then_some(())
            })
            .await;
            assert_eq!(relay.spool().await["files"], 1);
        }
        locker.batch_execute("select pg_advisory_unlock(1)").await.unwrap();
        until("the first to end", || async { (running().await == 0).then_some(()) }).await;
        spool_is_empty(&relay).await;
        settled(&client).await;
        for table in ["outbox", "received"] {
            let rows = format!("select count(*) from posthaste.{table}");
            assert_eq!(value::<i64>(&client, &rows).await, 1, "{table}");
        }
        assert_eq!(numbers(&receiver), [0]);
        // And it is known under its name when it is sent again.
        let mut line = Line::to(relay.door()).await.unwrap();
        assert_eq!(send(&mut line, 0).await, 200);
        assert_eq!(value::<i64>(&client, "select count(*) from posthaste.outbox").await, 1);
        assert_eq!(inconsistencies(&client).await, [""; 0]);
    }
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_one_event() {
    let server = Server::start(&[]).await;
    let wire = Wire::to(server.port()).await;
    let spool = tempfile::tempdir().unwrap();
    let relay = spooling(&wire.url(&server.url()), spool.path())
        .set("ingest.commit_timeout", "300ms")
        .start()
        .await;
    let mut line = Line::to(relay.door()).await.unwrap();
    assert_eq!(send(&mut line, 0).await, 200);
    wire.lose_answers();
    // Without an id: what was drawn for it tells it apart.
    let token = [("authorization", "Bearer s3cret")];
    assert_eq!(line.post("/in/shop", &token, "1").await.unwrap().status, 202);
    let client = server.client().await;
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.outbox").await, 2);
    wire.cut().await;
    wire.fix();
    spool_is_empty(&relay).await;
    assert_eq!(relay.metric("posthaste_spool_stored_total", "").await, 1.0);
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.outbox").await, 2);
}

#[tokio::test]
async fn what_the_database_does_not_take_is_set_aside_and_holds_up_no_other_webhook() {
    let mut server = Server::start(&[]).await;
    let spool = tempfile::tempdir().unwrap();
    let strict = "alter table posthaste.outbox add constraint no_2 check (payload::text <> '2')";
    server.client().await.batch_execute(strict).await.unwrap();
    let relay = spooling(&server.url(), spool.path()).start().await;
    server.stop(StopMode::Fast).await;
    let mut line = Line::to(relay.door()).await.unwrap();
    for n in 0..5 {
        assert_eq!(send(&mut line, n).await, 202);
    }
    server.start_again().await;
    spool_is_empty(&relay).await;
    let client = server.client().await;
    let stored = "select string_agg(payload::text, ' ' order by id) from posthaste.outbox";
    assert_eq!(value::<String>(&client, stored).await, "0 1 3 4");
    assert_eq!(files(spool.path(), ".set-aside").len(), 1);
    assert_eq!(relay.metric("posthaste_spool_set_aside_total", "").await, 1.0);
}
