//! What operators and consoles ask, on a database with 200,000 attempts of ten days.
//!
//! Nothing is read from end to end, no statement is planned for days that it has no need of, and
//! the lists of deliveries and events say what the views say. The rows and the questions are those
//! of `make bench WHAT=looking`, which has five to fifty times as many.

use tokio_postgres::Client;

use crate::support::{TestDatabase, value};

const FILL: &str = include_str!("../../benches/bench/looking/fill.sql");
const QUESTIONS: &str = include_str!("../../benches/bench/looking/questions.sql");

/// So many that a wrong plan shows.
const MANY: u32 = 220_000;
const SOME: u32 = 44_000;

/// Ten days of events and nearly as many attempts, with the statistics of an idle hour.
async fn filled(events: u32) -> (TestDatabase, Client) {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    client.batch_execute(FILL).await.unwrap();
    for statement in [
        &format!("call looking.use_transactions({})", events / 50 + 10),
        "set session_replication_role = replica",
        &format!("select looking.begin({events}, 200)"),
        &format!("call looking.fill(1, {events})"),
        "select looking.owe(200, 200)",
        "select looking.finish()",
        "vacuum analyze",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    (database, client)
}

/// Each question with its name.
fn questions() -> impl Iterator<Item = (&'static str, String)> {
    QUESTIONS.split("\n\n").skip(1).map(|question| {
        let (name, text) = question.trim().split_once('\n').unwrap();
        let numbered = text.replace("$recent", &(MANY - 5_000).to_string());
        (name.trim_start_matches("-- "), numbered.replace("$old", &(MANY / 12).to_string()))
    })
}

/// Rows of the tables named like this that a question reads: in passing over a whole table, and by
/// an index.
async fn read(client: &Client, question: &str, table: &str) -> (i64, i64) {
    let of = |column: &str| {
        format!(
            "select coalesce(sum({column}), 0)::bigint from pg_stat_xact_user_tables \
             where schemaname = 'posthaste' and relname like '{table}'"
        )
    };
    client.batch_execute("begin").await.unwrap();
    client.batch_execute(question).await.unwrap();
    let whole = value(client, &of("seq_tup_read")).await;
    let found = value(client, &of("idx_tup_fetch")).await;
    client.batch_execute("rollback").await.unwrap();
    (whole, found)
}

#[tokio::test]
async fn no_question_reads_a_day_from_end_to_end() {
    let (database, _client) = filled(MANY).await;
    let mut asked = 0;
    for (name, question) in questions() {
        for (table, most) in [("attempts%", 6_000), ("outbox%", 45_000), ("deliveries", 40_000)] {
            // A session of its own: it counts what it has read and not reported yet.
            let client = database.client().await;
            let (whole, found) = read(&client, &question, table).await;
            let told = format!("{name}: {table}: {whole} of all, {found} by an index");
            // The first rows of all that is live are no wrong plan.
            assert!(whole == 0 || (table == "deliveries" && whole <= 50), "{told}");
            assert!(found <= most, "{told}");
            if table == "attempts%" && name.contains("failures") {
                assert!(found <= 60, "{told}");
            }
        }
        asked += 1;
    }
    assert!(asked > 30, "{asked} questions");
}

/// Days of attempts and of events whose partitions a question locks, as it does when it is planned
/// for them.
async fn days_of(database: &TestDatabase, question: &str) -> i64 {
    let client = database.client().await;
    client.batch_execute("begin").await.unwrap();
    client.batch_execute(question).await.unwrap();
    let locked = "select count(distinct relation) from pg_locks l join pg_class c on c.oid = l.relation \
                  where l.pid = pg_backend_pid() and c.relname ~ '^(outbox|attempts)_[0-9]{8}$'";
    value(&client, locked).await
}

#[tokio::test]
async fn what_is_asked_of_an_event_is_planned_for_as_many_days_however_many_are_kept() {
    let (database, client) = filled(SOME).await;
    let questions = [
        format!("select * from posthaste.explain({SOME} - 1)"),
        format!("select * from posthaste.deliveries_of({SOME} - 1)"),
        "select * from posthaste.deliveries_between(now() - interval '1 hour')".to_owned(),
        "select * from posthaste.events_between(now() - interval '1 hour')".to_owned(),
    ];
    let mut before = Vec::new();
    for question in &questions {
        before.push(days_of(&database, question).await);
    }
    let two_months = "set timezone = 'UTC'; do $$ declare day date; parent text; begin
        for parent, day in
          select p, current_date - n from unnest('{outbox,attempts}'::text[]) p, generate_series(11, 70) n loop
          execute format('create table posthaste.%1$s_%2$s partition of posthaste.%1$s for values from (%3$L) to (%4$L)',
                         parent, to_char(day, 'YYYYMMDD'), day, day + 1);
        end loop; end $$";
    client.batch_execute(two_months).await.unwrap();
    for (question, before) in questions.iter().zip(before) {
        assert!(before > 0, "{question}");
        assert_eq!(days_of(&database, question).await, before, "{question}");
    }
}

/// Deliveries of every state, some that have ended twice, and some that have ended and live again.
const OF_EVERY_KIND: &str = "
    update posthaste.endpoints set enabled = false, disabled_at = now(), disabled_reason = 'not paid'
     where id = 3;
    update posthaste.endpoint_health set state = 'paused', paused_until = now() + interval '1 h'
     where endpoint_id = 4;
    update posthaste.deliveries set ordering_key = 'k' || event_id, place = 1, in_line = true
     where endpoint_id = 5;
    update posthaste.deliveries set ordering_key = 'k' || event_id, place = 1, blocked_at = now()
     where endpoint_id = 6;
    insert into posthaste.attempts (event_id, endpoint_id, event_created_at, started_at, number,
                                    relay_id, duration_ms, outcome, verdict, reason)
      select event_id, endpoint_id, event_created_at, started_at + interval '2 days', 0, 1, 0,
             'none', 'cancelled', 'again'
        from posthaste.attempts where event_id % 1000 = 7;
    insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at)
      select distinct event_id, endpoint_id, event_created_at, now()
        from posthaste.attempts where event_id % 1000 = 8;
    insert into posthaste.attempts (event_id, endpoint_id, event_created_at, started_at, number,
                                    relay_id, duration_ms, verdict, next_attempt_at, status)
      select event_id, endpoint_id, event_created_at, created_at + interval '1 min', 1, 1, 9,
             'retry', now(), 503
        from posthaste.deliveries where endpoint_id between 20 and 30;
    create temp table span as
      select began_at as since, began_at + interval '10 days' as until
        from looking.span;
    create temp table shown as
      select s.* from posthaste.delivery_status s, span
       where s.event_created_at >= span.since and s.event_created_at < span.until";

#[tokio::test]
async fn the_deliveries_of_a_span_are_those_that_the_view_shows() {
    let (_database, client) = filled(SOME).await;
    client.batch_execute(OF_EVERY_KIND).await.unwrap();
    let kinds = "select string_agg(distinct state, ',' order by state) from shown";
    assert_eq!(
        value::<String>(&client, kinds).await,
        "blocked,cancelled,dead,delivered,held,in line,sending,waiting"
    );
    for (arguments, condition) in [
        ("", "true"),
        ("state => 'delivered',", "state = 'delivered'"),
        ("state => 'dead',", "state = 'dead'"),
        ("state => 'cancelled',", "state = 'cancelled'"),
        ("state => 'waiting',", "state = 'waiting'"),
        ("state => 'in line',", "state = 'in line'"),
        ("state => 'blocked',", "state = 'blocked'"),
        ("state => 'held',", "state = 'held'"),
        ("state => 'sending',", "state = 'sending'"),
        ("endpoint => 14,", "endpoint_id = 14"),
        ("tenant => 'tenant7',", "tenant = 'tenant7'"),
        ("tenant => 'tenant0', state => 'dead',", "tenant = 'tenant0' and state = 'dead'"),
    ] {
        let differ = format!(
            "with listed as (select l.* from span, posthaste.deliveries_between(
                               span.since, span.until, {arguments} at_most => 1000000) l),
                  wanted as (select * from shown where {condition})
             select array[(select count(*) from wanted),
                          (select count(*) from (table wanted except all table listed) d),
                          (select count(*) from (table listed except all table wanted) d)]"
        );
        let counts: Vec<i64> = value(&client, &differ).await;
        assert!(counts[0] > 0 && counts[1..] == [0, 0], "{arguments}: {counts:?}");
    }
}

#[tokio::test]
async fn the_pages_of_a_list_have_each_row_once_and_in_order() {
    let (_database, client) = filled(SOME).await;
    client.batch_execute(OF_EVERY_KIND).await.unwrap();
    let in_order = "select array_agg(event_id || ' ' || endpoint_id order by event_id desc, endpoint_id desc) from shown";
    let wanted: Vec<String> = value(&client, in_order).await;
    let page = "select l.event_id, l.endpoint_id from span, posthaste.deliveries_between(
                  span.since, span.until, at_most => 3000, before_event => $1, before_endpoint => $2) l";
    let (mut listed, mut after): (Vec<String>, (Option<i64>, Option<i64>)) = Default::default();
    loop {
        let rows = client.query(page, &[&after.0, &after.1]).await.unwrap();
        let Some(last) = rows.last() else { break };
        after = (last.get(0), last.get(1));
        listed.extend(rows.iter().map(|row| {
            let (event, endpoint): (i64, i64) = (row.get(0), row.get(1));
            format!("{event} {endpoint}")
        }));
    }
    assert!(listed == wanted, "{} rows of {}", listed.len(), wanted.len());
}

#[tokio::test]
async fn the_deliveries_of_an_event_and_the_events_of_a_span_are_those_that_the_views_show() {
    let (_database, client) = filled(SOME).await;
    client.batch_execute(OF_EVERY_KIND).await.unwrap();
    let of_events = "
        with event as (select distinct on (state, attempt_count > 0) event_id from shown),
             wanted as (select s.* from event, posthaste.delivery_status s where s.event_id = event.event_id),
             listed as (select l.* from event, posthaste.deliveries_of(event.event_id) l)
        select array[(select count(*) from wanted),
                     (select count(*) from (table wanted except all table listed) d),
                     (select count(*) from (table listed except all table wanted) d)]";
    let counts: Vec<i64> = value(&client, of_events).await;
    assert!(counts[0] >= 8 && counts[1..] == [0, 0], "{counts:?}");
    for (arguments, condition) in [
        ("", "true"),
        (", event_type => 'order.*'", "event_type like 'order.%'"),
        (", tenant => 'tenant7'", "tenant = 'tenant7'"),
    ] {
        let differ = format!(
            "with wanted as (select e.event_id from posthaste.events e, span
                              where e.created_at >= span.since and e.created_at < span.until and {condition}),
                  listed as (select l.event_id from span, posthaste.events_between(
                               span.since, span.until{arguments}, at_most => 1000000) l)
             select array[(select count(*) from wanted),
                          (select count(*) from (table wanted except all table listed) d),
                          (select count(*) from (table listed except all table wanted) d)]"
        );
        let counts: Vec<i64> = value(&client, &differ).await;
        assert!(counts[0] > 20 && counts[1..] == [0, 0], "{arguments}: {counts:?}");
    }
}
