//! The brake: after the commit that disables, deletes or changes an endpoint, only the request that
//! is out by then still comes, whatever the relay had claimed.
//!
//! The receiver holds its answer to one request, behind which the relay has others queued, until
//! the relay has given those back. Relays that listen do not poll here, so they have heard of it.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use crate::support::{
    Gate, Received, Receiver, Relay, Reply, TestDatabase, attempted, believed, endpoint, event,
    holds, inconsistencies, settled, until, value, webhook_ids,
};

const EVENTS: usize = 60;

/// An endpoint with one request on the wire and more queued behind it.
struct Busy {
    _database: TestDatabase,
    client: Client,
    receiver: Receiver,
    gate: Gate,
    relay: Relay,
    endpoint: i64,
    /// The secret that the endpoint has from the first.
    secret: String,
    /// Claims of the relay, the one on the wire included.
    claimed: i64,
}

impl Busy {
    async fn new() -> Self {
        Self::with(&[("relay.poll_interval", "60s")]).await
    }

    async fn with(settings: &[(&str, &str)]) -> Self {
        let database = TestDatabase::new().await;
        let client = database.client().await;
        let (receiver, gate) = (Receiver::start().await, Gate::default());
        receiver.script([Reply::ok().held_by(&gate)]);
        let row = endpoint(&receiver.url("/old")).with("max_concurrency", 1);
        let endpoint = row.add(&client).await;
        let secret = value(&client, "select secret from posthaste.endpoint_secrets").await;
        let mut relay = Relay::on(&database.url());
        for (key, value) in settings {
            relay = relay.set(key, value);
        }
        let relay = relay.start().await;
        let emit = format!(
            "select posthaste.emit('order.paid', '{{}}'::json) from generate_series(1, {EVENTS})"
        );
        client.batch_execute(&emit).await.unwrap();
        receiver.wait_for(1).await;
        let all = "select count(*) from posthaste.live_deliveries where claimed_by is not null";
        let claimed = value(&client, all).await;
        assert!(claimed > 5, "{claimed} are no queue");
        Self { _database: database, client, receiver, gate, relay, endpoint, secret, claimed }
    }

    /// Waits until the relay has given back what it had queued.
    async fn braked(&self) {
        let queued = self.claimed - 1;
        until("the relay to give back what is queued", || async {
            let withdrawn = self.relay.metric("posthaste_withdrawn_total", "").await;
            #[expect(clippy::cast_precision_loss, reason = "a small number")]
            let is_all = withdrawn >= queued as f64;
            is_all.then_some(())
        })
        .await;
    }

    /// Lets the request on the wire be answered, and waits until that is recorded.
    async fn release(&self) {
        self.gate.open();
        let answered = "exists (select from posthaste.attempts where outcome is null)";
        holds(&self.client, answered).await;
    }

    /// Every event has come, and none twice.
    async fn all_came_once(&self) {
        settled(&self.client).await;
        let received = self.receiver.received();
        let ids: BTreeSet<_> = received.iter().map(|one| one.id().to_owned()).collect();
        assert_eq!((received.len(), ids), (EVENTS, webhook_ids(&self.client).await));
        assert_eq!(inconsistencies(&self.client).await, [""; 0]);
        for reason in ["poll", "due"] {
            let label = format!("reason=\"{reason}\"");
            assert_eq!(self.relay.metric("posthaste_wakes_total", &label).await, 0.0, "{reason}");
        }
    }
}

#[tokio::test]
async fn what_is_queued_for_an_endpoint_that_is_disabled_waits_until_it_is_enabled() {
    let busy = Busy::new().await;
    let disable = format!("select posthaste.disable_endpoint({})", busy.endpoint);
    busy.client.batch_execute(&disable).await.unwrap();
    busy.braked().await;
    busy.release().await;
    holds(&busy.client, "not exists (select from posthaste.live_deliveries where claimed_by > 0)")
        .await;
    assert_eq!(busy.receiver.received().len(), 1);
    let enable = format!("select posthaste.enable_endpoint({})", busy.endpoint);
    busy.client.batch_execute(&enable).await.unwrap();
    busy.all_came_once().await;
}

#[tokio::test]
async fn what_is_queued_for_an_endpoint_that_is_deleted_is_not_sent() {
    let busy = Busy::new().await;
    busy.client.batch_execute("delete from posthaste.endpoints").await.unwrap();
    busy.braked().await;
    busy.gate.open();
    // Another endpoint's event goes through the same relay, later than all of that.
    let other = Receiver::start().await;
    endpoint(&other.url("/")).add(&busy.client).await;
    let later = event("order.paid").add(&busy.client).await;
    attempted(&busy.client, later, 1).await;
    settled(&busy.client).await;
    assert_eq!(busy.receiver.received().len(), 1);
    let cancelled = "select count(*) from posthaste.attempts where reason = 'endpoint deleted'";
    assert_eq!(value::<i64>(&busy.client, cancelled).await, i64::try_from(EVENTS).unwrap());
}

#[tokio::test]
async fn what_is_queued_for_an_endpoint_goes_to_its_new_url() {
    let busy = Busy::new().await;
    let moved = "update posthaste.endpoints set url = replace(url, '/old', '/new')";
    busy.client.batch_execute(moved).await.unwrap();
    busy.braked().await;
    busy.release().await;
    busy.all_came_once().await;
    let is_old = |one: &&Received| one.path == "/old";
    assert_eq!(busy.receiver.received().iter().filter(is_old).count(), 1);
}

#[tokio::test]
async fn what_is_queued_for_an_endpoint_is_not_signed_by_a_secret_that_was_taken_from_it() {
    let busy = Busy::new().await;
    let rotate = format!("select posthaste.rotate_secret({}, interval '0')", busy.endpoint);
    let secret: String = value(&busy.client, &rotate).await;
    busy.braked().await;
    busy.release().await;
    busy.all_came_once().await;
    let received = busy.receiver.received();
    assert!(believed(&received[0], &busy.secret));
    for one in &received[1..] {
        assert!(believed(one, &secret) && !believed(one, &busy.secret));
    }
}

#[tokio::test]
async fn what_is_queued_is_cancelled_and_what_is_out_is_not_called_back() {
    let busy = Busy::new().await;
    let on_wire = busy.receiver.received()[0].id().to_owned();
    let on_wire = format!("select posthaste.event_of('{on_wire}')");
    let on_wire: i64 = value(&busy.client, &on_wire).await;
    let queued = format!(
        "select min(event_id) from posthaste.live_deliveries where claimed_by > 0 and event_id <> {on_wire}"
    );
    let queued: i64 = value(&busy.client, &queued).await;
    let cancel = |call: String| {
        let client = &busy.client;
        async move {
            let statement = format!("select cancelled, in_flight from posthaste.{call}");
            let row = client.query_one(&statement, &[]).await.unwrap();
            (row.get::<_, i64>(0), row.get::<_, i64>(1))
        }
    };
    assert_eq!(cancel(format!("cancel({on_wire})")).await, (0, 1));
    assert_eq!(cancel(format!("cancel({queued}, reason => 'a mistake')")).await, (0, 1));
    let ended = attempted(&busy.client, queued, 1).await;
    assert_eq!((ended[0].verdict.as_str(), ended[0].number), ("cancelled", 0));
    assert_eq!(ended[0].reason.as_deref(), Some("a mistake"));

    let (waiting, claimed) = (i64::try_from(EVENTS).unwrap() - busy.claimed, busy.claimed - 1);
    let all = format!("cancel_endpoint({}, 'order.*', 'moved')", busy.endpoint);
    let (cancelled, in_flight) = cancel(all).await;
    // Room that has become free may have been used meanwhile.
    assert_eq!(cancelled + in_flight, waiting + claimed);
    let only = format!("count(*) = 1 from posthaste.live_deliveries where event_id = {on_wire}");
    holds(&busy.client, &only).await;
    holds(&busy.client, "count(*) = 1 from posthaste.live_deliveries").await;
    busy.release().await;
    settled(&busy.client).await;
    assert_eq!(busy.receiver.received().len(), 1);
    let moved = "select count(*) from posthaste.attempts where reason = 'moved'";
    assert_eq!(value::<i64>(&busy.client, moved).await, waiting + claimed - 1);

    // What is cancelled once is not cancelled when it comes again.
    let retry = format!("select posthaste.retry({queued}, {})", busy.endpoint);
    assert_eq!(value::<String>(&busy.client, &retry).await, "put back");
    settled(&busy.client).await;
    assert_eq!(busy.receiver.received().len(), 2);
    assert_eq!(inconsistencies(&busy.client).await, [""; 0]);
}

#[tokio::test]
async fn every_relay_that_has_something_queued_for_the_endpoint_heeds_the_change() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (receiver, gate) = (Receiver::start().await, Gate::default());
    receiver.otherwise(Reply::ok().held_by(&gate));
    let id = endpoint(&receiver.url("/")).with("max_concurrency", 2).add(&client).await;
    let relay = || Relay::on(&database.url()).set("relay.poll_interval", "60s").start();
    let (one, other) = (relay().await, relay().await);
    // Each has one request at a time as its part. The second knew of the first when it began.
    one.logs(r#""limits are divided anew","relays":2"#).await;
    let emit = "select posthaste.emit('order.paid', '{}'::json) from generate_series(1, 100)";
    client.batch_execute(emit).await.unwrap();
    // What the relay that routed has no room for is the other's.
    holds(&client, "exists (select from posthaste.live_deliveries where claimed_by is null)").await;
    client.batch_execute("notify posthaste, 'deliveries'").await.unwrap();
    receiver.wait_for(2).await;
    holds(&client, "count(distinct claimed_by) = 2 from posthaste.live_deliveries").await;
    let disable = format!("select posthaste.disable_endpoint({id})");
    client.batch_execute(&disable).await.unwrap();
    holds(&client, "count(*) = 2 from posthaste.live_deliveries where claimed_by is not null")
        .await;
    gate.open();
    holds(&client, "not exists (select from posthaste.live_deliveries where claimed_by > 0)").await;
    assert_eq!(receiver.received().len(), 2);
    drop((one, other));
}

#[tokio::test]
async fn a_relay_that_hears_no_notices_finds_the_change_with_its_poll() {
    let busy = Busy::with(&[("relay.wake", "poll"), ("relay.poll_interval", "100ms")]).await;
    let disable = format!("select posthaste.disable_endpoint({})", busy.endpoint);
    busy.client.batch_execute(&disable).await.unwrap();
    busy.braked().await;
    busy.release().await;
    holds(&busy.client, "not exists (select from posthaste.live_deliveries where claimed_by > 0)")
        .await;
    assert_eq!(busy.receiver.received().len(), 1);
}
