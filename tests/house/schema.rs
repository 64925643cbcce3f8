//! The schema: how it comes about, what it refuses, how its days come and go, and that `\d+` in
//! psql is the manual.

use std::process::{Command, Stdio};

use posthaste::store::migrate::{self, MIGRATIONS, ScriptForm};
use posthaste::store::visit::Visit;
use posthaste::store::{Database, StoreError};
use tokio_postgres::Client;

use crate::support::{
    PATIENCE, Receiver, Relay, TestDatabase, endpoint, event, holds, inconsistencies, settled,
    value, waits_for_a_lock,
};

fn reached(database: &TestDatabase) -> Database {
    Database::parse(&database.url(), None, None, PATIENCE).unwrap()
}

async fn texts(client: &Client, statement: &str) -> Vec<String> {
    client.query(statement, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn migrating_again_changes_nothing() {
    let database = TestDatabase::empty().await;
    let command = |_| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
        command.arg("migrate").env_clear().env("DATABASE_URL", database.url());
        command.current_dir(env!("CARGO_TARGET_TMPDIR")).stdin(Stdio::null());
        command.output().unwrap()
    };
    let (first, second) = (command(1), command(2));
    assert!(first.status.success() && second.status.success(), "{first:?} {second:?}");
    assert!(migrate::run(&mut Visit::to(&reached(&database))).await.unwrap().is_empty());
    migrate::check(&mut Visit::to(&reached(&database))).await.unwrap();

    let client = database.client().await;
    let ledger = "select version || ' ' || checksum from posthaste.migrations order by version";
    let known: Vec<_> =
        MIGRATIONS.iter().map(|known| format!("{} {}", known.version, known.checksum())).collect();
    assert_eq!(texts(&client, ledger).await, known);
}

#[tokio::test]
async fn several_migrators_at_once_are_one() {
    let database = TestDatabase::empty().await;
    let reached = reached(&database);
    let (mut one, mut other) = (Visit::to(&reached), Visit::to(&reached));
    let (one, other) = tokio::join!(migrate::run(&mut one), migrate::run(&mut other));
    assert_eq!(one.unwrap().len() + other.unwrap().len(), MIGRATIONS.len());
}

#[tokio::test]
async fn the_printed_schema_is_the_migrated_one() {
    let database = TestDatabase::empty().await;
    database
        .client()
        .await
        .batch_execute(&migrate::print(0, ScriptForm::Whole).unwrap())
        .await
        .unwrap();
    migrate::check(&mut Visit::to(&reached(&database))).await.unwrap();
}

#[tokio::test]
async fn a_migration_that_was_changed_is_refused() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let changed = "update posthaste.migrations set checksum = 'other' where version = 1";
    client.execute(changed, &[]).await.unwrap();
    let refused = migrate::run(&mut Visit::to(&reached(&database))).await.unwrap_err();
    assert!(matches!(refused, StoreError::MigrationChanged { version: 1, .. }), "{refused}");
    assert!(migrate::check(&mut Visit::to(&reached(&database))).await.is_err());
}

#[tokio::test]
async fn a_relay_does_not_run_on_a_schema_that_is_not_its_own() {
    let (newer, older, none) =
        tokio::join!(TestDatabase::new(), TestDatabase::new(), TestDatabase::empty());
    let newest =
        "insert into posthaste.migrations (version, name, checksum) values (999, 'x', 'x')";
    newer.client().await.execute(newest, &[]).await.unwrap();
    let oldest = "delete from posthaste.migrations";
    older.client().await.execute(oldest, &[]).await.unwrap();
    let known = MIGRATIONS.len();
    for (database, expected) in [
        (
            &newer,
            format!(
                "the schema is at migration 999, but this posthaste knows only up to {known}; run a newer posthaste"
            ),
        ),
        // As long as there is one migration, a ledger that lacks one lacks all.
        (&older, "the posthaste schema was loaded without its rows".to_owned()),
        (&none, "the database has no posthaste schema; run `posthaste migrate`".to_owned()),
    ] {
        let mut relay = Relay::on(&database.url()).spawn();
        assert_eq!(relay.exit().await.code(), Some(1));
        assert!(relay.log().contains(&expected), "{expected}\n{}", relay.log());
    }
}

/// PostgreSQL 15.20 and its like refuse to add a column with a default, or to change a column's
/// type, where the body of a function in SQL uses the row type of the table.
#[tokio::test]
async fn a_later_version_can_add_a_column_to_every_table() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let tables = "select c.oid::regclass::text from pg_class c \
                  where c.relnamespace = 'posthaste'::regnamespace and c.relkind in ('r', 'p') \
                  and not c.relispartition order by 1";
    let tables = texts(&client, tables).await;
    assert!(tables.len() >= 12, "{tables:?}");
    for table in tables {
        let add = format!("alter table {table} add column added integer not null default 7");
        client.batch_execute(&add).await.unwrap_or_else(|error| panic!("{table}: {error:?}"));
    }
    let handed_rows = "
        select p.oid::regprocedure::text from pg_proc p
          join pg_language l on l.oid = p.prolang and l.lanname = 'sql'
          cross join unnest(p.proargtypes::oid[] || p.prorettype) t(type)
          join pg_type y on y.oid = t.type and y.typtype = 'c'
          join pg_class c on c.oid = y.typrelid
         where c.relnamespace in ('posthaste'::regnamespace, 'posthaste_internal'::regnamespace)";
    assert_eq!(texts(&client, handed_rows).await, [""; 0]);
}

#[tokio::test]
async fn everything_in_the_schema_is_explained_by_a_comment() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let silent = "
        select c.oid::regclass::text from pg_class c
         where c.relnamespace = 'posthaste'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
           and obj_description(c.oid, 'pg_class') is null
        union all
        select c.oid::regclass || '.' || a.attname
          from pg_class c join pg_attribute a on a.attrelid = c.oid
         where c.relnamespace = 'posthaste'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
           and not c.relispartition and a.attnum > 0 and not a.attisdropped
           and col_description(c.oid, a.attnum) is null
        union all
        select p.oid::regprocedure::text from pg_proc p
         where p.pronamespace in ('posthaste'::regnamespace, 'posthaste_internal'::regnamespace)
           and obj_description(p.oid, 'pg_proc') is null
        order by 1";
    assert_eq!(texts(&client, silent).await, [""; 0]);
    let explained = "select count(*) from pg_description d join pg_class c on c.oid = d.objoid \
                     where c.relnamespace = 'posthaste'::regnamespace and d.objsubid > 0";
    assert!(value::<i64>(&client, explained).await > 100, "it looks in the right place");
}

#[tokio::test]
async fn an_event_of_a_day_without_a_partition_is_delivered_and_moved_to_its_day() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let days = "outbox_' || to_char((now() at time zone 'UTC')::date + n, 'YYYYMMDD')";
    let drop_days = format!(
        "do $$ declare n int; begin for n in 0..1 loop \
         execute 'drop table posthaste.{days}; end loop; end $$"
    );
    client.batch_execute(&drop_days).await.unwrap();
    let event = event("order.paid").add(&client).await;
    let caught = format!("select count(*) from posthaste.outbox_default where id = {event}");
    assert_eq!(value::<i64>(&client, &caught).await, 1);

    let relay = Relay::start(&database).await;
    settled(&client).await;
    assert_eq!(receiver.received().len(), 1);
    relay.logs("made partitions").await;
    assert_eq!(value::<i64>(&client, &caught).await, 0);
    let kept = format!("select count(*) from posthaste.outbox where id = {event}");
    assert_eq!(value::<i64>(&client, &kept).await, 1);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn an_event_that_is_being_moved_to_its_day_is_not_passed_over() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let today = "posthaste.outbox_' || to_char(now() at time zone 'UTC', 'YYYYMMDD')";
    let drop_today = format!("do $$ begin execute 'drop table {today}; end $$");
    client.batch_execute(&drop_today).await.unwrap();
    event("order.paid").add(&client).await;
    let mover = database.client().await;
    mover.batch_execute("begin; select posthaste_internal.make_partitions(1)").await.unwrap();
    // Routing begins before the event has moved and goes on when it has.
    let _relay = Relay::on(&database.url()).set("relay.poll_interval", "60s").spawn();
    waits_for_a_lock(&client, "route_few").await;
    mover.batch_execute("commit").await.unwrap();

    receiver.next().await;
    settled(&client).await;
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn old_days_are_dropped_but_not_while_one_of_their_events_is_needed() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let id = endpoint("https://example.com/").add(&client).await;
    // Triggers refuse events of the past; this is how a restored backup would bring them.
    let day = |day: u32| {
        format!(
            "create table posthaste.outbox_2020010{day} partition of posthaste.outbox \
             for values from ('2020-01-0{day}') to ('2020-01-0{}'); \
             insert into posthaste.outbox (event_type, payload, created_at) \
             values ('old', '{{}}', '2020-01-0{day} 12:00+00');",
            day + 1
        )
    };
    let setup = format!(
        "set timezone = 'UTC'; set session_replication_role = replica; {} {} \
         insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at) \
         select id, {id}, created_at, 'infinity' from posthaste.outbox \
          where created_at < '2020-01-02'; \
         create table posthaste.attempts_20200101 partition of posthaste.attempts \
         for values from ('2020-01-01') to ('2020-01-02');",
        day(1),
        day(2)
    );
    client.batch_execute(&setup).await.unwrap();
    let cursor =
        "update posthaste.routing set since = pg_current_snapshot(), until = pg_current_snapshot()";
    client.execute(cursor, &[]).await.unwrap();
    // Not routed yet.
    client.batch_execute(&day(3)).await.unwrap();

    let drop_days =
        "select unnest(posthaste_internal.drop_partitions('30 days', '30 days')) order by 1";
    assert_eq!(texts(&client, drop_days).await, ["attempts_20200101", "outbox_20200102"]);
    // One that a relay has claimed is needed as well.
    let claim = "with owed as (delete from posthaste.deliveries returning *) \
         insert into posthaste.claims (relay_id, token, pending, recorded, due_at, first_event, \
           last_event, event_ids, endpoint_ids, event_created_ats) \
         select 1, 1, 1, '0', now(), event_id, event_id, array[event_id], array[endpoint_id], \
           array[event_created_at] from owed";
    client.execute(claim, &[]).await.unwrap();
    client.execute(cursor, &[]).await.unwrap();
    assert_eq!(texts(&client, drop_days).await, ["outbox_20200103"]);
    client.execute("delete from posthaste.claims", &[]).await.unwrap();
    // The relay's upkeep does the same.
    let relay = Relay::start(&database).await;
    relay.logs("dropped partitions").await;
    holds(&client, "to_regclass('posthaste.outbox_20200101') is null").await;
}

#[tokio::test]
async fn a_drop_does_not_make_inserts_wait() {
    let database = TestDatabase::new().await;
    let (client, reader) = (database.client().await, database.client().await);
    let old = "set timezone = 'UTC'; create table posthaste.outbox_20200101 \
        partition of posthaste.outbox for values from ('2020-01-01') to ('2020-01-02'); \
        update posthaste.routing set since = pg_current_snapshot(), until = pg_current_snapshot()";
    client.batch_execute(old).await.unwrap();
    reader.batch_execute("begin; select from posthaste.outbox_20200101").await.unwrap();
    let drop_days = "select unnest(posthaste_internal.drop_partitions('30 days', '30 days'))";
    assert_eq!(texts(&client, drop_days).await, [""; 0]);
    event("order.paid").add(&client).await;
    reader.batch_execute("commit").await.unwrap();
    assert_eq!(texts(&client, drop_days).await, ["outbox_20200101"]);
}
