//! Operators' own settings for a database, a role or a table, and the way an address leads: that
//! changes nothing of what a relay does, or the relay says so and waits. Nothing is passed over in
//! silence.

use tokio_postgres::Client;

use crate::support::{
    Pooler, Receiver, Relay, Reply, TestDatabase, about, doctor, endpoint, event, holds, ids,
    inconsistencies, migrate, settled, until, value,
};

/// A role that may log in, and the database's URL for it.
async fn role(database: &TestDatabase, client: &Client, name: &str) -> (String, String) {
    let role = format!("{name}_{}", database.name());
    client.batch_execute(&format!("create role {role} login password 'hunter2'")).await.unwrap();
    let mut url = url::Url::parse(&database.url()).unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some("hunter2")).unwrap();
    (role, url.into())
}

/// Has a policy hide the outbox from the relay that goes by this URL, and does what doctor then
/// says.
async fn assert_waits_for_hidden_rows(url: &str, client: &Client, hide: &str) {
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(client).await;
    let relay = Relay::on(url).start().await;
    client.batch_execute(hide).await.unwrap();
    event("order.paid").add(client).await;
    relay.logs(r#"row-level security policy for table \"outbox\" (42501)"#).await;
    until("the relay to say that it is not ready", || async {
        let (status, body) = relay.get("/ready").await?;
        (status == 503 && body.contains("route events: the database refuses it (42501)"))
            .then_some(())
    })
    .await;
    let errors = relay.metric("posthaste_database_errors_total", r#"during="route""#).await;
    assert!(errors > 0.0);
    assert_eq!(receiver.received().len(), 0);

    let (code, said) = doctor(url, &[]).await;
    assert_eq!(code, Some(1), "{said:#}");
    let hidden = about(&said, "rows");
    assert!(hidden["detail"].as_str().unwrap().ends_with(": posthaste.outbox"), "{said:#}");
    let (fix, _) = hidden["fix"].as_str().unwrap().split_once("; or ").unwrap();
    client.batch_execute(fix).await.unwrap();
    settled(client).await;
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(inconsistencies(client).await, [""; 0]);
    let (_, said) = doctor(url, &[]).await;
    assert_eq!(about(&said, "rows")["state"], "ok", "{said:#}");
}

#[tokio::test]
async fn events_that_a_policy_hides_from_the_relay_are_an_error_and_sent_once_it_is_fixed() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (role, url) = role(&database, &client, "member").await;
    client.batch_execute(&format!("grant posthaste_relay to {role}")).await.unwrap();
    let hide = "alter table posthaste.outbox enable row level security";
    assert_waits_for_hidden_rows(&url, &client, hide).await;
}

#[tokio::test]
async fn events_that_a_policy_hides_from_the_owner_are_an_error_and_sent_once_it_is_fixed() {
    let database = TestDatabase::empty().await;
    let client = database.client().await;
    let (role, url) = role(&database, &client, "owner").await;
    let grant = format!("grant create on database {} to {role}", database.name());
    client.batch_execute(&grant).await.unwrap();
    migrate(&url).await;
    let hide = "alter table posthaste.outbox enable row level security; \
                alter table posthaste.outbox force row level security";
    assert_waits_for_hidden_rows(&url, &client, hide).await;
}

#[tokio::test]
async fn a_ledger_that_a_policy_hides_is_named_as_hidden_and_not_as_missing() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (role, url) = role(&database, &client, "member").await;
    client.batch_execute(&format!("grant posthaste_relay to {role}")).await.unwrap();
    for table in ["migrations", "routing"] {
        let hide = format!("alter table posthaste.{table} enable row level security");
        client.batch_execute(&hide).await.unwrap();
        let said = format!("row-level security hides the rows of posthaste.{table} from this role");
        let mut relay = Relay::on(&url).spawn();
        assert_eq!(relay.exit().await.code(), Some(1));
        assert!(relay.log().contains(&said), "{}", relay.log());
        let (code, findings) = doctor(&url, &[]).await;
        let schema = about(&findings, "schema");
        assert_eq!((code, schema["state"].as_str()), (Some(1), Some("failed")), "{findings:#}");
        assert!(schema["detail"].as_str().unwrap().starts_with(&said), "{schema}");
        client.batch_execute(schema["fix"].as_str().unwrap()).await.unwrap();
        let (_, findings) = doctor(&url, &[]).await;
        assert_eq!(about(&findings, "schema")["state"], "ok", "{findings:#}");
    }
}

/// Settings that operators have for a database, for reasons of their own, and that would change or
/// end a relay's statements.
const HOSTILE: [&str; 37] = [
    "array_nulls = off",
    "backslash_quote = off",
    "bytea_output = 'escape'",
    "check_function_bodies = off",
    "client_encoding = 'LATIN1'",
    "client_min_messages = 'debug1'",
    "datestyle = 'German, DMY'",
    "default_toast_compression = 'pglz'",
    "default_transaction_deferrable = on",
    "default_transaction_isolation = 'serializable'",
    "enable_bitmapscan = off",
    "enable_hashjoin = off",
    "enable_indexscan = off",
    "enable_nestloop = off",
    "enable_partition_pruning = off",
    "extra_float_digits = -15",
    "from_collapse_limit = 1",
    "gin_fuzzy_search_limit = 1",
    "idle_in_transaction_session_timeout = '300ms'",
    "idle_session_timeout = '300ms'",
    "intervalstyle = 'sql_standard'",
    "jit = on",
    "jit_above_cost = 0",
    "join_collapse_limit = 1",
    "lock_timeout = '10ms'",
    "plan_cache_mode = 'force_custom_plan'",
    "plpgsql.extra_errors = 'all'",
    "quote_all_identifiers = on",
    "row_security = on",
    "search_path = 'nowhere'",
    "session_replication_role = 'replica'",
    "standard_conforming_strings = off",
    "statement_timeout = '1s'",
    "synchronous_commit = off",
    "timezone = 'Pacific/Apia'",
    "transform_null_equals = on",
    "work_mem = '64kB'",
];

async fn set_for_all(database: &TestDatabase, client: &Client, settings: &[&str]) {
    for setting in settings {
        let alter = format!("alter database {} set {setting}", database.name());
        client.batch_execute(&alter).await.unwrap();
    }
    let version = "select current_setting('server_version_num')::int >= 170000";
    if value::<bool>(client, version).await {
        let alter = format!("alter database {} set transaction_timeout = '1s'", database.name());
        client.batch_execute(&alter).await.unwrap();
    }
}

/// Waits until a relay has rested between its heartbeats for longer than a session may.
async fn rested(client: &Client, relays: i64) {
    let beaten = format!(
        "count(*) = {relays} from posthaste.relays where heartbeat_at > started_at + interval '2 s'"
    );
    holds(client, &beaten).await;
}

fn assert_nothing_amiss(relay: &Relay) {
    let log = relay.log();
    assert!(!log.contains(r#""level":"WARN""#) && !log.contains(r#""level":"ERROR""#), "{log}");
}

#[tokio::test]
async fn what_is_set_for_the_database_changes_nothing_for_migrations_and_relays() {
    let database = TestDatabase::empty().await;
    let client = database.client().await;
    set_for_all(&database, &client, &HOSTILE).await;
    migrate(&database.url()).await;
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(500)]);
    endpoint(&receiver.url("/")).with("schedule", "{1 s}").add(&client).await;
    let start = || Relay::on(&database.url()).set("relay.heartbeat", "500ms").start();
    let (mut one, mut other) = tokio::join!(start(), start());
    for _ in 0..2 {
        rested(&client, 2).await;
        event("order.paid").add(&client).await;
        settled(&client).await;
    }
    assert_eq!(ids(&receiver.received()).len(), 2);
    assert_eq!(
        receiver.received().len(),
        2 + 1,
        "what failed came once more, and nothing else twice"
    );
    assert_eq!(inconsistencies(&client).await, [""; 0]);
    let (code, said) = doctor(&database.url(), &[]).await;
    assert_eq!(code, Some(0), "{said:#}");
    assert!(one.stop().await.success() && other.stop().await.success());
    assert_nothing_amiss(&one);
    assert_nothing_amiss(&other);
}

#[tokio::test]
async fn what_is_set_for_the_database_changes_nothing_behind_a_pooler() {
    let database = TestDatabase::empty().await;
    let client = database.client().await;
    // A session that ends while it rests with the pooler may just be lent: the pooler's to prevent.
    let settings = HOSTILE.into_iter().filter(|one| !one.starts_with("idle_session_timeout"));
    set_for_all(&database, &client, &settings.collect::<Vec<_>>()).await;
    let pooler = Pooler::start(database.cluster(), 4).await;
    migrate(&pooler.url_for(database.name())).await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = Relay::on(&pooler.url_for(database.name())).set("database.pooler", "transaction");
    let relay = relay.set("relay.wake", "poll").set("relay.poll_interval", "50ms");
    let mut relay = relay.set("relay.heartbeat", "500ms").start().await;
    rested(&client, 1).await;
    event("order.paid").add(&client).await;
    settled(&client).await;
    assert_eq!(receiver.received().len(), 1);
    assert!(relay.stop().await.success());
    assert_nothing_amiss(&relay);
}

#[tokio::test]
async fn the_printed_schema_can_be_applied_whatever_is_set_for_the_database() {
    let database = TestDatabase::empty().await;
    let client = database.client().await;
    set_for_all(&database, &client, &["standard_conforming_strings = off", "row_security = on"])
        .await;
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        script.path(),
        posthaste::store::migrate::print(0, posthaste::store::migrate::ScriptForm::Whole).unwrap(),
    )
    .unwrap();
    let psql = database.cluster().binaries().path("psql");
    let mut psql = tokio::process::Command::new(psql);
    psql.args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"]).arg(database.url());
    let applied = psql.arg("--file").arg(script.path()).output().await.unwrap();
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));

    migrate(&database.url()).await;
    let body = "select prosrc from pg_proc where proname = 'check_rule'";
    let other = TestDatabase::new().await;
    let expected = other.client().await;
    assert_eq!(value::<String>(&client, body).await, value::<String>(&expected, body).await);
    let like = r"select posthaste_internal.like_patterns('{a_b}')::text";
    assert_eq!(value::<String>(&client, like).await, value::<String>(&expected, like).await);
}
