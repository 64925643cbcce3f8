//! The findings of `posthaste doctor`, and that its advice fixes them.

use serde_json::Value;
use tokio_postgres::Client;

use crate::support::{Relay, TestDatabase, about, doctor, endpoint, value};

/// Does what the finding says is to be done.
async fn fix(client: &Client, said: &Value, what: &str) {
    let fix = about(said, what)["fix"].as_str().unwrap_or_else(|| panic!("{what}: {said:#}"));
    let sql = fix.split_once("; a relay").map_or(fix, |(sql, _)| sql);
    client.batch_execute(sql).await.unwrap();
}

#[tokio::test]
async fn a_relay_that_lacks_nothing_is_told_so() {
    let database = TestDatabase::new().await;
    endpoint("https://example.com/").add(&database.client().await).await;
    let _relay = Relay::start(&database).await;
    let spool = tempfile::tempdir().unwrap();
    std::fs::write(spool.path().join("7.event"), b"12345").unwrap();
    let at = format!("ingest.spool={}", spool.path().display());

    // Small enough for any disk.
    let small = "ingest.spool_bytes=64KiB";
    let door = "ingest.listen=127.0.0.1:1";
    let source = ["ingest.sources.shop.verify=token", "ingest.sources.shop.secret=hunter2hunter2"];
    let (code, said) = doctor(&database.url(), &[&at, small, door, source[0], source[1]]).await;
    assert_eq!((code, &said["healthy"]), (Some(0), &Value::Bool(true)), "{said:#}");
    for what in [
        "connection",
        "version",
        "clock",
        "pooler",
        "encoding",
        "schema",
        "roles",
        "privileges",
        "triggers",
        "rows",
        "bell",
        "partitions",
        "relays",
        "endpoints",
        "filters",
        "locks",
        "transactions",
        "set aside",
        "announcements",
        "addresses",
        "rules",
        "spool",
    ] {
        let finding = about(&said, what);
        assert_eq!((&finding["state"], &finding["fix"]), (&"ok".into(), &Value::Null), "{finding}");
    }
    let waits = about(&said, "spool")["detail"].as_str().unwrap();
    assert!(waits.starts_with("1 files, 5 bytes wait in "), "{waits}");
}

#[tokio::test]
async fn what_is_amiss_is_named_and_doing_as_it_says_fixes_it() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let paused = endpoint("https://example.com/").add(&client).await;
    client
        .batch_execute(&format!(
            "alter table posthaste.endpoints disable trigger endpoints_are_touched;
             alter table posthaste.outbox disable trigger outbox_rings_the_bell;
             insert into posthaste.endpoint_health (endpoint_id, state, paused_until)
               values ({paused}, 'paused', now() + interval '1 hour');
             do $$ begin
               execute format('drop table posthaste.outbox_%s', to_char((now() at time zone 'UTC')::date + 1, 'YYYYMMDD'));
             end $$"
        ))
        .await
        .unwrap();
    let (code, said) = doctor(&database.url(), &[]).await;
    assert_eq!((code, &said["healthy"]), (Some(1), &Value::Bool(false)), "{said:#}");
    for (what, state, found) in [
        ("triggers", "failed", "endpoints_are_touched"),
        ("bell", "warning", "do not ring"),
        ("partitions", "warning", "outbox_"),
        ("relays", "warning", "0 running"),
        ("endpoints", "warning", "paused: "),
    ] {
        let finding = about(&said, what);
        assert_eq!(finding["state"], state, "{finding}");
        assert!(finding["detail"].as_str().unwrap().contains(found), "{finding}");
        assert!(finding["fix"].is_string(), "{finding}");
    }
    for what in ["triggers", "bell", "partitions"] {
        fix(&client, &said, what).await;
    }
    let (code, said) = doctor(&database.url(), &[]).await;
    assert_eq!(code, Some(0), "{said:#}");
    for what in ["triggers", "bell", "partitions"] {
        assert_eq!(about(&said, what)["state"], "ok", "{said:#}");
    }
}

#[tokio::test]
async fn a_trigger_that_is_disabled_is_named_once_whatever_partitions_there_are() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let triggers = "select tgname from pg_trigger where not tgisinternal and tgrelid = 'posthaste.outbox'::regclass \
                    and tgname <> 'outbox_rings_the_bell' and (tgtype & 1) = 1 order by tgname limit 1";
    let trigger: String = value(&client, &format!("select tgname::text from ({triggers}) t")).await;
    let disable = format!("alter table posthaste.outbox disable trigger {trigger}");
    client.batch_execute(&disable).await.unwrap();
    let (_, said) = doctor(&database.url(), &[]).await;
    let finding = about(&said, "triggers");
    assert_eq!(finding["detail"], format!("disabled: {trigger}"), "{said:#}");
    fix(&client, &said, "triggers").await;
    let (_, said) = doctor(&database.url(), &[]).await;
    assert_eq!(about(&said, "triggers")["state"], "ok", "{said:#}");
}

#[tokio::test]
async fn a_bell_that_was_dropped_is_hung_up_again_by_what_it_says() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    client.batch_execute("drop trigger outbox_rings_the_bell on posthaste.outbox").await.unwrap();
    let (code, said) = doctor(&database.url(), &[]).await;
    assert_eq!((code, &about(&said, "bell")["state"]), (Some(1), &"failed".into()), "{said:#}");
    fix(&client, &said, "bell").await;
    let _relay = Relay::start(&database).await;
    let (code, said) = doctor(&database.url(), &[]).await;
    assert_eq!((code, &about(&said, "bell")["state"]), (Some(0), &"ok".into()), "{said:#}");
}

#[tokio::test]
async fn a_second_way_to_another_database_is_a_finding_of_its_own() {
    let (database, other) = (TestDatabase::new().await, TestDatabase::new().await);
    let direct = format!("database.direct_url={}", other.url());
    let (code, said) = doctor(&database.url(), &[&direct]).await;
    assert_eq!(
        (code, &about(&said, "direct_url")["state"]),
        (Some(1), &"failed".into()),
        "{said:#}"
    );
    assert!(about(&said, "direct_url")["fix"].as_str().unwrap().contains("database.direct_url"));
}

#[tokio::test]
async fn a_database_that_takes_no_writes_or_says_nothing_is_told_apart_from_one_that_is_well() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let read_only = "do $$ begin execute format(
        'alter database %I set default_transaction_read_only = on', current_database()); end $$";
    client.batch_execute(read_only).await.unwrap();
    let (code, said) = doctor(&database.url(), &[]).await;
    assert_eq!(code, Some(1), "{said:#}");
    let found = about(&said, "connection")["detail"].as_str().unwrap();
    assert!(found.contains("does not allow writes"), "{found}");

    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://app:hunter2@{}/shop", silent.local_addr().unwrap());
    let (code, said) = doctor(&url, &["database.connect_timeout=200ms"]).await;
    assert_eq!(code, Some(1));
    let found = about(&said, "connection")["detail"].as_str().unwrap();
    assert!(found.contains("no answer within"), "{found}");
}

#[tokio::test]
async fn a_role_without_privileges_is_told_what_to_grant() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let role = format!("stranger_{}", std::process::id());
    client.batch_execute(&format!("create role {role} login password 'hunter2'")).await.unwrap();
    let mut url = url::Url::parse(&database.url()).unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some("hunter2")).unwrap();
    let (code, said) = doctor(url.as_str(), &[]).await;
    assert_eq!(code, Some(1), "{said:#}");
    let privileges = about(&said, "privileges");
    assert!(privileges["detail"].as_str().unwrap().contains("insert on deliveries"), "{said:#}");
    assert_eq!(about(&said, "endpoints"), &Value::Null, "it may not look");

    fix(&client, &said, "privileges").await;
    let (code, said) = doctor(url.as_str(), &[]).await;
    client.batch_execute(&format!("drop role {role}")).await.unwrap();
    assert_eq!(code, Some(0), "{said:#}");
}

#[tokio::test]
async fn a_database_that_is_away_or_empty_is_the_first_thing_that_it_names() {
    let (code, said) = doctor("postgres://app:hunter2@127.0.0.1:1/shop", &[]).await;
    assert_eq!(code, Some(1));
    assert_eq!(about(&said, "connection")["state"], "failed", "{said:#}");
    assert_eq!(said["findings"].as_array().unwrap().len(), 2, "and the settings: {said:#}");

    let database = TestDatabase::new().await;
    database.client().await.batch_execute("drop schema posthaste cascade").await.unwrap();
    let (code, said) = doctor(&database.url(), &[]).await;
    assert_eq!(code, Some(1));
    let schema = about(&said, "schema");
    assert_eq!((&schema["state"], &schema["fix"]), (&"failed".into(), &"posthaste migrate".into()));
    assert_eq!(about(&said, "connection")["state"], "ok");
}
