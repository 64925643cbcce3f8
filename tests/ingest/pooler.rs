//! PgBouncer in transaction mode between the door and its database: what comes is kept all the
//! same, and while the pooler is away it goes to the spool.

use tokio::task::JoinSet;

use crate::support::{
    Line, Pooler, Receiver, Relay, TestDatabase, endpoint, inconsistencies, settled, until, value,
};

const SENDERS: usize = 16;
const EACH: usize = 10;

#[tokio::test]
async fn behind_a_pooler_each_webhook_is_one_event_also_when_the_pooler_is_killed() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).with("body_format", "raw").add(&client).await;
    // Fewer sessions than there are connections to it, so that they take turns.
    let mut pooler = Pooler::start(database.cluster(), 2).await;
    let spool = tempfile::tempdir().unwrap();
    let relay = Relay::on(&pooler.url_for(database.name()))
        .taking_in()
        .set("database.pooler", "transaction")
        .set("relay.wake", "poll")
        .set("relay.poll_interval", "50ms")
        .set("ingest.spool", spool.path().to_str().unwrap())
        .set("ingest.commit_timeout", "5s")
        .start()
        .await;
    let send_all = async |round: &'static str, status: u16| {
        let mut senders = JoinSet::new();
        for sender in 0..SENDERS {
            let door = relay.door();
            senders.spawn(async move {
                let mut line = Line::to(door).await.unwrap();
                for n in 0..EACH {
                    let id = format!("{round} {sender} {n}");
                    let answer = line.shop(&id, format!("{id:?}")).await.unwrap();
                    assert_eq!(answer.status, status, "{answer:?}");
                }
            });
        }
        senders.join_all().await;
    };
    send_all("one", 200).await;
    // Known by its name, whichever session has it stored.
    send_all("one", 200).await;
    assert_eq!(relay.metric("posthaste_ingest_duplicates_total", "").await, 160.0);
    pooler.kill();
    send_all("two", 202).await;
    assert_eq!(relay.spool().await["files"], SENDERS * EACH);
    pooler.start_again().await;
    until("the spool to be empty", || async { (relay.spool().await["files"] == 0).then_some(()) })
        .await;
    send_all("three", 200).await;
    settled(&client).await;
    let mut arrived: Vec<_> =
        receiver.received().into_iter().map(|it| String::from_utf8(it.body).unwrap()).collect();
    arrived.sort();
    let mut sent = Vec::new();
    for round in ["one", "two", "three"] {
        let of_round = |sender| (0..EACH).map(move |n| format!("\"{round} {sender} {n}\""));
        sent.extend((0..SENDERS).flat_map(of_round));
    }
    sent.sort();
    assert_eq!(arrived, sent);
    let stored = value::<i64>(&client, "select count(*) from posthaste.outbox").await;
    assert_eq!(stored, i64::try_from(sent.len()).unwrap());
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}
