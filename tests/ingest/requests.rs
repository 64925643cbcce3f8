//! The front door: what is taken in, what is refused and with which words, and what is told apart.

use std::collections::BTreeSet;

use posthaste::store::{ROUTER_PLANS, SESSION};
use tokio::task::JoinSet;

use crate::support::{
    Line, Receiver, Relay, TestDatabase, endpoint, holds, inconsistencies, post, settled, value,
    waits_for_a_lock,
};

const TOKEN: (&str, &str) = ("authorization", "Bearer s3cret");

#[tokio::test]
async fn a_webhook_is_committed_before_it_is_answered_and_leaves_as_an_event() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).with("subscriptions", "{shop.*}").add(&client).await;
    let relay = Relay::on(&database.url())
        .taking_in()
        .set("ingest.sources.shop.event_type", "$.kind")
        .set("ingest.sources.shop.ordering_key", "$.order.id")
        .set("ingest.sources.shop.tenant", "acme")
        .set("ingest.sources.shop.headers", "x-shop-trace, x-e*")
        .start()
        .await;
    let body = "{\"kind\": \"Order/Paid now\",\n \"order\": {\"id\": 7, \"total\": 1.10e2}}";
    let headers = [TOKEN, ("x-shop-trace", "42"), ("cookie", "a=b"), ("x-echo", "it was s3cret")];
    let kept = serde_json::json!({"content-type": "application/json", "x-shop-trace": "42"});
    let answer = post(relay.door(), "/in/shop?any=thing", &headers, body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["status"], "stored");

    // Committed by the time of the answer: any session sees it.
    let event = client.query_one("select * from posthaste.outbox", &[]).await.unwrap();
    assert_eq!(event.get::<_, &str>("event_type"), "shop.order.paid_now");
    assert_eq!(event.get::<_, &str>("tenant"), "acme");
    assert_eq!(event.get::<_, &str>("ordering_key"), "7");
    assert_eq!(event.get::<_, serde_json::Value>("headers"), kept);

    let received = receiver.next().await;
    assert_eq!(received.id(), answer.id());
    assert_eq!(received.header("x-shop-trace"), Some("42"));
    let text = String::from_utf8(received.body.clone()).unwrap();
    assert!(text.ends_with(&format!("\"data\":{body}}}")), "{text}");
    settled(&client).await;
    let told = "select source || ' ' || received_recently from posthaste.ingest_status";
    assert_eq!(value::<String>(&client, told).await, "shop 1");
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn whatever_is_wrong_has_its_status_and_says_what_would_be_right() {
    let database = TestDatabase::new().await;
    let relay = Relay::on(&database.url())
        .taking_in()
        .set("ingest.sources.shop.event_type", "$.kind")
        .set("ingest.sources.shop.max_body", "64B")
        .set("ingest.sources.inside.secret", "s3cret")
        .set("ingest.sources.inside.clients", "10.0.0.0/8")
        .start()
        .await;
    let good = r#"{"kind": "a"}"#;
    let long = format!(r#"{{"kind": "{}"}}"#, "x".repeat(64));
    let wrong = ("authorization", "Bearer wr0ng");
    let form = ("content-type", "application/x-www-form-urlencoded");
    let gzip = ("content-encoding", "gzip");
    for (path, headers, body, status, said) in [
        ("/in/shop", &[TOKEN][..], &b"{\"kind\": "[..], 400, "the body is not JSON"),
        ("/in/shop", &[TOKEN], b"{\"kind\": \"\xff\"}", 400, "the body is not UTF-8"),
        ("/in/shop", &[TOKEN], b"", 400, "the body is not JSON"),
        ("/in/shop", &[], good.as_bytes(), 401, "Authorization is missing"),
        ("/in/shop", &[wrong], good.as_bytes(), 401, "the token does not match"),
        ("/in/shop", &[wrong], b"not json", 401, "the token does not match"),
        ("/in/inside", &[TOKEN], good.as_bytes(), 403, "this address may not send here"),
        ("/in/other", &[TOKEN], good.as_bytes(), 404, "there is no such source"),
        ("/in/shop/", &[TOKEN], good.as_bytes(), 404, "there is no such source"),
        ("/metrics", &[TOKEN], good.as_bytes(), 404, "there is no such source"),
        ("/in/shop", &[TOKEN], long.as_bytes(), 413, "longer than the 64 bytes"),
        ("/in/shop", &[TOKEN, form], b"kind=a", 415, "send application/json"),
        ("/in/shop", &[TOKEN, gzip], good.as_bytes(), 415, "without a content-encoding"),
        ("/in/shop", &[TOKEN], b"{}", 422, "is missing"),
        ("/in/shop", &[TOKEN], br#"{"kind": " . "}"#, 422, "is no event type"),
        ("/in/shop", &[TOKEN], br#"{"kind": {"a": 1}}"#, 422, "is missing"),
    ] {
        let answer = post(relay.door(), path, headers, body).await;
        let what = format!("{path} {headers:?} {:?}", String::from_utf8_lossy(body));
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        let problem = answer.problem();
        assert!(problem.contains(said), "{what}: {problem}");
        assert!(!problem.contains("s3cret") && !problem.contains("wr0ng"), "{problem}");
    }
    for (request, status, said) in [
        ("GET /in/shop HTTP/1.1\r\nhost: x\r\n\r\n", 405, "write POST"),
        (
            "POST /in/shop HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\r\n",
            411,
            "content-length",
        ),
        ("POST /in/shop HTTP/1.1\r\nhost: x\r\n\r\n", 415, "content-type is missing"),
        (
            "POST /in/shop HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             authorization: Bearer s3cret\r\ntransfer-encoding: chunked\r\n\r\n28\r\n\
             aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n28\r\n\
             aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n0\r\n\r\n",
            413,
            "longer than the 64 bytes",
        ),
        (
            "POST /in/shop HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             authorization: Bearer s3cret\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            400,
            "ended before its end",
        ),
    ] {
        let mut line = Line::to(relay.door()).await.unwrap();
        line.say(request).await.unwrap();
        let answer = line.hear().await.unwrap();
        assert_eq!(answer.status, status, "{request}: {answer:?}");
        assert!(answer.problem().contains(said), "{request}: {answer:?}");
        if status == 405 {
            assert_eq!(answer.header("allow"), Some("POST"));
        }
    }
    let client = database.client().await;
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.outbox").await, 0);
    assert_eq!(relay.metric("posthaste_ingest_requests_total", "\"401\"").await, 3.0);
    // A good one is taken, so it was not for another reason that the others were refused.
    assert_eq!(post(relay.door(), "/in/shop", &[TOKEN], good).await.status, 200);
}

#[tokio::test]
async fn what_is_sent_again_under_its_id_is_one_event_and_answered_alike() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let mut relay = Relay::on(&database.url()).taking_in().start().await;
    let mut line = Line::to(relay.door()).await.unwrap();
    let first = line.shop("one", r#"{"n": 1}"#).await.unwrap();
    let again = line.shop("one", r#"{"n": 2}"#).await.unwrap();
    assert_eq!((first.status, again.status), (200, 200));
    assert_eq!(again.json(), serde_json::json!({"status": "duplicate", "id": first.id()}));

    // Side by side, and in one batch: the first to be stored is held up until all have come.
    let locker = database.client().await;
    let lock = "begin; lock table posthaste.received in share mode";
    locker.batch_execute(lock).await.unwrap();
    let mut senders = JoinSet::new();
    for _ in 0..20 {
        let door = relay.door();
        senders
            .spawn(async move { Line::to(door).await.unwrap().shop("two", "{}").await.unwrap() });
    }
    let all_wait = async || relay.metric("posthaste_ingest_in_flight", "").await == 20.0;
    while !all_wait().await {
        tokio::task::yield_now().await;
    }
    locker.batch_execute("commit").await.unwrap();
    let answers = senders.join_all().await;
    let ids: BTreeSet<_> = answers.iter().map(|answer| answer.json()["id"].to_string()).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let new = answers.iter().filter(|answer| answer.json()["status"] == "stored").count();
    assert_eq!(new, 1);

    // Another source may have the same id, and another process knows what this one knew.
    relay.kill().await;
    let relay = Relay::on(&database.url())
        .taking_in()
        .set("ingest.sources.other.secret", "s3cret")
        .start()
        .await;
    let mut line = Line::to(relay.door()).await.unwrap();
    assert_eq!(line.shop("one", "{}").await.unwrap().id(), first.id());
    let headers = [TOKEN, ("idempotency-key", "one")];
    let other = line.post("/in/other", &headers, "{}").await.unwrap();
    assert_eq!(other.json()["status"], "stored");
    // Two webhooks without an id are never the same.
    for _ in 0..2 {
        let unnamed = line.post("/in/shop", &[TOKEN], "{}").await.unwrap();
        assert_eq!(unnamed.json()["status"], "stored");
    }
    let long = "x".repeat(255);
    assert_eq!(line.shop(&long, "{}").await.unwrap().json()["status"], "stored");
    assert_eq!(line.shop(&long, "{}").await.unwrap().json()["status"], "duplicate");
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.outbox").await, 6);
}

#[tokio::test]
async fn two_relays_take_what_is_sent_to_both_for_one() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (one, other) = tokio::join!(
        Relay::on(&database.url()).taking_in().start(),
        Relay::on(&database.url()).taking_in().start()
    );
    let mut senders = JoinSet::new();
    for n in 0..100 {
        for door in [one.door(), other.door()] {
            senders.spawn(async move {
                let mut line = Line::to(door).await.unwrap();
                line.shop(&format!("id {n}"), "{}").await.unwrap().status
            });
        }
    }
    assert!(senders.join_all().await.iter().all(|&status| status == 200));
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.outbox").await, 100);
    let noted = "select count(*) from posthaste.received r join posthaste.outbox o \
                 on o.id = r.event_id and o.created_at = r.event_created_at";
    assert_eq!(value::<i64>(&client, noted).await, 100);
}

#[tokio::test]
async fn requests_that_come_together_share_a_commit() {
    const REQUESTS: usize = 100;
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let relay = Relay::on(&database.url()).taking_in().start().await;
    let locker = database.client().await;
    locker.batch_execute("begin; lock table posthaste.received in share mode").await.unwrap();
    let mut senders = JoinSet::new();
    for n in 0..REQUESTS {
        let door = relay.door();
        senders.spawn(async move {
            let mut line = Line::to(door).await.unwrap();
            line.shop(&format!("id {n}"), "{}").await.unwrap().status
        });
        if n == 0 {
            // The first is alone in its statement, and keeps the others waiting.
            waits_for_a_lock(&client, "receive").await;
        }
    }
    while relay.metric("posthaste_ingest_in_flight", "").await < 100.0 {
        tokio::task::yield_now().await;
    }
    locker.batch_execute("commit").await.unwrap();
    assert!(senders.join_all().await.iter().all(|&status| status == 200));
    let commits = "select count(distinct xid) from posthaste.outbox";
    assert_eq!(value::<i64>(&client, commits).await, 2);
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.outbox").await, 100);
}

#[tokio::test]
async fn what_is_known_is_looked_up_by_its_key_whatever_the_statistics_say() {
    const RECEIVE: &str = include_str!("../../sql/queries/receive.sql");
    const TRIM: &str = include_str!("../../sql/queries/trim_received.sql");
    let database = TestDatabase::new().await;
    let client = database.client().await;
    client.batch_execute(&format!("{SESSION}{ROUTER_PLANS}")).await.unwrap();
    client
        .batch_execute(&format!("prepare receive as {RECEIVE}; prepare trim as {TRIM}"))
        .await
        .unwrap();
    let fill = "insert into posthaste.received \
                select 's' || n % 3, n::text, n, now() from generate_series(1, 20000) n";
    for statistics in ["", "analyze posthaste.received", fill, "analyze posthaste.received"] {
        client.batch_execute(statistics).await.unwrap();
        for (execute, index) in [
            (
                "receive('{a}', '{1}', '{a}', '{1}', '{null}', '{null}', '{\"{}\"}')",
                "received_pkey",
            ),
            ("trim(60)", "received_by_source"),
        ] {
            let explain = format!("explain execute {execute}");
            let plan: Vec<String> =
                client.query(&explain, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
            let plan = plan.join("\n");
            assert!(plan.contains(index), "{statistics}\n{plan}");
            assert!(!plan.contains("Seq Scan on received"), "{statistics}\n{plan}");
        }
    }
    // A name that is not there is found missing at once: names behind it under its source are not
    // read as well.
    let explain = "explain (analyze, buffers, timing off) \
                   execute receive('{s1}', '{10x}', '{a}', '{1}', '{null}', '{null}', '{\"{}\"}')";
    let plan: Vec<String> =
        client.query(explain, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let from = plan.iter().position(|line| line.contains("using received_pkey")).unwrap();
    let buffers = plan[from..].iter().find_map(|line| line.split_once("shared hit=")).unwrap().1;
    let buffers: u32 = buffers.split(' ').next().unwrap().parse().unwrap();
    assert!(buffers <= 8, "{buffers} of them:\n{}", plan.join("\n"));
}

#[tokio::test]
async fn what_the_database_does_not_take_is_refused_and_what_came_with_it_is_kept() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let relay = Relay::on(&database.url())
        .taking_in()
        .set("ingest.sources.shop.event_type", "$.kind")
        .start()
        .await;
    let strict =
        "alter table posthaste.outbox add constraint no_bad check (event_type <> 'shop.bad')";
    client.batch_execute(strict).await.unwrap();
    let locker = database.client().await;
    locker.batch_execute("begin; lock table posthaste.received in share mode").await.unwrap();
    let mut senders = JoinSet::new();
    for kind in ["good", "bad", "better"] {
        let door = relay.door();
        senders.spawn(async move {
            let mut line = Line::to(door).await.unwrap();
            let answer = line.shop(kind, format!(r#"{{"kind": "{kind}"}}"#)).await.unwrap();
            (kind, answer.status)
        });
    }
    while relay.metric("posthaste_ingest_in_flight", "").await < 3.0 {
        tokio::task::yield_now().await;
    }
    locker.batch_execute("commit").await.unwrap();
    let answers: BTreeSet<_> = senders.join_all().await.into_iter().collect();
    assert_eq!(answers, BTreeSet::from([("bad", 422), ("better", 200), ("good", 200)]));
    assert_eq!(relay.get("/live").await.unwrap().0, 200);
}

#[tokio::test]
async fn what_senders_called_their_deliveries_is_forgotten_after_its_time() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let old = "insert into posthaste.received \
               select s, n::text, n, now(), now() - n * interval '1 hour' \
               from generate_series(1, 200) n, unnest(array['a', 'b']) s";
    client.batch_execute(old).await.unwrap();
    let _relay = Relay::on(&database.url()).start().await;
    // Seven days.
    let kept = "count(*) = 2 * 167 and max(event_id) = 167 from posthaste.received";
    holds(&client, kept).await;
}
