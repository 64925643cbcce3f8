//! The database restarts, cuts its sessions, takes no writes, has no room or keeps its tables
//! locked: the relay says so, waits, and goes on. Nothing is lost, and with one relay nothing comes
//! twice.

use posthaste::sandbox::postgres::StopMode;
use tokio_postgres::Client;

use crate::support::server::connect;
use crate::support::{
    Disk, Gate, HEARS_THE_BELL, Receiver, Relay, Reply, Server, TestDatabase, Wire, Writer,
    attempts, endpoint, event, holds, ids, inconsistencies, migrate, settled, until, value,
    webhook_ids,
};

/// Everything that was committed has arrived, each once.
async fn assert_each_came_once(receiver: &Receiver, client: &Client) {
    settled(client).await;
    let (all, committed) = (receiver.received(), webhook_ids(client).await);
    assert_eq!(ids(&all), committed);
    assert_eq!(all.len(), committed.len(), "each once");
    let recorded = "select count(*) from posthaste.delivery_attempts where verdict = 'delivered'";
    assert_eq!(value::<i64>(client, recorded).await, i64::try_from(committed.len()).unwrap());
    assert_eq!(inconsistencies(client).await, [""; 0]);
}

#[tokio::test]
async fn restarts_under_load_lose_nothing_and_repeat_nothing() {
    const EVENTS: usize = 1000;
    let mut server = Server::start(&[]).await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&server.client().await).await;
    let _relay = Relay::on(&server.url()).start().await;
    let writer = Writer::start(&server.url(), EVENTS);
    for (restart, mode) in [StopMode::Fast, StopMode::Immediate].into_iter().enumerate() {
        writer.has_written((restart + 1) * EVENTS / 3).await;
        server.stop(mode).await;
        server.start_again().await;
    }
    writer.done().await;
    assert_each_came_once(&receiver, &server.client().await).await;
}

#[tokio::test]
async fn sessions_that_are_cut_again_and_again_lose_nothing_and_repeat_nothing() {
    const EVENTS: usize = 2000;
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = Relay::on(&database.url()).set("relay.heartbeat", "200ms").start().await;
    let writer = Writer::start(&database.url(), EVENTS);
    let lease = "pid in (select session_pid from posthaste.relays)";
    let bell = &format!(
        "query ~ 'posthaste_internal.(keep|end)_silen|setval.*silence' or {HEARS_THE_BELL}"
    );
    let queue = "query ~ '^-- (claim|record|record_delivered|due|release|endpoints):'";
    let router = "query ~ '^-- (cursor|route|route_few|read_events|owed|write_step):'";
    let kinds = [lease, bell, queue, router, "true"];
    let mut cut = [0; 5];
    for turn in 0..4 {
        for (kind, condition) in kinds.iter().enumerate() {
            receiver.wait_for((turn * kinds.len() + kind + 1) * EVENTS / 25).await;
            let cut_them = format!(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                 where datname = current_database() and application_name = 'posthaste' and ({condition})"
            );
            cut[kind] += value::<i64>(&client, &cut_them).await;
        }
    }
    writer.done().await;

    assert!(cut.iter().all(|&sessions| sessions > 0), "{cut:?}");
    assert_each_came_once(&receiver, &client).await;
    assert_eq!(relay.metric("posthaste_relay_takeovers_total", "").await, 0.0);
    assert!(!relay.log().contains("recycled"), "a pooled session that ended is no news");
}

#[tokio::test]
async fn a_database_that_takes_no_writes_is_sent_nothing_from_until_it_does() {
    let server = Server::start(&[]).await;
    let client = server.client().await;
    let receiver = Receiver::start().await;
    let gate = Gate::default();
    receiver.script([Reply::ok().held_by(&gate)]);
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = Relay::on(&server.url()).start().await;
    let first = event("order.paid").add(&client).await;
    receiver.next().await;
    // Its sessions find out by their statements, and new ones are not taken.
    client.batch_execute("set default_transaction_read_only = off").await.unwrap();
    client.batch_execute("alter system set default_transaction_read_only = on").await.unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    gate.open();
    relay.logs("in a read-only transaction").await;
    event("order.refunded").add(&client).await;
    relay.logs("database does not allow writes").await;
    until("the relay to say that it is not ready", || async {
        let (status, body) = relay.get("/ready").await?;
        let says = ["takes no writes", "the database refuses it (25006)"];
        assert!(!body.contains("is away"), "it answers: {body}");
        (status == 503 && says.iter().any(|said| body.contains(said))).then_some(())
    })
    .await;
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(attempts(&client, first).await.len(), 0);

    client.batch_execute("alter system reset default_transaction_read_only").await.unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    assert_each_came_once(&receiver, &client).await;
}

#[tokio::test]
async fn a_server_without_a_free_connection_is_waited_for_and_refuses_a_start_by_name() {
    let server = Server::start(&["max_connections = 20"]).await;
    let client = server.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let wire = Wire::to(server.port()).await;
    let relay = Relay::on(&wire.url(&server.url())).start().await;
    wire.refuse().await;
    // A session that was cut is there for a moment yet.
    let gone = "not exists (select from pg_stat_activity where application_name = 'posthaste')";
    holds(&client, gone).await;
    let mut others = Vec::new();
    let full = loop {
        match connect(&server.url()).await {
            Ok(other) => others.push(other),
            Err(refused) => break refused,
        }
    };
    assert_eq!(full.code().unwrap().code(), "53300");
    wire.fix();
    event("order.paid").add(&client).await;
    relay.logs("too many clients").await;
    let mut started = Relay::on(&server.url()).set("database.startup_timeout", "0s").spawn();
    assert_eq!(started.exit().await.code(), Some(1));
    assert!(started.log().contains("too many clients"), "{}", started.log());
    assert_eq!(receiver.received().len(), 0);

    others.clear();
    assert_each_came_once(&receiver, &client).await;
}

#[tokio::test]
async fn a_table_that_is_locked_for_longer_than_a_statement_may_take_delays_and_loses_nothing() {
    let database = TestDatabase::new().await;
    let (client, locker) = (database.client().await, database.client().await);
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = Relay::on(&database.url()).set("database.statement_timeout", "1s").start().await;
    for table in ["outbox", "deliveries", "attempts", "endpoints", "routing", "endpoint_health"] {
        let gate = Gate::default();
        receiver.script([Reply::ok().held_by(&gate)]);
        let before = receiver.received().len();
        event("order.paid").add(&client).await;
        receiver.wait_for(before + 1).await;
        let failures = relay.metric("posthaste_database_errors_total", "").await;
        let lock = format!("begin; lock table posthaste.{table} in access exclusive mode");
        locker.batch_execute(&lock).await.unwrap();
        gate.open();
        let unlock = async {
            until("statements to be given up", || async {
                let now = relay.metric("posthaste_database_errors_total", "").await;
                (now >= failures + 3.0).then_some(())
            })
            .await;
            locker.batch_execute("commit").await.unwrap();
        };
        // Where it is the outbox, the insert waits as well.
        let refunded = event("order.refunded");
        let (_id, ()) = tokio::join!(refunded.add(&client), unlock);
        settled(&client).await;
    }
    assert!(relay.log().contains("canceling statement due to statement timeout"));
    assert_each_came_once(&receiver, &client).await;
}

#[tokio::test]
async fn a_full_disk_fails_inserts_and_delays_the_rest_until_there_is_room() {
    let server = Server::start(&[]).await;
    let disk = Disk::with_database(&server, "shop").await;
    let url = server.cluster().url_for("shop");
    migrate(&url).await;
    let client = connect(&url).await.unwrap();
    let receiver = Receiver::start().await;
    let gate = Gate::default();
    receiver.otherwise(Reply::status(200).body("x".repeat(4000)).held_by(&gate));
    endpoint(&receiver.url("/")).with("max_concurrency", 64).add(&client).await;
    let relay = Relay::on(&url).set("delivery.initial_window", "64").start().await;
    for _ in 0..64 {
        event("order.paid").add(&client).await;
    }
    receiver.wait_for(64).await;
    disk.fill();
    let large = std::iter::repeat_with(fastrand::alphanumeric).take(500_000).collect::<String>();
    let large = event("order.large").with("payload", format!("{large:?}"));
    let refused = loop {
        if let Err(refused) = client.execute(&large.sql(), &[]).await {
            break refused;
        }
    };
    // Their results take more room than there is.
    gate.open();
    if let Disk::Mounted(_) = disk {
        assert_eq!(refused.code().unwrap().code(), "53100");
        relay.logs("No space left on device").await;
        let unrecorded = "count(*) > 0 from posthaste.live_deliveries where claimed_by = 1";
        holds(&client, unrecorded).await;
    }

    disk.empty();
    large.add(&client).await;
    assert_each_came_once(&receiver, &client).await;
}

#[tokio::test]
async fn two_relays_that_come_back_from_a_restart_together_lose_nothing() {
    const EVENTS: usize = 400;
    let mut server = Server::start(&[]).await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&server.client().await).await;
    let (one, other) =
        tokio::join!(Relay::on(&server.url()).start(), Relay::on(&server.url()).start());
    let writer = Writer::start(&server.url(), EVENTS);
    writer.has_written(EVENTS / 2).await;
    server.stop(StopMode::Immediate).await;
    server.start_again().await;
    writer.done().await;

    let client = server.client().await;
    settled(&client).await;
    let (all, committed) = (receiver.received(), webhook_ids(&client).await);
    assert_eq!(ids(&all), committed);
    // Only if one of them took longer than it leaves the other.
    let reaped = async |relay: &Relay| relay.metric("posthaste_relay_takeovers_total", "").await;
    if reaped(&one).await + reaped(&other).await == 0.0 {
        assert_eq!(all.len(), committed.len(), "each once");
    }
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn what_is_inserted_by_a_clock_set_back_by_days_is_named_if_it_was_passed_over() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let id = endpoint(&receiver.url("/")).add(&client).await;
    // Its last look was the day after tomorrow, and a minute ago at least.
    let future = "update posthaste.routing set floor_at = now() + interval '2 days', \
                  mark_at = floor_at, routed_at = now() - interval '1 hour'";
    client.execute(future, &[]).await.unwrap();
    let passed_over = event("order.paid").add(&client).await;
    let _relay = Relay::start(&database).await;
    // An idle look moves the cursor on after a minute.
    holds(&client, "count(*) = 2 from posthaste.routing").await;
    let named = inconsistencies(&client).await;
    assert_eq!(named.len(), 1, "{named:?}");
    let expected =
        format!("an event was routed, but neither delivered nor ended {passed_over} {id}");
    assert!(named[0].starts_with(&expected), "{named:?}");

    let replay =
        format!("select posthaste.replay({id}, now() - interval '1 hour', states => '{{never}}')");
    assert_eq!(value::<i64>(&client, &replay).await, 1);
    receiver.next().await;
    assert_each_came_once(&receiver, &client).await;
}

#[tokio::test]
async fn a_task_of_upkeep_that_fails_keeps_no_other_from_its_work() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let tomorrow = "select 'outbox_' || to_char((now() at time zone 'UTC')::date + 1, 'YYYYMMDD')";
    let tomorrow: String = value(&client, tomorrow).await;
    // No table can be made here, as where changes of the schema are for another tool.
    let refusing = format!(
        "set timezone = 'UTC';
         create table posthaste.outbox_20200101 partition of posthaste.outbox
           for values from ('2020-01-01') to ('2020-01-02');
         insert into posthaste.idempotency values ('', 'old', 1, '2020-01-01');
         drop table posthaste.{tomorrow};
         create function refuse() returns event_trigger language plpgsql
           as $$ begin raise exception 'tables come from elsewhere'; end $$;
         create event trigger refuse on ddl_command_start when tag in ('CREATE TABLE')
           execute function refuse()"
    );
    client.batch_execute(&refusing).await.unwrap();
    let mut relay = Relay::on(&database.url()).set("upkeep.interval", "1s").start().await;
    relay.logs("tables come from elsewhere").await;
    holds(&client, "to_regclass('posthaste.outbox_20200101') is null").await;
    holds(&client, "not exists (select from posthaste.idempotency)").await;
    let failed = async |labels: &str| relay.metric("posthaste_upkeep_failures_total", labels).await;
    assert!(failed(r#"task="make_partitions""#).await > 0.0);
    assert_eq!(failed("").await, failed(r#"task="make_partitions""#).await, "and no other");
    let named = relay.log();
    let named = named.lines().find(|line| line.contains("tables come from elsewhere")).unwrap();
    assert!(named.contains(r#""task":"make_partitions""#), "{named}");

    client.batch_execute("drop event trigger refuse").await.unwrap();
    holds(&client, &format!("to_regclass('posthaste.{tomorrow}') is not null")).await;
    assert!(relay.stop().await.success());
}

#[tokio::test]
async fn a_database_that_is_back_is_said_to_be_once_with_how_long_it_was_away() {
    let mut server = Server::start(&[]).await;
    let relay = Relay::on(&server.url()).start().await;
    let said = |message: &str| {
        let log = relay.log();
        log.lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|line| line["message"] == message)
            .collect::<Vec<_>>()
    };
    let at = format!("127.0.0.1:{}", server.port());
    server.stop(StopMode::Fast).await;
    until("the relay to notice", || async {
        said("a statement failed; it is tried again").first().map(|line| assert_eq!(line["at"], at))
    })
    .await;
    server.start_again().await;
    relay.logs("the database is back").await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&server.client().await).await;
    event("order.paid").add(&server.client().await).await;
    receiver.next().await;
    let back = said("the database is back");
    assert_eq!(back.len(), 1, "{back:?}");
    assert_eq!(back[0]["at"], at);
    assert!(back[0]["away_s"].as_f64().unwrap() > 0.0);
}
