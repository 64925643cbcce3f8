//! The primary is lost and a streaming standby takes over: with synchronous replication as if
//! nothing had been; with asynchronous, what the standby never had is gone, and of the rest
//! nothing.

use std::collections::BTreeSet;

use posthaste::sandbox::postgres::StopMode;
use serde_json::Value;
use tokio_postgres::Client;

use crate::support::{
    Gate, Received, Receiver, Relay, Reply, Server, Standby, Wire, Writer, attempts, endpoint,
    event, holds, ids, inconsistencies, settled, value, webhook_ids,
};

/// A URL that names both, as applications and relays are given it.
fn both(primary: &Server, second: u16) -> String {
    let port = primary.port();
    primary.url().replace(&format!(":{port}/"), &format!(":{port},127.0.0.1:{second}/"))
}

async fn assert_cursor_fits(relay: &Relay, client: &Client) {
    assert!(!relay.log().contains("restored from another one"), "{}", relay.log());
    let one_system = "select count(distinct system_identifier) = 1 from posthaste.routing";
    assert!(value::<bool>(client, one_system).await);
    let timeline = "select timeline_id from pg_control_checkpoint()";
    client.batch_execute("checkpoint").await.unwrap();
    assert_eq!(value::<i32>(client, timeline).await, 2);
}

#[tokio::test]
async fn a_synchronous_standby_takes_over_and_each_event_comes_once() {
    const EVENTS: usize = 600;
    let mut primary = Server::start(&[]).await;
    let client = primary.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let standby = Standby::of(&primary, primary.port()).await;
    client.batch_execute("alter system set synchronous_standby_names = 'standby'").await.unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    holds(&client, "count(*) = 1 from pg_stat_replication where sync_state = 'sync'").await;
    let url = both(&primary, standby.port());
    let relay = Relay::on(&url).start().await;
    let writer = Writer::start(&format!("{url}?target_session_attrs=read-write"), EVENTS);
    writer.has_written(EVENTS / 2).await;
    primary.stop(StopMode::Immediate).await;
    standby.promote().await;
    let acknowledged = writer.done().await;

    let client = standby.client().await;
    settled(&client).await;
    let there = client.query("select id from posthaste.outbox", &[]).await.unwrap();
    let there: BTreeSet<i64> = there.iter().map(|row| row.get(0)).collect();
    assert!(acknowledged.is_subset(&there), "what was committed is there");
    let all = receiver.received();
    assert_eq!(ids(&all), webhook_ids(&client).await);
    assert_eq!(all.len(), there.len(), "each once");
    assert_eq!(inconsistencies(&client).await, [""; 0]);
    assert_cursor_fits(&relay, &client).await;
    assert_eq!(relay.metric("posthaste_database_went_back_total", "").await, 0.0);
}

fn of_type<'a>(all: &'a [Received], event_type: &str) -> Vec<&'a Received> {
    all.iter().filter(|one| one.json()["type"] == event_type).collect()
}

/// The events' numbers, without the moments that make them messages.
async fn numbers(of: &[&Received], client: &Client) -> BTreeSet<i64> {
    let ids: Vec<&str> = of.iter().map(|one| one.id()).collect();
    let named = "select posthaste.event_of(id) from unnest($1::text[]) id";
    client.query(named, &[&ids]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// With both numbers: where it was, and where it is now.
async fn assert_told_that_it_went_back(relay: &Relay) {
    let line: Value = serde_json::from_str(&relay.logs("the database went back").await).unwrap();
    assert_eq!(line["level"], "ERROR");
    let [seen, found] = ["seen_step", "found_step"].map(|step| line[step].as_i64().unwrap());
    assert!(found < seen, "{line}");
    assert_eq!(relay.metric("posthaste_database_went_back_total", "").await, 1.0);
    let (_, status) = relay.get("/status").await.unwrap();
    let said = serde_json::from_str::<Value>(&status).unwrap()["history"].clone();
    assert_eq!(said["went_back"], 1, "{said}");
    assert_eq!(
        [&said["seen"]["step"], &said["found"]["step"]],
        [&seen.into(), &found.into()] as [&Value; 2]
    );
}

#[tokio::test]
async fn an_asynchronous_standby_loses_what_it_never_had_and_nothing_else() {
    const LOST: usize = 40;
    let mut primary = Server::start(&[]).await;
    let client = primary.client().await;
    let receiver = Receiver::start().await;
    let gate = Gate::default();
    endpoint(&receiver.url("/")).add(&client).await;
    let wire = Wire::to(primary.port()).await;
    let standby = Standby::of(&primary, wire.port()).await;
    let relay = Relay::on(&both(&primary, standby.port())).start().await;
    event("order.done").add(&client).await;
    settled(&client).await;
    receiver.script([Reply::ok().held_by(&gate)]);
    let sent = event("order.sent").add(&client).await;
    receiver.wait_for(2).await;
    standby.catch_up(&client).await;
    wire.silence();
    // From here on the standby hears nothing: of what was sent, of what is new.
    gate.open();
    settled(&client).await;
    for _ in 0..LOST {
        event("order.lost").add(&client).await;
    }
    settled(&client).await;
    primary.stop(StopMode::Immediate).await;
    standby.promote().await;

    let client = standby.client().await;
    for _ in 0..LOST {
        event("order.new").add(&client).await;
    }
    settled(&client).await;
    let all = receiver.received();
    let [done, sent_twice, lost, new] =
        ["order.done", "order.sent", "order.lost", "order.new"].map(|name| of_type(&all, name));
    assert_eq!((done.len(), lost.len(), new.len()), (1, LOST, LOST));
    // The record of the attempt is lost, so it is made again, as the same message.
    assert_eq!(sent_twice.len(), 2);
    assert_eq!(sent_twice[0].id(), sent_twice[1].id());
    let told: Vec<_> = attempts(&client, sent).await.into_iter().map(|a| a.outcome).collect();
    assert_eq!(told, ["interrupted", "answered"]);
    // The lost are gone, and some of their numbers are given again; no message's id is.
    let (of_lost, of_new) = (numbers(&lost, &client).await, numbers(&new, &client).await);
    assert!(!of_lost.is_disjoint(&of_new), "or this test shows too little");
    assert_eq!(ids(&all).len(), 1 + 1 + LOST + LOST);
    assert_eq!(webhook_ids(&client).await.len(), 1 + 1 + LOST, "what is left in the outbox");
    assert_eq!(inconsistencies(&client).await, [""; 0]);
    assert_cursor_fits(&relay, &client).await;
    assert_told_that_it_went_back(&relay).await;
}

#[tokio::test]
async fn a_relay_whose_number_was_given_again_by_the_new_primary_takes_another() {
    let mut primary = Server::start(&[]).await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&primary.client().await).await;
    let replication = Wire::to(primary.port()).await;
    let standby = Standby::of(&primary, replication.port()).await;
    standby.catch_up(&primary.client().await).await;
    replication.silence();
    // It registers as number 1, and the standby does not hear of it.
    let way = Wire::to(standby.port()).await;
    way.refuse().await;
    let mut first = Relay::on(&both(&primary, way.port())).start().await;
    primary.stop(StopMode::Immediate).await;
    standby.promote().await;
    let client = standby.client().await;
    let direct = both(&primary, standby.port());
    let _second = Relay::on(&direct).start().await;
    holds(&client, "array_agg(id) = '{1}' from posthaste.relays").await;
    way.fix();

    first.logs("the lease was lost").await;
    holds(&client, "array_agg(id order by id) = '{1,2}' from posthaste.relays").await;
    first.ready().await;
    for _ in 0..20 {
        event("order.paid").add(&client).await;
    }
    settled(&client).await;
    assert_eq!(receiver.received().len(), 20);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_history_that_another_relay_has_written_on_is_noticed_all_the_same() {
    let mut primary = Server::start(&[]).await;
    let client = primary.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let replication = Wire::to(primary.port()).await;
    let standby = Standby::of(&primary, replication.port()).await;
    let way = Wire::to(standby.port()).await;
    way.refuse().await;
    let relay = Relay::on(&both(&primary, way.port())).start().await;
    event("order.done").add(&client).await;
    settled(&client).await;
    standby.catch_up(&client).await;
    replication.silence();
    event("order.lost").add(&client).await;
    settled(&client).await;
    primary.stop(StopMode::Immediate).await;
    standby.promote().await;

    let client = standby.client().await;
    let _other = Relay::on(&both(&primary, standby.port())).start().await;
    for _ in 0..5 {
        event("order.new").add(&client).await;
        settled(&client).await;
    }
    way.fix();
    relay.logs("the database went back").await;
    assert_eq!(relay.metric("posthaste_database_went_back_total", "").await, 1.0);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}
