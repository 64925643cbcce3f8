//! Steering: an operator calls a function, and its effect is seen at the receiver and in the views.
//!
//! Relays here do not poll, so what is said to happen at once has been heard of, not found by luck.

use tokio_postgres::Client;

use crate::support::{
    Gate, Received, Receiver, Relay, Reply, TestDatabase, attempted, attempts, believed, endpoint,
    event, holds, inconsistencies, settled, value,
};

async fn relay_without_polling(database: &TestDatabase) -> Relay {
    Relay::on(&database.url()).set("relay.poll_interval", "60s").start().await
}

/// Neither a poll nor a delivery's own time came to the rescue.
async fn assert_it_heard(relay: &Relay) {
    for reason in ["poll", "due"] {
        let wakes = relay.metric("posthaste_wakes_total", &format!("reason=\"{reason}\"")).await;
        assert_eq!(wakes, 0.0, "{reason}");
    }
}

/// `state: why` of an event at an endpoint.
async fn why(client: &Client, event: i64, endpoint: i64) -> String {
    let statement = format!(
        "select state || ': ' || why from posthaste.explain({event}) where endpoint_id = {endpoint}"
    );
    value(client, &statement).await
}

fn types(receiver: &Receiver) -> Vec<String> {
    let event_type = |one: &Received| one.json()["type"].as_str().unwrap().to_owned();
    receiver.received().iter().map(event_type).collect()
}

fn sorted(mut types: Vec<String>) -> Vec<String> {
    types.sort();
    types
}

#[tokio::test]
async fn an_endpoint_that_is_added_while_the_relay_runs_gets_what_comes_next() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let relay = relay_without_polling(&database).await;
    relay.asleep().await;
    let add = "select endpoint_id, secret from posthaste.add_endpoint(
        url => $1, subscriptions => '{order.*}', tenant => 'a', filter => '$ ? (@.n > 1)',
        headers => '{\"x-own\": \"yes\"}', body_format => 'event_payload')";
    let added = client.query_one(add, &[&receiver.url("/hook")]).await.unwrap();
    let (endpoint, secret): (i64, String) = (added.get(0), added.get(1));
    for (event_type, tenant, n) in [
        ("order.paid", "a", 1),
        ("order.paid", "b", 2),
        ("user.left", "a", 2),
        ("order.sent", "a", 2),
    ] {
        let payload = format!(r#"{{"n":{n}}}"#);
        event(event_type).with("tenant", tenant).with("payload", payload).add(&client).await;
    }

    let received = receiver.next().await;
    assert_eq!(received.body, br#"{"event":"order.sent","payload":{"n":2}}"#);
    assert_eq!(received.header("x-own"), Some("yes"));
    assert!(believed(&received, &secret), "it signs with the secret that was shown");
    settled(&client).await;
    assert_eq!(receiver.received().len(), 1);
    let health =
        format!("select health from posthaste.endpoint_status where endpoint_id = {endpoint}");
    assert_eq!(value::<String>(&client, &health).await, "flowing");
    assert_it_heard(&relay).await;
}

#[tokio::test]
async fn what_was_held_goes_on_at_once_when_its_endpoint_is_enabled() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(500)]);
    let id = endpoint(&receiver.url("/")).with("schedule", "{1 h}").add(&client).await;
    let relay = relay_without_polling(&database).await;
    let held = event("order.paid").add(&client).await;
    attempted(&client, held, 1).await;
    let disable = format!("select posthaste.disable_endpoint({id}, 'on holiday')");
    assert!(value::<bool>(&client, &disable).await);
    assert!(!value::<bool>(&client, &disable).await, "it is disabled already");
    let retry = format!("select posthaste.retry({held}, {id})");
    assert_eq!(value::<String>(&client, &retry).await, "due");
    let said = why(&client, held, id).await;
    let held = format!("held: endpoint disabled: on holiday: posthaste.enable_endpoint({id}) lets");
    assert!(said.starts_with(&held) && said.contains("attempt 2 is due"), "{said}");
    assert_eq!(receiver.received().len(), 1);

    let enable = format!("select was from posthaste.enable_endpoint({id})");
    assert_eq!(value::<String>(&client, &enable).await, "disabled");
    receiver.wait_for(2).await;
    settled(&client).await;
    assert_it_heard(&relay).await;
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn enabling_a_paused_endpoint_ends_the_pause_at_once() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(500)]);
    let id = endpoint(&receiver.url("/")).with("schedule", "{1 h}").add(&client).await;
    let relay = Relay::on(&database.url()).set("relay.poll_interval", "60s");
    let relay = relay.set("health.failure_threshold", "1").set("health.first_pause", "1h");
    let relay = relay.set("health.longest_pause", "1h").start().await;
    let first = event("order.paid").add(&client).await;
    attempted(&client, first, 1).await;
    holds(&client, "exists (select from posthaste.endpoint_health where state = 'paused')").await;
    let retry = format!("select posthaste.retry({first}, {id})");
    assert_eq!(value::<String>(&client, &retry).await, "due");
    let said = why(&client, first, id).await;
    assert!(said.starts_with("waiting: endpoint paused until "), "{said}");
    assert_eq!(receiver.received().len(), 1);

    let enable = format!("select was from posthaste.enable_endpoint({id})");
    assert_eq!(value::<String>(&client, &enable).await, "paused");
    receiver.wait_for(2).await;
    settled(&client).await;
    let health = "select health from posthaste.endpoint_status";
    assert_eq!(value::<String>(&client, health).await, "flowing");
    assert_it_heard(&relay).await;
}

#[tokio::test]
async fn a_retry_sends_what_waits_now_and_leaves_alone_what_is_being_sent() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let gate = Gate::default();
    receiver.script([Reply::status(500), Reply::status(500).held_by(&gate)]);
    let id = endpoint(&receiver.url("/")).with("schedule", "{1 h}").with("max_attempts", 2);
    let id = id.add(&client).await;
    let other = endpoint(&receiver.url("/other")).with("subscriptions", "{x}").add(&client).await;
    let relay = relay_without_polling(&database).await;
    let event = event("order.paid").add(&client).await;
    attempted(&client, event, 1).await;

    let retry = format!("select posthaste.retry({event}, {id})");
    assert_eq!(value::<String>(&client, &retry).await, "due");
    receiver.wait_for(2).await;
    assert_eq!(value::<String>(&client, &retry).await, "sending");
    gate.open();
    let ended = attempted(&client, event, 2).await;
    assert_eq!((ended[1].number, ended[1].verdict.as_str()), (2, "dead"), "its attempts count on");
    assert_eq!(value::<String>(&client, &retry).await, "put back");
    settled(&client).await;
    let last = attempts(&client, event).await.remove(2);
    assert_eq!((last.number, last.verdict.as_str()), (1, "delivered"), "it began anew");
    let all = receiver.received();
    assert!(all.iter().all(|one| one.id() == last.webhook_id && one.body == all[0].body));
    assert_eq!(all.len(), 3);

    let never = format!("select posthaste.retry({event}, {other})");
    let refused = client.query(&never, &[]).await.unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(refused.message(), format!("event {event} was not owed to endpoint {other}"));
    assert!(refused.hint().unwrap().contains("posthaste.replay"));
    assert_it_heard(&relay).await;
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

/// How many deliveries of the last hour a replay sends again, as the other arguments say.
async fn replay(client: &Client, endpoint: i64, which: &str) -> i64 {
    let since = "clock_timestamp() - interval '1 h'";
    let until = "clock_timestamp() + interval '1 s'";
    let statement = format!("select posthaste.replay({endpoint}, {since}, {until}, {which})");
    value(client, &statement).await
}

#[tokio::test]
async fn a_replay_sends_again_what_it_is_asked_for_as_the_same_messages() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(500), Reply::status(500), Reply::status(500)]);
    let row = endpoint(&receiver.url("/")).with("max_attempts", 1).with("max_concurrency", 1);
    let id = row.add(&client).await;
    let relay = relay_without_polling(&database).await;
    for event_type in ["order.paid", "order.sent", "user.left", "user.came"] {
        event(event_type).add(&client).await;
        settled(&client).await;
    }
    let first = receiver.received();
    let id_of = |event_type: &str| {
        first.iter().find(|one| one.json()["type"] == event_type).unwrap().id().to_owned()
    };

    // By type, and only what is dead; the rest of the dead; nothing is dead any more.
    assert_eq!(replay(&client, id, "'order.*'").await, 2);
    let again = receiver.wait_for(6).await;
    assert_eq!(types(&receiver)[4..], ["order.paid", "order.sent"], "oldest first");
    assert_eq!(again[4].id(), id_of("order.paid"));
    assert_eq!(again[4].body, first[0].body);
    settled(&client).await;
    assert_eq!(replay(&client, id, "'*'").await, 1);
    settled(&client).await;
    assert_eq!(types(&receiver)[6..], ["user.left"]);
    assert_eq!(replay(&client, id, "'*'").await, 0);

    // A second replay of the same, and a third; bounded, oldest first.
    for round in 0..2 {
        assert_eq!(replay(&client, id, "'user.*', '{delivered}'").await, 2);
        settled(&client).await;
        assert_eq!(sorted(types(&receiver))[..2], ["order.paid", "order.paid"]);
        assert_eq!(receiver.received().len(), 7 + 2 * (round + 1));
    }
    assert_eq!(replay(&client, id, "'*', '{dead,delivered,cancelled}', 1").await, 1);
    settled(&client).await;
    let last = receiver.received().pop().unwrap();
    assert_eq!(last.id(), id_of("order.paid"));

    // By time: the span holds one event.
    let span = "select posthaste.replay($1, created_at, created_at + interval '1 us', states => '{delivered}')
                  from posthaste.outbox where event_type = 'user.came'";
    assert_eq!(client.query_one(span, &[&id]).await.unwrap().get::<_, i64>(0), 1);
    settled(&client).await;
    assert_eq!(receiver.received().pop().unwrap().id(), id_of("user.came"));
    assert_it_heard(&relay).await;
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn an_endpoint_that_came_late_can_be_sent_what_it_never_was_owed_once() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (early, late) = (Receiver::start().await, Receiver::start().await);
    endpoint(&early.url("/")).add(&client).await;
    let relay = relay_without_polling(&database).await;
    for event_type in ["order.paid", "order.sent", "user.left"] {
        event(event_type).add(&client).await;
    }
    settled(&client).await;
    let id = endpoint(&late.url("/")).with("subscriptions", "{order.*}").add(&client).await;
    assert_eq!(replay(&client, id, "'*'").await, 0, "nothing of it is dead");
    assert_eq!(replay(&client, id, "'*', '{never}'").await, 2);
    settled(&client).await;
    assert_eq!(sorted(types(&late)), ["order.paid", "order.sent"]);
    assert_eq!(replay(&client, id, "'*', '{never}'").await, 0);

    let ids = |receiver: &Receiver| {
        let mut ids: Vec<_> = receiver.received().iter().map(|one| one.id().to_owned()).collect();
        ids.sort();
        ids
    };
    assert!(ids(&late).iter().all(|id| ids(&early).contains(id)), "one event has one id");
    assert_eq!(early.received().len(), 3);
    assert_it_heard(&relay).await;
}

#[tokio::test]
async fn what_is_cancelled_is_not_sent_says_why_and_can_be_brought_back() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (receiver, open) = (Receiver::start().await, Receiver::start().await);
    let gate = Gate::default();
    receiver.script([Reply::status(500), Reply::status(500), Reply::status(500)]);
    receiver.script([Reply::ok().held_by(&gate)]);
    let id = endpoint(&receiver.url("/")).with("schedule", "{1 h}").add(&client).await;
    let other = endpoint(&open.url("/")).with("subscriptions", "{order.*}").add(&client).await;
    let relay = relay_without_polling(&database).await;
    let mut events = Vec::new();
    for event_type in ["order.paid", "user.left", "order.sent"] {
        let event = event(event_type).add(&client).await;
        attempted(&client, event, 1).await;
        events.push(event);
    }
    let in_flight = event("user.came").add(&client).await;
    receiver.wait_for(4).await;

    let cancel = async |call: &str| {
        let statement = format!("select cancelled, in_flight from posthaste.{call}");
        let row = client.query_one(&statement, &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    assert_eq!(cancel(&format!("cancel({}, reason => 'a mistake')", events[0])).await, (1, 0));
    assert_eq!(cancel(&format!("cancel({}, {other})", events[2])).await, (0, 0));
    assert_eq!(cancel(&format!("cancel({in_flight})")).await, (0, 1), "it is out already");
    assert_eq!(cancel(&format!("cancel_endpoint({id}, 'user.*')")).await, (1, 1));
    assert_eq!(cancel(&format!("cancel_endpoint({id}, reason => 'moved')")).await, (1, 1));
    gate.open();
    settled(&client).await;
    let told = "cancelled: cancelled at ";
    for (event, reason) in events.iter().zip(["a mistake", "cancelled by postgres", "moved"]) {
        let said = why(&client, *event, id).await;
        assert!(said.starts_with(told) && said.ends_with(&format!(": {reason}")), "{said}");
    }
    assert!(why(&client, in_flight, id).await.starts_with("delivered: "));
    assert_eq!(receiver.received().len(), 4);
    let gone = value::<i64>(
        &client,
        "select count(*) from posthaste.delivery_status where state = 'cancelled'",
    );
    assert_eq!(gone.await, 3);

    assert_eq!(replay(&client, id, "'*', '{cancelled}'").await, 3);
    receiver.wait_for(7).await;
    settled(&client).await;
    assert_eq!(open.received().len(), 2, "the other endpoint got its own, once");
    assert_it_heard(&relay).await;
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_test_event_goes_to_its_endpoint_alone_whatever_it_subscribes_to() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (tested, others) = (Receiver::start().await, Receiver::start().await);
    let id = endpoint(&tested.url("/")).with("subscriptions", "{order.paid}").add(&client).await;
    endpoint(&others.url("/all")).add(&client).await;
    endpoint(&others.url("/own")).with("subscriptions", "{posthaste.*}").add(&client).await;
    let relay = relay_without_polling(&database).await;
    let test: i64 = value(&client, &format!("select posthaste.send_test({id})")).await;

    let received = tested.next().await;
    assert_eq!(received.json()["type"], "posthaste.test");
    assert_eq!(received.json()["data"]["endpoint_id"], id);
    settled(&client).await;
    assert!(why(&client, test, id).await.starts_with("delivered: "));
    let own = format!("select posthaste.send_test({id}, '{{\"mine\": true}}')");
    value::<i64>(&client, &own).await;
    assert_eq!(tested.next().await.json()["data"], serde_json::json!({"mine": true}));
    settled(&client).await;
    assert_eq!(others.received().len(), 0);
    assert_it_heard(&relay).await;

    client.execute("update posthaste.endpoints set enabled = false", &[]).await.unwrap();
    let refused = client.query(&own, &[]).await.unwrap_err();
    let message = refused.as_db_error().unwrap().message();
    assert!(message.starts_with(&format!("endpoint {id} is disabled (")), "{message}");
}

#[tokio::test]
async fn explain_has_a_reason_for_each_way_in_which_an_event_is_or_is_not_sent() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let gate = Gate::default();
    let mut ids = std::collections::BTreeMap::new();
    let mut receivers = Vec::new();
    let mut add = async |name: &'static str, reply: Reply, columns: &[(&'static str, &str)]| {
        let receiver = Receiver::start().await;
        receiver.otherwise(reply);
        let row = endpoint(&receiver.url("/")).with("schedule", "{1 h}");
        let row = columns.iter().fold(row, |row, (column, value)| row.with(column, value));
        ids.insert(name, row.add(&client).await);
        receivers.push(receiver);
    };
    add("taken", Reply::ok(), &[]).await;
    add("failing", Reply::status(503), &[]).await;
    add("held", Reply::status(503), &[]).await;
    add("dead", Reply::status(500), &[("max_attempts", "1")]).await;
    add("cancelled", Reply::status(500), &[]).await;
    add("sending", Reply::ok().held_by(&gate), &[]).await;
    add("subscribed to others", Reply::ok(), &[("subscriptions", "{user.*,x}")]).await;
    add("of others", Reply::ok(), &[("tenant", "others")]).await;
    add("filtered", Reply::ok(), &[("filter", "$ ? (@.total > 100)")]).await;
    let disabled = &[("enabled", "false"), ("disabled_reason", "moved away")];
    add("disabled", Reply::ok(), disabled).await;
    let paid = event("order.paid").with("tenant", "ours").with("payload", r#"{"total": 5}"#);
    let paid = paid.add(&client).await;
    let unrouted = "not routed: owed, but not routed yet: a running relay does that at once";
    assert_eq!(why(&client, paid, ids["taken"]).await, unrouted);

    let _relay = Relay::start(&database).await;
    attempted(&client, paid, 5).await;
    receivers[5].wait_for(1).await;
    let steer = format!(
        "select posthaste.disable_endpoint({}, 'too slow'), posthaste.cancel({paid}, {}, 'a mistake')",
        ids["held"], ids["cancelled"]
    );
    client.batch_execute(&steer).await.unwrap();
    ids.insert("late", endpoint("https://example.com/").add(&client).await);
    let changed = "update posthaste.endpoints set subscriptions = '{order.*}' where id = $1";
    for (name, beginning, ending) in [
        ("taken", "delivered: delivered at ", " by attempt 1"),
        ("failing", "waiting: attempt 2 is due at ", "; the last one: answered 503"),
        ("held", "held: endpoint disabled: too slow: posthaste.enable_endpoint(", "answered 503"),
        (
            "dead",
            "dead: dead at ",
            &format!("; posthaste.retry({paid}, {}) sends it again", ids["dead"]),
        ),
        ("cancelled", "cancelled: cancelled at ", ": a mistake"),
        ("sending", "sending: relay ", " is making attempt 1"),
        (
            "subscribed to others",
            "not owed: not subscribed: user.*, x does not match order.paid",
            "",
        ),
        (
            "of others",
            "not owed: the endpoint gets the events of tenant others, this is of tenant ours",
            "",
        ),
        ("filtered", "not owed: the filter does not match the payload", ""),
        ("disabled", "not owed: the endpoint is disabled since ", ": moved away"),
        ("late", "not owed: the endpoint was added after the event, at ", ""),
    ] {
        let said = why(&client, paid, ids[name]).await;
        assert!(said.starts_with(beginning) && said.ends_with(ending), "{name}: {said}");
    }
    client.execute(changed, &[&ids["subscribed to others"]]).await.unwrap();
    let said = why(&client, paid, ids["subscribed to others"]).await;
    assert!(said.starts_with("not owed: it matches now, but the endpoint was changed"), "{said}");

    let named = event("order.paid").with("endpoint_id", ids["taken"]).add(&client).await;
    attempted(&client, named, 1).await;
    let alone = format!("not owed: the event names endpoint {} alone", ids["taken"]);
    assert_eq!(why(&client, named, ids["failing"]).await, alone);
    assert!(why(&client, named, ids["taken"]).await.starts_with("delivered: "));
    gate.open();
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn an_announcement_that_is_not_taken_is_not_announced() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (gone, deaf, watcher, all) = (
        Receiver::start().await,
        Receiver::start().await,
        Receiver::start().await,
        Receiver::start().await,
    );
    for refusing in [&gone, &deaf] {
        refusing.otherwise(Reply::status(410));
    }
    let id = endpoint(&gone.url("/")).with("subscriptions", "{order.*}").add(&client).await;
    let named = "{posthaste.delivery.dead,posthaste.endpoint.disabled}";
    let deaf_id = endpoint(&deaf.url("/")).with("subscriptions", named).add(&client).await;
    endpoint(&watcher.url("/")).with("subscriptions", named).add(&client).await;
    endpoint(&all.url("/")).add(&client).await;
    let _relay = Relay::start(&database).await;
    event("order.paid").add(&client).await;

    holds(&client, "count(*) = 2 from posthaste.endpoints where not enabled").await;
    // The second one that is disabled is the deaf one, which the watcher alone is told.
    let told = watcher.wait_for(3).await;
    let mut told: Vec<_> = told
        .iter()
        .map(|one| {
            format!(
                "{} {}",
                one.json()["type"].as_str().unwrap(),
                one.json()["data"]["endpoint_id"]
            )
        })
        .collect();
    told.sort();
    let expected = [
        format!("posthaste.delivery.dead {id}"),
        format!("posthaste.endpoint.disabled {id}"),
        format!("posthaste.endpoint.disabled {deaf_id}"),
    ];
    assert_eq!(told, expected, "its own events died at the deaf one, and nobody is told of that");
    assert_eq!(types(&all), ["order.paid"], "* does not ask for announcements");
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}
