//! Transactions that stay open, over thousands of others or over a crash: an event is there from
//! its commit on, and whatever was written in between makes no difference.

use posthaste::sandbox::postgres::StopMode;

use crate::support::{
    HEARS_THE_BELL, Receiver, Relay, Server, TestDatabase, Writer, endpoint, event, holds, ids,
    inconsistencies, settled, value, webhook_ids,
};

fn of_type(receiver: &Receiver, event_type: &str) -> usize {
    receiver.received().iter().filter(|one| one.json()["type"] == event_type).count()
}

#[tokio::test]
async fn an_old_writer_and_an_old_reader_hold_up_no_other_event_and_are_not_passed_over() {
    const AT_A_TIME: usize = 500;
    let database = TestDatabase::new().await;
    let (client, writer) = (database.client().await, database.client().await);
    let reader = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    reader.batch_execute("begin isolation level repeatable read").await.unwrap();
    assert_eq!(value::<i64>(&reader, "select count(*) from posthaste.outbox").await, 0);
    writer.batch_execute(&format!("begin; {}", event("old.first").sql())).await.unwrap();
    let mut relay = Relay::start(&database).await;
    let mut others = 0;
    for _ in 0..2 {
        others += Writer::start(&database.url(), AT_A_TIME).done().await.len();
        settled(&client).await;
        // The next relay knows of the old writer from the ledger alone.
        assert!(relay.stop().await.success());
        relay = Relay::start(&database).await;
    }
    assert_eq!(receiver.received().len(), others, "they did not wait for the old ones");
    writer.batch_execute(&event("old.last").sql()).await.unwrap();
    writer.batch_execute("commit").await.unwrap();
    receiver.wait_for(others + 2).await;
    settled(&client).await;

    assert_eq!((of_type(&receiver, "old.first"), of_type(&receiver, "old.last")), (1, 1));
    assert_eq!(receiver.received().len(), others + 2);
    assert_eq!(ids(&receiver.received()), webhook_ids(&client).await);
    assert_eq!(value::<i64>(&reader, "select count(*) from posthaste.outbox").await, 0);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_prepared_transactions_event_is_sent_when_it_is_committed_though_all_was_restarted() {
    let mut server = Server::start(&["max_prepared_transactions = 10"]).await;
    let client = server.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = |server: &Server| {
        let relay = Relay::on(&server.url()).set("relay.wake", "poll");
        relay.set("relay.poll_interval", "50ms").start()
    };
    let mut first = relay(&server).await;
    for name in ["kept", "undone"] {
        let prepare = format!("begin; {}; prepare transaction '{name}'", event(name).sql());
        client.batch_execute(&prepare).await.unwrap();
    }
    event("meanwhile").add(&client).await;
    settled(&client).await;
    assert!(first.stop().await.success());
    server.stop(StopMode::Immediate).await;
    server.start_again().await;
    let client = server.client().await;
    let _second = relay(&server).await;
    event("meanwhile").add(&client).await;
    settled(&client).await;
    assert_eq!(of_type(&receiver, "meanwhile"), 2);
    assert_eq!(receiver.received().len(), 2);

    client.batch_execute("rollback prepared 'undone'").await.unwrap();
    client.batch_execute("commit prepared 'kept'").await.unwrap();
    receiver.wait_for(3).await;
    settled(&client).await;
    assert_eq!((of_type(&receiver, "kept"), of_type(&receiver, "undone")), (1, 0));
    assert_eq!(receiver.received().len(), 3);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn the_bell_makes_postgres_refuse_to_prepare_and_the_manual_says_with_which_words() {
    const OPERATING: &str = include_str!("../../docs/OPERATING.md");
    let server = Server::start(&["max_prepared_transactions = 10"]).await;
    let client = server.client().await;
    let relay = Relay::on(&server.url()).start().await;
    relay.asleep().await;
    holds(&client, &format!("count(*) > 0 from pg_stat_activity where {HEARS_THE_BELL}")).await;
    client.batch_execute(&format!("begin; {}", event("order.paid").sql())).await.unwrap();
    let refused = client.batch_execute("prepare transaction 'p'").await.unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(refused.code().code(), "0A000");
    let documented = OPERATING.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(documented.contains(refused.message()), "{}", refused.message());
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.outbox").await, 0);
}
