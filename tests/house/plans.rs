//! The statements of the hot path are planned as their files say, whatever the statistics are, and
//! a claim takes no more than it was asked to.

use std::collections::{BTreeSet, HashSet};

use posthaste::store::{LENT_ROUTER_PLANS, QUEUE_PLANS, ROUTER_PLANS, SESSION};
use serde_json::Value;
use tokio_postgres::Client;

use crate::support::{TestDatabase, endpoint, inconsistencies, value};

const CLAIM: &str = include_str!("../../sql/queries/claim.sql");

/// Statements on the queue: name, text, arguments, and the indexes of `deliveries` that it rides
/// on.
const QUEUE: [(&str, &str, &str, &[&str]); 10] = [
    (
        "claim",
        CLAIM,
        "1, 1, null, '{1,2,3}', '{9,9,9}', 1000, '{99,99,99}', '{0,null,0}', '{500}', true",
        &["deliveries_due", "deliveries_pkey"],
    ),
    ("due", include_str!("../../sql/queries/due.sql"), "null", &["deliveries_due"]),
    (
        "record",
        include_str!("../../sql/queries/record.sql"),
        "1, null, '{1}', '{1}', '{1}', '{-1}', '{f}', '{1}', '{1}', '{200}', \
         '{1}', '{1}', '{-1}', '{0}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', \
         '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{-1}', '{now}', '{1}', '{1}', true",
        &["claims_pkey", "deliveries_in_line", "deliveries_pkey"],
    ),
    (
        "release",
        include_str!("../../sql/queries/release.sql"),
        "1, '{1}', '{1}', '{1}', '{1}', '{1}'",
        &["claims_pkey", "deliveries_pkey"],
    ),
    (
        "give_turns",
        include_str!("../../sql/queries/give_turns.sql"),
        "'{1}', '{key}', null",
        &["deliveries_in_line", "deliveries_pkey", "one_delivery_of_a_line_has_its_turn"],
    ),
    ("lines", include_str!("../../sql/queries/lines.sql"), "1, 'key', 9", &["deliveries_in_line"]),
    (
        "record_one",
        include_str!("../../sql/queries/record_one.sql"),
        "1, null, 1, 1, 1, 1, 1, 200, 1, null, null, null, 1, null, null, null, null, null, null, \
         null, null, true",
        &["deliveries_pkey"],
    ),
    (
        "record_delivered",
        include_str!("../../sql/queries/record_delivered.sql"),
        "1, null, '{1}', '{1}', '{1}', '{1}', '{now}', '{1}', '{0}', '{1s}', '{200}', '{1}', '{1}', \
         '{}', '{}', '{}', '{}', '{}', false",
        &["claims_pkey"],
    ),
    (
        "begin_suspect",
        include_str!("../../sql/queries/begin_suspect.sql"),
        "1, 1, 1, 1",
        &["deliveries_pkey"],
    ),
    (
        "set_aside_delivery",
        include_str!("../../sql/queries/set_aside_delivery.sql"),
        "1, 1, 1, 1, -1, now(), null, '', ''",
        &["claims_pkey", "deliveries_pkey"],
    ),
];

/// The whole statement, and the one for few events.
const ROUTING: [(&str, &str); 2] = [
    ("route", include_str!("../../sql/queries/route.sql")),
    ("route_few", include_str!("../../sql/queries/route_few.sql")),
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
pub(super) async fn planned(
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
        let ours = ["claims", "deliveries", "endpoints", "outbox"];
        for (node, table) in &found {
            assert!(!ours.iter().any(|one| table.starts_with(one)) || node != "Seq Scan", "{told}");
            assert!(node != "Hash Join" && node != "Merge Join", "{told}");
        }
        let ridden: BTreeSet<_> = indexes
            .iter()
            .map(String::as_str)
            .filter(|index| {
                ["claims", "deliveries", "one_delivery"].iter().any(|ours| index.starts_with(ours))
            })
            .collect();
        assert_eq!(ridden, expected.iter().copied().collect(), "{told}");
        // Its purpose: to begin and end a plan takes as long as it has nodes.
        assert!(name != "record_one" || found.len() <= 5, "{told}");
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
    // Autovacuum leaves this behind after a quiet hour: a table that it believes to be empty.
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
    for (name, text) in ROUTING {
        client.batch_execute(&format!("prepare {name} as {text}")).await.unwrap();
    }
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
        let mut sizes = Vec::new();
        for (name, _) in ROUTING {
            let (found, indexes) = planned(&client, name, arguments).await;
            let told = format!("{name} after {statistics}: {found:?} {indexes:?}");
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
            sizes.push(found.len());
        }
        // Its purpose: to begin and end a plan takes as long as it has nodes.
        assert!(sizes[1] * 2 <= sizes[0], "nodes: {sizes:?}");
        // Not each of the events compared with each of the deliveries.
        let explain = format!("explain (format json) execute route ({arguments})");
        let plan = value::<Value>(&client, &explain).await.to_string();
        assert!(plan.contains(r#""Hash Cond":"(r.id = e.id)""#), "{plan}");
    }
}

/// Pages that a statement touches, wherever they were, in looking for lines.
async fn pages_of_lines(client: &Client, name: &str, arguments: &str) -> u64 {
    fn add(plan: &Value, pages: &mut u64) {
        match plan {
            Value::Array(plans) => plans.iter().for_each(|plan| add(plan, pages)),
            Value::Object(fields) => {
                let index = fields.get("Index Name").and_then(Value::as_str).unwrap_or("");
                if ["deliveries_in_line", "one_delivery_of_a_line_has_its_turn"].contains(&index) {
                    let of = |key: &str| fields.get(key).and_then(Value::as_u64).unwrap_or(0);
                    *pages += of("Shared Hit Blocks") + of("Shared Read Blocks");
                }
                fields.values().for_each(|value| add(value, pages));
            }
            _ => {}
        }
    }
    let explain =
        format!("explain (analyze, buffers, timing off, format json) execute {name} ({arguments})");
    let mut pages = 0;
    add(&value(client, &explain).await, &mut pages);
    pages
}

#[tokio::test]
async fn a_line_that_is_not_there_is_not_looked_for_among_all_others() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    // The heads of 5,000 lines, and one more behind each; one line waits without a head.
    client
        .batch_execute(
            "insert into posthaste.endpoints (url, ordered) values ('https://example.com/', true);
             insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at,
                                               ordering_key, place, in_line)
               select 1000000 + 2 * n + w, 1, now(), now(), 'key' || n, 1, case when w = 1 then true end
                 from generate_series(1, 5000) n, generate_series(0, 1) w;
             insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at,
                                               ordering_key, place, in_line)
               values (999999, 1, now(), now(), 'a', 1, true);
             analyze posthaste.deliveries",
        )
        .await
        .unwrap();
    for (name, plans, text, arguments) in [
        ("give_turns", QUEUE_PLANS, QUEUE[4].1, "'{1}', '{a}', null"),
        (
            "route",
            ROUTER_PLANS,
            ROUTING[0].1,
            "1, 1, 500, null, now() - interval '1 day', '{}', '{}', 9, 9, 100000",
        ),
    ] {
        let event = "insert into posthaste.outbox (event_type, payload, ordering_key) \
                     values ('order.paid', '{}', 'b')";
        client.batch_execute(event).await.unwrap();
        client.batch_execute(&format!("{SESSION} {plans} prepare {name} as {text}")).await.unwrap();
        let pages = pages_of_lines(&client, name, arguments).await;
        assert!((1..=16).contains(&pages), "{name} touches {pages} pages");
    }
}

/// Claims of one endpoint, as `claim` returns them.
async fn claim(client: &Client, statement: &tokio_postgres::Statement, token: i64) -> Vec<i64> {
    let now: Option<jiff::Timestamp> = None;
    let rows = client
        .query(
            statement,
            &[
                &1i32,
                &token,
                &now,
                &vec![1i64],
                &vec![10i32],
                &i64::MAX,
                &vec![i64::MAX],
                &vec![None::<i32>],
                &Vec::<i64>::new(),
                &true,
            ],
        )
        .await
        .unwrap();
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

/// 3000 events of today and of each of the three days before, and an endpoint that was changed half
/// an hour ago. 500 of today's still wait, and one of the first day's; the others were delivered.
const FOUR_DAYS: &str = "
    set timezone = 'UTC';
    set session_replication_role = replica;
    insert into posthaste.endpoints (url, updated_at)
      values ('https://example.com/', now() - interval '30 min');
    do $$
    declare
      day date;
    begin
      for day in select current_date - n from generate_series(1, 3) n loop
        execute format('create table posthaste.outbox_%s partition of posthaste.outbox
          for values from (%L) to (%L)', to_char(day, 'YYYYMMDD'), day, day + 1);
        execute format('create table posthaste.attempts_%s partition of posthaste.attempts
          for values from (%L) to (%L)', to_char(day, 'YYYYMMDD'), day, day + 1);
      end loop;
    end $$;
    insert into posthaste.outbox (event_type, payload, created_at)
      select 'order.paid', '{}', now() - n * interval '1 day'
        from generate_series(0, 3) n, generate_series(1, 3000);
    insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at)
      select id, 1, created_at, now() from posthaste.outbox where id <= 500 or id = 12000;
    insert into posthaste.attempts (event_id, endpoint_id, event_created_at, started_at, number,
                                    relay_id, duration_ms)
      select id, 1, created_at, created_at, 1, 1, 1
        from posthaste.outbox where id > 500 and id < 12000";

/// Once that has been committed: ten steps, of which the last two found it all routed.
const ROUTED: &str = "
    insert into posthaste.routing (number, since, until, floor_at, mark_xid, mark_at, events,
                                   deliveries, unmatched, system_identifier, database_oid)
      select n, r.since, case when n < 9 then r.until else s end, r.floor_at, r.mark_xid, r.mark_at,
             0, 0, 0, r.system_identifier, r.database_oid
        from posthaste.routing r, pg_current_snapshot() s, generate_series(1, 10) n";

/// Checks, and returns how many rows of the tables named like this were read for it.
async fn read_by_a_check(database: &TestDatabase, tables: &[&str]) -> Vec<i64> {
    // Of its own: a session counts what it has read and not reported yet.
    let client = database.client().await;
    client.batch_execute("begin").await.unwrap();
    assert_eq!(inconsistencies(&client).await, [""; 0]);
    let mut counts = Vec::new();
    for table in tables {
        let read = format!(
            "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint \
               from pg_stat_xact_user_tables where schemaname = 'posthaste' and relname like {table}"
        );
        counts.push(value(&client, &read).await);
    }
    counts
}

/// How a check finds the events that have neither delivery nor attempt: the node types of these
/// joins.
async fn joins_of_a_check(database: &TestDatabase) -> Vec<String> {
    let client = database.client().await;
    let as_the_check_does = "select set_config(split_part(c, '=', 1), split_part(c, '=', 2), false) \
         from pg_proc p, unnest(p.proconfig) c where p.oid = 'posthaste.check_consistency'::regproc";
    client.batch_execute(as_the_check_does).await.unwrap();
    let explain = "explain (format json) select * from posthaste_internal.lost_events(now() - interval '1 day')";
    let mut found = Vec::new();
    anti_joins(&value(&client, explain).await, &mut found);
    found
}

fn anti_joins(plan: &Value, found: &mut Vec<String>) {
    match plan {
        Value::Array(plans) => plans.iter().for_each(|plan| anti_joins(plan, found)),
        Value::Object(fields) => {
            let text = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
            if text("Join Type").ends_with("Anti") {
                found.push(text("Node Type"));
            }
            fields.values().for_each(|value| anti_joins(value, found));
        }
        _ => {}
    }
}

#[tokio::test]
async fn a_check_reads_its_days_a_few_times_and_of_older_ones_what_is_live() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    // A queue that was empty when it was last looked at.
    client
        .batch_execute("alter table posthaste.deliveries set (autovacuum_enabled = off)")
        .await
        .unwrap();
    owe(&client, 20_000).await;
    client.batch_execute("delete from posthaste.deliveries").await.unwrap();
    client.batch_execute("vacuum analyze posthaste.deliveries").await.unwrap();
    client.batch_execute(FOUR_DAYS).await.unwrap();
    client.batch_execute(ROUTED).await.unwrap();

    let first_day = "to_char(now() at time zone 'UTC' - interval '3 days', '\"outbox_\"YYYYMMDD')";
    let tables = [first_day, "'outbox\\_%'", "'attempts\\_%'", "'deliveries'", "'routing'"];
    for statistics in ["select 'as they are'", "analyze"] {
        client.batch_execute(statistics).await.unwrap();
        let read = read_by_a_check(&database, &tables).await;
        let bounds = [1, 5 * 6_000, 2 * 9_000, 10 * 501, 100];
        let within = read.iter().zip(bounds).all(|(read, bound)| *read <= bound);
        let all = read[1..3].iter().all(|read| *read >= 3_000);
        assert!(within && all, "after {statistics}: {read:?} of {bounds:?}");
        assert_eq!(joins_of_a_check(&database).await, ["Hash Join"; 3], "after {statistics}");
    }
}

/// How many days' partitions a plan of the statement names, as it is planned with these arguments.
async fn partitions_planned(client: &Client, name: &str, arguments: &str) -> usize {
    let explain = format!("explain (costs off) execute {name}({arguments})");
    let rows = client.simple_query(&explain).await.unwrap();
    let lines = rows.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let lines: Vec<&str> = lines.collect();
    let removed = lines.iter().filter_map(|line| line.trim().strip_prefix("Subplans Removed: "));
    let removed: usize = removed.map(|count| count.parse::<usize>().unwrap()).sum();
    removed + lines.iter().filter(|line| line.contains(" on outbox_")).count()
}

#[tokio::test]
async fn routing_a_few_behind_a_pooler_plans_as_many_days_however_many_are_kept() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    client.batch_execute(&format!("{SESSION} {LENT_ROUTER_PLANS}")).await.unwrap();
    let (name, text) = ROUTING[1];
    client.batch_execute(&format!("prepare {name} as {text}")).await.unwrap();
    let arguments = "1, 1, 500, null, now() - interval '1 day', '{}', '{}', 9, 9, 100000";
    let before = partitions_planned(&client, name, arguments).await;
    let a_month = "do $$ declare day date; begin
        for day in select current_date - n from generate_series(2, 31) n loop
          execute format('create table posthaste.%I partition of posthaste.outbox for values from (%L) to (%L)',
                         'outbox_' || to_char(day, 'YYYYMMDD'), day, day + 1);
        end loop; end $$";
    client.batch_execute(a_month).await.unwrap();
    assert!(before > 0);
    let now = partitions_planned(&client, name, arguments).await;
    assert!(now <= before + 1, "{name} is planned over {now} days, not {before}");
}
