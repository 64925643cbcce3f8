//! How a sleeping relay learns of events, without the poll's help: here it polls once a minute, and
//! every test ends by asserting that no poll came to its rescue.

use std::collections::BTreeSet;

use posthaste::store::Database;
use posthaste::store::bell::{Bell, Ears};
use tokio::task::JoinSet;
use tokio_postgres::Client;
use tokio_util::task::TaskTracker;

use crate::support::{
    PATIENCE, Received, Receiver, Relay, Reply, TestDatabase, endpoint, event, holds,
    inconsistencies, settled, until, value,
};

/// The events that arrived.
async fn event_ids(received: &[Received], client: &Client) -> BTreeSet<i64> {
    let ids: Vec<&str> = received.iter().map(Received::id).collect();
    let named = "select posthaste.event_of(id) from unnest($1::text[]) id";
    client.query(named, &[&ids]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn relay_without_polling(database: &TestDatabase) -> Relay {
    Relay::on(&database.url()).set("relay.poll_interval", "60s").start().await
}

async fn assert_no_poll(relay: &Relay) {
    assert_eq!(relay.metric("posthaste_wakes_total", r#"reason="poll""#).await, 0.0);
}

/// Waits until so many events have arrived, and checks that these are exactly the committed ones.
async fn assert_all_arrived_once(receiver: &Receiver, client: &Client) {
    let committed = client.query("select id from posthaste.outbox", &[]).await.unwrap();
    let committed: BTreeSet<i64> = committed.iter().map(|row| row.get(0)).collect();
    let arrived = receiver.wait_for(committed.len()).await;
    assert_eq!(event_ids(&arrived, client).await, committed);
    settled(client).await;
    assert_eq!(receiver.received().len(), committed.len(), "each exactly once");
    assert_eq!(inconsistencies(client).await, [""; 0]);
}

#[tokio::test]
async fn a_sleeping_relay_is_woken_by_the_commit() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = relay_without_polling(&database).await;
    for _ in 0..3 {
        relay.asleep().await;
        event("order.paid").add(&client).await;
        receiver.next().await;
    }
    assert!(relay.metric("posthaste_bells_total", "").await >= 3.0);
    assert_no_poll(&relay).await;
}

#[tokio::test]
async fn a_due_retry_needs_neither_bell_nor_poll() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(500)]);
    endpoint(&receiver.url("/")).with("schedule", "{1 s}").add(&client).await;
    let relay = relay_without_polling(&database).await;
    event("order.paid").add(&client).await;
    receiver.wait_for(2).await;
    assert!(relay.metric("posthaste_wakes_total", r#"reason="due""#).await >= 1.0);
    assert_no_poll(&relay).await;
}

/// Inserts some events in random transactions: long and short, with savepoints, some of it or all
/// of it taken back. Returns what was committed.
async fn write_at_random(client: Client, mut chance: fastrand::Rng, transactions: usize) -> usize {
    let mut committed = 0;
    for _ in 0..transactions {
        client.batch_execute("begin").await.unwrap();
        let mut inserted = 0;
        for _ in 0..chance.usize(1..=16) {
            let part = match chance.u8(0..10) {
                0 => format!("savepoint s; {}; rollback to s", event("undone").sql()),
                1 => format!("select pg_sleep({})", chance.f64() * 0.03),
                kept => {
                    inserted += 1;
                    let insert = event("kept").sql();
                    if kept == 2 { format!("savepoint s; {insert}; release s") } else { insert }
                }
            };
            client.batch_execute(&part).await.unwrap();
        }
        let kept = chance.u8(0..8) > 0;
        client.batch_execute(if kept { "commit" } else { "rollback" }).await.unwrap();
        committed += if kept { inserted } else { 0 };
        if chance.u8(0..4) == 0 {
            // Long enough for the relay to fall asleep in between.
            let pause = format!("select pg_sleep({})", chance.f64() * 0.05);
            client.batch_execute(&pause).await.unwrap();
        }
    }
    committed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_of_sixteen_random_writers_is_missed() {
    const WRITERS: u64 = 16;
    const TRANSACTIONS: usize = 20;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = relay_without_polling(&database).await;
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        let chance = fastrand::Rng::with_seed(seed.wrapping_add(number));
        writers.spawn(write_at_random(database.client().await, chance, TRANSACTIONS));
    }
    let committed: usize = writers.join_all().await.iter().sum();

    let kept = "select count(*) from posthaste.outbox where event_type = 'kept'";
    assert_eq!(value::<i64>(&client, kept).await, i64::try_from(committed).unwrap());
    assert_all_arrived_once(&receiver, &client).await;
    assert_no_poll(&relay).await;
}

#[tokio::test]
async fn a_transaction_that_stays_open_over_many_routings_is_routed_when_it_commits() {
    let database = TestDatabase::new().await;
    let (client, slow) = (database.client().await, database.client().await);
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = relay_without_polling(&database).await;
    // It must not have rung: so it inserts while the relay keeps the bell silent.
    let is_silent = "select is_called and last_value / 4096 > date_part('epoch', clock_timestamp()) * 1000 \
                     from posthaste.silence";
    until("the relay to be awake", || async {
        let burst = "insert into posthaste.outbox (event_type, payload) \
                     select 'burst', '{}' from generate_series(1, 40)";
        client.execute(burst, &[]).await.unwrap();
        let before = value::<bool>(&client, is_silent).await;
        slow.batch_execute(&format!("begin; {}", event("slow").sql())).await.unwrap();
        if before && value::<bool>(&client, is_silent).await {
            return Some(());
        }
        slow.batch_execute("rollback").await.unwrap();
        None
    })
    .await;
    settled(&client).await;
    let before = receiver.received().len();
    let routings: i64 = value(&client, "select max(number) from posthaste.routing").await;
    for number in 1..=20 {
        event("quick").add(&client).await;
        receiver.wait_for(before + number).await;
    }
    holds(&client, &format!("max(number) >= {routings} + 15 from posthaste.routing")).await;
    let slow_ones =
        || receiver.received().iter().filter(|one| one.json()["type"] == "slow").count();
    assert_eq!(slow_ones(), 0);
    slow.batch_execute("commit").await.unwrap();

    assert_all_arrived_once(&receiver, &client).await;
    assert_eq!(slow_ones(), 1);
    assert_no_poll(&relay).await;
}

#[tokio::test]
async fn an_open_transaction_is_below_the_number_until_which_a_relay_looks_before_it_sleeps() {
    let database = TestDatabase::new().await;
    let writer = database.client().await;
    let way = Database::parse(&database.url(), None, None, PATIENCE).unwrap();
    let mut bell = Bell::listen(&way, &TaskTracker::new(), &Ears::default()).await.unwrap();
    // Often: transactions of other tests that end meanwhile could make it so by chance.
    for _ in 0..20 {
        writer.batch_execute("begin").await.unwrap();
        let number: i64 = value(&writer, "select pg_current_xact_id()::text::bigint").await;
        let skippers = bell.arm().await.unwrap();
        assert!(number < skippers, "{number} {skippers}");
        writer.batch_execute("rollback").await.unwrap();
    }
}

#[tokio::test]
async fn a_huge_transaction_is_routed_in_chunks_and_sent_once() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = relay_without_polling(&database).await;
    let huge = "insert into posthaste.outbox (event_type, payload) \
                select 'order.paid', to_json(n) from generate_series(1, 5000) n";
    client.execute(huge, &[]).await.unwrap();

    assert_all_arrived_once(&receiver, &client).await;
    let chunks =
        "select count(*) from posthaste.routing where after_id is not null and events <= 500";
    assert!(value::<i64>(&client, chunks).await >= 9);
    assert_no_poll(&relay).await;
}

#[tokio::test]
async fn a_relay_that_polls_turns_the_bell_off_and_one_that_listens_turns_it_on() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let bell = "tgenabled = 'D' from pg_trigger \
                where tgname = 'outbox_rings_the_bell' and tgrelid = 'posthaste.outbox'::regclass";
    let polling = Relay::on(&database.url()).set("relay.wake", "poll");
    let mut polling = polling.set("relay.poll_interval", "50ms").start().await;
    holds(&client, bell).await;
    let prepared = format!("begin; {}; prepare transaction 'p'", event("order.paid").sql());
    let refused = client.batch_execute(&prepared).await.err();
    // A server without two-phase commit refuses it for another reason than a NOTIFY.
    let refused = refused.and_then(|error| error.as_db_error().map(|e| e.message().to_owned()));
    assert!(refused.is_some_and(|message| message.contains("prepared transactions are disabled")));
    client.batch_execute("rollback").await.unwrap();
    event("order.paid").add(&client).await;
    receiver.next().await;
    assert_eq!(polling.metric("posthaste_bells_total", "").await, 0.0);
    assert!(polling.stop().await.success());

    let listening = relay_without_polling(&database).await;
    holds(&client, &format!("not {bell}")).await;
    listening.asleep().await;
    event("order.paid").add(&client).await;
    receiver.next().await;
    assert_no_poll(&listening).await;
}
