//! A login without any grant, or one that may make things in `public`: what it locks, sends, and
//! puts in the way.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::support::{
    Receiver, Relay, Reply, TestDatabase, about, doctor, endpoint, event, holds, inconsistencies,
    posthaste, settled, until, value,
};

/// A session of a new login without any grant.
async fn stranger(database: &TestDatabase) -> Client {
    let login = format!("stranger_of_{}", database.name());
    let make = format!("create role {login} login password 'hunter2'");
    database.client().await.batch_execute(&make).await.unwrap();
    let mut url = url::Url::parse(&database.url()).unwrap();
    url.set_username(&login).unwrap();
    url.set_password(Some("hunter2")).unwrap();
    let stranger = database.client_at(url.as_str()).await;
    stranger.batch_execute("set application_name = 'a stranger'").await.unwrap();
    stranger
}

#[tokio::test]
async fn advisory_locks_hold_up_neither_migration_nor_start_nor_events_nor_a_takeover() {
    let database = TestDatabase::empty().await;
    let stranger = stranger(&database).await;
    // `post` and `phrl` in ASCII.
    let every_lock = "select pg_advisory_lock(1886352244, n) from generate_series(0, 9) n; \
                      select pg_advisory_lock(1885893228, n) from generate_series(0, 99) n";
    stranger.batch_execute(every_lock).await.unwrap();
    let (code, said) = posthaste(&database.url(), &["migrate"]).await;
    assert_eq!(code, Some(0), "{said}");

    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    // Neither poll nor heartbeat comes to the rescue.
    let relay = || {
        let relay = Relay::on(&database.url()).set("relay.poll_interval", "60s");
        relay.set("relay.heartbeat", "200ms").set("relay.lease", "10m")
    };
    let mut first = relay().start().await;
    for _ in 0..3 {
        first.asleep().await;
        event("order.paid").add(&client).await;
        receiver.next().await;
    }
    assert_eq!(first.metric("posthaste_wakes_total", r#"reason="poll""#).await, 0.0);

    let lost: i32 = value(&client, "select session_pid from posthaste.relays").await;
    client.execute("select pg_terminate_backend($1)", &[&lost]).await.unwrap();
    holds(&client, &format!("session_pid <> {lost} from posthaste.relays")).await;
    event("order.paid").add(&client).await;
    receiver.next().await;

    let _second = relay().start().await;
    receiver.script([Reply::Hang]);
    event("order.paid").add(&client).await;
    receiver.next().await;
    // Whichever of them has it: the other one takes over what the first holds.
    first.kill().await;
    holds(&client, "array_agg(id) = '{2}' from posthaste.relays").await;
}

#[tokio::test]
async fn what_relays_and_migrations_go_by_can_be_locked_or_set_by_no_other_role() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let stranger = stranger(&database).await;
    let attempts = [
        "lock table posthaste.routers in access share mode",
        "lock table posthaste.routers in share update exclusive mode",
        "lock table posthaste.migrations in exclusive mode",
        "lock table posthaste.routing in row exclusive mode",
        "select from posthaste.relays for key share",
        "select setval('posthaste.silence', 9000000000000000)",
        "select posthaste_internal.keep_silent()",
        "select posthaste_internal.may_route()",
    ];
    for attempt in attempts {
        let refused = stranger.batch_execute(&format!("begin; {attempt}")).await.unwrap_err();
        assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{attempt}");
        stranger.batch_execute("rollback").await.unwrap();
        for role in ["producer", "viewer", "operator"] {
            let attempt = format!("begin; set local role posthaste_{role}; {attempt}");
            let refused = client.batch_execute(&attempt).await.unwrap_err();
            assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{attempt}");
            client.batch_execute("rollback").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_migration_that_waits_for_too_long_names_the_session_that_it_waits_for() {
    let database = TestDatabase::empty().await;
    let holder = database.client().await;
    let hold = "set application_name = 'another tool'; begin; create schema posthaste";
    holder.batch_execute(hold).await.unwrap();
    let pid: i32 = value(&holder, "select pg_backend_pid()").await;
    let (code, said) = posthaste(&database.url(), &["migrate"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("it is locked by process {pid} (role postgres")), "{said}");
    assert!(said.contains("application another tool, in a transaction since 20"), "{said}");

    holder.batch_execute("rollback").await.unwrap();
    let (code, said) = posthaste(&database.url(), &["migrate"]).await;
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn several_that_install_at_once_install_once() {
    for _ in 0..3 {
        let database = TestDatabase::empty().await;
        let url = database.url();
        let migrate = || posthaste(&url, &["migrate"]);
        let (one, two, three) = tokio::join!(migrate(), migrate(), migrate());
        let said = [one, two, three];
        assert!(said.iter().all(|(code, _)| *code == Some(0)), "{said:?}");
        let applied = said.iter().filter(|(_, said)| said.starts_with("applied 0001 ")).count();
        assert_eq!(applied, 1, "{said:?}");
    }
}

#[tokio::test]
async fn a_flood_of_notices_costs_some_statements_a_second_and_no_event() {
    const NOTICES: u32 = 12_000;
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let stranger = stranger(&database).await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let mut relay = Relay::on(&database.url()).set("relay.poll_interval", "60s").start().await;
    relay.asleep().await;
    let log = relay.log().lines().count();

    let clock = "select date_part('epoch', clock_timestamp())";
    let began: f64 = value(&client, clock).await;
    for number in 0..NOTICES {
        // The bell's, that of steering, of relays among one another, and such as none of ours has.
        let said =
            ["", "deliveries", "due", "withdrawals", "endpoint 1", "endpoint 99", "endpoint x"];
        let said = said.get(number as usize % 9).copied().unwrap_or("\u{1F514} odd");
        stranger.batch_execute(&format!("notify posthaste, '{said}'")).await.unwrap();
    }
    let lasted = value::<f64>(&client, clock).await - began;
    event("order.paid").add(&client).await;
    receiver.next().await;
    assert_eq!(relay.log().lines().count(), log, "{}", relay.log());
    // What a session has done is counted when it ends, at the latest.
    relay.stop().await;
    let looks = "select coalesce(sum(seq_scan + coalesce(idx_scan, 0)), 0)::bigint \
         from pg_stat_user_tables where schemaname = 'posthaste' \
          and relname in ('routing', 'withdrawals', 'endpoints')";
    let looks = until("the server to have counted", || async {
        let looks = value::<i64>(&client, looks).await;
        (looks > 0).then_some(looks)
    })
    .await;
    // 20 looks a second, and 50 each of polls with a look, looks at withdrawals and at revisions;
    // and what a relay asks when it starts. A notice that cost a statement would make 12,000.
    let bound = 500.0 + 500.0 * lasted.max(1.0);
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let looks = looks as f64;
    assert!(looks < bound.min(f64::from(NOTICES) / 2.0), "{looks} in {lasted} s");
    settled(&client).await;
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_session_that_is_in_the_way_is_named_by_doctor() {
    let database = TestDatabase::new().await;
    let (client, waiting) = (database.client().await, database.client().await);
    let stranger = stranger(&database).await;
    let pid: i32 = value(&stranger, "select pg_backend_pid()").await;
    // No right is needed for it, and the tables of the view are held until the transaction ends.
    let view: u32 = value(&client, "select 'posthaste.endpoint_status'::regclass::oid").await;
    let looks = format!("begin; select length(pg_get_viewdef({view}))");
    stranger.batch_execute(&looks).await.unwrap();
    let (_, said) = doctor(&database.url(), &[]).await;
    let found = about(&said, "locks");
    assert_eq!(found["state"], "warning", "{found}");
    let told = found["detail"].as_str().unwrap();
    assert!(told.contains(&format!("process {pid} (role stranger_of_")), "{told}");
    assert!(
        told.contains("application a stranger) has no right in the schema, and holds posthaste."),
        "{told}"
    );

    let blocked = tokio::task::JoinSet::from_iter([async move {
        waiting.batch_execute("begin; lock table posthaste.endpoints; commit").await
    }]);
    let held_up = format!(
        "process {pid} (role stranger_of_{}, application a stranger) holds up process ",
        database.name()
    );
    until("doctor to name the one that is waited for", || async {
        let (_, said) = doctor(&database.url(), &[]).await;
        let told = about(&said, "locks")["detail"].as_str().unwrap().to_owned();
        (told.contains(&held_up) && told.contains("which waits for posthaste.endpoints"))
            .then_some(())
    })
    .await;
    let (_, said) = doctor(&database.url(), &[]).await;
    let fix = about(&said, "locks")["fix"].as_str().unwrap();
    assert!(fix.contains(&format!("pg_terminate_backend({pid})")), "{fix}");
    stranger.batch_execute("rollback").await.unwrap();
    assert!(blocked.join_all().await.into_iter().all(|locked| locked.is_ok()));
    let (_, said) = doctor(&database.url(), &[]).await;
    assert_eq!(about(&said, "locks")["state"], "ok", "{said:#}");
}

#[tokio::test]
async fn a_transaction_that_is_open_for_long_is_named_with_its_session() {
    const SESSIONS: &str = include_str!("../../sql/queries/doctor_sessions.sql");
    let database = TestDatabase::new().await;
    let (client, old) = (database.client().await, database.client().await);
    let pid: i32 = value(&old, "select pg_backend_pid()").await;
    let transactions = async |seconds: f64| {
        let rows = client.query(SESSIONS, &[&1.0, &seconds, &1_000_000]).await.unwrap();
        let row = rows.iter().find(|row| row.get::<_, &str>("check") == "transactions").unwrap();
        (row.get::<_, String>("state"), row.get::<_, String>("detail"))
    };
    old.batch_execute("begin isolation level repeatable read; select").await.unwrap();
    let (state, _) = transactions(3_600.0).await;
    assert_eq!(state, "ok");
    let (state, told) = transactions(0.0).await;
    assert_eq!(state, "warning");
    assert!(
        told.contains(&format!("process {pid} (role postgres, application without a name) since ")),
        "{told}"
    );
    old.batch_execute("commit").await.unwrap();
    until("the session to be at rest", || async {
        (transactions(0.0).await.0 == "ok").then_some(())
    })
    .await;
}

/// Operators that fit better than PostgreSQL's own where operands are of these types: it has none
/// for exactly these two.
const OPERATORS: &str = "
    values ('>', 'float8', 'integer', 'boolean'), ('<', 'float8', 'integer', 'boolean'),
           ('>=', 'float8', 'integer', 'boolean'), ('<=', 'float8', 'integer', 'boolean'),
           ('=', 'float8', 'integer', 'boolean'), ('*', 'float8', 'integer', 'float8'),
           ('/', 'float8', 'integer', 'float8'), ('+', 'float8', 'integer', 'float8'),
           ('-', 'float8', 'integer', 'float8'), ('*', 'integer', 'interval', 'interval'),
           ('*', 'interval', 'integer', 'interval'), ('*', 'numeric', 'integer', 'numeric'),
           ('>', 'numeric', 'integer', 'boolean'), ('<', 'numeric', 'integer', 'boolean'),
           ('=', 'text', 'varchar', 'boolean'), ('=', 'varchar', 'text', 'boolean'),
           ('~', 'varchar', 'text', 'boolean'), ('<>', 'text', 'varchar', 'boolean'),
           ('||', 'text', 'integer', 'text'), ('||', 'text', 'bigint', 'text'),
           ('||', 'text', 'name', 'text'), ('||', 'name', 'text', 'text'),
           ('||', 'text[]', 'text', 'text[]'), ('&&', 'text[]', 'text[]', 'boolean'),
           ('=', 'oid', 'regclass', 'boolean'), ('=', 'regclass', 'oid', 'boolean'),
           ('=', 'oid', 'regnamespace', 'boolean'), ('=', '\"char\"', 'text', 'boolean'),
           ('<', 'timestamptz', 'text', 'boolean'), ('?', 'jsonb', 'varchar', 'boolean')";

/// Functions, likewise.
const FUNCTIONS: &str = "
    values ('lower(varchar)', 'text'), ('lower(name)', 'text'), ('length(varchar)', 'integer'),
           ('octet_length(varchar)', 'integer'), ('now(text)', 'timestamptz'), ('left(name, integer)', 'text'),
           ('cardinality(text[])', 'integer'), ('cardinality(bigint[])', 'integer'),
           ('array_length(text[], integer)', 'integer'), ('array_position(bigint[], bigint)', 'integer'),
           ('array_to_string(text[], text)', 'text'), ('array_remove(text[], text)', 'text[]'),
           ('unnest(text[])', 'setof text'), ('unnest(bigint[])', 'setof bigint'),
           ('format(text, text)', 'text'), ('format(text, integer)', 'text'), ('format(text, bigint)', 'text'),
           ('concat_ws(text, text, text)', 'text'), ('to_char(date, text)', 'text'),
           ('jsonb_build_object(text, text)', 'jsonb'), ('jsonb_build_object(text, bigint)', 'jsonb'),
           ('to_jsonb(text)', 'jsonb'), ('to_json(text)', 'json'), ('row_to_json(record)', 'json'),
           ('jsonb_each_text(json)', 'setof text'), ('pg_column_size(jsonb)', 'integer'),
           ('pg_column_size(json)', 'integer'), ('row_security_active(regclass)', 'boolean'),
           ('pg_get_expr(pg_node_tree, oid, integer)', 'text'), ('has_table_privilege(regclass, text)', 'boolean'),
           ('setval(text, bigint)', 'bigint'), ('nextval(text)', 'bigint'), ('pg_notify(varchar, varchar)', 'void')";

/// A login that may make things in `public`, as every login may on PostgreSQL 14, plants them
/// there: each of them, when it runs, draws a number and writes down what ran it.
async fn plant(database: &TestDatabase) {
    let intruder = stranger(database).await;
    let admin = database.client().await;
    let login: String = value(&intruder, "select current_user::text").await;
    admin.batch_execute(&format!("grant create on schema public to {login}")).await.unwrap();
    let plant = format!(
        "create sequence public.sprung;
         create table public.caught (role name, query text);
         grant usage on sequence public.sprung to public;
         grant insert on public.caught to public;
         create domain public.jsonpath as text;
         create domain public.pg_snapshot as text;
         do $do$
         declare
           trap record;
           body constant text := 'begin perform pg_catalog.nextval(''public.sprung'');
             insert into public.caught values (current_user, pg_catalog.current_query()); return {{}}; end';
         begin
           for trap in select row_number() over () as n, v.* from ({OPERATORS}) v(op, l, r, result) loop
             execute format('create function public.trap_%s(%s, %s) returns %s language plpgsql as %L',
                            trap.n, trap.l, trap.r, trap.result, replace(body, '{{}}', 'null'));
             execute format('create operator public.%s (function = public.trap_%s, leftarg = %s, rightarg = %s)',
                            trap.op, trap.n, trap.l, trap.r);
           end loop;
           for trap in select v.* from ({FUNCTIONS}) v(signature, result) loop
             execute format('create function public.%s returns %s language plpgsql as %L', trap.signature, trap.result,
                            replace(body, '{{}}', case when trap.result ~ '^(setof|void)' then '' else 'null' end));
           end loop;
         end $do$"
    );
    intruder.batch_execute(&plant).await.unwrap();
}

/// Panics if a trap has been sprung.
async fn assert_none_ran(client: &Client) {
    let sprung = "select case when s.is_called then \
                    coalesce((select string_agg(c.role || ': ' || c.query, '; ') from public.caught c), 'undone since') \
                  else '' end from public.sprung s";
    assert_eq!(value::<String>(client, sprung).await, "");
}

/// A session that does not go by what stands in `public`.
async fn wary(database: &TestDatabase) -> Client {
    let client = database.client().await;
    client.batch_execute("set search_path = pg_catalog, pg_temp").await.unwrap();
    client
}

#[tokio::test]
async fn what_is_planted_in_public_runs_neither_with_migrations_nor_relays_nor_functions() {
    let database = TestDatabase::empty().await;
    plant(&database).await;
    let client = wary(&database).await;
    // They do spring: this session goes by them.
    let careless = database.client().await;
    careless.batch_execute("begin; select 1::float8 > 1; rollback").await.unwrap();
    client
        .batch_execute("alter sequence public.sprung restart; delete from public.caught")
        .await
        .unwrap();
    assert_none_ran(&client).await;

    let (code, said) = posthaste(&database.url(), &["migrate"]).await;
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = posthaste(&database.url(), &["migrate"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert_none_ran(&client).await;

    // Whatever an operator and an application call, by their own path.
    let receiver = Receiver::start().await;
    let url = receiver.url("/");
    let steer = format!(
        "select posthaste.add_endpoint('{url}', '{{order.*}}', filter => '$ ? (@.total > 1)', rate_limit => 100);
         select posthaste.add_endpoint('{url}', ordered => true, tenant => 'acme', headers => '{{\"x-a\": \"b\"}}');
         select posthaste.rotate_secret(1); select posthaste.send_test(1);
         set role posthaste_producer;
         insert into posthaste.outbox (event_type, payload, ordering_key) values ('order.paid', '{{\"total\": 2}}', 'a');
         insert into posthaste.outbox (event_type, payload, tenant, headers) values ('order.paid', '{{}}', 'acme', '{{\"x-c\": \"d\"}}');
         select posthaste.emit('order.paid', '{{\"total\": 3}}'::jsonb, idempotency_key => 'k');
         reset role"
    );
    careless.batch_execute(&steer).await.unwrap();
    assert_none_ran(&client).await;
    let mut relay = Relay::on(&database.url()).set("relay.heartbeat", "200ms").start().await;
    receiver.wait_for(4).await;
    settled(&client).await;
    careless.batch_execute("select posthaste.replay(1, '-infinity', states => '{all}')").await.ok();
    let views = "select * from posthaste.endpoint_status; select * from posthaste.delivery_status; \
         select * from posthaste.delivery_attempts; select * from posthaste.relay_status; \
         select * from posthaste.backlog; select * from posthaste.unrouted_events; \
         select * from posthaste.recent_failures; select * from posthaste.ingest_status; \
         select * from posthaste.explain(1); select * from posthaste.check_consistency(); \
         select posthaste.disable_endpoint(2); select posthaste.enable_endpoint(2); \
         select posthaste.cancel_endpoint(2)";
    careless.batch_execute(views).await.unwrap();
    let (_, said) = doctor(&database.url(), &[]).await;
    assert_eq!(about(&said, "schema")["state"], "ok", "{said:#}");
    assert!(relay.stop().await.success());
    assert_none_ran(&client).await;
}

#[tokio::test]
async fn what_is_planted_in_public_does_not_run_with_what_migrate_prints() {
    for form in [&["migrate", "--print"][..], &["migrate", "--print", "--bare"]] {
        let database = TestDatabase::empty().await;
        plant(&database).await;
        let (_, script) = posthaste("", form).await;
        let careless = database.client().await;
        let is_bare = form.len() == 3;
        let script = if is_bare { format!("begin; {script}; commit") } else { script };
        careless.batch_execute(&script).await.unwrap();
        let path: String = value(&careless, "show search_path").await;
        assert_eq!(path, "\"$user\", public");
        // Its checks and defaults are bound to what is meant.
        let add = "select posthaste.add_endpoint('https://example.com/', rate_limit => 5); \
                   insert into posthaste.outbox (event_type, payload) values ('order.paid', '{}'); \
                   select * from posthaste.endpoint_status";
        careless.batch_execute(add).await.unwrap();
        assert_none_ran(&wary(&database).await).await;
    }
}
