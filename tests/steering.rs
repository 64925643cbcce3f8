//! What people do by calling a function, seen where it counts: at the receiver and in the views.
//!
//! Relays here do not poll, so what is said to happen at once has been heard of, not found by luck.

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use ring::signature::{ED25519, UnparsedPublicKey};
use standardwebhooks::Webhook;
use tokio_postgres::Client;

use crate::support::{
    Gate, Received, Receiver, Relay, Reply, TestDatabase, attempted, attempts, endpoint, event,
    holds, inconsistencies, settled, until, value,
};

/// 32 bytes: 0, 1, 2, … 31. Its public key is written out in [`PUBLIC_KEY`].
const SEED: &str = "whsk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const PUBLIC_KEY: [u8; 32] = [
    0x03, 0xa1, 0x07, 0xbf, 0xf3, 0xce, 0x10, 0xbe, 0x1d, 0x70, 0xdd, 0x18, 0xe7, 0x4b, 0xc0, 0x99,
    0x67, 0xe4, 0xd6, 0x30, 0x9b, 0xa5, 0x0d, 0x5f, 0x1d, 0xdc, 0x86, 0x64, 0x12, 0x55, 0x31, 0xb8,
];

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

fn believed(received: &Received, secret: &str) -> bool {
    let header = |(name, value): &(String, String)| {
        (HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap())
    };
    let headers: HeaderMap = received.headers.iter().map(header).collect();
    Webhook::new(secret).unwrap().verify(&received.body, &headers).is_ok()
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
    assert!(said.starts_with("held: endpoint disabled: on holiday; attempt 2 is due"), "{said}");
    assert_eq!(receiver.received().len(), 1);

    let enable = format!("select posthaste.enable_endpoint({id})");
    assert!(value::<bool>(&client, &enable).await);
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
    let relay = relay.set("health.failures_to_pause", "1").set("health.first_pause", "1h");
    let relay = relay.set("health.longest_pause", "1h").start().await;
    let first = event("order.paid").add(&client).await;
    attempted(&client, first, 1).await;
    holds(&client, "exists (select from posthaste.endpoint_health where state = 'paused')").await;
    let retry = format!("select posthaste.retry({first}, {id})");
    assert_eq!(value::<String>(&client, &retry).await, "due");
    let said = why(&client, first, id).await;
    assert!(said.starts_with("waiting: endpoint paused until "), "{said}");
    assert_eq!(receiver.received().len(), 1);

    let enable = format!("select posthaste.enable_endpoint({id})");
    assert!(value::<bool>(&client, &enable).await, "it has ended a pause");
    receiver.wait_for(2).await;
    settled(&client).await;
    let health = "select health from posthaste.endpoint_status";
    assert_eq!(value::<String>(&client, health).await, "flowing");
    assert_it_heard(&relay).await;
}

#[tokio::test]
async fn an_old_secret_signs_for_as_long_as_it_is_kept_and_then_no_more() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let added = "select endpoint_id, secret from posthaste.add_endpoint($1)";
    let added = client.query_one(added, &[&receiver.url("/")]).await.unwrap();
    let (id, old): (i64, String) = (added.get(0), added.get(1));
    let relay = relay_without_polling(&database).await;
    let rotate = format!("select posthaste.rotate_secret({id}, '1.5 seconds')");
    let fresh: String = value(&client, &rotate).await;
    let ended = "select expires_at <= clock_timestamp() from posthaste.endpoint_secrets
                  where expires_at is not null";

    let mut overlapped = false;
    until("the old secret to sign no more", || async {
        // Asked before: what is signed with it afterwards is signed too late.
        let ended: bool = value(&client, ended).await;
        event("order.paid").add(&client).await;
        let received = receiver.next().await;
        assert!(believed(&received, &fresh), "the new secret signs from the first moment");
        let both = believed(&received, &old);
        assert!(!(ended && both), "it still signs though its time is over");
        (!both).then_some(())
    })
    .await;
    overlapped |= receiver.received().iter().any(|one| believed(one, &old));
    assert!(overlapped, "for a while both signed");
    assert!(value::<bool>(&client, ended).await, "it stopped before its time");
    assert_it_heard(&relay).await;
}

#[tokio::test]
async fn an_ed25519_secret_gives_a_signature_that_its_public_key_verifies() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let added = "select endpoint_id, secret from posthaste.add_endpoint($1)";
    let added = client.query_one(added, &[&receiver.url("/")]).await.unwrap();
    let (id, symmetric): (i64, String) = (added.get(0), added.get(1));
    let rotate = format!("select posthaste.rotate_secret({id}, '1 hour', '{SEED}')");
    assert_eq!(value::<String>(&client, &rotate).await, SEED);
    let _relay = Relay::start(&database).await;
    event("order.paid").with("payload", r#"{"total":1}"#).add(&client).await;

    let received = receiver.next().await;
    assert!(believed(&received, &symmetric), "a receiver that knows v1 alone reads on");
    let signatures: Vec<_> = received.header("webhook-signature").unwrap().split(' ').collect();
    assert_eq!(signatures.len(), 2);
    let asymmetric = signatures.iter().find_map(|one| one.strip_prefix("v1a,")).unwrap();
    let statement = format!("select decode('{asymmetric}', 'base64')");
    let signature: Vec<u8> = value(&client, &statement).await;
    let head = format!("{}.{}.", received.id(), received.header("webhook-timestamp").unwrap());
    let signed = [head.as_bytes(), &received.body].concat();
    let key = UnparsedPublicKey::new(&ED25519, PUBLIC_KEY);
    key.verify(&signed, &signature).unwrap();
    key.verify(&[&signed[..], b" "].concat(), &signature).unwrap_err();
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

/// What an endpoint is sent again since an hour ago, as the arguments after that say.
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
        ("held", "held: endpoint disabled: too slow; attempt 2 is due at ", "answered 503"),
        ("dead", "dead: dead at ", " by attempt 1: gave up after 1 attempt"),
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
    let relay = relay_without_polling(&database).await;
    relay.asleep().await;

    // The operator adds, the producer emits and rings the bell, the operator retries, the viewer sees.
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
    assert!(why(&viewer, event, id).await.starts_with("delivered: "));
    assert_it_heard(&relay).await;

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
    let row = endpoint(&gone.url("/")).with("schedule", "{10 ms}");
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

/// The text of every view, all that an operator can look at.
async fn everything_visible(client: &Client) -> String {
    let views = "select string_agg(format('select string_agg(v::text, chr(10)) from posthaste.%I v', table_name), ' union all ')
                   from information_schema.views where table_schema = 'posthaste'";
    let statement: String = value(client, views).await;
    let rows = client.query(&statement, &[]).await.unwrap();
    rows.iter().filter_map(|row| row.get::<_, Option<String>>(0)).collect()
}

#[tokio::test]
async fn secrets_and_payloads_are_neither_in_the_log_nor_in_the_views() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(500), Reply::status(503), Reply::DropAfterReading]);
    let add = "select endpoint_id, secret from posthaste.add_endpoint(
        $1, schedule => '{10 ms}', headers => '{\"authorization\": \"Bearer t0k3n\"}')";
    let added = client.query_one(add, &[&receiver.url("/visible")]).await.unwrap();
    let (id, mut secrets) = (added.get::<_, i64>(0), vec![added.get::<_, String>(1)]);
    let relay = Relay::on(&database.url()).set("log.level", "trace").start().await;
    for seed in ["null", &format!("'{SEED}'")] {
        let rotate = format!("select posthaste.rotate_secret({id}, '1 hour', {seed})");
        secrets.push(value(&client, &rotate).await);
        event("order.paid").with("payload", r#"{"card": "4711-0815"}"#).add(&client).await;
    }
    settled(&client).await;
    // One that cannot be used at all: valid base64, but its public half is another key's.
    let mismatched = format!("whsk_{}==", "A".repeat(86));
    let rotate = format!("select posthaste.rotate_secret({id}, '0', '{mismatched}')");
    secrets.push(value(&client, &rotate).await);
    let unsigned = event("order.paid").with("payload", r#"{"card": "4711-0815"}"#);
    let unsigned = unsigned.add(&client).await;
    let attempt = attempted(&client, unsigned, 1).await.remove(0);
    assert_eq!(
        (attempt.outcome.as_str(), attempt.cause.as_deref()),
        ("refused", Some("bad_endpoint"))
    );

    let (log, seen) = (relay.log(), everything_visible(&client).await);
    assert!(
        log.contains(r#""level":"DEBUG""#) && seen.contains("/visible"),
        "there is much to see"
    );
    let kept = secrets.iter().map(|secret| secret.split_once('_').unwrap().1);
    for hidden in kept.chain(["4711-0815", "t0k3n"]) {
        assert!(!log.contains(hidden), "the log says {hidden}");
        assert!(!seen.contains(hidden), "a view says {hidden}");
    }
}
