//! The two statements that route: what `route_few` does is what `route` would have done, and what
//! it leaves to `route` it leaves untouched.

use posthaste::store::{ROUTER_PLANS, SESSION};
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use crate::support::{TestDatabase, value};

const STATEMENTS: [(&str, &str); 2] = [
    ("route", include_str!("../../sql/queries/route.sql")),
    ("route_few", include_str!("../../sql/queries/route_few.sql")),
];

/// Room for each of the endpoints named, for each of the others, and for all together in deliveries
/// and in bytes.
const AMPLE: &str = "'{}', '{}', 100, 1000, 1000000";

/// A statement's answer and rows, and whether `route_few` took it on. Nothing of it
/// remains.
#[derive(Debug, PartialEq)]
struct Step {
    is_usual: bool,
    said: Vec<String>,
    wrote: Vec<String>,
}

/// A session as the router's, with three endpoints that are sent everything, one of them of a
/// tenant; then those that differ.
async fn router(database: &TestDatabase) -> Client {
    let client = database.client().await;
    client
        .batch_execute(
            "insert into posthaste.endpoints (url, tenant, subscriptions, filter, enabled, ordered)
             select 'https://example.com/', tenant, subscriptions, filter::jsonpath, enabled, ordered
             from (values
               (null, array['*'], null, true, false),
               (null, array['order.*', '*'], null, true, false),
               ('acme', array['*'], null, true, false),
               (null, array['order.paid'], null, true, false),
               (null, array['filtered'], '$ ? (@.total > 100)', true, false),
               (null, array['*'], null, false, false),
               (null, array['order.paid'], null, true, false),
               (null, array['line'], null, true, true)
             ) e (tenant, subscriptions, filter, enabled, ordered);
             insert into posthaste.endpoint_health (endpoint_id, state, paused_until)
             values (7, 'paused', now() + interval '1 hour')",
        )
        .await
        .unwrap();
    client.batch_execute(&format!("{SESSION} {ROUTER_PLANS}")).await.unwrap();
    for (name, text) in STATEMENTS {
        client.batch_execute(&format!("prepare {name} as {text}")).await.unwrap();
    }
    // A cursor that is a minute old moves on, though there is nothing to be routed.
    run(&client, "route", AMPLE).await;
    client
}

/// Runs it with this room; it reads 100 events at most.
async fn run(client: &Client, name: &str, room: &str) -> Vec<SimpleQueryRow> {
    read(client, name, 100, room).await
}

async fn read(client: &Client, name: &str, most: u32, room: &str) -> Vec<SimpleQueryRow> {
    let now = "date_trunc('hour', now()) + interval '1 hour'";
    let call = format!("execute {name} (7, 70, {most}, {now}, now() - interval '1 day', {room})");
    rows(client, &call).await
}

async fn rows(client: &Client, statement: &str) -> Vec<SimpleQueryRow> {
    let messages = client.simple_query(statement).await.unwrap();
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

/// These columns of a row, or all.
fn told(row: &SimpleQueryRow, names: &[&str]) -> String {
    let names = names.iter().map(|name| format!("{name} {}", row.get(*name).unwrap_or("-")));
    names.collect::<Vec<_>>().join(", ")
}

/// Runs the statement, looks at its effect, and rolls it back.
async fn step(client: &Client, name: &str, room: &str) -> Step {
    const DONE: [&str; 6] = ["events", "deliveries", "unmatched", "more", "waiting", "closes_span"];
    const CLAIM: [&str; 10] = [
        "event_id",
        "endpoint_id",
        "revision",
        "event_type",
        "created_at",
        "payload",
        "headers",
        "ordering_key",
        "age_ms",
        "expired",
    ];
    client.batch_execute("begin").await.unwrap();
    let answer = run(client, name, room).await;
    let done = answer.first().expect("nobody else is routing");
    let claims = answer.iter().filter(|row| row.get("event_id").is_some());
    let mut said: Vec<_> = claims.map(|row| told(row, &CLAIM)).collect();
    said.sort();
    said.push(told(done, &DONE));
    let written = "select to_jsonb(d) - 'created_at' as row from posthaste.live_deliveries d
                   union all
                   select to_jsonb(r) - '{since,until,floor_at,mark_xid,mark_at,routed_at}'::text[]
                     from posthaste.routing r
                   order by 1";
    let wrote = rows(client, written).await.iter().map(|row| told(row, &["row"])).collect();
    let is_usual = name != "route_few" || done.get("is_usual") == Some("t");
    client.batch_execute("rollback").await.unwrap();
    Step { is_usual, said, wrote }
}

/// Both do the same with what there is; then `route_few` does it, for good.
async fn assert_same(client: &Client, room: &str, what: &str) -> Step {
    let whole = step(client, "route", room).await;
    let few = step(client, "route_few", room).await;
    assert_eq!(few, whole, "{what}");
    run(client, "route_few", room).await;
    few
}

#[tokio::test]
async fn few_events_are_routed_by_either_statement_in_the_same_way() {
    let database = TestDatabase::new().await;
    let client = router(&database).await;
    for (what, events) in [
        ("nothing", "select"),
        ("one", "('order.paid', '{\"total\": 1}', null, null, null, null)"),
        (
            "several types",
            "('order.paid', '{\"total\": 101}', null, null, null, null), \
             ('order.sent', '{}', null, null, null, null), \
             ('order', '[1, {\"a\":  2.50}]', null, null, null, null)",
        ),
        (
            "a tenant's",
            "('order.paid', '{}', 'acme', null, null, null), ('x', '1', 'nobody', null, null, null)",
        ),
        (
            "headers, later, too late, and a key where nobody asks for order",
            "('order.paid', '{}', null, '{\"a\": \"b\"}', null, null), \
             ('order.paid', '{}', null, null, now() + interval '3 hours', null), \
             ('order.paid', '{}', null, null, null, now() - interval '1 hour')",
        ),
    ] {
        if events != "select" {
            let insert = "insert into posthaste.outbox \
                 (event_type, payload, tenant, headers, deliver_at, expires_at) values";
            client.batch_execute(&format!("{insert} {events}")).await.unwrap();
        }
        let step = assert_same(&client, AMPLE, what).await;
        assert!(step.is_usual, "{what}: {step:?}");
        assert_eq!(step.said.len() > 1, events != "select", "{what}: {step:?}");
    }
    let owed = "select count(*) filter (where claimed_by = 7) || ' of ' || count(*) from posthaste.live_deliveries";
    assert_eq!(value::<String>(&client, owed).await, "22 of 31");
}

#[tokio::test]
async fn where_an_endpoint_has_no_room_for_all_of_the_few_it_waits() {
    let database = TestDatabase::new().await;
    let client = router(&database).await;
    let two = "insert into posthaste.outbox (event_type, payload) values ('x', '1'), ('x', '2')";
    client.batch_execute(two).await.unwrap();
    let claims = async |room: &str| {
        let step = step(&client, "route_few", room).await;
        assert!(step.is_usual, "{step:?}");
        (step.said.len() - 1, step.said.last().cloned().unwrap_or_default())
    };
    let (claimed, done) = claims("'{1}', '{2}', 1, 100, 1000000").await;
    assert_eq!(claimed, 2, "those of the first: {done}");
    assert!(done.contains("waiting {2}"), "{done}");
    let (claimed, done) = claims("'{1,2}', '{0,5}', 0, 100, 1000000").await;
    assert_eq!(claimed, 2, "those of the second: {done}");
    assert!(done.contains("waiting {1}"), "{done}");
}

#[tokio::test]
async fn what_is_unusual_is_left_to_the_whole_statement() {
    let event = "insert into posthaste.outbox (event_type, payload";
    for (what, events, room) in [
        ("one endpoint's", format!("{event}, endpoint_id) values ('x', '1', 1)"), AMPLE),
        ("one with a filter", format!("{event}) values ('filtered', '1')"), AMPLE),
        ("one in a line", format!("{event}, ordering_key) values ('line', '1', 'a')"), AMPLE),
        ("many", format!("{event}) select 'x', '1' from generate_series(1, 100)"), AMPLE),
        ("no room", format!("{event}) values ('x', '1')"), "'{}', '{}', 9, 1, 1000"),
        ("no room in bytes", format!("{event}) values ('x', '12345')"), "'{}', '{}', 9, 9, 9"),
    ] {
        let database = TestDatabase::new().await;
        let client = router(&database).await;
        let before = step(&client, "route_few", AMPLE).await;
        client.batch_execute(&events).await.unwrap();
        let few = step(&client, "route_few", room).await;
        assert!(!few.is_usual, "{what}: {few:?}");
        assert_eq!(few.wrote, before.wrote, "{what}");
        assert_eq!(few.said.len(), 1, "{what}: {few:?}");
        let whole = step(&client, "route", room).await;
        assert_ne!(whole.wrote, before.wrote, "{what}");
    }
}

#[tokio::test]
async fn a_span_that_is_not_finished_is_left_to_the_whole_statement() {
    let database = TestDatabase::new().await;
    let client = router(&database).await;
    let three = "insert into posthaste.outbox (event_type, payload) \
                 select 'x', '1' from generate_series(1, 3)";
    client.batch_execute(three).await.unwrap();
    read(&client, "route", 2, AMPLE).await;
    assert!(!step(&client, "route_few", AMPLE).await.is_usual);
    read(&client, "route", 2, AMPLE).await;
    assert!(step(&client, "route_few", AMPLE).await.is_usual);
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.live_deliveries").await, 6);
}

#[tokio::test]
async fn what_commits_late_is_routed_once_by_the_few_beside_what_came_before_it() {
    let database = TestDatabase::new().await;
    let client = router(&database).await;
    let writers = [database.client().await, database.client().await];
    let event = "insert into posthaste.outbox (event_type, payload) values ('x', '1')";
    for writer in &writers {
        writer.batch_execute(&format!("begin; {event}")).await.unwrap();
    }
    // An unusual event that has been routed makes nothing unusual when it is read again.
    let directed = event.replace("payload)", "payload, endpoint_id)").replace("'1')", "'1', 1)");
    client.batch_execute(&directed).await.unwrap();
    run(&client, "route", AMPLE).await;
    for _ in 0..3 {
        client.batch_execute(event).await.unwrap();
        assert!(assert_same(&client, AMPLE, "beside two that are open").await.is_usual);
    }
    for writer in &writers {
        writer.batch_execute(&format!("{event}; commit")).await.unwrap();
        client.batch_execute(event).await.unwrap();
        assert!(assert_same(&client, AMPLE, "one has committed").await.is_usual);
    }
    let routed = "select count(distinct event_id) || ' of ' || (select count(*) from posthaste.outbox) \
                  from posthaste.live_deliveries";
    assert_eq!(value::<String>(&client, routed).await, "10 of 10");
    assert_eq!(value::<i64>(&client, "select sum(events) from posthaste.routing").await, 10);
}

#[tokio::test]
async fn two_that_route_few_at_once_route_nothing_twice() {
    let database = TestDatabase::new().await;
    let (client, other) = (router(&database).await, database.client().await);
    let event = "insert into posthaste.outbox (event_type, payload) values ('x', '1')";
    client.batch_execute(event).await.unwrap();
    other.batch_execute("begin; select posthaste_internal.may_route()").await.unwrap();
    assert_eq!(run(&client, "route_few", AMPLE).await.len(), 0, "another relay is routing");
    other.batch_execute("commit").await.unwrap();
    assert_eq!(run(&client, "route_few", AMPLE).await.len(), 2);
    assert_eq!(run(&client, "route_few", AMPLE).await.len(), 1);
}
