//! The network between a relay and its database loses answers, falls silent, forgets connections:
//! whatever had been committed arrives, and what was done unknown to the relay is found and undone.

use crate::support::{
    Gate, HOLD_ROUTING, Receiver, Relay, Reply, TestDatabase, Wire, attempted, endpoint, event,
    holds, inconsistencies, settled, until, value, waits_for_a_lock,
};

/// The wire between a test's relay and the shared cluster.
async fn wire(database: &TestDatabase) -> Wire {
    Wire::to(database.cluster().port()).await
}

#[tokio::test]
async fn what_was_routed_by_a_statement_whose_answer_was_lost_is_given_back_and_sent_once() {
    let database = TestDatabase::new().await;
    let (client, blocker) = (database.client().await, database.client().await);
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let wire = wire(&database).await;
    let relay = Relay::on(&wire.url(&database.url())).start().await;
    relay.asleep().await;
    blocker.batch_execute(HOLD_ROUTING).await.unwrap();
    let id = event("order.paid").add(&client).await;
    waits_for_a_lock(&client, "route_few").await;
    wire.lose_answers();
    blocker.batch_execute("rollback").await.unwrap();
    holds(&client, "count(*) = 1 from posthaste.live_deliveries where claimed_by = 1").await;
    wire.cut().await;
    wire.fix();

    assert_eq!(attempted(&client, id, 1).await[0].outcome, "answered");
    settled(&client).await;
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(relay.metric("posthaste_claims_released_total", "").await, 1.0);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn what_was_claimed_by_a_statement_whose_answer_was_lost_is_given_back_and_sent_once() {
    let database = TestDatabase::new().await;
    let (client, blocker) = (database.client().await, database.client().await);
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(500), Reply::status(500)]);
    endpoint(&receiver.url("/")).with("schedule", "{1 s,1 s}").add(&client).await;
    let wire = wire(&database).await;
    // One connection, so that the statement is prepared when it matters: the second claim.
    let relay = Relay::on(&wire.url(&database.url())).set("database.pool_size", "1").start().await;
    let id = event("order.paid").add(&client).await;
    attempted(&client, id, 2).await;
    let lock = "begin; lock table posthaste.deliveries in share mode";
    blocker.batch_execute(lock).await.unwrap();
    waits_for_a_lock(&client, "claim").await;
    wire.lose_answers();
    blocker.batch_execute("commit").await.unwrap();
    holds(&client, "count(*) = 1 from posthaste.live_deliveries where claimed_by = 1").await;
    wire.cut().await;
    wire.fix();

    let numbers: Vec<_> = attempted(&client, id, 3).await.iter().map(|a| a.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    settled(&client).await;
    assert_eq!(receiver.received().len(), 3);
    assert_eq!(relay.metric("posthaste_claims_released_total", "").await, 1.0);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_result_whose_recording_was_committed_unheard_is_recorded_once() {
    let database = TestDatabase::new().await;
    let (client, blocker) = (database.client().await, database.client().await);
    let receiver = Receiver::start().await;
    let gate = Gate::default();
    receiver.script([Reply::ok().held_by(&gate)]);
    endpoint(&receiver.url("/")).add(&client).await;
    let wire = wire(&database).await;
    let relay = Relay::on(&wire.url(&database.url())).start().await;
    let id = event("order.paid").add(&client).await;
    receiver.wait_for(1).await;
    // The statement has gone out, and waits, when the answers begin to be lost.
    blocker.batch_execute("begin; select from posthaste.deliveries for update").await.unwrap();
    gate.open();
    waits_for_a_lock(&client, "record_one").await;
    wire.lose_answers();
    blocker.batch_execute("rollback").await.unwrap();
    settled(&client).await;
    wire.cut().await;
    wire.fix();

    until("the relay to find that it had been recorded", || async {
        (relay.metric("posthaste_claims_lost_total", "").await == 1.0).then_some(())
    })
    .await;
    assert_eq!(attempted(&client, id, 1).await.len(), 1);
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_relay_that_hears_nothing_sends_nothing_more_and_another_takes_over() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let gate = Gate::default();
    receiver.script([Reply::ok().held_by(&gate)]);
    endpoint(&receiver.url("/")).with("max_concurrency", 1).add(&client).await;
    let wire = wire(&database).await;
    let relay = |url: &str| {
        let relay = Relay::on(url).set("relay.lease", "3s").set("relay.heartbeat", "500ms");
        relay.set("delivery.initial_window", "1").start()
    };
    let silenced = relay(&wire.url(&database.url())).await;
    let many = "insert into posthaste.outbox (event_type, payload) \
                select 'order.paid', '{}' from generate_series(1, 10)";
    client.execute(many, &[]).await.unwrap();
    let first = receiver.next().await;
    holds(&client, "count(*) = 10 from posthaste.live_deliveries where claimed_by = 1").await;
    let other = relay(&database.url()).await;
    wire.silence();
    settled(&client).await;
    // Now its queue could go on; but its lease is over.
    gate.open();
    wire.fix();
    holds(&client, "array_agg(id order by id) = '{2,3}' from posthaste.relays").await;
    drop(other);
    event("order.refunded").add(&client).await;
    settled(&client).await;

    let all = receiver.received();
    let of_first = all.iter().filter(|one| one.connection == first.connection).count();
    assert_eq!(of_first, 1, "it sent nothing more under its old claims");
    assert_eq!(all.len(), 1 + 10 + 1, "the one in flight was sent again");
    assert!(silenced.metric("posthaste_claims_lost_total", "").await >= 1.0);
    let interrupted = "select count(*) = 10 from posthaste.delivery_attempts \
                       where outcome = 'interrupted' and relay_id = 1";
    assert!(value::<bool>(&client, interrupted).await);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_relay_that_cannot_renew_its_lease_routes_and_claims_nothing() {
    let database = TestDatabase::new().await;
    let (client, locker) = (database.client().await, database.client().await);
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = Relay::on(&database.url()).set("relay.lease", "3s").set("relay.heartbeat", "500ms");
    let relay = relay.start().await;
    locker.batch_execute("begin; select from posthaste.relays for update").await.unwrap();
    // By now the lease is over: the heartbeat had 5 s.
    relay.logs("renew this relay's lease").await;
    event("order.paid").add(&client).await;
    // Another relay could claim it, if there were one.
    holds(&client, "count(*) = 1 from posthaste.live_deliveries where claimed_by is null").await;
    assert_eq!(receiver.received().len(), 0);
    locker.batch_execute("rollback").await.unwrap();
    settled(&client).await;
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn a_relay_alone_whose_connections_are_forgotten_makes_new_ones_and_goes_on() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let wire = wire(&database).await;
    let relay = Relay::on(&wire.url(&database.url())).set("database.statement_timeout", "1s");
    let relay = relay.set("relay.lease", "3s").set("relay.heartbeat", "500ms").start().await;
    event("order.paid").add(&client).await;
    receiver.next().await;
    settled(&client).await;
    relay.asleep().await;
    wire.forget();
    let id = event("order.refunded").add(&client).await;

    assert_eq!(attempted(&client, id, 1).await[0].relay_id, 1, "its lease is its own");
    relay.asleep().await;
    assert_eq!(receiver.received().len(), 2);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_claim_that_arrives_after_its_relay_was_taken_for_dead_is_found_and_released() {
    let database = TestDatabase::new().await;
    let (client, blocker) = (database.client().await, database.client().await);
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let wire = wire(&database).await;
    let mut relay = Relay::on(&wire.url(&database.url())).start().await;
    relay.asleep().await;
    blocker.batch_execute(HOLD_ROUTING).await.unwrap();
    let id = event("order.paid").add(&client).await;
    waits_for_a_lock(&client, "route_few").await;
    wire.silence();
    let reap = include_str!("../../sql/queries/reap.sql");
    client.query(reap, &[&1000, &0.0_f64]).await.unwrap();
    holds(&client, "not exists (select from posthaste.relays)").await;
    blocker.batch_execute("rollback").await.unwrap();
    holds(&client, "count(*) = 1 from posthaste.live_deliveries where claimed_by = 1").await;
    relay.kill().await;
    let _next = Relay::start(&database).await;

    let attempts = attempted(&client, id, 2).await;
    let told: Vec<_> = attempts.iter().map(|a| format!("{} {}", a.relay_id, a.outcome)).collect();
    assert_eq!(told, ["1 interrupted", "2 answered"]);
    settled(&client).await;
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_host_that_takes_connections_and_says_nothing_is_passed_over() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let wire = wire(&database).await;
    wire.silence();
    let direct = format!("@127.0.0.1:{}/", database.cluster().port());
    let both = format!("@127.0.0.1:{},{}", wire.port(), &direct[1..]);
    let url = database.url().replace(&direct, &both);
    let _relay = Relay::on(&url).set("database.connect_timeout", "2s").start().await;
    event("order.paid").add(&client).await;
    receiver.next().await;
    settled(&client).await;
}
