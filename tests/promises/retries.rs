//! A delivery that is not accepted is tried again by its schedule, ends when it must, and says why;
//! and an address that must not be dialled is not.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use jiff::{SignedDuration, Timestamp};

use crate::support::{
    Attempt, NewRow, Receiver, Relay, Reply, TestDatabase, attempted, attempts, endpoint, event,
    holds, settled, value,
};

fn rule(name: &str) -> NewRow {
    NewRow::into("rules").with("name", name).with("priority", 1)
}

/// The only attempt of an endpoint that is tried once, with the relay's settings changed so.
async fn only_attempt(
    url: &str,
    settings: &[(&str, &str)],
    columns: &[(&'static str, &str)],
) -> Attempt {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let mut row = endpoint(url).with("max_attempts", 1);
    for (column, value) in columns {
        row = row.with(column, value);
    }
    row.add(&client).await;
    let relay = Relay::on(&database.url());
    let relay = settings.iter().fold(relay, |relay, (key, value)| relay.set(key, value));
    let _relay = relay.start().await;
    let event = event("order.paid").add(&client).await;
    attempted(&client, event, 1).await.remove(0)
}

/// The attempt's outcome, cause and verdict.
fn said(attempt: &Attempt) -> String {
    let cause = attempt.cause.as_deref().unwrap_or("-");
    format!("{} {cause} {}", attempt.outcome, attempt.verdict)
}

#[tokio::test]
async fn a_failed_attempt_is_made_again_as_the_same_message() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let hangs_up = || Reply::DropAfterReading;
    receiver.script([Reply::status(500).body("oh no"), hangs_up(), hangs_up()]);
    // The second wait spans a second, so that the third timestamp must be another.
    endpoint(&receiver.url("/")).with("schedule", "{1 s,2100 ms}").add(&client).await;
    let _relay = Relay::start(&database).await;
    let event = event("order.paid").add(&client).await;

    let attempts = attempted(&client, event, 3).await;
    let told: Vec<_> = attempts
        .iter()
        .map(|a| format!("{} {} {} {:?}", a.number, a.outcome, a.verdict, a.status))
        .collect();
    let expected = [
        "1 answered retry Some(500)",
        "2 unreachable retry None",
        "3 answered delivered Some(200)",
    ];
    assert_eq!(told, expected);
    for pair in attempts.windows(2) {
        let due = pair[0].next_attempt_at.unwrap();
        assert!(pair[1].started_at >= due, "{attempts:?}");
    }
    // The second came twice, since the first time it went over a connection that had been kept.
    let received = receiver.wait_for(4).await;
    assert!(received.iter().all(|one| one.id() == received[0].id()));
    assert!(received.iter().all(|one| one.body == received[0].body));
    let stamps: Vec<i64> = received
        .iter()
        .map(|one| one.header("webhook-timestamp").unwrap().parse().unwrap())
        .collect();
    assert!(stamps[3] > stamps[2], "each attempt is signed anew: {stamps:?}");
    assert_ne!(received[3].header("webhook-signature"), received[2].header("webhook-signature"));
}

#[tokio::test]
async fn a_kept_connection_that_is_closed_without_an_answer_costs_no_attempt() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let hangs_up = || Reply::DropAfterReading;
    // The first over a new connection; the second is lost with it and goes out again; so does the
    // third, once.
    receiver.script([Reply::ok(), hangs_up(), Reply::ok(), hangs_up(), hangs_up(), Reply::ok()]);
    endpoint(&receiver.url("/")).with("schedule", "{1 s}").add(&client).await;
    let relay = Relay::start(&database).await;
    let sent_twice = "sent twice, since the kept connection was closed without an answer";
    for (requests, expected) in [
        (1, vec!["1 answered - delivered: "]),
        (3, vec!["1 answered - delivered: sent twice"]),
        (6, vec!["1 unreachable closed retry: sent twice", "2 answered - delivered: "]),
    ] {
        let event = event("order.paid").add(&client).await;
        let attempts = attempted(&client, event, expected.len()).await;
        let told: Vec<_> = attempts
            .iter()
            .map(|attempt| {
                let reason = attempt.reason.as_deref().unwrap_or_default();
                assert!(reason.is_empty() || reason == sent_twice, "{reason}");
                let reason = reason.get(..10).unwrap_or_default();
                format!("{} {}: {reason}", attempt.number, said(attempt))
            })
            .collect();
        assert_eq!(told, expected);
        let received = receiver.received();
        assert_eq!(received.len(), requests);
        assert_eq!(received[requests - 1].id(), attempts[0].webhook_id);
    }
    assert!((relay.metric("posthaste_sent_again_total", "").await - 2.0).abs() < 0.5);
}

#[tokio::test]
async fn a_receiver_that_closes_each_connection_unannounced_costs_no_attempt() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec();
    receiver.otherwise(Reply::Raw(answer));
    endpoint(&receiver.url("/")).add(&client).await;
    let _relay = Relay::start(&database).await;
    let insert = "insert into posthaste.outbox (event_type, payload) \
         select 'order.paid', '{}' from generate_series(1, 500)";
    client.batch_execute(insert).await.unwrap();
    settled(&client).await;
    let failed = "select count(*) from posthaste.delivery_attempts where verdict <> 'delivered'";
    assert_eq!(value::<i64>(&client, failed).await, 0);
}

#[tokio::test]
async fn after_its_last_attempt_a_delivery_is_dead_and_stays_in_the_history() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.otherwise(Reply::status(500));
    let row = endpoint(&receiver.url("/")).with("schedule", "{1 s}").with("max_attempts", 3);
    row.add(&client).await;
    let _relay = Relay::start(&database).await;
    let event = event("order.paid").add(&client).await;

    settled(&client).await;
    let attempts = attempts(&client, event).await;
    let verdicts: Vec<_> = attempts.iter().map(|a| (a.number, a.verdict.as_str())).collect();
    assert_eq!(verdicts, [(1, "retry"), (2, "retry"), (3, "dead")]);
    assert_eq!(attempts[2].reason.as_deref(), Some("gave up after 3 attempts"));
    assert_eq!(receiver.received().len(), 3);
    let status = "select state || ': ' || reason from posthaste.delivery_status";
    assert_eq!(value::<String>(&client, status).await, "dead: gave up after 3 attempts");

    receiver.otherwise(Reply::ok());
    let endpoint: i64 = value(&client, "select id from posthaste.endpoints").await;
    let retry = format!("select posthaste.retry({event}, {endpoint})");
    assert_eq!(value::<String>(&client, &retry).await, "put back");
    let again = receiver.wait_for(4).await;
    assert_eq!(again[3].id(), again[0].id());
}

#[tokio::test]
async fn retry_after_puts_the_next_attempt_off() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(503).header("retry-after", "70")]);
    endpoint(&receiver.url("/")).with("schedule", "{1 s}").add(&client).await;
    let _relay = Relay::start(&database).await;
    let event = event("order.paid").add(&client).await;

    let attempt = attempted(&client, event, 1).await.remove(0);
    let waits = attempt.next_attempt_at.unwrap().duration_since(attempt.started_at);
    assert!(waits >= SignedDuration::from_secs(70), "{waits}");
    assert!(waits < SignedDuration::from_secs(100), "{waits}");
    assert_eq!(attempt.reason.as_deref(), Some("asked to wait for 70 seconds"));
    let next = "select next_attempt_at from posthaste.delivery_status";
    let next: Timestamp = value(&client, next).await;
    assert_eq!(next, attempt.next_attempt_at.unwrap());
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_says_where_it_pointed() {
    let (receiver, elsewhere) = (Receiver::start().await, Receiver::start().await);
    let target = elsewhere.url("/other");
    receiver.otherwise(Reply::status(307).header("location", &target));
    let attempt = only_attempt(&receiver.url("/"), &[], &[]).await;
    assert_eq!(said(&attempt), "answered - dead");
    assert_eq!(attempt.status, Some(307));
    assert_eq!(attempt.response_headers["location"], target.as_str());
    assert_eq!((receiver.received().len(), elsewhere.connections()), (1, 0));
}

#[tokio::test]
async fn gone_ends_the_delivery_and_disables_the_endpoint() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(410)]);
    endpoint(&receiver.url("/")).add(&client).await;
    let _relay = Relay::start(&database).await;
    let event = event("order.paid").add(&client).await;

    let attempt = attempted(&client, event, 1).await.remove(0);
    assert_eq!((attempt.verdict.as_str(), attempt.status), ("dead", Some(410)));
    assert_eq!(attempt.reason.as_deref(), Some("rule 'gone': answered 410"));
    holds(&client, "not enabled from posthaste.endpoints").await;
    let status = "select health || ': ' || reason from posthaste.endpoint_status";
    let said = "disabled: rule 'gone': answered 410; what comes is not kept";
    assert_eq!(value::<String>(&client, status).await, said);
}

#[tokio::test]
async fn an_operators_rule_decides_before_the_schedule_does() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let unfit = Reply::status(422);
    receiver.script([unfit.clone().body("Never again!"), unfit.body("later"), Reply::status(409)]);
    let never = rule("never").with("status", "[422,423)").with("body_pattern", "(?i)never");
    never.with("action", "dead").add(&client).await;
    let known = rule("known").with("status", "[409,410)").with("event_type", "order.*");
    known.with("action", "delivered").add(&client).await;
    endpoint(&receiver.url("/")).with("schedule", "{1 h}").add(&client).await;
    let _relay = Relay::start(&database).await;

    for expected in [
        "422 dead rule 'never': answered 422",
        "422 retry",
        "409 delivered rule 'known': answered 409",
    ] {
        let event = event("order.paid").add(&client).await;
        let attempt = attempted(&client, event, 1).await.remove(0);
        let reason = attempt.reason.map(|reason| format!(" {reason}")).unwrap_or_default();
        let status = attempt.status.unwrap();
        assert_eq!(format!("{status} {}{reason}", attempt.verdict), expected);
    }
}

#[tokio::test]
async fn a_rule_counts_from_the_next_heartbeat_on() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.otherwise(Reply::status(418));
    endpoint(&receiver.url("/")).with("schedule", "{1 h}").add(&client).await;
    let relay = Relay::on(&database.url()).set("relay.heartbeat", "100ms").start().await;
    let before = event("order.paid").add(&client).await;
    assert_eq!(attempted(&client, before, 1).await[0].verdict, "retry");
    rule("teapot").with("status", "[418,419)").with("action", "delete_endpoint").add(&client).await;
    relay.logs("the rules have changed").await;

    let after = event("order.paid").add(&client).await;
    assert_eq!(attempted(&client, after, 1).await[0].verdict, "dead");
    holds(&client, "not exists (select from posthaste.endpoints)").await;
    settled(&client).await;
    let ended = attempted(&client, before, 2).await;
    assert_eq!(ended[1].reason.as_deref(), Some("endpoint deleted"));
}

#[tokio::test]
async fn a_receiver_that_says_nothing_is_not_waited_for() {
    let receiver = Receiver::start().await;
    receiver.otherwise(Reply::Hang);
    let attempt = only_attempt(&receiver.url("/"), &[], &[("timeout", "200 ms")]).await;
    assert_eq!(said(&attempt), "timed_out headers dead");
    let detail = attempt.detail.unwrap();
    assert!(detail.starts_with("sent, and no answer came within 0."), "{detail}");
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn a_refused_connection_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let attempt = only_attempt(&url, &[], &[]).await;
    assert_eq!(said(&attempt), "unreachable connection_refused dead");
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let detail = attempt.detail.unwrap();
    assert!(detail.starts_with(&format!("connect to {address}: Connection refused")), "{detail}");
}

#[tokio::test]
async fn tls_to_a_port_that_speaks_none_says_what_to_change() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let plain = std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let mut read = [0; 4096];
        let _hello = tcp.read(&mut read).unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").unwrap();
        while tcp.read(&mut read).is_ok_and(|more| more > 0) {}
    });
    let attempt = only_attempt(&format!("https://{address}/"), &[], &[]).await;
    plain.join().unwrap();
    assert_eq!(said(&attempt), "unreachable tls dead");
    let expected = format!("TLS with {address}: the port speaks no TLS: is the URL to be http://?");
    let detail = attempt.detail.unwrap();
    assert!(detail.starts_with(&expected), "{detail}");
}

#[tokio::test]
async fn an_address_that_is_not_opened_is_never_dialled() {
    let receiver = Receiver::start().await;
    let closed = [("addresses.allow", "[]")];
    for url in [receiver.url("/"), receiver.url_by_name("/")] {
        let attempt = only_attempt(&url, &closed, &[]).await;
        assert_eq!(said(&attempt), "refused forbidden_address retry", "{url}");
        let detail = attempt.detail.unwrap();
        assert!(detail.starts_with("127.0.0.1 is loopback: add 127.0.0.1/32 "), "{detail}");
    }
    let closed = [("addresses.allow_http", "[]")];
    let attempt = only_attempt(&receiver.url("/"), &closed, &[]).await;
    assert_eq!(said(&attempt), "refused not_https retry");
    let opens = "plain http is not opened for 127.0.0.1: add 127.0.0.1/32 to addresses.allow_http";
    assert_eq!(attempt.detail.as_deref(), Some(opens));
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn an_answer_without_end_is_delivered_and_kept_in_part() {
    let receiver = Receiver::start().await;
    receiver.otherwise(Reply::EndlessBody);
    let settings = [("delivery.keep_responses", "all"), ("delivery.response_body_limit", "1KiB")];
    let attempt = only_attempt(&receiver.url("/"), &settings, &[]).await;
    assert_eq!(said(&attempt), "answered - delivered");
    assert!(attempt.body_truncated);
    assert_eq!(attempt.response_body.map(|body| body.len()), Some(1024));
}

#[tokio::test]
async fn of_attempts_that_deliver_no_response_is_kept_unless_it_is_asked_for() {
    let receiver = Receiver::start().await;
    for (keep, of_a_success, of_a_failure) in [
        (None, false, true),
        (Some("failures"), false, true),
        (Some("all"), true, true),
        (Some("none"), false, false),
    ] {
        let settings: Vec<_> =
            keep.map(|keep| ("delivery.keep_responses", keep)).into_iter().collect();
        for (status, is_kept) in [(200, of_a_success), (500, of_a_failure)] {
            receiver.script([Reply::status(status).header("x-id", "7").body("as you said")]);
            let attempt = only_attempt(&receiver.url("/"), &settings, &[]).await;
            assert_eq!(attempt.status, Some(status.into()));
            let id = attempt.response_headers.get("x-id").is_some();
            assert_eq!(
                (id, attempt.response_body.is_some()),
                (is_kept, is_kept),
                "{keep:?} {status}"
            );
        }
    }
}

#[tokio::test]
async fn what_a_delivery_waits_for_can_be_read_while_it_waits() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(500)]);
    endpoint(&receiver.url("/")).with("schedule", "{1 h}").add(&client).await;
    let _relay = Relay::start(&database).await;
    let event = event("order.paid").add(&client).await;

    attempted(&client, event, 1).await;
    let status = "select state || ': ' || reason from posthaste.delivery_status";
    assert_eq!(value::<String>(&client, status).await, "waiting: answered 500");
    let why = format!("select why from posthaste.explain({event})");
    let why: String = value(&client, &why).await;
    assert!(why.starts_with("attempt 2 is due at ") && why.contains("500"), "{why}");
}
