//! A dead, slow or hostile endpoint costs the others nothing, costs its own deliveries no attempts
//! while it is paused, and its owner is told.

use crate::support::{
    Gate, Received, Receiver, Relay, Reply, TestDatabase, attempted, endpoint, event, holds,
    settled, until, value,
};

#[tokio::test]
async fn a_hanging_endpoint_holds_its_own_window_and_no_other() {
    const EVENTS: usize = 200;
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let hanging = Receiver::start().await;
    hanging.otherwise(Reply::Hang);
    endpoint(&hanging.url("/")).add(&client).await;
    let mut others = Vec::new();
    for _ in 0..4 {
        let receiver = Receiver::start().await;
        endpoint(&receiver.url("/")).add(&client).await;
        others.push(receiver);
    }
    // No attempt ends by itself: a delivery behind the hanging one would wait for ever.
    let relay = Relay::on(&database.url()).set("delivery.timeout", "10m");
    let relay = relay.set("relay.poll_interval", "100ms").set("delivery.initial_window", "8");
    let relay = relay.start().await;
    let many = format!(
        "insert into posthaste.outbox (event_type, payload) \
         select 'order.paid', '{{}}' from generate_series(1, {EVENTS})"
    );
    client.execute(&many, &[]).await.unwrap();

    for receiver in &others {
        assert_eq!(receiver.wait_for(EVENTS).await.len(), EVENTS);
    }
    holds(&client, &format!("count(*) = {} from posthaste.delivery_attempts", 4 * EVENTS)).await;
    until("the gauge of requests in flight", || async {
        (relay.metric("posthaste_in_flight", "").await == 8.0).then_some(())
    })
    .await;
    client.execute(&many, &[]).await.unwrap();
    for receiver in &others {
        assert_eq!(receiver.wait_for(2 * EVENTS).await.len(), 2 * EVENTS);
    }
    holds(&client, &format!("count(*) = {} from posthaste.delivery_attempts", 8 * EVENTS)).await;
    assert_eq!(hanging.received().len(), 8, "its window, and not a request more");
    let left = "select count(*) from posthaste.live_deliveries";
    assert_eq!(value::<i64>(&client, left).await, i64::try_from(2 * EVENTS).unwrap());
}

#[tokio::test]
async fn an_endpoint_that_was_fast_and_hangs_leaves_claims_to_the_others() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (fast, other) = (Receiver::start().await, Receiver::start().await);
    endpoint(&fast.url("/")).with("subscriptions", "{fast}").add(&client).await;
    endpoint(&other.url("/")).with("subscriptions", "{other}").add(&client).await;
    let relay = Relay::on(&database.url()).set("delivery.timeout", "10m");
    let _relay = relay.set("relay.max_in_flight", "16").start().await;
    let many = async |count: usize| {
        let many = format!(
            "insert into posthaste.outbox (event_type, payload) \
             select 'fast', '{{}}' from generate_series(1, {count})"
        );
        client.batch_execute(&many).await.unwrap();
    };
    many(100).await;
    fast.wait_for(100).await;
    settled(&client).await;

    // Believed to be fast, it is given more than it will ever send.
    fast.otherwise(Reply::Hang);
    many(1_000).await;
    holds(&client, "count(*) = 1000 from posthaste.live_deliveries").await;
    for number in 1..=20 {
        event("other").add(&client).await;
        other.wait_for(number).await;
    }
}

#[tokio::test]
async fn a_paused_endpoint_is_left_alone_and_its_deliveries_spend_no_attempts() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (dead, alive) = (Receiver::start().await, Receiver::start().await);
    dead.otherwise(Reply::status(500));
    let row = endpoint(&dead.url("/")).with("schedule", "{1 s}").with("max_attempts", 1000);
    let id = row.with("max_concurrency", 1).add(&client).await;
    endpoint(&alive.url("/")).add(&client).await;
    let relay = Relay::on(&database.url()).set("health.failure_threshold", "3");
    let relay = relay.set("health.first_pause", "1h").set("delivery.initial_window", "1");
    let relay = relay.set("relay.poll_interval", "50ms").start().await;
    let first = event("order.paid").add(&client).await;
    let paused =
        format!("state = 'paused' from posthaste.endpoint_health where endpoint_id = {id}");
    holds(&client, &paused).await;
    for _ in 0..10 {
        event("order.paid").add(&client).await;
    }

    // Routed, claimed and recorded around it, more than once.
    alive.wait_for(11).await;
    let last = event("order.paid").add(&client).await;
    attempted(&client, last, 1).await;
    assert_eq!(dead.received().len(), 3);
    let mine = format!("from posthaste.live_deliveries where endpoint_id = {id}");
    let left_alone = format!(
        "count(*) = 12 and sum(attempt_count) <= 3 and bool_and(claimed_by is null) {mine}"
    );
    holds(&client, &left_alone).await;
    let status = "select health from posthaste.endpoint_status where pending = 12";
    assert_eq!(value::<String>(&client, status).await, "paused");
    let why = format!("select why from posthaste.explain({first}) where endpoint_id = {id}");
    let why: String = value(&client, &why).await;
    assert!(why.starts_with("endpoint paused until "), "{why}");
    assert_eq!(relay.metric("posthaste_endpoints_paused_total", "").await, 1.0);

    // A person who has fixed it need not wait.
    dead.otherwise(Reply::ok());
    let enable = format!("select was from posthaste.enable_endpoint({id})");
    assert_eq!(value::<String>(&client, &enable).await, "paused");
    settled(&client).await;
}

#[tokio::test]
async fn one_probe_finds_out_that_an_endpoint_is_back_and_its_owner_is_told() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (flaky, watcher, everything) =
        (Receiver::start().await, Receiver::start().await, Receiver::start().await);
    let gate = Gate::default();
    // The third over a kept connection, and so it comes twice.
    flaky.script([Reply::status(500), Reply::status(503), Reply::Reset, Reply::Reset]);
    flaky.otherwise(Reply::ok().held_by(&gate));
    let row = endpoint(&flaky.url("/")).with("schedule", "{1 s}").with("max_attempts", 1000);
    let id = row.with("subscriptions", "{order.*}").add(&client).await;
    let told = "{posthaste.endpoint.*,posthaste.delivery.dead}";
    endpoint(&watcher.url("/")).with("subscriptions", told).add(&client).await;
    endpoint(&everything.url("/")).add(&client).await;
    let relay = Relay::on(&database.url()).set("health.failure_threshold", "3");
    let relay = relay.set("health.first_pause", "1s").set("delivery.initial_window", "1");
    let _relay = relay.set("relay.poll_interval", "50ms").start().await;
    event("order.paid").add(&client).await;

    let paused = watcher.next().await.json();
    assert_eq!(
        (&paused["type"], &paused["data"]["endpoint_id"]),
        (&"posthaste.endpoint.paused".into(), &id.into())
    );
    assert_eq!(paused["data"]["consecutive_failures"], 3);
    for _ in 0..10 {
        event("order.paid").add(&client).await;
    }
    flaky.wait_for(5).await;
    // While the probe is out, others go on and this one waits.
    everything.wait_for(11).await;
    let last = event("order.paid").add(&client).await;
    attempted(&client, last, 1).await;
    assert_eq!(flaky.received().len(), 5);
    gate.open();

    let recovered = watcher.next().await.json();
    assert_eq!(recovered["type"], "posthaste.endpoint.recovered");
    assert_eq!(recovered["data"]["endpoint_id"], id);
    settled(&client).await;
    assert_eq!(flaky.received().len(), 4 + 12);
    holds(
        &client,
        &format!("state = 'flowing' from posthaste.endpoint_health where endpoint_id = {id}"),
    )
    .await;
    let types: Vec<_> =
        everything.received().iter().map(|one| one.json()["type"].clone()).collect();
    assert!(types.iter().all(|event_type| event_type == "order.paid"), "{types:?}");
    assert_eq!((types.len(), watcher.received().len()), (12, 2));
}

#[tokio::test]
async fn the_owner_is_told_what_was_given_up_and_what_was_disabled() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (gone, watcher) = (Receiver::start().await, Receiver::start().await);
    gone.script([Reply::status(410)]);
    let id = endpoint(&gone.url("/")).with("subscriptions", "{order.*}").add(&client).await;
    endpoint(&watcher.url("/")).with("subscriptions", "{posthaste.*}").add(&client).await;
    let _relay = Relay::start(&database).await;
    let event = event("order.paid").add(&client).await;

    let mut told: Vec<_> = watcher.wait_for(2).await.iter().map(Received::json).collect();
    told.sort_by_key(|one| one["type"].to_string());
    let types: Vec<_> = told.iter().map(|one| one["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["posthaste.delivery.dead", "posthaste.endpoint.disabled"]);
    assert_eq!(
        (&told[0]["data"]["event_id"], &told[0]["data"]["status"]),
        (&event.into(), &410.into())
    );
    assert_eq!(told[1]["data"]["endpoint_id"], id);
    assert_eq!(told[1]["data"]["reason"], "rule 'gone': answered 410");
}

#[tokio::test]
async fn workers_that_went_home_are_hired_again() {
    const ENDPOINTS: usize = 20;
    const EVENTS: usize = 100;
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    for _ in 0..ENDPOINTS {
        endpoint(&receiver.url("/")).with("max_concurrency", 1).add(&client).await;
    }
    let relay = Relay::on(&database.url()).set("delivery.idle_timeout", "2ms");
    let _relay = relay.set("delivery.initial_window", "1").start().await;
    // They come about when the workers' patience ends: before, after, and in that moment.
    for number in 1..=EVENTS {
        event("order.paid").add(&client).await;
        receiver.wait_for(number * ENDPOINTS).await;
    }
    settled(&client).await;
    assert_eq!(receiver.received().len(), EVENTS * ENDPOINTS);
}
