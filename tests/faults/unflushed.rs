//! The server crashes when a result is recorded and the record is not on its disk yet. The relay
//! has the result as long as that may happen, and records it once more.

use posthaste::sandbox::postgres::StopMode;
use tokio_postgres::Client;

use crate::support::server::connect;
use crate::support::{
    Gate, Receiver, Relay, Reply, Server, attempted, endpoint, event, holds, inconsistencies,
    settled, value,
};

const RECORDED: &str = "select count(*) from posthaste.delivery_attempts";

/// A server whose log is written by commits that wait, and by nothing else for ten seconds.
async fn server() -> (Server, Client) {
    let server = Server::start(&["wal_writer_delay = 10s", "autovacuum = off"]).await;
    let client = server.client().await;
    (server, client)
}

/// Whose heartbeats are far apart, since each of them waits for the disk.
async fn relay(server: &Server) -> Relay {
    let relay = Relay::on(&server.url()).set("relay.heartbeat", "10s").set("relay.lease", "30s");
    relay.start().await
}

/// The server crashes and begins again while the relay stands still. Returns how many attempts have
/// a record then.
async fn crash(server: &mut Server, relay: &Relay) -> i64 {
    relay.freeze();
    server.stop(StopMode::Immediate).await;
    server.start_again().await;
    value(&server.client().await, RECORDED).await
}

/// All that was sent has arrived once and is recorded once, under claims of one relay.
async fn assert_each_once(receiver: &Receiver, client: &Client, events: usize) {
    settled(client).await;
    assert_eq!(receiver.received().len(), events);
    let once = "select count(*) = count(distinct event_id) and bool_and(verdict = 'delivered') \
                from posthaste.delivery_attempts";
    assert!(value::<bool>(client, once).await);
    assert_eq!(value::<i64>(client, RECORDED).await, i64::try_from(events).unwrap());
    assert_eq!(inconsistencies(client).await, [""; 0]);
}

#[tokio::test]
async fn a_record_that_a_crash_of_the_server_has_lost_is_made_again_and_nothing_is_sent_twice() {
    let (mut server, client) = server().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = relay(&server).await;
    let event = event("order.paid").add(&client).await;
    attempted(&client, event, 1).await;
    assert_eq!(crash(&mut server, &relay).await, 0, "its record was not on the disk");
    relay.thaw();
    relay.logs("it was recorded again").await;
    assert_each_once(&receiver, &server.client().await, 1).await;
}

#[tokio::test]
async fn a_record_of_a_batch_that_a_crash_of_the_server_has_lost_is_made_again() {
    // More than the statement for a few takes: they are claimed in one row.
    const EVENTS: i64 = 150;
    let (mut server, client) = server().await;
    let receiver = Receiver::start().await;
    let gate = Gate::default();
    receiver.script([Reply::ok().held_by(&gate)]);
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = relay(&server).await;
    let many = format!(
        "insert into posthaste.outbox (event_type, payload) \
         select 'x', '1' from generate_series(1, {EVENTS})"
    );
    client.batch_execute(&many).await.unwrap();
    holds(&client, &format!("count(*) = {} from posthaste.delivery_attempts", EVENTS - 1)).await;
    assert!(value::<bool>(&client, "select exists (select from posthaste.claims)").await);
    gate.open();
    holds(&client, &format!("count(*) = {EVENTS} from posthaste.delivery_attempts")).await;
    assert!(crash(&mut server, &relay).await < EVENTS, "the last record was not on the disk");
    relay.thaw();
    relay.logs("it was recorded again").await;
    assert_each_once(&receiver, &server.client().await, EVENTS.try_into().unwrap()).await;
}

#[tokio::test]
async fn a_relay_that_is_told_to_stop_while_the_server_is_away_waits_until_its_records_are_safe() {
    let (mut server, client) = server().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let mut relay = relay(&server).await;
    let event = event("order.paid").add(&client).await;
    attempted(&client, event, 1).await;
    relay.freeze();
    server.stop(StopMode::Immediate).await;
    relay.signal("TERM");
    relay.thaw();
    relay.logs("a statement failed; it is tried again").await;
    server.start_again().await;
    assert!(relay.exit().await.success());
    let client = connect(&server.url()).await.unwrap();
    let _next = Relay::on(&server.url()).start().await;
    // It has released what the first one has left.
    holds(&client, "not exists (select from posthaste.relays where id = 1)").await;
    assert_each_once(&receiver, &client, 1).await;
}

#[tokio::test]
async fn a_backend_that_dies_has_the_server_begin_anew_and_the_record_made_again() {
    let (server, client) = server().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = relay(&server).await;
    let event = event("order.paid").add(&client).await;
    attempted(&client, event, 1).await;
    // The postmaster lives on, and says that it has begun when it did before.
    let backend: i32 = value(&client, "select pg_backend_pid()").await;
    posthaste::sandbox::watchdog::signal(backend.try_into().unwrap(), "KILL").unwrap();
    relay.logs("it was recorded again").await;
    assert_each_once(&receiver, &server.client().await, 1).await;
}
