//! SIGTERM, wherever it meets the relay: it ends soon, in order, and what it had not finished is
//! finished by the next.

use std::process::ExitStatus;
use std::time::Duration;

use tokio_postgres::Client;

use crate::support::{
    Gate, HOLD_ROUTING, Receiver, Relay, RelayBuilder, Reply, TestDatabase, attempted, endpoint,
    event, holds, inconsistencies, settled, waits_for_a_lock,
};

/// Far less than a statement may take, and more than a busy machine needs for the grace of a
/// second.
const SOON: Duration = Duration::from_secs(15);

fn relay(database: &TestDatabase) -> RelayBuilder {
    Relay::on(&database.url()).set("relay.grace", "1s")
}

async fn ended_soon(relay: &mut Relay) -> ExitStatus {
    let ended = tokio::time::timeout(SOON, relay.exit()).await;
    ended.expect("it ends although the database is blocked")
}

/// A next relay finishes everything; it may be that some of it comes a second time.
async fn assert_the_next_one_finishes(database: &TestDatabase, receiver: &Receiver, most: usize) {
    let client = database.client().await;
    let _next = Relay::start(database).await;
    settled(&client).await;
    assert!(receiver.received().len() <= most, "{} came", receiver.received().len());
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

async fn scene() -> (TestDatabase, Client, Client, Receiver) {
    let database = TestDatabase::new().await;
    let (client, blocker) = (database.client().await, database.client().await);
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).with("schedule", "{1 s,1 s}").add(&client).await;
    (database, client, blocker, receiver)
}

#[tokio::test]
async fn a_stop_while_routing_is_held_up_ends_soon_and_the_event_is_routed_by_the_next() {
    let (database, client, blocker, receiver) = scene().await;
    let mut stopped = relay(&database).start().await;
    stopped.asleep().await;
    blocker.batch_execute(HOLD_ROUTING).await.unwrap();
    event("order.paid").add(&client).await;
    waits_for_a_lock(&client, "route_few").await;
    stopped.signal("TERM");
    assert_eq!(ended_soon(&mut stopped).await.code(), Some(0));
    assert_eq!(receiver.received().len(), 0);
    // Its statement goes on in the server, and may yet claim for it.
    blocker.batch_execute("rollback").await.unwrap();
    assert_the_next_one_finishes(&database, &receiver, 1).await;
}

#[tokio::test]
async fn a_stop_while_a_claim_is_held_up_ends_soon_and_the_retry_is_made_by_the_next() {
    let (database, client, blocker, receiver) = scene().await;
    receiver.script([Reply::status(500), Reply::status(500)]);
    let mut stopped = relay(&database).start().await;
    let id = event("order.paid").add(&client).await;
    attempted(&client, id, 2).await;
    let lock = "begin; lock table posthaste.deliveries in share mode";
    blocker.batch_execute(lock).await.unwrap();
    waits_for_a_lock(&client, "claim").await;
    stopped.signal("TERM");
    assert_eq!(ended_soon(&mut stopped).await.code(), Some(0));
    assert_eq!(receiver.received().len(), 2);
    blocker.batch_execute("rollback").await.unwrap();
    assert_the_next_one_finishes(&database, &receiver, 3).await;
}

#[tokio::test]
async fn a_stop_while_recording_is_held_up_ends_soon_and_what_was_answered_may_come_twice() {
    let (database, client, blocker, receiver) = scene().await;
    let gate = Gate::default();
    receiver.script([Reply::ok().held_by(&gate)]);
    let mut stopped = relay(&database).start().await;
    event("order.paid").add(&client).await;
    receiver.next().await;
    let lock = "begin; lock table posthaste.attempts in access exclusive mode";
    blocker.batch_execute(lock).await.unwrap();
    gate.open();
    waits_for_a_lock(&client, "record_one").await;
    stopped.signal("TERM");
    assert_eq!(ended_soon(&mut stopped).await.code(), Some(0));
    holds(&client, "count(*) = 1 from posthaste.relays").await;
    blocker.batch_execute("rollback").await.unwrap();
    assert_the_next_one_finishes(&database, &receiver, 2).await;
}

#[tokio::test]
async fn a_stop_while_another_one_migrates_ends_at_once() {
    let database = TestDatabase::empty().await;
    let (blocker, client) = (database.client().await, database.client().await);
    blocker.batch_execute("begin; create schema posthaste").await.unwrap();
    let mut stopped = relay(&database).migrating().spawn();
    let waits = "count(*) = 1 from pg_stat_activity where wait_event_type = 'Lock' \
                 and query like '-- The table of applied migrations%'";
    holds(&client, waits).await;
    stopped.signal("TERM");
    assert_eq!(ended_soon(&mut stopped).await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_and_the_next_one_sends_again() {
    let (database, client, _blocker, receiver) = scene().await;
    receiver.script([Reply::Hang]);
    let mut stopped = relay(&database).set("relay.grace", "1h").start().await;
    event("order.paid").add(&client).await;
    receiver.next().await;
    stopped.signal("TERM");
    stopped.logs("a second signal exits at once").await;
    stopped.signal("TERM");
    assert_eq!(ended_soon(&mut stopped).await.code(), Some(143));
    assert_the_next_one_finishes(&database, &receiver, 2).await;
}
