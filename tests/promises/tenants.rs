//! What one tenant's endpoints and events cost another tenant: neither its places nor its bytes,
//! and no wait behind a backlog.

use crate::support::{
    Gate, Receiver, Relay, Reply, TestDatabase, endpoint, event, holds, inconsistencies, settled,
    until, value,
};

async fn in_flight(relay: &Relay, expected: f64) {
    until("the gauge of requests in flight", || async {
        (relay.metric("posthaste_in_flight", "").await == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_tenant_whose_endpoints_all_hang_leaves_places_and_claims_to_the_others() {
    const ENDPOINTS: usize = 150;
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (hanging, other, of_none) =
        (Receiver::start().await, Receiver::start().await, Receiver::start().await);
    hanging.otherwise(Reply::Hang);
    for _ in 0..ENDPOINTS {
        endpoint(&hanging.url("/")).with("tenant", "acme").add(&client).await;
    }
    endpoint(&other.url("/")).with("tenant", "globex").add(&client).await;
    endpoint(&of_none.url("/")).add(&client).await;
    // No attempt ends by itself.
    let start = async || {
        let relay = Relay::on(&database.url()).set("delivery.timeout", "10m");
        let relay = relay.set("relay.max_in_flight", "32").set("relay.poll_interval", "100ms");
        relay.start().await
    };
    let mut relay = start().await;
    for _ in 0..3 {
        event("order.paid").with("tenant", "acme").add(&client).await;
    }
    // Each endpoint would have one and more, of 32 places and of 128 claims.
    in_flight(&relay, 24.0).await;
    // Three quarters of 128.
    let claimed = format!(
        "count(*) = 96 from posthaste.live_deliveries \
         where claimed_by is not null and endpoint_id <= {ENDPOINTS}"
    );
    let others_get = async |number: usize| {
        event("order.paid").with("tenant", "globex").add(&client).await;
        event("order.paid").add(&client).await;
        other.wait_for(number).await;
        // It gets every tenant's: those of the first tenant as well.
        of_none.wait_for(3 + 2 * number).await;
    };
    for number in 1..=10 {
        others_get(number).await;
    }
    holds(&client, &claimed).await;

    // The same from what is due: claimed by a statement that routes nothing.
    relay.kill().await;
    let relay = start().await;
    in_flight(&relay, 24.0).await;
    for number in 11..=20 {
        others_get(number).await;
    }
    holds(&client, &claimed).await;
}

#[tokio::test]
async fn another_tenants_events_overtake_a_backlog_and_arrive_once() {
    const FLOOD: i64 = 3_000;
    const OTHERS: usize = 20;
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (slow, other) = (Receiver::start().await, Receiver::start().await);
    let gate = Gate::default();
    slow.otherwise(Reply::ok().held_by(&gate));
    endpoint(&slow.url("/")).with("tenant", "acme").add(&client).await;
    endpoint(&other.url("/")).with("tenant", "globex").add(&client).await;
    let relay = Relay::on(&database.url()).set("delivery.timeout", "10m");
    // A step takes ten events, and 20 ms where the lane does not move: six seconds for all.
    let relay = relay.set("relay.batch", "10").start().await;
    let flood = format!(
        "insert into posthaste.outbox (event_type, payload, tenant) \
         select 'order.paid', '{{}}', 'acme' from generate_series(1, {FLOOD})"
    );
    client.batch_execute(&flood).await.unwrap();
    for number in 1..=OTHERS {
        event("order.paid").with("tenant", "globex").add(&client).await;
        other.wait_for(number).await;
    }
    let unrouted: i64 = value(&client, "select count(*) from posthaste.unrouted_events").await;
    assert!(unrouted > FLOOD / 2, "{unrouted} are not routed yet");
    let globex = "select count(*) from posthaste.unrouted_events where tenant = 'globex'";
    assert_eq!(value::<i64>(&client, globex).await, 0);

    // The cursor passes over them, and then nothing is left of that.
    gate.open();
    slow.wait_for(usize::try_from(FLOOD).unwrap()).await;
    settled(&client).await;
    event("order.paid").with("tenant", "globex").add(&client).await;
    other.wait_for(OTHERS + 1).await;
    settled(&client).await;
    holds(&client, "count(*) = 0 from posthaste.routed_ahead").await;
    assert_eq!(slow.received().len(), usize::try_from(FLOOD).unwrap());
    assert_eq!(other.received().len(), OTHERS + 1);
    assert_eq!(inconsistencies(&client).await, Vec::<String>::new());
    let routed = relay.metric("posthaste_events_routed_total", "").await;
    assert_eq!(routed, 3_021.0, "each once");
}

#[tokio::test]
async fn an_endpoint_that_holds_large_events_leaves_bytes_to_the_others() {
    const BYTES: usize = 512 * 1024;
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (hanging, other) = (Receiver::start().await, Receiver::start().await);
    hanging.otherwise(Reply::Hang);
    endpoint(&hanging.url("/")).with("subscriptions", "{large}").add(&client).await;
    endpoint(&other.url("/")).with("subscriptions", "{other}").add(&client).await;
    let start = async || {
        let relay = Relay::on(&database.url()).set("delivery.timeout", "10m");
        let relay = relay.set("relay.max_in_flight_bytes", "4MiB");
        relay.set("relay.poll_interval", "100ms").start().await
    };
    let write = async |event_type: &str, count: usize| {
        let write = format!(
            "insert into posthaste.outbox (event_type, payload) \
             select '{event_type}', to_json(repeat('x', {BYTES})) from generate_series(1, {count})"
        );
        client.batch_execute(&write).await.unwrap();
    };
    let mut relay = start().await;
    write("large", 20).await;
    let arrive = async |relay: &Relay, number: usize| {
        // Half of all, and the last may exceed it.
        until("the bytes that are held", || async {
            let held = relay.metric("posthaste_in_flight_bytes", "").await;
            (2.0 * 1_048_576.0..=2.6 * 1_048_576.0).contains(&held).then_some(())
        })
        .await;
        for number in number..number + 5 {
            write("other", 1).await;
            other.wait_for(number).await;
        }
    };
    arrive(&relay, 1).await;
    // The same from what is due.
    relay.kill().await;
    relay = start().await;
    arrive(&relay, 6).await;
}
