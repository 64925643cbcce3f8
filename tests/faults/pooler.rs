//! PgBouncer in transaction mode, in front of the application, of the relay, or of both: nothing is
//! lost, the bell rings, and no client finds a session other than it left it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use posthaste::store::parameter_types;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::support::{
    Pooler, Receiver, Relay, RelayBuilder, Reply, TestDatabase, endpoint, event, holds,
    inconsistencies, settled, value, within,
};

/// Fewer than there are clients, so that they take turns.
const SESSIONS: usize = 4;

/// A session's settings, as far as a relay sets any, and its locks.
const STATE: &str = "select concat_ws(', ', \
     current_setting('application_name'), current_setting('timezone'), \
     current_setting('default_transaction_isolation'), current_setting('search_path'), \
     current_setting('enable_seqscan'), current_setting('enable_hashjoin'), \
     current_setting('enable_mergejoin'), current_setting('enable_sort'), \
     current_setting('plan_cache_mode'), current_setting('jit'), \
     current_setting('statement_timeout'), current_setting('lock_timeout'), \
     current_setting('idle_in_transaction_session_timeout'), \
     (select count(*) from pg_prepared_statements), \
     (select count(*) from pg_listening_channels()), \
     (select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'))";

/// A relay that reaches its database through the pooler.
fn behind(pooler: &Pooler, database: &TestDatabase) -> RelayBuilder {
    Relay::on(&pooler.url_for(database.name())).set("database.pooler", "transaction")
}

/// The same, with a way past it for its sessions. It does not poll.
fn with_direct_way(pooler: &Pooler, database: &TestDatabase) -> RelayBuilder {
    let relay = behind(pooler, database).set("database.direct_url", &database.url());
    relay.set("relay.poll_interval", "60s")
}

/// The same without one.
fn without_sessions(pooler: &Pooler, database: &TestDatabase) -> RelayBuilder {
    behind(pooler, database).set("relay.wake", "poll").set("relay.poll_interval", "50ms")
}

async fn assert_no_poll(relay: &Relay) {
    assert_eq!(relay.metric("posthaste_wakes_total", r#"reason="poll""#).await, 0.0);
}

/// Waits until all is delivered, and checks that every committed event came, and came once.
async fn assert_all_arrived_once(receiver: &Receiver, client: &Client) {
    settled(client).await;
    let statement = "select posthaste.webhook_id(id, created_at) from posthaste.outbox";
    let rows = client.query(statement, &[]).await.unwrap();
    let committed: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let received = receiver.received();
    let arrived: BTreeSet<String> = received.iter().map(|one| one.id().to_owned()).collect();
    assert_eq!(arrived, committed);
    assert_eq!(received.len(), committed.len(), "each exactly once");
    assert_eq!(inconsistencies(client).await, [""; 0]);
}

/// Asks without preparing: behind a pooler nothing prepared can be found again.
async fn ask<T: tokio_postgres::types::FromSqlOwned>(client: &Client, statement: &str) -> T {
    client.query_typed_one(statement, &[]).await.unwrap().get(0)
}

/// Writes events in transactions of several statements. Returns which sessions it was lent.
async fn write(client: Client, transactions: usize) -> BTreeSet<i32> {
    let mut lent = BTreeSet::new();
    for number in 0..transactions {
        client.batch_execute("begin").await.unwrap();
        lent.insert(ask(&client, "select pg_backend_pid()").await);
        client.batch_execute(&event("order.paid").sql()).await.unwrap();
        let end = if number % 5 == 4 { "rollback" } else { "commit" };
        client.batch_execute(end).await.unwrap();
    }
    lent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_behind_the_pooler_rings_the_bell_and_loses_nothing() {
    const WRITERS: usize = 16;
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let pooler = Pooler::start(database.cluster(), SESSIONS).await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = Relay::on(&database.url()).set("relay.poll_interval", "60s").start().await;
    let pooled = pooler.url_for(database.name());
    let one = database.client_at(&pooled).await;
    for _ in 0..3 {
        relay.asleep().await;
        one.batch_execute(&event("order.paid").sql()).await.unwrap();
        receiver.next().await;
    }
    assert!(relay.metric("posthaste_bells_total", "").await >= 3.0);
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        writers.spawn(write(database.client_at(&pooled).await, 25));
    }
    let lent: BTreeSet<i32> = writers.join_all().await.into_iter().flatten().collect();

    assert!(lent.len() <= SESSIONS, "{WRITERS} writers took turns at {lent:?}");
    let kept = i64::try_from(3 + WRITERS * 20).unwrap();
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.outbox").await, kept);
    assert_all_arrived_once(&receiver, &client).await;
    assert_no_poll(&relay).await;
}

/// Watches sessions that come its way until it is told that it was enough. Returns what they were
/// like.
async fn watch(client: Client, enough: tokio_util::sync::CancellationToken) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    while !enough.is_cancelled() {
        seen.insert(ask(&client, STATE).await);
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_behind_the_pooler_hears_the_bell_by_its_direct_way_and_leaves_no_trace() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let untold: String = ask(&client, STATE).await;
    let pooler = Pooler::start(database.cluster(), SESSIONS).await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let mut relay = with_direct_way(&pooler, &database).start().await;
    // The bell and the lease. The pools' statements have a name only while they run.
    let ours = "count(*) = 2 from pg_stat_activity \
         where application_name = 'posthaste' and datname = current_database() and state = 'idle'";
    holds(&client, ours).await;
    let pooled = pooler.url_for(database.name());
    let enough = tokio_util::sync::CancellationToken::new();
    let mut watchers = JoinSet::new();
    for _ in 0..SESSIONS {
        watchers.spawn(watch(database.client_at(&pooled).await, enough.clone()));
    }
    for number in 1..=100 {
        // The odd ones find it asleep, and the others not.
        if number % 2 == 0 {
            relay.asleep().await;
        }
        client.batch_execute(&event("order.paid").sql()).await.unwrap();
        receiver.wait_for(number).await;
    }
    holds(&client, ours).await;
    assert_all_arrived_once(&receiver, &client).await;
    assert_no_poll(&relay).await;
    assert!(relay.stop().await.success());
    enough.cancel();

    let seen: BTreeSet<String> = watchers.join_all().await.into_iter().flatten().collect();
    assert_eq!(seen, BTreeSet::from([untold.clone()]));
    // And each session that is left behind: as many at once as there are.
    let mut left = BTreeSet::new();
    let mut clients = Vec::new();
    for _ in 0..SESSIONS {
        let client = database.client_at(&pooled).await;
        client.batch_execute("begin").await.unwrap();
        assert_eq!(ask::<String>(&client, STATE).await, untold);
        left.insert(ask::<i32>(&client, "select pg_backend_pid()").await);
        clients.push(client);
    }
    assert_eq!(left.len(), SESSIONS);
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.relays").await, 0);
}

#[tokio::test]
async fn a_relay_without_a_session_lives_and_is_taken_over_by_its_heartbeat() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let pooler = Pooler::start(database.cluster(), SESSIONS).await;
    let receiver = Receiver::start().await;
    receiver.otherwise(Reply::Hang);
    endpoint(&receiver.url("/")).add(&client).await;
    let timed = |relay: RelayBuilder| {
        let relay = relay.set("relay.heartbeat", "200ms").set("relay.lease", "5s");
        relay.set("delivery.initial_window", "8").start()
    };
    let mut first = timed(without_sessions(&pooler, &database)).await;
    for _ in 0..20 {
        event("order.paid").add(&client).await;
    }
    receiver.wait_for(8).await;
    holds(&client, "count(*) = 20 from posthaste.live_deliveries where claimed_by = 1").await;
    // One that has a session, and looks for others whose session has ended.
    let polling = Relay::on(&database.url()).set("relay.wake", "poll");
    let other = timed(polling.set("relay.poll_interval", "50ms")).await;
    let has_looked =
        "heartbeat_at > started_at + interval '3 s' from posthaste.relays where id = 2";
    holds(&client, has_looked).await;
    let both = "array_agg(session_pid is not null order by id) = '{f,t}' from posthaste.relays where id <= 2";
    assert!(value::<bool>(&client, &format!("select {both}")).await, "nobody is dead");
    assert_eq!(other.metric("posthaste_relay_takeovers_total", "").await, 0.0);
    receiver.otherwise(Reply::ok());
    first.kill().await;
    let silent_since = "select heartbeat_at::text from posthaste.relays where id = 1";
    let silent_since: String = value(&client, silent_since).await;

    settled(&client).await;
    let all = receiver.received();
    assert_eq!(all.len(), 8 + 20, "what was hanging came a second time, and nothing a third");
    let interrupted = format!(
        "count(*) = 20 from posthaste.delivery_attempts where outcome = 'interrupted' and relay_id = 1 \
         and started_at > '{silent_since}'::timestamptz + interval '5 s'"
    );
    holds(&client, &interrupted).await;
    assert_eq!(other.metric("posthaste_relay_takeovers_total", "").await, 1.0);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

/// Kills the pooler in the middle of the work, twice.
async fn assert_outlives_the_pooler(relay: impl Fn(&Pooler, &TestDatabase) -> RelayBuilder) {
    const EVENTS: usize = 1_500;
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let mut pooler = Pooler::start(database.cluster(), SESSIONS).await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let mut relay = relay(&pooler, &database).start().await;
    let writer = database.client().await;
    let writing = async {
        for _ in 0..EVENTS {
            writer.batch_execute(&event("order.paid").sql()).await.unwrap();
        }
    };
    let breaking = async {
        for received in [EVENTS / 5, EVENTS / 2] {
            receiver.wait_for(received).await;
            pooler.kill();
            pooler.start_again().await;
        }
    };
    tokio::join!(writing, breaking);
    assert!(relay.metric("posthaste_database_errors_total", "").await > 0.0, "it was hit by it");
    assert_all_arrived_once(&receiver, &client).await;
    let same = "array_agg(id) = '{1}' from posthaste.relays";
    assert!(value::<bool>(&client, &format!("select {same}")).await, "it kept its number");
    assert!(relay.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_is_killed_under_load_loses_nothing_of_a_relay_with_a_direct_way() {
    assert_outlives_the_pooler(with_direct_way).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_is_killed_under_load_loses_nothing_of_a_relay_without_sessions() {
    assert_outlives_the_pooler(without_sessions).await;
}

/// The plans that a statement had, as the server logged them, with the settings they were made
/// under.
fn logged_plans<'a>(log: &'a str, statement: &str) -> Vec<&'a str> {
    let named = format!("Query Text: -- {statement}:");
    log.split("LOG:  duration: ").filter(|plan| plan.contains(&named)).collect()
}

#[tokio::test]
async fn statements_behind_the_pooler_are_planned_and_bounded_as_on_our_own_sessions() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    for setting in [
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_settings = on",
    ] {
        let alter = format!("alter database {} set {setting}", database.name());
        client.batch_execute(&alter).await.unwrap();
    }
    let pooler = Pooler::start(database.cluster(), SESSIONS).await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = without_sessions(&pooler, &database).set("database.statement_timeout", "1s");
    let relay = relay.start().await;
    event("order.paid").add(&client).await;
    settled(&client).await;
    let log = database.cluster().log().unwrap();
    let off = ["enable_seqscan = 'off'", "jit = 'off'"];
    let custom = [&off[..], &["plan_cache_mode = 'force_custom_plan'"]].concat();
    let pinned = [&off[..], &["plan_cache_mode = 'force_generic_plan'"]].concat();
    let nested = ["enable_hashjoin = 'off'", "enable_mergejoin = 'off'", "enable_sort = 'off'"];
    for (statement, settings) in [
        ("route_few", &custom[..]),
        ("record_one", &[&pinned[..], &nested].concat()),
        ("due", &nested),
    ] {
        let plans = logged_plans(&log, statement);
        assert!(!plans.is_empty(), "{statement} was not run behind the pooler");
        for plan in plans {
            let told = plan.lines().find(|line| line.trim_start().starts_with("Settings: "));
            let missing =
                settings.iter().find(|setting| !told.is_some_and(|told| told.contains(**setting)));
            assert_eq!(missing, None, "{statement}: {told:?}");
            assert!(!plan.contains("Seq Scan on deliveries"), "{plan}");
        }
    }
    let locked = "begin; lock table posthaste.routing in access exclusive mode";
    client.batch_execute(locked).await.unwrap();
    relay.logs("canceling statement due to statement timeout").await;
    client.batch_execute("commit").await.unwrap();
    event("order.paid").add(&client).await;
    assert_all_arrived_once(&receiver, &client).await;
}

#[tokio::test]
async fn a_pooler_that_the_settings_do_not_tell_of_is_found_out_and_named() {
    let (database, another) = tokio::join!(TestDatabase::new(), TestDatabase::new());
    let pooler = Pooler::start(database.cluster(), SESSIONS).await;
    let pooled = pooler.url_for(database.name());
    let on_another = with_direct_way(&pooler, &another).set("database.direct_url", &database.url());
    for (relay, complaint) in [
        (Relay::on(&pooled), "database.url (127.0.0.1:"),
        (
            with_direct_way(&pooler, &database).set("database.direct_url", &pooled),
            "database.direct_url (127.0.0.1:",
        ),
        (on_another, "leads to another database than database.url"),
    ] {
        let mut relay = relay.spawn();
        assert_eq!(relay.exit().await.code(), Some(2), "{complaint}");
        let log = relay.log();
        assert!(log.contains(complaint), "{complaint}: {log}");
        let hint = log.contains("\nhint: behind such a pooler set database.pooler");
        assert_eq!(hint, log.contains("leads through a pooler in transaction mode"), "{log}");
    }
    // While others use it too, and keep its sessions changing hands.
    let client = database.client().await;
    let enough = tokio_util::sync::CancellationToken::new();
    let mut others = JoinSet::new();
    for _ in 0..SESSIONS * 2 {
        others.spawn(watch(database.client_at(&pooled).await, enough.clone()));
    }
    let mut relay = Relay::on(&pooled).spawn();
    assert_eq!(relay.exit().await.code(), Some(2));
    enough.cancel();
    others.join_all().await;
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.relays").await, 0);
}

#[tokio::test]
async fn a_pooler_in_session_mode_is_as_good_as_none() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let pooler = Pooler::start_in_session_mode(database.cluster(), 20).await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = Relay::on(&pooler.url_for(database.name())).set("relay.poll_interval", "60s");
    let relay = relay.start().await;
    for _ in 0..3 {
        relay.asleep().await;
        event("order.paid").add(&client).await;
        receiver.next().await;
    }
    assert_all_arrived_once(&receiver, &client).await;
    assert_no_poll(&relay).await;
}

#[tokio::test]
async fn a_bell_without_a_session_is_refused_by_the_settings() {
    let database = TestDatabase::new().await;
    let pooler = Pooler::start(database.cluster(), SESSIONS).await;
    let mut relay = behind(&pooler, &database).spawn();
    assert_eq!(relay.exit().await.code(), Some(2));
    let log = relay.log();
    assert!(log.contains("POSTHASTE_DATABASE__POOLER: database.pooler: "), "{log}");
    assert!(log.contains("database.direct_url") && log.contains("relay.wake"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schema_is_migrated_through_the_pooler_by_one_of_two_at_once() {
    let database = TestDatabase::empty().await;
    let client = database.client().await;
    let untold: String = ask(&client, STATE).await;
    let pooler = Pooler::start(database.cluster(), 2).await;
    let migrating = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
        command.arg("migrate").env_clear().current_dir(env!("CARGO_TARGET_TMPDIR"));
        command.env("DATABASE_URL", pooler.url_for(database.name())).stdin(Stdio::null());
        command.kill_on_drop(true);
        async move { within("the migration", command.output()).await.unwrap() }
    };
    let (one, other) = tokio::join!(migrating(), migrating());
    assert!(one.status.success() && other.status.success(), "{one:?} {other:?}");
    let said = String::from_utf8([one.stdout, other.stdout].concat()).unwrap();
    let applied: Vec<_> = said.lines().filter(|line| line.starts_with("applied ")).collect();
    let known = value::<i64>(&client, "select count(*) from posthaste.migrations").await;
    assert_eq!(i64::try_from(applied.len()), Ok(known), "each once: {applied:?}");

    let mut clients = Vec::new();
    for _ in 0..2 {
        let client = database.client_at(&pooler.url_for(database.name())).await;
        client.batch_execute("begin").await.unwrap();
        assert_eq!(ask::<String>(&client, STATE).await, untold);
        clients.push(client);
    }
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    drop(clients);
    let _relay = without_sessions(&pooler, &database).start().await;
    event("order.paid").add(&client).await;
    receiver.next().await;
}

#[tokio::test]
async fn every_statement_tells_the_types_of_its_parameters_by_casts() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/queries");
    let mut statements = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let sql = fs::read_to_string(&path).unwrap();
        let prepared = client.prepare(&sql).await.unwrap();
        assert_eq!(parameter_types(&sql).as_deref(), Some(prepared.params()), "{path:?}");
        // The driver would prepare a statement of its own to learn of any other type.
        let foreign =
            prepared.columns().iter().find(|column| Type::from_oid(column.type_().oid()).is_none());
        assert!(foreign.is_none(), "{path:?}: {foreign:?}");
        statements += 1;
    }
    assert!(statements > 15, "found only {statements} statements: is this still the right place?");
}
