//! Roles: each does its part against a running relay, and is refused the rest.

use tokio_postgres::Client;

use crate::support::{
    Receiver, Relay, Reply, TestDatabase, attempted, endpoint, event, holds, inconsistencies,
    settled, value,
};

#[tokio::test]
async fn each_role_can_do_its_part_and_no_more() {
    let database = TestDatabase::new().await;
    let (producer, operator, viewer) =
        (database.client().await, database.client().await, database.client().await);
    for (client, role) in [(&producer, "producer"), (&operator, "operator"), (&viewer, "viewer")] {
        client.batch_execute(&format!("set role posthaste_{role}")).await.unwrap();
    }
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(500).body("oh no")]);
    let relay = Relay::start(&database).await;
    relay.asleep().await;

    // The operator adds, the producer emits and rings the bell, the operator retries, the viewer
    // sees.
    let add = "select endpoint_id from posthaste.add_endpoint($1, schedule => '{1 h}')";
    let id: i64 = operator.query_one(add, &[&receiver.url("/")]).await.unwrap().get(0);
    let payload = r#"{"card": "4711-0815"}"#;
    let emit = format!("select posthaste.emit('order.paid', '{payload}')");
    let event: i64 = value(&producer, &emit).await;
    assert_eq!(receiver.next().await.json()["data"]["card"], "4711-0815");
    attempted(&viewer, event, 1).await;
    let retry = format!("select posthaste.retry({event}, {id})");
    assert_eq!(value::<String>(&operator, &retry).await, "due");
    receiver.next().await;
    let ended = attempted(&viewer, event, 2).await;
    assert_eq!(ended[1].verdict, "delivered");
    let state = format!("select state from posthaste.explain({event})");
    assert_eq!(value::<String>(&viewer, &state).await, "delivered");

    let refused = async |client: &Client, statement: &str| {
        let refused = client.query(statement, &[]).await.expect_err(statement);
        refused.as_db_error().unwrap().code().code().to_owned()
    };
    for (client, statement) in [
        (&producer, "select * from posthaste.delivery_status"),
        (&producer, "select payload from posthaste.outbox"),
        (&viewer, retry.as_str()),
        (&viewer, "select payload from posthaste.outbox"),
        (&viewer, "select headers from posthaste.endpoints"),
        (&viewer, "select * from posthaste.endpoint_secrets"),
        (&operator, "select payload from posthaste.outbox"),
        (&operator, "select * from posthaste.endpoint_secrets"),
    ] {
        assert_eq!(refused(client, statement).await, "42501", "{statement}");
    }
    producer.batch_execute("set posthaste.announcing = 'on'").await.unwrap();
    for statement in [
        "select posthaste.emit('posthaste.endpoint.disabled', '{}')",
        "insert into posthaste.outbox (event_type, payload) values ('posthaste.test', '{}')",
    ] {
        assert_eq!(refused(&producer, statement).await, "23514", "{statement}");
    }
}

#[tokio::test]
async fn a_relay_needs_no_more_than_the_relays_role() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let login = format!("relay_of_{}", database.name());
    let grant = format!("create role {login} login password 'r' in role posthaste_relay");
    client.batch_execute(&grant).await.unwrap();
    let superuser = database.url();
    let (_, place) = superuser.split_once('@').unwrap();
    let url = format!("postgres://{login}:r@{place}");

    let (gone, watcher) = (Receiver::start().await, Receiver::start().await);
    gone.script([Reply::status(500), Reply::status(410)]);
    let row = endpoint(&gone.url("/")).with("schedule", "{1 s}");
    row.with("subscriptions", "{order.*}").add(&client).await;
    let told = "{posthaste.endpoint.disabled}";
    endpoint(&watcher.url("/")).with("subscriptions", told).add(&client).await;
    // Upkeep makes days ahead; the bell is turned off, and on again by the next relay.
    let polling =
        Relay::on(&url).set("relay.wake", "poll").set("upkeep.partitions_ahead", "9").start().await;
    holds(&client, "to_regclass(format('posthaste.outbox_%s', to_char((now() at time zone 'UTC')::date + 9, 'YYYYMMDD'))) is not null").await;
    drop(polling);
    let mut relay = Relay::on(&url).set("relay.poll_interval", "60s").start().await;
    relay.asleep().await;
    let paid = event("order.paid").add(&client).await;

    assert_eq!(watcher.next().await.json()["type"], "posthaste.endpoint.disabled");
    assert_eq!(attempted(&client, paid, 2).await[1].verdict, "dead");
    settled(&client).await;
    holds(&client, "count(*) = 1 from posthaste.endpoint_health where consecutive_failures > 0")
        .await;
    assert!(relay.stop().await.success());
    let complaints: Vec<_> =
        relay.log().lines().filter(|line| line.contains("permission")).map(str::to_owned).collect();
    assert_eq!(complaints, [""; 0]);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}
