//! A delivery that a relay's own settings refuse is held: it spends no attempt, says which setting,
//! and arrives once that is changed. And an endpoint that accepts nothing is seen, whatever it
//! answers.

use serde_json::Value;
use tokio_postgres::Client;

use crate::support::{
    Receiver, Relay, RelayBuilder, Reply, TestDatabase, about, attempted, attempts, doctor,
    endpoint, event, holds, inconsistencies, make_due, settled, unchecked, value,
};

const EVENTS: i64 = 20;

async fn many(client: &Client, events: i64) {
    let insert = format!(
        "insert into posthaste.outbox (event_type, payload) \
         select 'order.paid', '{{}}' from generate_series(1, {events})"
    );
    client.batch_execute(&insert).await.unwrap();
}

/// A relay that opens nothing, and probes often.
fn closed(database: &TestDatabase) -> RelayBuilder {
    let relay = Relay::on(&database.url());
    let relay = relay.set("addresses.allow", "[]").set("addresses.allow_http", "[]");
    relay.set("health.first_pause", "1s").set("health.longest_pause", "1s")
}

async fn health(client: &Client, endpoint: i64) -> String {
    let status = format!(
        "select concat_ws(': ', health, reason) from posthaste.endpoint_status where endpoint_id = {endpoint}"
    );
    value(client, &status).await
}

#[tokio::test]
async fn what_settings_refuse_is_held_says_which_and_arrives_once_they_are_changed() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let id = endpoint(&receiver.url("/")).with("max_attempts", 2).add(&client).await;
    let mut relay = closed(&database).start().await;
    many(&client, EVENTS).await;

    // Several pauses, each of which would spend an attempt.
    holds(&client, "count(*) >= 4 from posthaste.delivery_attempts where outcome = 'refused'")
        .await;
    let opens = "plain http is not opened for 127.0.0.1: add 127.0.0.1/32 to addresses.allow_http; \
                 127.0.0.1 is loopback: add 127.0.0.1/32 to addresses.allow";
    assert_eq!(health(&client, id).await, format!("paused: {opens}"));
    let held: i64 = value(
        &client,
        "select count(*) from posthaste.live_deliveries where attempt_count = 0 and next_attempt_at <= now()",
    )
    .await;
    assert_eq!(held, EVENTS, "nothing is spent and nothing put off");
    let told = "select distinct concat_ws(' ', number, outcome, cause, verdict, reason, detail) \
                from posthaste.delivery_attempts";
    let expected = format!("1 refused not_https retry held, without spending an attempt {opens}");
    assert_eq!(value::<String>(&client, told).await, expected);
    let probes: i64 = value(&client, "select count(*) from posthaste.delivery_attempts").await;
    assert!(probes < EVENTS, "one for each pause: {probes}");
    let explained = "select bool_and(state = 'waiting' and why like 'endpoint paused until %' || $1 || '%') \
                     from posthaste.outbox o cross join posthaste.explain(o.id)";
    let explained = client.query_one(explained, &[&opens]).await.unwrap();
    assert!(explained.get::<_, bool>(0));

    let warnings = relay.log().matches("nothing may be sent to it by these settings").count();
    assert_eq!(warnings, 1, "once, however often it is probed");
    assert!(relay.log().contains("add 127.0.0.1/32 to addresses.allow"));
    assert!(!relay.log().contains("still held"), "a probe has one line, its attempt's");
    let (code, said) = doctor(&database.url(), &[]).await;
    let finding = about(&said, "addresses");
    assert_eq!((code, &finding["state"]), (Some(0), &Value::from("warning")), "{said:#}");
    assert!(finding["detail"].as_str().unwrap().contains(opens), "{finding}");
    assert_eq!(about(&said, "endpoints")["state"], "warning");
    assert_eq!(inconsistencies(&client).await, [""; 0]);

    assert!(relay.stop().await.success());
    let _open = Relay::start(&database).await;
    receiver.wait_for(usize::try_from(EVENTS).unwrap()).await;
    settled(&client).await;
    let ends = "select string_agg(distinct concat_ws(' ', verdict, number), ',') from posthaste.delivery_attempts \
                where verdict <> 'retry'";
    assert_eq!(value::<String>(&client, ends).await, "delivered 1");
    holds(
        &client,
        &format!("health = 'flowing' from posthaste.endpoint_status where endpoint_id = {id}"),
    )
    .await;
    let opened = ["addresses.allow=127.0.0.1/32", "addresses.allow_http=127.0.0.1/32"];
    let (_, said) = doctor(&database.url(), &opened).await;
    assert_eq!(about(&said, "addresses")["state"], "ok", "{said:#}");
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_used_is_held_until_it_is_fixed() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let id = endpoint(&receiver.url("/")).with("max_attempts", 1).add(&client).await;
    // Valid base64, but its public half is another key's.
    let mismatched = format!("whsk_{}==", "A".repeat(86));
    let rotate = format!("select posthaste.rotate_secret({id}, '0', '{mismatched}')");
    client.batch_execute(&rotate).await.unwrap();
    let relay = Relay::on(&database.url()).set("health.first_pause", "1h");
    let _relay = relay.start().await;
    let owed = event("order.paid").add(&client).await;
    let attempt = attempted(&client, owed, 1).await.remove(0);
    assert_eq!(
        (attempt.cause.as_deref(), attempt.verdict.as_str()),
        (Some("bad_endpoint"), "retry")
    );
    holds(&client, "health = 'paused' from posthaste.endpoint_status").await;

    // A changed endpoint is tried at once, though the pause lasts for an hour.
    client.batch_execute(&format!("select posthaste.rotate_secret({id}, '0')")).await.unwrap();
    receiver.wait_for(1).await;
    settled(&client).await;
    assert_eq!(attempts(&client, owed).await.last().unwrap().number, 1);
}

#[tokio::test]
async fn a_rule_may_end_what_settings_refuse() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let row = crate::support::NewRow::into("rules").with("name", "mine").with("priority", 1);
    row.with("cause", "not_https").with("action", "dead").add(&client).await;
    endpoint(&receiver.url("/")).add(&client).await;
    let _relay = closed(&database).start().await;
    let owed = event("order.paid").add(&client).await;
    assert_eq!(attempted(&client, owed, 1).await[0].verdict, "dead");
    settled(&client).await;
}

#[tokio::test]
async fn an_endpoint_that_rejects_all_it_is_sent_is_paused_and_named() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.otherwise(Reply::status(401));
    let id = endpoint(&receiver.url("/")).with("schedule", "{1 h}").add(&client).await;
    let relay = Relay::on(&database.url()).set("health.rejection_threshold", "12");
    let _relay = relay.start().await;
    many(&client, 10).await;
    holds(&client, "count(*) = 10 from posthaste.delivery_attempts").await;
    // It flows, and the doctor names it all the same.
    holds(
        &client,
        "consecutive_failures = 10 and health = 'flowing' from posthaste.endpoint_status",
    )
    .await;
    let (_, said) = doctor(&database.url(), &[]).await;
    let found = about(&said, "endpoints")["detail"].as_str().unwrap();
    assert_eq!(found, format!("1 enabled; have accepted nothing of late: {id} (never anything)"));

    many(&client, 10).await;
    holds(&client, "health = 'paused' from posthaste.endpoint_status").await;
    let reason = health(&client, id).await;
    assert!(
        reason.starts_with("paused: ")
            && reason.ends_with(" answers of 4xx in a row, the last 401"),
        "{reason}"
    );
    let spent: i64 = value(&client, "select count(*) from posthaste.delivery_attempts").await;
    let held: i64 =
        value(&client, "select count(*) from posthaste.live_deliveries where attempt_count = 0")
            .await;
    assert!(held > 0 && spent + held == 20, "{spent} attempts, {held} held");
}

#[tokio::test]
async fn one_event_that_is_rejected_for_ever_does_not_pause_an_endpoint_that_takes_the_others() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.script((0..9).map(|n| if n % 2 == 0 { Reply::status(400) } else { Reply::ok() }));
    endpoint(&receiver.url("/"))
        .with("schedule", "{1 h}")
        .with("max_attempts", 9)
        .add(&client)
        .await;
    let relay = Relay::on(&database.url()).set("health.rejection_threshold", "3");
    let relay = relay.set("relay.poll_interval", "100ms").start().await;
    let bad = event("order.bad").add(&client).await;
    for n in 1..=4 {
        attempted(&client, bad, n).await;
        let good = event("order.paid").add(&client).await;
        assert_eq!(attempted(&client, good, 1).await[0].verdict, "delivered");
        make_due(&client).await;
    }
    assert_eq!(attempted(&client, bad, 5).await[4].status, Some(400));
    assert!(!relay.log().contains("paused"), "{}", relay.log());
}

#[tokio::test]
async fn whatever_a_schedule_says_a_rejected_event_is_neither_sent_without_rest_nor_without_a_pause()
 {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.otherwise(Reply::status(400));
    unchecked(&client, "endpoints", "schedule").await;
    let row = endpoint(&receiver.url("/")).with("schedule", "{0 s}").with("max_attempts", 1000);
    row.add(&client).await;
    let _relay = Relay::on(&database.url()).set("health.rejection_threshold", "3").start().await;
    let bad = event("order.bad").add(&client).await;
    holds(&client, "health = 'paused' from posthaste.endpoint_status").await;
    let all = attempts(&client, bad).await;
    assert_eq!(all.len(), 3);
    for pair in all.windows(2) {
        let apart = pair[1].started_at.duration_since(pair[0].started_at);
        assert!(apart.as_millis() >= 1000, "{all:?}");
    }
}
