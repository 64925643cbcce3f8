//! The statements of the hot path are planned as their files say, whatever the statistics are, and
//! a claim takes no more than it was asked to.

use std::collections::{BTreeSet, HashSet};

use posthaste::store::{QUEUE_PLANS, ROUTER_PLANS, SESSION};
use serde_json::Value;
use tokio_postgres::Client;

use crate::support::{TestDatabase, endpoint, value};

const CLAIM: &str = include_str!("../sql/queries/claim.sql");

/// Statements on the queue: name, text, arguments, and the indexes of `deliveries` that it rides on.
const QUEUE: [(&str, &str, &str, &[&str]); 6] = [
    ("claim", CLAIM, "1, 1, null, '{1,2,3}', '{9,9,9}'", &["deliveries_due", "deliveries_pkey"]),
    ("agenda", include_str!("../sql/queries/agenda.sql"), "null", &["deliveries_due"]),
    (
        "record",
        include_str!("../sql/queries/record.sql"),
        "1, null, '{1}', '{1}', '{1}', '{now}', '{1}', '{1}', '{answered}', '{null}', '{null}', \
         '{200}', '{null}', '{null}', '{f}', '{1}', '{1}', '{1}', '{1}', '{1}', '{1}', \
         '{delivered}', '{null}', '{null}', '{f}'",
        &["deliveries_in_line", "deliveries_pkey"],
    ),
    (
        "release",
        include_str!("../sql/queries/release.sql"),
        "1, '{1}', '{1}', '{1}'",
        &["deliveries_pkey"],
    ),
    (
        "give_turns",
        include_str!("../sql/queries/give_turns.sql"),
        "'{1}', '{key}', null",
        &["deliveries_in_line", "deliveries_pkey", "one_delivery_of_a_line_has_its_turn"],
    ),
    ("lines", include_str!("../sql/queries/lines.sql"), "1, 'key', 9", &["deliveries_in_line"]),
];

/// Fills the queue: endpoints 1 to 20, of which each is owed as much as the others.
async fn owe(client: &Client, rows: u32) {
    let fill = format!(
        "insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at) \
         select n, 1 + n % 20, now(), now() from generate_series(1, {rows}) n"
    );
    client.batch_execute(&fill).await.unwrap();
}

/// The node types with their tables, and the names of the indexes, of a plan.
fn nodes(plan: &Value, found: &mut Vec<(String, String)>, indexes: &mut BTreeSet<String>) {
    match plan {
        Value::Array(plans) => plans.iter().for_each(|plan| nodes(plan, found, indexes)),
        Value::Object(fields) => {
            let text = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
            if fields.contains_key("Node Type") {
                found.push((text("Node Type"), text("Relation Name")));
            }
            if fields.contains_key("Index Name") {
                indexes.insert(text("Index Name"));
            }
            fields.values().for_each(|value| nodes(value, found, indexes));
        }
        _ => {}
    }
}

/// Plans a prepared statement; returns its nodes and the indexes it uses.
async fn planned(
    client: &Client,
    name: &str,
    arguments: &str,
) -> (Vec<(String, String)>, BTreeSet<String>) {
    let explain = format!("explain (format json) execute {name} ({arguments})");
    let plan: Value = value(client, &explain).await;
    let (mut found, mut indexes) = (Vec::new(), BTreeSet::new());
    nodes(&plan, &mut found, &mut indexes);
    assert!(found.len() > 1, "{plan}");
    (found, indexes)
}

async fn assert_queue_plans(client: &Client, statistics: &str) {
    for (name, _, arguments, expected) in QUEUE {
        let (found, indexes) = planned(client, name, arguments).await;
        let told = format!("{name}, {statistics}: {found:?} {indexes:?}");
        let ours = ["deliveries", "endpoints", "outbox"];
        for (node, table) in &found {
            assert!(!ours.iter().any(|one| table.starts_with(one)) || node != "Seq Scan", "{told}");
            assert!(node != "Hash Join" && node != "Merge Join", "{told}");
        }
        let ridden: BTreeSet<_> = indexes
            .iter()
            .map(String::as_str)
            .filter(|index| index.starts_with("deliveries") || index.starts_with("one_delivery"))
            .collect();
        assert_eq!(ridden, expected.iter().copied().collect(), "{told}");
    }
}

#[tokio::test]
async fn statements_on_the_queue_use_their_indexes_whatever_the_statistics_say() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    client
        .batch_execute("alter table posthaste.deliveries set (autovacuum_enabled = off)")
        .await
        .unwrap();
    client.batch_execute(&format!("{SESSION} {QUEUE_PLANS}")).await.unwrap();
    for (name, text, _, _) in QUEUE {
        client.batch_execute(&format!("prepare {name} as {text}")).await.unwrap();
    }
    assert_queue_plans(&client, "empty and never analyzed").await;
    owe(&client, 20_000).await;
    assert_queue_plans(&client, "full and never analyzed").await;
    client.batch_execute("analyze posthaste.deliveries").await.unwrap();
    assert_queue_plans(&client, "analyzed").await;
    // What autovacuum leaves behind after a quiet hour: a table that it believes to be empty.
    client.batch_execute("truncate posthaste.deliveries").await.unwrap();
    client.batch_execute("vacuum analyze posthaste.deliveries").await.unwrap();
    assert_queue_plans(&client, "analyzed when empty").await;
    owe(&client, 20_000).await;
    assert_queue_plans(&client, "full, analyzed when empty").await;
}

#[tokio::test]
async fn routing_reads_the_outbox_by_transaction_and_finds_endpoints_by_route() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    client.batch_execute(&format!("{SESSION} {ROUTER_PLANS}")).await.unwrap();
    let text = include_str!("../sql/queries/route.sql");
    client.batch_execute(&format!("prepare route as {text}")).await.unwrap();
    let some = "insert into posthaste.endpoints (url, subscriptions) \
                select 'https://example.com/', array['type' || n] from generate_series(1, 2000) n";
    client.batch_execute(some).await.unwrap();
    let arguments = "1, 1, 500, null, now() - interval '1 day', '{}', '{}', 9, 9, 100000";
    for statistics in [
        "select",
        "insert into posthaste.outbox (event_type, payload) \
         select 'order.paid', '{}' from generate_series(1, 20000)",
        "analyze posthaste.outbox, posthaste.endpoints",
    ] {
        client.batch_execute(statistics).await.unwrap();
        let (found, indexes) = planned(&client, "route", arguments).await;
        let told = format!("after {statistics}: {found:?} {indexes:?}");
        for (node, table) in &found {
            let read = table.starts_with("outbox") || table == "endpoints";
            assert!(!read || node != "Seq Scan", "{told}");
        }
        assert!(indexes.contains("endpoints_by_route"), "{told}");
        // The index of a partition is named after it.
        assert!(indexes.iter().any(|index| index.ends_with("_xid_id_idx")), "{told}");
        let others =
            |index: &&String| index.starts_with("outbox") && !index.ends_with("_xid_id_idx");
        assert_eq!(indexes.iter().find(others), None, "{told}");
    }
}

/// Claims of one endpoint, as `claim` returns them.
async fn claim(client: &Client, statement: &tokio_postgres::Statement, token: i64) -> Vec<i64> {
    let now: Option<jiff::Timestamp> = None;
    let rows =
        client.query(statement, &[&1i32, &token, &now, &vec![1i64], &vec![10i32]]).await.unwrap();
    rows.iter().map(|row| row.get("event_id")).collect()
}

#[tokio::test]
async fn a_claim_takes_no_more_than_there_is_room_however_it_is_planned() {
    const TIMES: usize = 200;
    let database = TestDatabase::new().await;
    let setup = database.client().await;
    endpoint("https://example.com/").add(&setup).await;
    let fill = "insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at) \
                select n, 1, now(), now() from generate_series(1, 10000) n";
    setup.batch_execute(fill).await.unwrap();
    let mut claimed = HashSet::new();
    let mut token = 0;
    for plans in [
        QUEUE_PLANS,
        "set plan_cache_mode = auto",
        "set enable_nestloop = off; set enable_material = off",
    ] {
        let client = database.client().await;
        client.batch_execute(&format!("set jit = off; {plans}")).await.unwrap();
        let statement = client.prepare(CLAIM).await.unwrap();
        for _ in 0..TIMES {
            token += 1;
            let ids = claim(&client, &statement, token).await;
            assert_eq!(ids.len(), 10, "{plans}");
            claimed.extend(ids);
        }
        let now_held = "select count(*) from posthaste.deliveries where claimed_by is not null";
        let held: i64 = value(&client, now_held).await;
        assert_eq!(usize::try_from(held).unwrap(), claimed.len(), "{plans}");
    }
    assert_eq!(claimed.len(), 3 * TIMES * 10);
}

#[tokio::test]
async fn claims_made_at_once_never_overlap() {
    let database = TestDatabase::new().await;
    let setup = database.client().await;
    endpoint("https://example.com/").add(&setup).await;
    let fill = "insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at) \
                select n, 1, now(), now() from generate_series(1, 1000) n";
    setup.batch_execute(fill).await.unwrap();
    let claim_all = async |token: i64| {
        let client = database.client().await;
        client.batch_execute(QUEUE_PLANS).await.unwrap();
        let statement = client.prepare(CLAIM).await.unwrap();
        let mut mine = Vec::new();
        loop {
            let ids = claim(&client, &statement, token).await;
            if ids.is_empty() {
                return mine;
            }
            mine.extend(ids);
        }
    };
    let (a, b, c) = tokio::join!(claim_all(1), claim_all(2), claim_all(3));
    let mut all = [a, b, c].concat();
    all.sort_unstable();
    assert_eq!(all, (1..=1000).collect::<Vec<i64>>());
}
