//! An address that leads to one database today and to another tomorrow, or to two in turn: a relay
//! keeps to the one that it found first, is not ready, and says why.

use tokio_postgres::Client;

use crate::support::{
    Pooler, Receiver, Relay, RelayBuilder, Server, Wire, about, doctor, endpoint, event, holds,
    inconsistencies, settled, until, within,
};

const MORE_THAN_ONE: &str = "leads to more than one database: first to cluster ";

/// Two servers that take writes and know one password, each with a receiver of its own; and a wire
/// to the first.
struct Two {
    one: Server,
    client: Client,
    receiver: Receiver,
    other: Server,
    other_client: Client,
    other_receiver: Receiver,
    wire: Wire,
}

impl Two {
    async fn start() -> Self {
        let (one, other) = tokio::join!(Server::start(&[]), Server::start(&[]));
        let (client, other_client) = (one.client().await, other.client().await);
        let url = one.url();
        let password = url.split([':', '@']).nth(2).unwrap();
        let same = format!("alter role postgres password '{password}'");
        other_client.batch_execute(&same).await.unwrap();
        let (receiver, other_receiver) = (Receiver::start().await, Receiver::start().await);
        endpoint(&receiver.url("/")).add(&client).await;
        endpoint(&other_receiver.url("/")).add(&other_client).await;
        let wire = Wire::to(one.port()).await;
        Self { one, client, receiver, other, other_client, other_receiver, wire }
    }

    fn relay(&self) -> RelayBuilder {
        Relay::on(&self.wire.url(&self.one.url()))
    }

    /// Open connections end, and new ones lead to the other, until the relay has found out; then
    /// back.
    async fn stray(&self, relay: &Relay) {
        event("order.first").add(&self.client).await;
        settled(&self.client).await;
        self.wire.lead_to(&[self.other.port()]);
        self.wire.cut().await;
        event("order.elsewhere").add(&self.other_client).await;
        event("order.meanwhile").add(&self.client).await;
        let line = relay.logs(MORE_THAN_ONE).await;
        assert!(line.contains(r#""level":"ERROR""#), "{line}");
        assert_not_ready(relay).await;
        assert_eq!(self.receiver.received().len(), 1);

        self.wire.lead_to(&[self.one.port()]);
        self.wire.cut().await;
        settled(&self.client).await;
        assert_eq!(self.receiver.received().len(), 2);
        assert_eq!(inconsistencies(&self.client).await, [""; 0]);
        // It works again, and the address is as wrong as it was.
        assert_not_ready(relay).await;
        let untouched = "not exists (select from posthaste.live_deliveries) \
                         and not exists (select from posthaste.relays)";
        holds(&self.other_client, untouched).await;
        assert_eq!(self.other_receiver.received().len(), 0);
    }
}

async fn assert_not_ready(relay: &Relay) {
    until("the relay to say why it is not ready", || async {
        let (status, body) = relay.get("/ready").await?;
        (status == 503 && body.contains(MORE_THAN_ONE)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_relay_whose_address_leads_elsewhere_keeps_to_the_first_and_says_so() {
    let two = Two::start().await;
    let relay = two.relay().set("relay.heartbeat", "500ms").start().await;
    two.stray(&relay).await;
}

#[tokio::test]
async fn a_relay_behind_a_pooler_that_is_led_elsewhere_keeps_to_the_first_and_says_so() {
    let two = Two::start().await;
    let pooler = Pooler::start_by_way_of(two.wire.port(), two.one.cluster(), 4).await;
    let relay = Relay::on(&pooler.url_for("postgres")).set("database.pooler", "transaction");
    let relay = relay.set("relay.wake", "poll").set("relay.poll_interval", "50ms");
    let relay = relay.set("relay.heartbeat", "500ms").start().await;
    two.stray(&relay).await;
}

#[tokio::test]
async fn an_address_that_leads_to_two_in_turn_is_found_out_at_the_start() {
    let two = Two::start().await;
    two.wire.lead_to(&[two.one.port(), two.other.port()]);
    let mut relay = two.relay().spawn();
    let ended = within("the relay to give up", relay.exit()).await;
    assert!(!ended.success());
    assert!(relay.log().contains(MORE_THAN_ONE), "{}", relay.log());

    let (code, said) = doctor(&two.wire.url(&two.one.url()), &[]).await;
    assert_eq!(code, Some(1), "{said:#}");
    assert!(
        about(&said, "address")["detail"].as_str().unwrap().contains(MORE_THAN_ONE),
        "{said:#}"
    );
}
