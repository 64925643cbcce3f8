//! One event, endpoint or result that the database refuses while it serves all others is found and
//! set aside. What is refused is chosen by triggers: an operator's own, or a stand-in for a row
//! that cannot be read.

use std::time::Duration;

use posthaste::clock::Clock;
use serde_json::Value;
use tokio_postgres::Client;

use crate::support::{
    Gate, Receiver, Relay, RelayBuilder, Reply, TestDatabase, about, attempted, doctor, endpoint,
    event, holds, ids, inconsistencies, settled, until, value,
};

/// Has every insert of a delivery or batch fail like this that meets the condition.
async fn spoil_routing(client: &Client, of_delivery: &str, of_batch: &str, how: &str) {
    let trigger = format!(
        "create function spoil() returns trigger language plpgsql as $$ begin {how}; return new; end $$; \
         create trigger spoil before insert on posthaste.deliveries for each row \
         when ({of_delivery}) execute function spoil(); \
         create trigger spoil before insert on posthaste.claims for each row \
         when ({of_batch}) execute function spoil()"
    );
    client.batch_execute(&trigger).await.unwrap();
}

async fn unspoil_routing(client: &Client) {
    let drop = "drop trigger spoil on posthaste.deliveries; drop trigger spoil on posthaste.claims";
    client.batch_execute(drop).await.unwrap();
}

async fn emit(client: &Client, event_type: &str, count: u32) {
    let insert = format!(
        "insert into posthaste.outbox (event_type, payload) \
         select '{event_type}', '{{}}' from generate_series(1, {count})"
    );
    client.batch_execute(&insert).await.unwrap();
}

fn hurried(database: &TestDatabase) -> RelayBuilder {
    Relay::on(&database.url()).set("database.statement_timeout", "1s")
}

async fn assert_that_one_event_is_set_aside(how: &str, code: &str) {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let id = endpoint(&receiver.url("/")).add(&client).await;
    emit(&client, "order.paid", 300).await;
    let poison = event("order.poison").add(&client).await;
    emit(&client, "order.paid", 300).await;
    spoil_routing(
        &client,
        &format!("new.event_id = {poison}"),
        &format!("{poison} = any(new.event_ids)"),
        how,
    )
    .await;
    let relay = hurried(&database).start().await;
    assert_eq!(ids(&receiver.wait_for(600).await).len(), 600);
    let aside = format!(
        "count(*) = 1 and bool_and(event_id = {poison} and during = 'route' and sqlstate = '{code}') \
         from posthaste.set_aside"
    );
    holds(&client, &aside).await;
    settled(&client).await;
    assert_eq!(receiver.received().len(), 600);

    // It is named wherever an operator looks.
    let said = relay.logs("an event cannot be routed and is set aside").await;
    assert!(said.contains(&format!("\"event\":{poison}")), "{said}");
    let explained = format!(
        "count(*) = 1 from posthaste.explain({poison}) where endpoint_id = {id} \
         and state = 'set aside' and why like 'route failed%posthaste.route_again({poison})%'"
    );
    holds(&client, &explained).await;
    let problems = inconsistencies(&client).await;
    assert!(matches!(&problems[..], [one] if one.starts_with("set aside")), "{problems:?}");
    assert_eq!(relay.metric("posthaste_set_aside_total", "").await, 1.0);
    let (_, status) = relay.get("/status").await.unwrap();
    let status: Value = serde_json::from_str(&status).unwrap();
    let last = &status["last_error"];
    assert_eq!((&last["code"], &last["during"]), (&code.into(), &"route".into()), "{status}");
    assert_eq!(last["concerns"], format!("event {poison}"), "{status}");
    assert_eq!((&last["is_over"], &status["ready"]), (&true.into(), &true.into()), "{status}");
    let (_, findings) = doctor(&database.url(), &[]).await;
    let finding = about(&findings, "set aside");
    assert_eq!(finding["state"], "warning", "{finding}");
    assert!(finding["detail"].as_str().unwrap().contains(&format!("event {poison}")), "{finding}");

    // And it is sent once the cause is gone.
    unspoil_routing(&client).await;
    let made: i64 = value(&client, &format!("select posthaste.route_again({poison})")).await;
    assert_eq!(made, 1);
    let attempts = attempted(&client, poison, 1).await;
    assert_eq!(attempts[0].verdict, "delivered");
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn an_event_that_cannot_be_routed_is_set_aside_and_named_and_can_be_routed_again() {
    assert_that_one_event_is_set_aside("raise 'no such thing'", "P0001").await;
}

#[tokio::test]
async fn an_event_that_takes_too_long_to_route_is_set_aside() {
    assert_that_one_event_is_set_aside("perform pg_sleep(20)", "57014").await;
}

#[tokio::test]
async fn an_endpoint_that_nothing_can_be_routed_to_loses_its_own_alone_and_is_disabled() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let good = endpoint(&receiver.url("/")).add(&client).await;
    let bad = endpoint(&receiver.url("/bad")).with("hold", true).add(&client).await;
    spoil_routing(
        &client,
        &format!("new.endpoint_id = {bad}"),
        &format!("{bad} = any(new.endpoint_ids)"),
        "raise 'no such thing'",
    )
    .await;
    let _relay = Relay::start(&database).await;
    emit(&client, "order.paid", 40).await;
    assert_eq!(ids(&receiver.wait_for(40).await).len(), 40);
    let disabled = format!(
        "not enabled and not hold and disabled_reason like '%no such thing%' \
         from posthaste.endpoints where id = {bad}"
    );
    holds(&client, &disabled).await;
    settled(&client).await;
    let aside = format!("count(*) = 10 and bool_and(endpoint_id = {bad}) from posthaste.set_aside");
    holds(&client, &aside).await;
    assert!(receiver.received().iter().all(|one| one.path == "/"), "{good}");
    // What it missed comes once it is mended.
    unspoil_routing(&client).await;
    client.batch_execute(&format!("select posthaste.enable_endpoint({bad})")).await.unwrap();
    let made: i64 = value(&client, &format!("select posthaste.route_again(null, {bad})")).await;
    assert_eq!(made, 10);
    settled(&client).await;
    assert_eq!(receiver.received().iter().filter(|one| one.path == "/bad").count(), 10);
}

/// Has every attempt fail to be recorded that meets the condition.
async fn spoil_recording(client: &Client, when: &str) {
    let trigger = format!(
        "create function spoil() returns trigger language plpgsql as $$ \
           begin raise 'no such thing'; end $$; \
         create trigger spoil before insert on posthaste.attempts for each row \
         when ({when}) execute function spoil()"
    );
    client.batch_execute(&trigger).await.unwrap();
}

#[tokio::test]
async fn an_attempt_whose_details_cannot_be_recorded_is_recorded_without_them() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let mut replies = vec![Reply::ok(); 40];
    replies[17] = Reply::status(400).body("odd");
    receiver.script(replies);
    endpoint(&receiver.url("/")).with("max_attempts", 1).add(&client).await;
    spoil_recording(&client, "new.response_body is not null").await;
    let relay = Relay::start(&database).await;
    emit(&client, "order.paid", 40).await;
    settled(&client).await;
    let recorded = "count(*) = 40 and count(*) filter (where verdict = 'delivered') = 39 \
         and count(*) filter (where status = 400 and verdict = 'dead' \
             and reason = 'the details could not be recorded, see the log') = 1 \
         from posthaste.delivery_attempts";
    holds(&client, recorded).await;
    assert_eq!(receiver.received().len(), 40);
    relay.logs("the details of an attempt cannot be recorded").await;
    holds(&client, "not exists (select from posthaste.set_aside)").await;
}

#[tokio::test]
async fn a_result_that_cannot_be_recorded_at_all_is_set_aside_and_nothing_is_sent_twice() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    emit(&client, "order.paid", 20).await;
    let poison = event("order.poison").add(&client).await;
    emit(&client, "order.paid", 20).await;
    spoil_recording(&client, &format!("new.event_id = {poison}")).await;
    let relay = Relay::start(&database).await;
    settled(&client).await;
    holds(&client, "count(*) = 40 from posthaste.delivery_attempts").await;
    let aside = format!(
        "count(*) = 1 and bool_and(event_id = {poison} and during = 'record' \
             and result = 'delivered: answered 200') from posthaste.set_aside"
    );
    holds(&client, &aside).await;
    assert_eq!(receiver.received().len(), 41);
    let (_, status) = relay.get("/status").await.unwrap();
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["last_error"]["concerns"], format!("event {poison}, endpoint 1"), "{status}");
    // It was delivered: it is sent again only where it is named.
    client.batch_execute("drop trigger spoil on posthaste.attempts").await.unwrap();
    assert_eq!(value::<i64>(&client, "select posthaste.route_again()").await, 0);
    let again = format!("select posthaste.route_again({poison})");
    assert_eq!(value::<i64>(&client, &again).await, 1);
    settled(&client).await;
    assert_eq!(receiver.received().len(), 42);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_row_that_an_operator_has_locked_holds_up_no_other_result() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let mut operator = database.client().await;
    let receiver = Receiver::start().await;
    let gate = Gate::default();
    receiver.otherwise(Reply::ok().held_by(&gate));
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = hurried(&database).start().await;
    let locked = event("order.paid").add(&client).await;
    receiver.wait_for(1).await;
    // A delivery of its own, not one of a batch.
    holds(&client, "count(*) = 1 from posthaste.deliveries").await;
    let transaction = operator.transaction().await.unwrap();
    let lock = format!("select from posthaste.deliveries where event_id = {locked} for update");
    transaction.batch_execute(&lock).await.unwrap();
    emit(&client, "order.paid", 3).await;
    receiver.wait_for(4).await;
    gate.open();
    holds(&client, "count(*) = 3 from posthaste.delivery_attempts").await;
    relay.logs("a result can neither be recorded nor set aside").await;
    transaction.commit().await.unwrap();
    settled(&client).await;
    holds(&client, "count(*) = 4 from posthaste.delivery_attempts where verdict = 'delivered'")
        .await;
    assert_eq!(receiver.received().len(), 4);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

/// Compares each of 6,000 numbers with each of 6,000 others: seconds.
const SLOW: &str = "$.a[*] ? (@ == $.b[*])";
const SLOW_PAYLOAD: &str = "(select json_build_object('a', json_agg(n), 'b', json_agg(-n)) \
     from generate_series(1, 6000) n)";

#[tokio::test]
async fn a_filter_that_takes_too_long_is_asked_no_more_and_its_endpoint_is_disabled() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (receiver, slow) = (Receiver::start().await, Receiver::start().await);
    endpoint(&receiver.url("/")).add(&client).await;
    let honest = endpoint(&receiver.url("/honest")).with("filter", "$ ? (@.b[0] < 0)");
    honest.add(&client).await;
    let id = endpoint(&slow.url("/")).with("filter", SLOW).add(&client).await;
    let relay = Relay::start(&database).await;
    let insert = format!(
        "insert into posthaste.outbox (event_type, payload) values ('order.paid', {SLOW_PAYLOAD})"
    );
    let disabled = format!(
        "select not enabled and disabled_reason like 'its filter takes too long%' \
         from posthaste.endpoints where id = {id}"
    );
    let mut events = 0;
    let began = Clock.instant();
    while !value::<bool>(&client, &disabled).await {
        assert!(Clock.since(began) < Duration::from_secs(120));
        client.batch_execute(&insert).await.unwrap();
        events += 1;
        // The others have it, and soon.
        receiver.wait_for(2 * events).await;
    }
    settled(&client).await;
    assert_eq!((receiver.received().len(), slow.received().len()), (2 * events, 0));
    let aside = format!(
        "count(*) between 3 and {events} and bool_and(endpoint_id = {id} and during = 'filter') \
         from posthaste.set_aside"
    );
    holds(&client, &aside).await;
    assert_eq!(relay.metric("posthaste_database_errors_total", "route").await, 0.0);
    // What is set aside comes once the filter is mended.
    let mend = format!(
        "update posthaste.endpoints set filter = '$ ? (@.a[0] > 0)' where id = {id}; \
         select posthaste.enable_endpoint({id}); select posthaste.route_again()"
    );
    client.batch_execute(&mend).await.unwrap();
    settled(&client).await;
    assert!(slow.received().len() >= 3);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_slow_filter_of_an_announcement_does_not_hold_up_recording() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.otherwise(Reply::status(400));
    endpoint(&receiver.url("/")).with("max_attempts", 1).add(&client).await;
    let owner = Receiver::start().await;
    // It would sleep in whichever statement asks it.
    let slow = "create or replace function posthaste_internal.filter_matches(payload json, filter jsonpath) \
           returns boolean language plpgsql as $$ begin perform pg_sleep(20); return true; end $$";
    let alert = endpoint(&owner.url("/")).with("subscriptions", "{posthaste.delivery.dead}");
    alert.with("filter", "$ ? (@.data.attempts > 0)").add(&client).await;
    client.batch_execute(slow).await.unwrap();
    let relay = hurried(&database).start().await;
    emit(&client, "order.paid", 5).await;
    holds(&client, "count(*) = 5 from posthaste.delivery_attempts where verdict = 'dead'").await;
    assert_eq!(relay.metric("posthaste_database_errors_total", "record").await, 0.0);
    holds(&client, "count(*) = 5 from posthaste.set_aside where during = 'filter'").await;
    assert_eq!(owner.received().len(), 0);
}

#[tokio::test]
async fn what_three_relays_in_a_row_have_died_with_is_dead_and_its_neighbours_are_not() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (poisoned, receiver) = (Receiver::start().await, Receiver::start().await);
    poisoned.otherwise(Reply::Hang);
    receiver.otherwise(Reply::Hang);
    // Both hang, so that each relay has both in flight when it dies.
    endpoint(&poisoned.url("/")).with("subscriptions", "{order.poison}").add(&client).await;
    endpoint(&receiver.url("/")).with("subscriptions", "{order.paid}").add(&client).await;
    let poison = event("order.poison").add(&client).await;
    let neighbour = event("order.paid").add(&client).await;
    let relay = || Relay::on(&database.url()).set("relay.heartbeat", "200ms");
    for n in 1..=2 {
        let mut doomed = relay().start().await;
        poisoned.wait_for(n).await;
        receiver.wait_for(n).await;
        doomed.kill().await;
    }
    // From the third on one at a time is sent of what two relays have died with.
    let mut third = relay().start().await;
    until("one of them to be sent", || async {
        (poisoned.received().len() + receiver.received().len() == 5).then_some(())
    })
    .await;
    holds(&client, "count(*) = 1 from posthaste.deliveries where is_begun").await;
    holds(&client, "count(*) = 1 from posthaste.deliveries where claimed_by is not null").await;
    third.kill().await;
    let guilty = if poisoned.received().len() == 3 { poison } else { neighbour };
    receiver.otherwise(Reply::ok());
    poisoned.otherwise(Reply::ok());
    let _fourth = relay().start().await;
    settled(&client).await;
    for event in [poison, neighbour] {
        let told = attempted(&client, event, 3).await;
        let told: Vec<_> =
            told.iter().map(|one| (one.outcome.as_str(), one.verdict.as_str())).collect();
        let end = if event == guilty { ("interrupted", "dead") } else { ("answered", "delivered") };
        assert_eq!(told, [("interrupted", "retry"), ("interrupted", "retry"), end]);
    }
    // An operator may send it all the same.
    let retry = format!(
        "select posthaste.retry({guilty}, endpoint_id) from posthaste.attempts \
         where event_id = {guilty} limit 1"
    );
    assert_eq!(value::<String>(&client, &retry).await, "put back");
    settled(&client).await;
    assert_eq!(attempted(&client, guilty, 4).await[3].verdict, "delivered");
}

#[tokio::test]
async fn a_bug_in_routing_ends_the_term_says_so_and_the_relay_goes_on_when_its_cause_is_gone() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = Relay::start(&database).await;
    // No relay's clock has such a moment.
    let spoil = "create table floor as select number, floor_at, mark_at from posthaste.routing; \
         update posthaste.routing set floor_at = '200000-01-01', mark_at = '200000-01-01'";
    client.batch_execute(spoil).await.unwrap();
    emit(&client, "order.paid", 5).await;
    until("a bug to be counted", || async {
        (relay.metric("posthaste_faults_total", "").await >= 1.0).then_some(())
    })
    .await;
    until("the status to name it", || async {
        let (_, status) = relay.get("/status").await?;
        let status: Value = serde_json::from_str(&status).ok()?;
        status["last_error"]["message"].as_str()?.contains("the relay panicked").then_some(())
    })
    .await;
    let mend = "update posthaste.routing r set floor_at = '2000-01-01', mark_at = '2000-01-01'";
    client.batch_execute(mend).await.unwrap();
    settled(&client).await;
    assert_eq!(ids(&receiver.wait_for(5).await).len(), 5);
}

#[tokio::test]
async fn a_claim_that_is_forgotten_is_no_end_of_a_relay() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let endpoint = endpoint("https://a.example").add(&client).await;
    let event = event("order.paid").add(&client).await;
    let claimed = format!(
        "insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, \
           next_attempt_at, claimed_by, claim_token, interruptions, is_begun) \
         select id, {endpoint}, created_at, now(), 1, 1, 2, true from posthaste.outbox \
          where id = {event}"
    );
    client.batch_execute(&claimed).await.unwrap();
    let interrupt = |is_end: bool| {
        format!(
            "select posthaste_internal.interrupt('{{{event}}}', '{{{endpoint}}}', '{{1}}', '{{1}}', \
               'relay %s', {is_end})"
        )
    };
    assert_eq!(value::<i64>(&client, &interrupt(false)).await, 1);
    holds(&client, "array_agg(interruptions) = '{2}' from posthaste.deliveries").await;
    let again = "update posthaste.deliveries set claimed_by = 1, claim_token = 1, is_begun = true";
    client.batch_execute(again).await.unwrap();
    assert_eq!(value::<i64>(&client, &interrupt(true)).await, 1);
    holds(&client, "count(*) = 0 from posthaste.deliveries").await;
    let ends = "array_agg(verdict order by started_at) = '{retry,dead}' from posthaste.attempts";
    holds(&client, ends).await;
}
