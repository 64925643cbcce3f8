//! Whatever is killed, frozen or cut off, and whenever: nothing is lost, and what may have arrived
//! twice says so.

use posthaste::sandbox::postgres::StopMode;

use crate::support::{
    Gate, HEARS_THE_BELL, Receiver, Relay, Reply, Server, TestDatabase, attempted, attempts,
    endpoint, event, holds, ids, inconsistencies, settled, until, value, waits_for_a_lock,
    webhook_ids,
};

#[tokio::test]
async fn what_a_killed_relay_was_sending_is_made_again_at_once_and_says_why() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.otherwise(Reply::Hang);
    endpoint(&receiver.url("/")).add(&client).await;
    // Only the session can tell of the death so soon: the heartbeat may be ten minutes old.
    let relay = || {
        let relay = Relay::on(&database.url()).set("relay.heartbeat", "200ms");
        relay.set("relay.lease", "10m").set("delivery.initial_window", "8")
    };
    let mut killed = relay().start().await;
    for _ in 0..20 {
        event("order.paid").add(&client).await;
    }
    receiver.wait_for(8).await;
    holds(&client, "count(*) = 20 from posthaste.live_deliveries where claimed_by = 1").await;
    let other = relay().start().await;
    receiver.otherwise(Reply::ok());
    killed.kill().await;

    settled(&client).await;
    let all = receiver.received();
    assert_eq!(ids(&all), webhook_ids(&client).await);
    assert_eq!(all.len(), 8 + 20, "what was hanging came a second time, and nothing a third");
    let interrupted = "count(*) = 20 from posthaste.delivery_attempts \
         where outcome = 'interrupted' and relay_id = 1 and number = 1 and verdict = 'retry' \
           and reason = 'relay 1 died while it may have been sending'";
    holds(&client, interrupted).await;
    let delivered = "count(*) = 20 from posthaste.delivery_attempts \
         where verdict = 'delivered' and relay_id = 2 and number = 1";
    holds(&client, delivered).await;
    assert_eq!(other.metric("posthaste_relay_takeovers_total", "").await, 1.0);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_stop_lets_requests_in_flight_end_and_spends_no_attempt_of_what_is_queued() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let gate = Gate::default();
    receiver.otherwise(Reply::ok().held_by(&gate));
    endpoint(&receiver.url("/")).with("max_concurrency", 1).add(&client).await;
    let mut relay = Relay::on(&database.url()).set("delivery.initial_window", "1").start().await;
    let first = event("order.paid").add(&client).await;
    for _ in 0..4 {
        event("order.paid").add(&client).await;
    }
    receiver.next().await;
    holds(&client, "count(*) = 5 from posthaste.live_deliveries where claimed_by = 1").await;
    relay.signal("TERM");
    // The queued deliveries go back while the request is still out.
    holds(&client, "count(*) = 1 from posthaste.live_deliveries where claimed_by = 1").await;
    until("the relay to say that it stops", || async {
        let (status, body) = relay.get("/ready").await?;
        (status == 503 && body.contains("stopping")).then_some(())
    })
    .await;
    gate.open();

    assert_eq!(relay.exit().await.code(), Some(0));
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(attempts(&client, first).await[0].verdict, "delivered");
    let released = "select count(*) = 4 and bool_and(claimed_by is null and attempt_count = 0) \
         and (select count(*) from posthaste.delivery_attempts) = 1 \
         and not exists (select from posthaste.relays) from posthaste.live_deliveries";
    assert!(value::<bool>(&client, released).await);
}

#[tokio::test]
async fn a_stop_that_outlasts_its_grace_records_what_was_interrupted() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.script([Reply::Hang]);
    endpoint(&receiver.url("/")).add(&client).await;
    let mut relay = Relay::on(&database.url()).set("relay.grace", "1s").start().await;
    let event = event("order.paid").add(&client).await;
    receiver.next().await;
    assert_eq!(relay.stop().await.code(), Some(0));

    let attempt = attempts(&client, event).await.remove(0);
    assert_eq!((attempt.outcome.as_str(), attempt.verdict.as_str()), ("interrupted", "retry"));
    assert_eq!(attempt.reason.as_deref(), Some("interrupted, so it may arrive twice"));
    holds(&client, "count(*) = 1 from posthaste.live_deliveries where claimed_by is null").await;
    let _next = Relay::start(&database).await;
    settled(&client).await;
    assert_eq!(ids(&receiver.received()).len(), 1);
    assert_eq!(receiver.received().len(), 2);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_an_endpoints_pace() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    // The second of them may be sent after a quarter of an hour.
    endpoint(&receiver.url("/")).with("rate_limit", 0.001).add(&client).await;
    let mut relay = Relay::on(&database.url()).set("relay.grace", "1h").start().await;
    let first = event("order.paid").add(&client).await;
    attempted(&client, first, 1).await;
    event("order.paid").add(&client).await;
    holds(&client, "count(*) = 1 from posthaste.live_deliveries where claimed_by = 1").await;

    assert_eq!(relay.stop().await.code(), Some(0));
    holds(&client, "count(*) = 1 from posthaste.live_deliveries where claimed_by is null").await;
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn what_a_frozen_relay_did_not_record_is_made_again_and_its_late_results_are_dropped() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let gate = Gate::default();
    receiver.script([Reply::status(500).held_by(&gate)]);
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = || {
        Relay::on(&database.url()).set("relay.lease", "2s").set("relay.heartbeat", "500ms").start()
    };
    let frozen = relay().await;
    let first = event("order.paid").add(&client).await;
    receiver.next().await;
    let mut other = relay().await;
    frozen.freeze();
    let made_again = attempted(&client, first, 2).await;
    let told: Vec<_> =
        made_again.iter().map(|a| format!("{} {} {}", a.relay_id, a.outcome, a.verdict)).collect();
    assert_eq!(told, ["1 interrupted retry", "2 answered delivered"]);
    gate.open();
    frozen.thaw();

    until("the late result to be dropped", || async {
        (frozen.metric("posthaste_claims_lost_total", "").await > 0.0).then_some(())
    })
    .await;
    assert_eq!(attempts(&client, first).await.len(), 2, "the late answer counts for nothing");
    // It begins anew under another number, and works on.
    holds(&client, "array_agg(id order by id) = '{2,3}' from posthaste.relays").await;
    other.kill().await;
    let second = event("order.paid").add(&client).await;
    assert_eq!(attempted(&client, second, 1).await[0].relay_id, 3);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_result_under_a_claim_that_was_lost_is_neither_recorded_nor_does_it_end_the_delivery() {
    const DELIVERED: &str = "'{}', '{0}'";
    const RETRY: &str = "'{retry}', '{1}'";
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let text = include_str!("../../sql/queries/record.sql");
    client.batch_execute(&format!("prepare record as {text}")).await.unwrap();
    let claim = "insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, \
         next_attempt_at, claimed_by, claim_token) values (1, 1, now(), now(), 2, 7)";
    client.batch_execute(claim).await.unwrap();
    let record = async |relay: i32, token: i64, verdict: &str, retry_in: &str| {
        let record = format!(
            "execute record ({relay}, null, '{{1}}', '{{1}}', '{{{token}}}', '{{{retry_in}}}', '{{f}}', \
             '{{1}}', '{{1}}', '{{200}}', '{{1}}', '{{1}}', '{{1}}', '{{1}}', '{{-1}}', '{{-1}}', '{{-1}}', \
             '{{f}}', '{{}}', '{{0}}', '{{}}', '{{0}}', '{{}}', '{{0}}', '{{}}', '{{0}}', '{{}}', '{{0}}', \
             {verdict}, '{{}}', '{{0}}', '{{-1}}', '{{now}}', '{{}}', '{{}}', false)"
        );
        client.query(&record, &[]).await.unwrap().len()
    };
    for (relay, token) in [(1, 7), (2, 6)] {
        assert_eq!(record(relay, token, DELIVERED, "-1").await, 0);
        assert_eq!(record(relay, token, RETRY, "1000").await, 0);
    }
    let untouched = "select claimed_by = 2 and claim_token = 7 and attempt_count = 0 \
         and not exists (select from posthaste.delivery_attempts) from posthaste.live_deliveries";
    assert!(value::<bool>(&client, untouched).await);
    assert_eq!(record(2, 7, DELIVERED, "-1").await, 1);
    let ended = "select not exists (select from posthaste.live_deliveries) and count(*) = 1 \
         from posthaste.delivery_attempts";
    assert!(value::<bool>(&client, ended).await);
}

#[tokio::test]
async fn a_restart_of_postgres_loses_nothing() {
    let mut server = Server::start(&[]).await;
    let client = server.client().await;
    let receiver = Receiver::start().await;
    let gate = Gate::default();
    receiver.otherwise(Reply::ok().held_by(&gate));
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = Relay::on(&server.url()).start().await;
    for _ in 0..20 {
        event("before").add(&client).await;
    }
    // These are answered while there is no database to record it in.
    receiver.wait_for(4).await;
    server.stop(StopMode::Immediate).await;
    gate.open();
    relay.logs("a statement failed; it is tried again").await;
    server.start_again().await;
    let client = server.client().await;
    for _ in 0..20 {
        event("after").add(&client).await;
    }

    settled(&client).await;
    let all = receiver.received();
    assert_eq!(ids(&all), webhook_ids(&client).await);
    assert_eq!(all.len(), 40, "it kept its claims and its results");
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_lost_lease_session_is_taken_up_again_under_the_same_number() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let _relay = Relay::on(&database.url()).set("relay.heartbeat", "200ms").start().await;
    let holder: i32 = value(&client, "select session_pid from posthaste.relays").await;
    client.execute("select pg_terminate_backend($1)", &[&holder]).await.unwrap();
    let another = "count(*) = 1 from posthaste.relays join pg_stat_activity on pid = session_pid";
    holds(&client, &format!("{another} where pid <> {holder}")).await;

    let event = event("order.paid").add(&client).await;
    assert_eq!(attempted(&client, event, 1).await[0].relay_id, 1);
    holds(&client, "array_agg(id) = '{1}' from posthaste.relays").await;
}

#[tokio::test]
async fn a_lost_bell_costs_a_poll_interval_and_is_hung_up_again() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    let relay = Relay::start(&database).await;
    relay.asleep().await;
    let listening =
        format!("from pg_stat_activity where {HEARS_THE_BELL} and datname = current_database()");
    holds(&client, &format!("count(*) = 1 {listening}")).await;
    let bell: i32 = value(&client, &format!("select pid {listening}")).await;
    client.execute("select pg_terminate_backend($1)", &[&bell]).await.unwrap();
    event("order.paid").add(&client).await;

    assert_eq!(receiver.next().await.json()["type"], "order.paid");
    holds(&client, &format!("count(*) = 1 {listening} and pid <> {bell}")).await;
    relay.asleep().await;
    event("order.refunded").add(&client).await;
    assert_eq!(receiver.next().await.json()["type"], "order.refunded");
}

#[tokio::test]
async fn two_relays_share_the_work_and_send_everything_once() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let gate = Gate::default();
    receiver.script([Reply::ok().held_by(&gate), Reply::ok().held_by(&gate)]);
    // Two requests at a time, one from each.
    endpoint(&receiver.url("/")).with("max_concurrency", 2).add(&client).await;
    let relay = || {
        let relay = Relay::on(&database.url()).set("delivery.initial_window", "1");
        relay.set("relay.poll_interval", "50ms").start()
    };
    let (_one, _other) = tokio::join!(relay(), relay());
    let many = "insert into posthaste.outbox (event_type, payload) \
                select 'order.paid', '{}' from generate_series(1, 300)";
    client.execute(many, &[]).await.unwrap();
    receiver.wait_for(2).await;
    gate.open();

    settled(&client).await;
    assert_eq!(receiver.received().len(), 300);
    assert_eq!(ids(&receiver.received()).len(), 300);
    let relays = "array_agg(distinct relay_id) = '{1,2}' and count(*) = 300 from posthaste.delivery_attempts";
    holds(&client, relays).await;
}

#[tokio::test]
async fn what_a_killed_relay_had_not_noted_of_an_endpoint_the_next_one_finds_out() {
    let database = TestDatabase::new().await;
    let (client, locker) = (database.client().await, database.client().await);
    let receiver = Receiver::start().await;
    receiver.otherwise(Reply::status(410));
    endpoint(&receiver.url("/")).add(&client).await;
    let mut killed = Relay::start(&database).await;
    // The attempt can be recorded, and what follows for the endpoint cannot.
    locker.batch_execute("begin; select from posthaste.endpoints for update").await.unwrap();
    let first = event("order.paid").add(&client).await;
    assert_eq!(attempted(&client, first, 1).await[0].verdict, "dead");
    waits_for_a_lock(&client, "apply_effect").await;
    killed.kill().await;
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
               where datname = current_database() and application_name = 'posthaste'";
    assert!(value::<i64>(&client, cut).await > 0);
    locker.batch_execute("rollback").await.unwrap();
    let nothing = "select bool_and(enabled) and not exists (select from posthaste.endpoint_health) \
                   from posthaste.endpoints";
    assert!(value::<bool>(&client, nothing).await);

    let _next = Relay::start(&database).await;
    event("order.refunded").add(&client).await;
    holds(&client, "not enabled from posthaste.endpoints").await;
    holds(&client, "consecutive_failures = 1 from posthaste.endpoint_health").await;
}
