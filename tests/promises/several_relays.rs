//! Several relays on one database: they share the work, and an endpoint's limits hold over all of
//! them.

use crate::support::{
    Gate, Receiver, Relay, Reply, TestDatabase, endpoint, event, holds, inconsistencies, settled,
    value,
};

/// Inserts so many events at once.
async fn many(client: &tokio_postgres::Client, event_type: &str, count: u32) {
    let many = format!(
        "insert into posthaste.outbox (event_type, payload) \
         select '{event_type}', '{{}}' from generate_series(1, {count})"
    );
    client.batch_execute(&many).await.unwrap();
}

#[tokio::test]
async fn max_concurrency_holds_over_all_relays() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (limited, free) = (Receiver::start().await, Receiver::start().await);
    let gate = Gate::default();
    limited.otherwise(Reply::ok().held_by(&gate));
    // One at a time, of which each is served by one relay, and two, which three cannot share alike.
    let add = |path: &str, most: u32| {
        let limited = endpoint(&limited.url(path)).with("max_concurrency", most);
        limited.with("subscriptions", "{limited}")
    };
    add("/one", 1).add(&client).await;
    add("/another", 1).add(&client).await;
    add("/two", 2).add(&client).await;
    endpoint(&free.url("/")).with("subscriptions", "{free}").add(&client).await;
    let relay = || {
        let relay = Relay::on(&database.url()).set("relay.poll_interval", "50ms");
        relay.set("delivery.timeout", "10m").start()
    };
    let relays = [relay().await, relay().await, relay().await];
    // The third knew of the others when it began.
    for relay in &relays[..2] {
        relay.logs(r#""limits are divided anew","relays":3"#).await;
    }

    many(&client, "limited", 60).await;
    limited.wait_for(4).await;
    // All relays have claimed and sent since then, and could have sent more.
    many(&client, "free", 500).await;
    free.wait_for(500).await;
    let paths = |receiver: &Receiver| {
        let mut paths: Vec<_> = receiver.received().into_iter().map(|one| one.path).collect();
        paths.sort();
        paths
    };
    assert_eq!(paths(&limited), ["/another", "/one", "/two", "/two"]);
    gate.open();
    settled(&client).await;
    assert_eq!(limited.received().len(), 180);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_rate_limit_holds_over_all_relays() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).with("rate_limit", 10).add(&client).await;
    let relay = || {
        let relay = Relay::on(&database.url()).set("relay.poll_interval", "50ms");
        relay.set("relay.heartbeat", "200ms").start()
    };
    let _relays = tokio::join!(relay(), relay(), relay());
    holds(&client, "count(*) = 3 from posthaste.relays where heartbeat_at > (select max(started_at) from posthaste.relays)").await;
    many(&client, "order.paid", 40).await;

    settled(&client).await;
    // A bucket holds one second's worth and is filled in another: not twice that of each relay.
    let fullest = "select max(count) from (select count(*) over (order by started_at \
         range between current row and interval '1 second' following) from posthaste.delivery_attempts) c";
    let fullest: i64 = value(&client, fullest).await;
    assert!(fullest <= 21, "{fullest} in one second");
    holds(&client, "count(distinct relay_id) = 3 from posthaste.delivery_attempts").await;
}

#[tokio::test]
async fn what_a_relay_took_when_it_was_alone_is_shared_with_those_that_join() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).with("rate_limit", 10).add(&client).await;
    let relay = || Relay::on(&database.url()).set("relay.heartbeat", "200ms").start();
    let _alone = relay().await;
    many(&client, "order.paid", 100).await;
    holds(&client, "count(*) > 50 from posthaste.live_deliveries where claimed_by is not null")
        .await;

    let _others = tokio::join!(relay(), relay());
    settled(&client).await;
    holds(&client, "count(distinct relay_id) = 3 from posthaste.delivery_attempts").await;
    holds(&client, "count(*) = 100 from posthaste.delivery_attempts where outcome = 'answered'")
        .await;
}

#[tokio::test]
async fn what_one_relay_serves_is_taken_over_by_another() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.otherwise(Reply::Hang);
    endpoint(&receiver.url("/")).with("max_concurrency", 1).add(&client).await;
    let relay = || Relay::on(&database.url()).set("relay.heartbeat", "200ms").start();
    let (one, other) = tokio::join!(relay(), relay());
    event("order.paid").add(&client).await;
    receiver.next().await;
    let holder: i32 = value(&client, "select claimed_by from posthaste.live_deliveries").await;
    receiver.otherwise(Reply::ok());
    let mut relays = [one, other];
    let sender = relays
        .iter()
        .position(|relay| relay.log().contains(&format!(r#"term began","relay":{holder}"#)))
        .expect("one of them is the holder");
    relays[sender].kill().await;

    settled(&client).await;
    assert_eq!(receiver.received().len(), 2);
    let taken_over = "array_agg(outcome order by started_at) = '{interrupted,answered}' \
         and count(distinct relay_id) = 2 from posthaste.delivery_attempts";
    holds(&client, taken_over).await;
}
