//! Which endpoint is owed which event, from when, until when, and how often: exactly that is
//! delivered, and what is not delivered says why.

use jiff::Timestamp;
use tokio_postgres::Client;

use crate::support::{
    Receiver, Relay, Reply, TestDatabase, attempted, attempts, endpoint, event, holds,
    inconsistencies, make_due, settled, value,
};

/// All arrivals as `path type`, sorted.
fn arrived(receiver: &Receiver) -> Vec<String> {
    let line = |received: &crate::support::Received| {
        format!("{} {}", received.path, received.json()["type"].as_str().unwrap())
    };
    let mut lines: Vec<_> = receiver.received().iter().map(line).collect();
    lines.sort();
    lines
}

/// `state: reason` of an event's only delivery.
async fn fate(client: &Client, event: i64) -> String {
    let statement = format!(
        "select concat_ws(': ', state, reason) from posthaste.delivery_status where event_id = {event}"
    );
    value(client, &statement).await
}

#[tokio::test]
async fn an_endpoint_gets_what_it_subscribes_to_and_nothing_else() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    for (path, subscriptions) in [
        ("/all", "{*}"),
        ("/orders", "{order.*}"),
        ("/paid", "{order.paid}"),
        ("/both", "{order.paid,user.*,user.created}"),
    ] {
        endpoint(&receiver.url(path)).with("subscriptions", subscriptions).add(&client).await;
    }
    let _relay = Relay::start(&database).await;
    for event_type in ["order.paid", "order.paid.eu", "order", "orders.paid", "user.created"] {
        event(event_type).add(&client).await;
    }

    settled(&client).await;
    let expected = [
        "/all order",
        "/all order.paid",
        "/all order.paid.eu",
        "/all orders.paid",
        "/all user.created",
        "/both order.paid",
        "/both user.created",
        "/orders order.paid",
        "/orders order.paid.eu",
        "/paid order.paid",
    ];
    assert_eq!(arrived(&receiver), expected);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn an_event_that_no_endpoint_is_owed_is_counted() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).with("subscriptions", "{order.*}").add(&client).await;
    let relay = Relay::start(&database).await;
    let unwanted = event("user.created").add(&client).await;
    event("order.paid").add(&client).await;

    settled(&client).await;
    assert_eq!(arrived(&receiver), ["/ order.paid"]);
    let unmatched = "select sum(unmatched) from posthaste.routing";
    assert_eq!(value::<i64>(&client, unmatched).await, 1);
    assert_eq!(relay.metric("posthaste_events_unmatched_total", "").await, 1.0);
    let why = format!("select why from posthaste.explain({unwanted})");
    let why: String = value(&client, &why).await;
    assert_eq!(why, "not subscribed: order.* does not match user.created");
}

#[tokio::test]
async fn tenants_do_not_get_each_others_events() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/every")).add(&client).await;
    endpoint(&receiver.url("/a")).with("tenant", "a").add(&client).await;
    endpoint(&receiver.url("/b")).with("tenant", "b").add(&client).await;
    let _relay = Relay::start(&database).await;
    event("of.a").with("tenant", "a").add(&client).await;
    event("of.b").with("tenant", "b").add(&client).await;
    event("of.c").with("tenant", "c").add(&client).await;
    event("of.nobody").add(&client).await;

    settled(&client).await;
    let expected =
        ["/a of.a", "/b of.b", "/every of.a", "/every of.b", "/every of.c", "/every of.nobody"];
    assert_eq!(arrived(&receiver), expected);
}

#[tokio::test]
async fn a_filter_reads_the_payload_and_one_it_cannot_read_holds_up_nothing() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/all")).add(&client).await;
    let filter = "$ ? (@.total > 100)";
    endpoint(&receiver.url("/large")).with("filter", filter).add(&client).await;
    let _relay = Relay::start(&database).await;
    for (event_type, payload) in [
        ("small", r#"{"total": 50}"#),
        ("large", r#"{"total": 150}"#),
        ("odd", r#"{"total": 200, "no": "\u0000"}"#),
        ("none", r#""a text""#),
        ("later", r#"{"total": 1e3}"#),
    ] {
        event(event_type).with("payload", payload).add(&client).await;
    }

    settled(&client).await;
    let large: Vec<_> =
        arrived(&receiver).into_iter().filter(|line| line.starts_with("/large")).collect();
    assert_eq!(large, ["/large large", "/large later"]);
    assert_eq!(arrived(&receiver).len(), 7, "the unfiltered one gets all five");
}

#[tokio::test]
async fn an_event_that_names_its_endpoint_goes_there_alone() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/all")).add(&client).await;
    let other = endpoint(&receiver.url("/other")).with("subscriptions", "{x}").add(&client).await;
    let _relay = Relay::start(&database).await;
    event("order.paid").with("endpoint_id", other).add(&client).await;

    settled(&client).await;
    assert_eq!(arrived(&receiver), ["/other order.paid"]);
}

#[tokio::test]
async fn an_endpoint_is_not_owed_what_came_before_it() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/first")).add(&client).await;
    let _relay = Relay::start(&database).await;
    event("before").add(&client).await;
    settled(&client).await;
    endpoint(&receiver.url("/second")).add(&client).await;
    event("after").add(&client).await;

    settled(&client).await;
    assert_eq!(arrived(&receiver), ["/first after", "/first before", "/second after"]);
}

#[tokio::test]
async fn while_an_endpoint_is_disabled_nothing_new_is_owed_and_what_is_pending_is_held() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (held, open) = (Receiver::start().await, Receiver::start().await);
    let mut ids = Vec::new();
    for receiver in [&held, &open] {
        receiver.script([Reply::status(500)]);
        ids.push(endpoint(&receiver.url("/")).with("schedule", "{1 h}").add(&client).await);
    }
    let _relay = Relay::on(&database.url()).set("relay.poll_interval", "50ms").start().await;
    let pending = event("pending").add(&client).await;
    attempted(&client, pending, 2).await;
    let disable = format!("select posthaste.disable_endpoint({}, 'on holiday')", ids[0]);
    assert!(value::<bool>(&client, &disable).await);
    let while_disabled = event("meanwhile").add(&client).await;
    make_due(&client).await;

    // The look that finds the one due would find the other.
    open.wait_for(3).await;
    attempted(&client, pending, 3).await;
    assert_eq!(held.received().len(), 1);
    let status = format!(
        "select state || ': ' || reason from posthaste.delivery_status \
         where event_id = {pending} and endpoint_id = {}",
        ids[0]
    );
    assert_eq!(value::<String>(&client, &status).await, "held: endpoint disabled: on holiday");

    let enable = format!("select was from posthaste.enable_endpoint({})", ids[0]);
    assert_eq!(value::<String>(&client, &enable).await, "disabled");
    settled(&client).await;
    assert_eq!(arrived(&held), ["/ pending", "/ pending"]);
    assert!(attempts(&client, while_disabled).await.iter().all(|one| one.endpoint_id == ids[1]));
}

#[tokio::test]
async fn an_event_is_not_sent_before_its_time() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let _relay = Relay::start(&database).await;
    let soon = "select (clock_timestamp() + interval '1.5 s')";
    let soon: Timestamp = value(&client, soon).await;
    let later = event("later").with("deliver_at", soon).add(&client).await;
    let now = event("now").add(&client).await;

    assert_eq!(receiver.next().await.json()["type"], "now");
    assert_eq!(receiver.next().await.json()["type"], "later");
    assert!(value::<Timestamp>(&client, "select clock_timestamp()").await >= soon);
    assert!(attempted(&client, later, 1).await[0].started_at >= soon);
    assert!(attempted(&client, now, 1).await[0].started_at < soon);
}

#[tokio::test]
async fn an_event_that_has_expired_is_cancelled_and_says_so() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let _relay = Relay::start(&database).await;
    let long_ago = event("order.paid").with("expires_at", "2020-01-01").add(&client).await;
    let moment: Timestamp = value(&client, "select clock_timestamp() + interval '300 ms'").await;
    // Routed while it is still good, due when it is not.
    let too_late = event("order.paid").with("expires_at", moment).with("deliver_at", moment);
    let too_late = too_late.add(&client).await;
    let good = event("good").with("expires_at", "2199-01-01").add(&client).await;

    settled(&client).await;
    assert_eq!(arrived(&receiver), ["/ good"]);
    for event in [long_ago, too_late] {
        assert_eq!(fate(&client, event).await, "cancelled: expired");
        let attempt = attempts(&client, event).await.remove(0);
        assert_eq!((attempt.number, attempt.outcome.as_str()), (0, "none"));
    }
    assert_eq!(fate(&client, good).await, "delivered");
}

#[tokio::test]
async fn an_idempotency_key_makes_one_event_of_many() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let _relay = Relay::start(&database).await;
    let keyed = |event_type: &str| event(event_type).with("idempotency_key", "k");
    let rolled_back = format!("begin; {}; rollback", keyed("undone").sql());
    client.batch_execute(&rolled_back).await.unwrap();
    let first = keyed("first").add(&client).await;
    for _ in 0..2 {
        let skipped = client.query(&keyed("again").sql(), &[]).await.unwrap();
        assert!(skipped.is_empty(), "an insert with a known key succeeds and does nothing");
    }
    let emit = "select posthaste.emit('emitted', '{}', idempotency_key => 'k')";
    assert_eq!(value::<i64>(&client, emit).await, first);
    keyed("other.tenant").with("tenant", "t").add(&client).await;

    settled(&client).await;
    assert_eq!(arrived(&receiver), ["/ first", "/ other.tenant"]);
}

#[tokio::test]
async fn what_is_unsubscribed_between_two_attempts_is_cancelled() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(500)]);
    let id = endpoint(&receiver.url("/")).with("schedule", "{1 h}").add(&client).await;
    let _relay = Relay::on(&database.url()).set("relay.poll_interval", "50ms").start().await;
    let event = event("order.paid").add(&client).await;
    attempted(&client, event, 1).await;
    let unsubscribe = "update posthaste.endpoints set subscriptions = '{user.*}' where id = $1";
    client.execute(unsubscribe, &[&id]).await.unwrap();
    make_due(&client).await;

    settled(&client).await;
    assert_eq!(fate(&client, event).await, "cancelled: no longer subscribed");
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn what_a_deleted_endpoint_was_owed_is_cancelled() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(500)]);
    let id = endpoint(&receiver.url("/")).with("schedule", "{1 h}").add(&client).await;
    let _relay = Relay::start(&database).await;
    let event = event("order.paid").add(&client).await;
    attempted(&client, event, 1).await;
    client.execute("delete from posthaste.endpoints where id = $1", &[&id]).await.unwrap();

    settled(&client).await;
    assert_eq!(fate(&client, event).await, "cancelled: endpoint deleted");
    assert_eq!(receiver.received().len(), 1);
    holds(&client, "not exists (select from posthaste.check_consistency())").await;
}
