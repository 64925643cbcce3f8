//! What a relay has learnt of an endpoint's window outlives the relay: the next one begins with
//! half of it, and need not find out again that the endpoint bears many requests at once.

use std::time::Duration;

use tokio_postgres::Client;

use crate::support::{
    Gate, Receiver, Relay, RelayBuilder, Reply, TestDatabase, endpoint, event, holds,
    inconsistencies, settled, until, value, within,
};

/// As long takes each answer: much longer than the relay's turn on a busy machine.
const PACE: Duration = Duration::from_millis(100);

/// What an endpoint is sent that has not answered yet (`delivery.initial_window`).
const INITIAL: usize = 4;

/// Half of it is well beyond that.
const WIDE: i16 = 16;

async fn burst(client: &Client, events: usize) {
    let insert = format!(
        "insert into posthaste.outbox (event_type, payload) \
         select 'order.paid', '{{}}' from generate_series(1, {events})"
    );
    client.batch_execute(&insert).await.unwrap();
}

async fn window(client: &Client) -> i16 {
    value(client, "select coalesce(max(window_size), 0::smallint) from posthaste.endpoint_health")
        .await
}

/// A relay that has learnt, and noted, that the endpoint bears many requests at once.
async fn learnt(relay: RelayBuilder, client: &Client, receiver: &Receiver) -> Relay {
    receiver.otherwise(Reply::ok().late(PACE));
    endpoint(&receiver.url("/")).add(client).await;
    let relay = relay.start().await;
    within("a window to be learnt", async {
        while window(client).await < WIDE {
            burst(client, 200).await;
            settled(client).await;
        }
    })
    .await;
    relay
}

/// Half of what was learnt is sent before there is any answer, and no more.
async fn assert_the_next_burst_begins_with_half(client: &Client, receiver: &Receiver) {
    let learnt = window(client).await;
    let half = usize::try_from(learnt).unwrap().div_ceil(2);
    assert!(half > INITIAL, "{learnt}");
    let gate = Gate::default();
    receiver.otherwise(Reply::ok().held_by(&gate));
    let before = receiver.received().len();
    burst(client, 200).await;
    let sent = receiver.wait_for(before + half).await;
    assert_eq!(sent.len(), before + half);
    gate.open();
    settled(client).await;
    assert_eq!(receiver.received().len(), before + 200);
    assert_eq!(inconsistencies(client).await, [""; 0]);
}

#[tokio::test]
async fn what_was_learnt_of_an_endpoint_is_known_after_a_stop() {
    let database = TestDatabase::new().await;
    let (client, receiver) = (database.client().await, Receiver::start().await);
    let mut stopped = learnt(Relay::on(&database.url()), &client, &receiver).await;
    assert_eq!(stopped.stop().await.code(), Some(0));
    let _next = Relay::start(&database).await;
    assert_the_next_burst_begins_with_half(&client, &receiver).await;
}

#[tokio::test]
async fn what_was_learnt_of_an_endpoint_is_known_after_a_kill() {
    let database = TestDatabase::new().await;
    let (client, receiver) = (database.client().await, Receiver::start().await);
    let mut killed = learnt(Relay::on(&database.url()), &client, &receiver).await;
    killed.kill().await;
    let next = Relay::start(&database).await;
    // As long as the dead one counts, limits are divided, and with them what is known.
    next.logs(r#""limits are divided anew","relays":1"#).await;
    holds(&client, "count(*) = 1 from posthaste.relays").await;
    assert_the_next_burst_begins_with_half(&client, &receiver).await;
}

#[tokio::test]
async fn what_was_learnt_of_an_endpoint_is_known_when_its_lane_has_ended() {
    let database = TestDatabase::new().await;
    let (client, receiver) = (database.client().await, Receiver::start().await);
    let relay = Relay::on(&database.url()).set("delivery.idle_timeout", "100ms");
    let relay = learnt(relay.set("relay.poll_interval", "50ms"), &client, &receiver).await;
    // Its workers leave after two polls without work, and the next one ends it when it is noted.
    let polls = async || relay.metric("posthaste_wakes_total", "poll").await;
    let before = polls().await;
    until("some polls", async || (polls().await > before + 40.0).then_some(())).await;
    assert_the_next_burst_begins_with_half(&client, &receiver).await;
}

#[tokio::test]
async fn what_was_learnt_long_ago_is_not_trusted() {
    let database = TestDatabase::new().await;
    let (client, receiver) = (database.client().await, Receiver::start().await);
    let gate = Gate::default();
    receiver.otherwise(Reply::ok().held_by(&gate));
    let id = endpoint(&receiver.url("/")).add(&client).await;
    let long_ago = format!(
        "insert into posthaste.endpoint_health (endpoint_id, window_at, window_size, normal_duration_ms) \
         values ({id}, now() - interval '26 hours', 64, 100)"
    );
    client.batch_execute(&long_ago).await.unwrap();
    let relay = Relay::on(&database.url()).set("delivery.initial_window", "1");
    let _relay = relay.set("relay.poll_interval", "50ms").start().await;
    burst(&client, 20).await;
    // Those that are claimed and could be sent are not.
    receiver.wait_for(1).await;
    let claimed = "count(*) >= 16 from posthaste.live_deliveries where claimed_by is not null";
    holds(&client, claimed).await;
    let free = Receiver::start().await;
    endpoint(&free.url("/")).with("subscriptions", "{free}").add(&client).await;
    event("free").add(&client).await;
    free.wait_for(1).await;
    assert_eq!(receiver.received().len(), 1);
    gate.open();
    settled(&client).await;
}
