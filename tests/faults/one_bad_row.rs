//! One event, one endpoint or one row that nothing can be done with is refused or left out by
//! itself: what is beside it arrives, once, and is recorded. Rows that the schema refuses today are
//! written as they were before it did.

use serde_json::Value;
use tokio_postgres::Client;

use crate::support::{
    Attempt, Receiver, Relay, Reply, TestDatabase, attempted, endpoint, event, holds, ids,
    make_due, settled, unchecked, until, value,
};

/// `{"x-h1": "v", …}`
const MANY_HEADERS: &str =
    "(select jsonb_object_agg('x-h' || n, 'v') from generate_series(1, 25000) n)";

/// `outcome cause verdict`.
fn told(attempt: &Attempt) -> String {
    let Attempt { outcome, cause, verdict, .. } = attempt;
    format!("{outcome} {} {verdict}", cause.as_deref().unwrap_or("-"))
}

/// Asserts that each event that a bystander was sent came to it once and is recorded.
async fn assert_served_once(client: &Client, receiver: &Receiver, events: &[i64]) {
    for &event in events {
        let attempts = attempted(client, event, 1).await;
        let told: Vec<_> = attempts.iter().map(told).collect();
        assert_eq!(told, ["answered - delivered"], "{event}");
    }
    let received = receiver.received();
    assert_eq!((received.len(), ids(&received).len()), (events.len(), events.len()));
}

#[tokio::test]
async fn an_event_with_25000_headers_is_dead_and_its_neighbours_arrive_once() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    unchecked(&client, "outbox", "headers").await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let mut neighbours = vec![event("order.paid").add(&client).await];
    let insert = format!(
        "insert into posthaste.outbox (event_type, payload, headers) \
         values ('order.paid', '{{}}', {MANY_HEADERS}) returning id"
    );
    let poison: i64 = value(&client, &insert).await;
    neighbours.push(event("order.paid").add(&client).await);
    let relay = Relay::start(&database).await;
    settled(&client).await;
    let attempts = attempted(&client, poison, 1).await;
    assert_eq!(attempts.iter().map(told).collect::<Vec<_>>(), ["refused bad_event dead"]);
    let detail = attempts[0].detail.as_deref().unwrap();
    assert_eq!(detail, "25000 headers are more than the 1000 that are sent at most");
    assert_served_once(&client, &receiver, &neighbours).await;
    assert!(!relay.log().contains("panicked"), "{}", relay.log());
    assert!(value::<f64>(&client, "select count(*)::float8 from posthaste.relays").await <= 1.0);
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_used_or_read_is_refused_alone_and_says_why() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    unchecked(&client, "endpoints", "headers").await;
    let receiver = Receiver::start().await;
    let bystander = endpoint(&receiver.url("/")).with("subscriptions", "{order.*}");
    bystander.add(&client).await;
    let mut expected = Vec::new();
    for (kind, headers, detail) in [
        ("many", MANY_HEADERS, "25000 headers are more than the 1000 that are sent at most"),
        (
            "deep",
            "(repeat('[', 200) || repeat(']', 200))::jsonb",
            ": this relay cannot read its values",
        ),
    ] {
        let url = receiver.url("/");
        let subscriptions = format!("{{order.{kind}}}");
        let row = endpoint(&url).with("subscriptions", subscriptions).with("schedule", "{1 h}");
        let id = row.add(&client).await;
        let set = format!("update posthaste.endpoints set headers = {headers} where id = {id}");
        client.batch_execute(&set).await.unwrap();
        expected.push((kind, id, detail));
    }
    let relay = Relay::start(&database).await;
    let mut events = Vec::new();
    for (kind, id, detail) in expected {
        let event = event(&format!("order.{kind}")).add(&client).await;
        events.push(event);
        let attempts = attempted(&client, event, 2).await;
        let refused = attempts.iter().find(|attempt| attempt.endpoint_id == id).unwrap();
        assert_eq!(told(refused), "refused bad_endpoint retry");
        assert!(refused.detail.as_deref().unwrap().contains(detail), "{refused:?}");
        let served = attempts.iter().find(|attempt| attempt.endpoint_id != id).unwrap();
        assert_eq!(told(served), "answered - delivered");
    }
    assert_eq!(ids(&receiver.received()).len(), events.len());
    assert!(!relay.log().contains("panicked"), "{}", relay.log());
}

#[tokio::test]
async fn a_secret_that_is_kept_for_10000_years_or_for_ever_signs_and_nothing_stops() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    unchecked(&client, "endpoint_secrets", "expires_at").await;
    let (kept, other) = (Receiver::start().await, Receiver::start().await);
    for receiver in [&kept, &other] {
        let add = format!("select * from posthaste.add_endpoint('{}')", receiver.url("/"));
        client.query(&add, &[]).await.unwrap();
    }
    let mut events = Vec::new();
    let relay = Relay::start(&database).await;
    for until in ["clock_timestamp() + interval '10000 years'", "'infinity'"] {
        // As `rotate_secret` does, which may have a bound of its own.
        let rotate = format!(
            "update posthaste.endpoint_secrets set expires_at = {until} where endpoint_id = 1; \
             insert into posthaste.endpoint_secrets (endpoint_id, secret) \
             values (1, 'whsec_' || encode(decode(md5('{}'), 'hex') || decode(md5('b'), 'hex'), 'base64'))",
            events.len()
        );
        client.batch_execute(&rotate).await.unwrap();
        events.push(event("order.paid").add(&client).await);
        settled(&client).await;
    }
    for receiver in [&kept, &other] {
        assert_eq!(ids(&receiver.wait_for(events.len()).await).len(), events.len());
    }
    let last = kept.received().pop().unwrap();
    assert_eq!(last.header("webhook-signature").unwrap().split(' ').count(), 3);
    assert!(!relay.log().contains("panicked"), "{}", relay.log());
}

#[tokio::test]
async fn an_event_that_is_to_be_sent_never_and_is_then_told_to_be_sent_now_is_sent() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    unchecked(&client, "outbox", "deliver_at").await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = Relay::start(&database).await;
    let mut events = Vec::new();
    for at in ["infinity", "-infinity", "200000-01-01"] {
        events.push(event("order.paid").with("deliver_at", at).add(&client).await);
    }
    holds(&client, "count(*) = 2 from posthaste.live_deliveries where claimed_by is null").await;
    make_due(&client).await;
    events.push(event("order.paid").add(&client).await);
    client.batch_execute("notify posthaste, 'deliveries'").await.unwrap();
    settled(&client).await;
    assert_served_once(&client, &receiver, &events).await;
    assert!((relay.metric("posthaste_database_errors_total", "").await).abs() < 0.5);
}

/// Has every claim that includes a delivery to this endpoint end like this.
async fn spoil_claims(client: &Client, endpoint: i64, how: &str) {
    let trigger = format!(
        "create function spoil() returns trigger language plpgsql as $$ begin {how}; return new; end $$; \
         create trigger spoil before update on posthaste.deliveries for each row \
         when (new.endpoint_id = {endpoint} and new.claimed_by is not null) execute function spoil()"
    );
    client.batch_execute(&trigger).await.unwrap();
}

/// Makes endpoints whose first answer is 500 and whose later ones are 200, and an event for all of
/// them; returns when every one has failed once.
async fn all_fail_once(client: &Client, receiver: &Receiver, endpoints: u16) -> i64 {
    receiver.script(vec![Reply::status(500); endpoints.into()]);
    for n in 0..endpoints {
        let row = endpoint(&receiver.url(&format!("/{n}"))).with("schedule", "{1 h}");
        row.add(client).await;
    }
    let event = event("order.paid").add(client).await;
    attempted(client, event, endpoints.into()).await;
    event
}

async fn assert_that_the_others_go_on(how: &str, message: &str) {
    const ENDPOINTS: u16 = 12;
    const SPOILED: i64 = 5;
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let relay = Relay::on(&database.url()).set("database.statement_timeout", "1s").start().await;
    let event = all_fail_once(&client, &receiver, ENDPOINTS).await;
    spoil_claims(&client, SPOILED, how).await;
    make_due(&client).await;
    client.batch_execute("notify posthaste, 'deliveries'").await.unwrap();
    let only_it = format!(
        "count(*) = 1 and bool_and(endpoint_id = {SPOILED}) from posthaste.live_deliveries"
    );
    holds(&client, &only_it).await;
    let said = relay.logs("nothing can be claimed for this endpoint").await;
    assert!(said.contains("\"endpoint\":5") && said.contains(message), "{said}");
    let errors = async |during| relay.metric("posthaste_database_errors_total", during).await;
    assert!(errors("claim").await >= 3.0);
    assert!(errors("route").await.abs() < 0.5);
    // It fails again alone, and the relay is no less ready for that.
    let before = errors("claim").await;
    until("the endpoint's next claim to fail", || async {
        (errors("claim").await > before).then_some(())
    })
    .await;
    until("that to concern no other endpoint", || async {
        let (_, told) = relay.get("/status").await?;
        let told: Value = serde_json::from_str(&told).ok()?;
        let last = &told["last_error"];
        (last["during"] == "claim" && last["is_over"] == true && told["ready"] == true)
            .then_some(())
    })
    .await;
    // And again when it is fixed.
    client.batch_execute("drop trigger spoil on posthaste.deliveries").await.unwrap();
    settled(&client).await;
    let attempts = attempted(&client, event, usize::from(ENDPOINTS) * 2).await;
    assert_eq!(attempts.len(), usize::from(ENDPOINTS) * 2);
    assert_eq!(receiver.received().len(), attempts.len());
}

#[tokio::test]
async fn an_endpoint_that_no_claim_can_be_made_for_is_left_out_and_named() {
    assert_that_the_others_go_on("raise 'no such thing'", "no such thing").await;
}

#[tokio::test]
async fn a_claim_that_takes_too_long_is_counted_as_a_claim_and_the_others_go_on() {
    assert_that_the_others_go_on("perform pg_sleep(3)", "57014").await;
}

#[tokio::test]
async fn routing_that_fails_of_much_at_once_takes_less_and_then_more_again() {
    const EVENTS: i64 = 300;
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let trigger = "create function spoil() returns trigger language plpgsql as $$ begin \
           if (select count(*) from made) > 10 then raise 'too many'; end if; return null; end $$; \
         create trigger spoil after insert on posthaste.deliveries referencing new table as made \
           for each statement execute function spoil(); \
         create function spoil_batch() returns trigger language plpgsql as $$ begin \
           if new.pending > 10 then raise 'too many'; end if; return new; end $$; \
         create trigger spoil before insert on posthaste.claims \
           for each row execute function spoil_batch()";
    client.batch_execute(trigger).await.unwrap();
    let insert = "insert into posthaste.outbox (event_type, payload) \
         select 'order.paid', '{}' from generate_series(1, 300)";
    client.batch_execute(insert).await.unwrap();
    let relay = Relay::start(&database).await;
    holds(&client, "count(*) >= 20 from posthaste.delivery_attempts").await;
    let unspoil = "drop trigger spoil on posthaste.deliveries; \
                   drop trigger spoil on posthaste.claims";
    client.batch_execute(unspoil).await.unwrap();
    settled(&client).await;
    let received = receiver.wait_for(usize::try_from(EVENTS).unwrap()).await;
    assert_eq!((ids(&received).len(), received.len()), (300, 300));
    assert!(relay.metric("posthaste_database_errors_total", "route").await >= 1.0);
}

/// 100 MB are 1.1 MB where they are stored. To read that of many events takes longer than a
/// statement may.
#[tokio::test]
async fn payloads_that_are_stored_small_are_not_read_to_learn_how_large_they_are() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    unchecked(&client, "outbox", "payload").await;
    let insert = "insert into posthaste.outbox (event_type, payload) \
         select 'nobody.asked', to_json(repeat('x', 40000000)) from generate_series(1, 30)";
    client.batch_execute(insert).await.unwrap();
    let relay = Relay::on(&database.url()).set("database.statement_timeout", "1s").start().await;
    holds(&client, "not exists (select from posthaste.unrouted_events)").await;
    assert!(relay.metric("posthaste_database_errors_total", "").await.abs() < 0.5);
    assert!((relay.metric("posthaste_events_unmatched_total", "").await - 30.0).abs() < 0.5);
}

/// The assumption of route, `route_few` and claim when they bound the memory that events take.
#[tokio::test]
async fn nothing_is_larger_than_its_stored_size_times_what_its_compression_can_reach() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    for (method, factor) in [("pglz", 88), ("lz4", 256)] {
        let table = format!("create table kept_{method} (p json compression {method})");
        if client.batch_execute(&table).await.is_err() {
            // This server is built without it.
            continue;
        }
        let fill = format!(
            "insert into kept_{method} select to_json(repeat(what, n / length(what))) \
             from unnest(array['x', '{{}}', repeat('abcdefghi', 30)]) what, \
                  unnest(array[3000, 100000, 1000000, 20000000]) n"
        );
        client.batch_execute(&fill).await.unwrap();
        let wrong = format!(
            "select count(*) from kept_{method} where pg_column_compression(p) is not null \
             and octet_length(p::text) > pg_column_size(p)::bigint * {factor}"
        );
        assert_eq!(value::<i64>(&client, &wrong).await, 0, "{method}");
    }
}

#[tokio::test]
async fn headers_count_as_payloads_do_in_the_memory_that_events_may_take() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    unchecked(&client, "outbox", "headers").await;
    let receiver = Receiver::start().await;
    receiver.otherwise(Reply::Hang);
    endpoint(&receiver.url("/")).add(&client).await;
    let mut relay = Relay::on(&database.url()).set("relay.max_in_flight_bytes", "4MiB");
    relay = relay.set("delivery.initial_window", "10");
    let relay = relay.start().await;
    // 900 kB of headers each, which nothing compresses.
    let insert = "insert into posthaste.outbox (event_type, payload, headers) \
         select 'order.paid', '{}', (select jsonb_object_agg('x-' || h, \
             (select string_agg(md5(n::text || h || i), '') from generate_series(1, 93) i)) \
             from generate_series(1, 300) h) from generate_series(1, 12) n";
    client.batch_execute(insert).await.unwrap();
    let all = "not exists (select from posthaste.unrouted_events) \
         and count(*) filter (where claimed_by is not null) > 0 from posthaste.live_deliveries";
    holds(&client, all).await;
    receiver.wait_for(2).await;
    let claimed = "select count(*) from posthaste.live_deliveries where claimed_by is not null";
    let claimed: i64 = value(&client, claimed).await;
    assert!((2..=4).contains(&claimed), "{claimed}");
    let bytes = relay.metric("posthaste_in_flight_bytes", "").await;
    assert!(bytes <= f64::from(4 << 20), "{bytes}");
}

#[tokio::test]
async fn an_answer_that_a_rule_counts_as_delivered_counts_as_a_success_everywhere() {
    // One that is a failure without the rule, and one that is a rejection.
    for status in [503, 409] {
        let database = TestDatabase::new().await;
        let client = database.client().await;
        let receiver = Receiver::start().await;
        receiver.otherwise(Reply::status(status));
        let id = endpoint(&receiver.url("/")).add(&client).await;
        let range = format!("[{status},{})", status + 1);
        let rule = crate::support::NewRow::into("rules").with("name", "known").with("priority", 1);
        rule.with("status", range).with("action", "delivered").add(&client).await;
        let relay = Relay::start(&database).await;
        for _ in 0..20 {
            event("order.paid").add(&client).await;
        }
        settled(&client).await;
        let told = format!(
            "coalesce(success_rate, 0) = 1.0000 and health = 'flowing' and consecutive_failures = 0 \
             from posthaste.endpoint_status where endpoint_id = {id}"
        );
        holds(&client, &told).await;
        assert_eq!(receiver.received().len(), 20);
        drop(relay);
    }
}
