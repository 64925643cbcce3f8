//! `/ready`, `/status` and `/live` tell the truth of a relay whose statements the database refuses
//! while it answers, and answer however many idle connections there are.

use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpStream;
use tokio_postgres::Client;

use crate::support::{Receiver, Relay, TestDatabase, endpoint, event, holds, settled, until};

/// Has a statement that writes to this table fail.
async fn refuse(client: &Client, table: &str) {
    let trigger = format!(
        "create or replace function refuse() returns trigger language plpgsql as $$ begin \
           raise 'no such thing' using errcode = 'P0042'; end $$; \
         create trigger refuse before insert on posthaste.{table} for each row \
           execute function refuse()"
    );
    client.batch_execute(&trigger).await.unwrap();
}

async fn status(relay: &Relay) -> Value {
    let (_, body) = relay.get("/status").await.expect("the relay answers");
    serde_json::from_str(&body).unwrap()
}

/// Waits until the relay is not ready by this sentence; returns all of it.
async fn not_ready(relay: &Relay, sentence: &str) -> String {
    until("the relay to say what fails", || async {
        let (code, body) = relay.get("/ready").await?;
        assert!(!body.contains("is away"), "the database answers: {body}");
        (code == 503 && body.contains(sentence)).then_some(body)
    })
    .await
}

async fn assert_told(relay: &Relay, client: &Client, table: &str, subject: &str, during: &str) {
    let said = not_ready(relay, &format!("{subject} fails for ")).await;
    assert!(said.contains("the database refuses it (P0042), see the log"), "{said}");
    assert!(!said.contains("no such thing"), "the server's words may quote rows: {said}");
    let told = status(relay).await;
    let error = &told["last_error"];
    assert_eq!((&error["code"], &error["during"]), (&"P0042".into(), &during.into()), "{told}");
    assert_eq!(error["is_over"], false, "{told}");
    assert!(error["message"].as_str().unwrap().contains("(P0042)"), "{told}");
    assert!(error["since"].as_str().unwrap() < error["last"].as_str().unwrap(), "{told}");
    assert_eq!(relay.get("/live").await.unwrap().0, 200, "a restart would not help");

    client.batch_execute(&format!("drop trigger refuse on posthaste.{table}")).await.unwrap();
    settled(client).await;
    until("the relay to be ready again", || async {
        let (code, _) = relay.get("/ready").await?;
        (code == 200).then_some(())
    })
    .await;
    let told = status(relay).await;
    assert_eq!(told["last_error"]["is_over"], true, "{told}");
    assert!(told["last_success"][during].is_string(), "{told}");
}

#[tokio::test]
async fn a_relay_that_cannot_record_is_not_ready_and_says_since_when_and_by_which_error() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = Relay::start(&database).await;
    // Or else the one result would be set aside, and all be well.
    refuse(&client, "set_aside").await;
    refuse(&client, "attempts").await;
    event("order.paid").add(&client).await;
    receiver.next().await;
    assert_told(&relay, &client, "attempts", "recording", "record").await;
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(status(&relay).await["terms_ended"], 0);
}

#[tokio::test]
async fn a_relay_that_cannot_route_is_not_ready_and_says_since_when_and_by_which_error() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = Relay::start(&database).await;
    refuse(&client, "routing").await;
    event("order.paid").add(&client).await;
    assert_told(&relay, &client, "routing", "routing", "route").await;
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn a_relay_that_cannot_route_from_its_start_on_is_not_ready_until_it_can() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    event("order.paid").add(&client).await;
    refuse(&client, "routing").await;
    let relay = Relay::on(&database.url()).set("relay.poll_interval", "200ms").spawn();
    not_ready(&relay, "the database refuses it (P0042), see the log").await;
    // Polls that succeed meanwhile do not make it ready.
    let failed = relay.metric("posthaste_database_errors_total", r#"during="route""#).await;
    until("routing to fail again and again", || async {
        assert_eq!(relay.get("/ready").await?.0, 503);
        let now = relay.metric("posthaste_database_errors_total", r#"during="route""#).await;
        (now >= failed + 4.0).then_some(())
    })
    .await;
    assert_told(&relay, &client, "routing", "routing", "route").await;
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn a_relay_whose_terms_end_again_and_again_is_not_ready_and_counts_them() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let mut relay = Relay::on(&database.url()).set("relay.heartbeat", "100ms").start().await;
    for ended in 1..=5 {
        // As a relay would that has taken this one for dead.
        holds(&client, "count(*) = 1 from posthaste.relays").await;
        client.batch_execute("delete from posthaste.relays").await.unwrap();
        until("the term to end", || async {
            (status(&relay).await["terms_ended"] == ended).then_some(())
        })
        .await;
    }
    not_ready(&relay, "5 terms of this relay ended within the last 10 minutes").await;
    assert!(relay.stop().await.success());
}

#[tokio::test]
async fn idle_connections_do_not_keep_a_probe_out() {
    let database = TestDatabase::new().await;
    let relay = Relay::start(&database).await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(relay.address()).await.unwrap());
    }
    for path in ["/live", "/ready", "/metrics"] {
        let answer = tokio::time::timeout(Duration::from_secs(1), relay.get(path)).await;
        assert_eq!(answer.expect("within a second").unwrap().0, 200, "{path}");
    }
}
