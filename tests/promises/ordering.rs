//! To an ordered endpoint, one delivery of an ordering key at a time, in the order of commits,
//! through retries, crashes and several relays.

use std::collections::HashMap;

use tokio_postgres::Client;

use crate::support::{
    Gate, Received, Receiver, Relay, Reply, TestDatabase, attempted, attempts, endpoint, event,
    holds, inconsistencies, make_due, settled, value,
};

/// An event of a key, with a number to know it by.
async fn keyed(client: &Client, key: &str, number: u32) -> i64 {
    let payload = format!(r#"{{"n":{number}}}"#);
    event(key).with("ordering_key", key).with("payload", payload).add(client).await
}

/// The numbers that arrived, by key.
fn numbers(received: &[Received]) -> HashMap<String, Vec<u64>> {
    let mut numbers: HashMap<_, Vec<_>> = HashMap::new();
    for one in received {
        let body = one.json();
        let key = body["type"].as_str().unwrap().to_owned();
        numbers.entry(key).or_default().push(body["data"]["n"].as_u64().unwrap());
    }
    numbers
}

fn expected<const N: usize>(keys: [(&str, &[u64]); N]) -> HashMap<String, Vec<u64>> {
    keys.map(|(key, numbers)| (key.to_owned(), numbers.to_vec())).into()
}

#[tokio::test]
async fn one_of_a_key_at_a_time_and_other_keys_go_on() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let gate = Gate::default();
    receiver.script([Reply::ok().held_by(&gate)]);
    endpoint(&receiver.url("/")).with("ordered", true).add(&client).await;
    let _relay = Relay::start(&database).await;
    let first = keyed(&client, "a", 1).await;
    receiver.next().await;
    let second = keyed(&client, "a", 2).await;
    let other = keyed(&client, "b", 1).await;
    event("keyless").with("payload", r#"{"n":1}"#).add(&client).await;
    attempted(&client, other, 1).await;
    receiver.wait_for(3).await;
    let explained = format!(
        "(state, why) = ('in line', 'in line behind event {first} of ordering key a') \
         from posthaste.explain({second})"
    );
    holds(&client, &explained).await;
    let listed =
        format!("state = 'in line' from posthaste.delivery_status where event_id = {second}");
    holds(&client, &listed).await;
    keyed(&client, "a", 3).await;
    gate.open();

    settled(&client).await;
    let all = expected([("a", &[1, 2, 3]), ("b", &[1]), ("keyless", &[1])]);
    assert_eq!(numbers(&receiver.received()), all);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn an_endpoint_that_is_not_ordered_gets_a_keys_events_side_by_side() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.otherwise(Reply::Hang);
    endpoint(&receiver.url("/")).add(&client).await;
    let _relay = Relay::start(&database).await;
    keyed(&client, "a", 1).await;
    keyed(&client, "a", 2).await;
    receiver.wait_for(2).await;
}

#[tokio::test]
async fn what_commits_later_comes_later_even_if_it_was_inserted_first() {
    let database = TestDatabase::new().await;
    let (early, late) = (database.client().await, database.client().await);
    let receiver = Receiver::start().await;
    let gate = Gate::default();
    receiver.script([Reply::ok().held_by(&gate)]);
    endpoint(&receiver.url("/")).with("ordered", true).add(&early).await;
    let _relay = Relay::start(&database).await;
    late.batch_execute("begin").await.unwrap();
    let commits_last = keyed(&late, "a", 2).await;
    keyed(&early, "a", 1).await;
    receiver.next().await;
    late.batch_execute("commit").await.unwrap();
    let in_line = format!("in_line from posthaste.live_deliveries where event_id = {commits_last}");
    holds(&early, &in_line).await;
    gate.open();

    settled(&early).await;
    assert_eq!(numbers(&receiver.received()), expected([("a", &[1, 2])]));
}

#[tokio::test]
async fn a_backlog_of_many_steps_is_in_order_although_it_is_routed_by_transaction() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/"))
        .with("ordered", true)
        .with("subscriptions", "{a}")
        .add(&client)
        .await;
    // The transaction with the lower number writes its event of the key after the other has
    // committed.
    let older = database.client().await;
    older.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
    for number in 1..=30 {
        keyed(&client, "a", number).await;
    }
    for number in 31..=60 {
        keyed(&older, "a", number).await;
    }
    older.batch_execute("commit").await.unwrap();
    let _relay = Relay::on(&database.url()).set("relay.batch", "10").start().await;

    settled(&client).await;
    let steps = "count(*) filter (where span_number is not null) >= 5 from posthaste.routing";
    holds(&client, steps).await;
    let in_order: Vec<u64> = (1..=60).collect();
    assert_eq!(numbers(&receiver.received()), expected([("a", &in_order)]));
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_head_that_waits_for_its_retry_holds_its_key() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(500)]);
    endpoint(&receiver.url("/")).with("ordered", true).add(&client).await;
    let _relay = Relay::start(&database).await;
    let first = keyed(&client, "a", 1).await;
    attempted(&client, first, 1).await;
    keyed(&client, "a", 2).await;
    let other = keyed(&client, "b", 1).await;
    attempted(&client, other, 1).await;
    assert_eq!(numbers(&receiver.received()), expected([("a", &[1]), ("b", &[1])]));
    value::<String>(&client, &format!("select posthaste.retry({first}, 1)")).await;

    settled(&client).await;
    assert_eq!(numbers(&receiver.received()), expected([("a", &[1, 1, 2]), ("b", &[1])]));
}

/// A dead head of key `a` with another behind it; returns both events.
async fn blocked(client: &Client, receiver: &Receiver, expires: &str) -> (i64, i64) {
    receiver.script([Reply::status(500)]);
    endpoint(&receiver.url("/")).with("ordered", true).with("max_attempts", 1).add(client).await;
    let expires_at = format!("select ({expires})::text");
    let expires_at: String = value(client, &expires_at).await;
    let head = event("a")
        .with("ordering_key", "a")
        .with("payload", r#"{"n":1}"#)
        .with("expires_at", expires_at);
    let first = head.add(client).await;
    attempted(client, first, 1).await;
    (first, keyed(client, "a", 2).await)
}

#[tokio::test]
async fn a_dead_head_blocks_its_key_until_it_is_tried_again() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let _relay = Relay::start(&database).await;
    let (first, second) = blocked(&client, &receiver, "now() + interval '1 day'").await;
    let is_blocked = "blocked_keys = 1 and pending = 2 from posthaste.endpoint_status";
    holds(&client, is_blocked).await;
    let explained = format!("state = 'blocked' from posthaste.explain({first})");
    holds(&client, &explained).await;
    let attempt = attempts(&client, first).await.remove(0);
    assert_eq!((attempt.number, attempt.verdict.as_str()), (1, "dead"));
    assert_eq!(attempts(&client, second).await.len(), 0);
    // It has all its attempts again, and its one is enough.
    assert_eq!(value::<i64>(&client, "select posthaste.unblock(1, 'a')").await, 1);

    settled(&client).await;
    assert_eq!(numbers(&receiver.received()), expected([("a", &[1, 1, 2])]));
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_dead_head_that_is_skipped_or_cancelled_lets_the_next_follow() {
    for decide in ["posthaste.unblock(1, skip => true)", "(posthaste.cancel(1)).cancelled"] {
        let database = TestDatabase::new().await;
        let client = database.client().await;
        let receiver = Receiver::start().await;
        let _relay = Relay::on(&database.url()).set("relay.poll_interval", "60s").start().await;
        let (first, _) = blocked(&client, &receiver, "now() + interval '1 day'").await;
        let is_blocked = "blocked_keys = 1 and pending = 2 from posthaste.endpoint_status";
        holds(&client, is_blocked).await;
        assert_eq!(value::<i64>(&client, &format!("select {decide}")).await, 1);

        settled(&client).await;
        assert_eq!(numbers(&receiver.received()), expected([("a", &[1, 2])]));
        assert_eq!(attempts(&client, first).await.last().unwrap().verdict, "cancelled");
    }
}

#[tokio::test]
async fn a_dead_head_that_expires_is_cancelled_and_the_next_follows() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let _relay = Relay::start(&database).await;
    let soon = "now() + interval '1 second'";
    let (first, _) = blocked(&client, &receiver, soon).await;

    settled(&client).await;
    assert_eq!(numbers(&receiver.received()), expected([("a", &[1, 2])]));
    let told: Vec<_> =
        attempts(&client, first).await.into_iter().map(|a| (a.verdict, a.reason)).collect();
    assert_eq!(told[0].0, "dead");
    assert_eq!(told[1], ("cancelled".to_owned(), Some("expired".to_owned())));
}

#[tokio::test]
async fn by_choice_the_next_follows_a_dead_head_at_once() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(500)]);
    let ordered = endpoint(&receiver.url("/")).with("ordered", true).with("max_attempts", 1);
    ordered.with("on_dead", "skip").add(&client).await;
    let _relay = Relay::start(&database).await;
    let first = keyed(&client, "a", 1).await;
    keyed(&client, "a", 2).await;

    settled(&client).await;
    assert_eq!(numbers(&receiver.received()), expected([("a", &[1, 2])]));
    assert_eq!(attempts(&client, first).await[0].verdict, "dead");
}

#[tokio::test]
async fn order_is_kept_by_several_relays_of_which_one_is_killed() {
    const KEYS: u64 = 12;
    const EACH: u64 = 15;
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).with("ordered", true).add(&client).await;
    let relay = || {
        let relay = Relay::on(&database.url()).set("relay.heartbeat", "200ms");
        relay.set("relay.poll_interval", "50ms").start()
    };
    let mut killed = relay().await;
    let mut others = None;
    for number in 1..=EACH {
        let all = format!(
            "insert into posthaste.outbox (event_type, ordering_key, payload) \
             select 'k' || k, 'k' || k, json_build_object('n', {number}) \
               from generate_series(1, {KEYS}) k"
        );
        client.batch_execute(&all).await.unwrap();
        if number == EACH / 2 {
            receiver.wait_for(usize::try_from(KEYS).unwrap()).await;
            others = Some(tokio::join!(relay(), relay()));
            killed.kill().await;
        }
    }

    settled(&client).await;
    drop(others);
    let in_order: Vec<u64> = (1..=EACH).collect();
    let arrived = numbers(&receiver.received());
    assert_eq!(arrived.len() as u64, KEYS);
    for (key, mut numbers) in arrived {
        // Requests that the killed relay had out come twice, one after the other.
        numbers.dedup();
        assert_eq!(numbers, in_order, "{key}");
    }
    holds(&client, "count(distinct relay_id) > 1 from posthaste.delivery_attempts").await;
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

/// Routes what there is with no room to claim anything.
const ROUTE: &str = "execute route(1, 1, 500, null, now() - interval '1 day', '{}', '{}', 0, 0, 0)";

#[tokio::test]
async fn what_routing_and_recording_miss_of_each_other_has_its_turn_all_the_same() {
    let database = TestDatabase::new().await;
    let (client, recorder) = (database.client().await, database.client().await);
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).with("ordered", true).add(&client).await;
    let route = include_str!("../../sql/queries/route.sql");
    client.batch_execute(&format!("prepare route as {route}")).await.unwrap();
    keyed(&client, "a", 1).await;
    client.batch_execute(ROUTE).await.unwrap();
    // The first ends in a transaction that does not see the second, whose routing still sees the
    // first.
    recorder.batch_execute("begin; delete from posthaste.deliveries").await.unwrap();
    let second = keyed(&client, "a", 2).await;
    client.batch_execute(ROUTE).await.unwrap();
    recorder.batch_execute("commit").await.unwrap();
    let stands = "select problem || ': ' || event_id from posthaste.check_consistency() \
         where problem = 'a line has no head'";
    assert_eq!(client.query(stands, &[]).await.unwrap().len(), 0, "it may be on its way");
    let stands = stands.replace("()", "(patience => '0')");
    assert_eq!(value::<String>(&client, &stands).await, format!("a line has no head: {second}"));

    let _relay = Relay::start(&database).await;
    settled(&client).await;
    assert_eq!(numbers(&receiver.received()), expected([("a", &[2])]));
}

#[tokio::test]
async fn no_two_of_a_key_can_have_their_turn() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let owed = |event: i64, in_line: &str| {
        format!(
            "insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, \
             next_attempt_at, ordering_key, place, in_line) \
             values ({event}, 1, now(), now(), 'a', 1, {in_line})"
        )
    };
    client.batch_execute(&owed(1, "null")).await.unwrap();
    client.batch_execute(&owed(2, "true")).await.unwrap();
    let refused = client.batch_execute(&owed(3, "null")).await.unwrap_err();
    let constraint = refused.as_db_error().and_then(tokio_postgres::error::DbError::constraint);
    assert_eq!(constraint, Some("one_delivery_of_a_line_has_its_turn"));
}

#[tokio::test]
async fn what_is_put_back_joins_the_end_of_its_line() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let gate = Gate::default();
    endpoint(&receiver.url("/")).with("ordered", true).add(&client).await;
    let _relay = Relay::start(&database).await;
    for number in 1..=3 {
        keyed(&client, "a", number).await;
    }
    settled(&client).await;
    receiver.otherwise(Reply::ok().held_by(&gate));
    keyed(&client, "a", 4).await;
    receiver.wait_for(4).await;
    let replay = "select posthaste.replay(1, now() - interval '1 h', now() + interval '1 h', \
                  states => '{delivered}')";
    assert_eq!(value::<i64>(&client, replay).await, 3);
    gate.open();
    make_due(&client).await;

    settled(&client).await;
    assert_eq!(numbers(&receiver.received()), expected([("a", &[1, 2, 3, 4, 1, 2, 3])]));
}
