//! A real load: pgbench's clients take orders and write events in the same transactions, one in ten
//! of which is rolled back, while relays are killed and the database is restarted.

use std::collections::BTreeSet;
use std::process::Stdio;

use posthaste::sandbox::postgres::{Cluster, ClusterOptions, StopMode};
use tokio::process::{Child, Command};
use tokio_postgres::{Client, NoTls};

use crate::support::{Receiver, Relay, cluster_options, migrate, until, within};

const CLIENTS: usize = 8;
const TRANSACTIONS_PER_CLIENT: usize = 2_500;

/// The order's number in the payload tells which transaction an event came from.
const ORDER: &str = r"
\set dice random(1, 10)
begin;
insert into orders (dice) values (:dice) returning id as order_id \gset
insert into posthaste.outbox (event_type, payload)
  values ('order.created', json_build_object('order_id', :order_id));
\if :dice = 1
rollback;
\else
commit;
\endif
";

/// Webhooks after which a test may break something: long before pgbench is done, however much
/// faster it is than the relay.
const EARLY: usize = 300;

struct Shop {
    cluster: Cluster,
    directory: tempfile::TempDir,
    receiver: Receiver,
}

impl Shop {
    async fn open() -> Self {
        let cluster =
            Cluster::start(ClusterOptions { fsync: true, ..cluster_options() }).await.unwrap();
        migrate(&cluster.url()).await;
        let receiver = Receiver::start().await;
        let shop = Self { cluster, directory: tempfile::tempdir().unwrap(), receiver };
        let client = shop.client().await;
        client
            .batch_execute("create table orders (id bigint generated always as identity, dice int)")
            .await
            .unwrap();
        let url = shop.receiver.url("/orders");
        client.execute("insert into posthaste.endpoints (url) values ($1)", &[&url]).await.unwrap();
        std::fs::write(shop.directory.path().join("order.sql"), ORDER).unwrap();
        shop
    }

    async fn client(&self) -> Client {
        let (client, connection) =
            tokio_postgres::connect(&self.cluster.url(), NoTls).await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "ends with its client")]
        drop(tokio::spawn(connection));
        client
    }

    /// A relay that does not poll: what arrives has been rung for.
    fn relay(&self) -> crate::support::RelayBuilder {
        Relay::on(&self.cluster.url()).set("relay.poll_interval", "1m")
    }

    fn pgbench(&self) -> Child {
        Command::new(self.cluster.binaries().path("pgbench"))
            .args(["--no-vacuum", "--client", &CLIENTS.to_string(), "--jobs", "2"])
            .args(["--transactions", &TRANSACTIONS_PER_CLIENT.to_string()])
            .arg("--file")
            .arg(self.directory.path().join("order.sql"))
            .arg(self.cluster.url())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// Waits until the receiver has every committed event, and compares: none missing, none
    /// foreign. Returns how many deliveries came twice.
    async fn balance(&self) -> usize {
        let client = self.client().await;
        let committed: BTreeSet<String> = client
            .query("select posthaste.webhook_id(id, created_at) from posthaste.outbox", &[])
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        let orders: i64 =
            client.query_one("select count(*) from orders", &[]).await.unwrap().get(0);
        assert_eq!(committed.len() as i64, orders, "an order and its event commit together");
        let received = until("every committed event", || async {
            let received = self.receiver.received();
            let ids: BTreeSet<String> =
                received.iter().map(|webhook| webhook.id().to_owned()).collect();
            (ids.len() >= committed.len()).then_some((received.len(), ids))
        })
        .await;
        let (count, ids) = received;
        assert_eq!(ids, committed);
        until("every delivery to be recorded", || async {
            let open: i64 = client
                .query_one("select count(*) from posthaste.live_deliveries", &[])
                .await
                .unwrap()
                .get(0);
            (open == 0).then_some(())
        })
        .await;
        count - ids.len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_committed_arrives_and_what_rolled_back_does_not() {
    let shop = Shop::open().await;
    let mut relay = shop.relay().start().await;
    assert!(within("pgbench", shop.pgbench().wait()).await.unwrap().success());
    assert_eq!(shop.balance().await, 0, "nobody died, so nothing came twice");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_killed_in_the_middle_loses_nothing_and_explains_what_came_twice() {
    let shop = Shop::open().await;
    let mut relay = shop.relay().start().await;
    let mut pgbench = shop.pgbench();
    shop.receiver.wait_for(EARLY).await;
    relay.kill().await;
    let _another = shop.relay().start().await;
    assert!(within("pgbench", pgbench.wait()).await.unwrap().success());
    let twice = shop.balance().await;
    let interrupted: i64 = shop
        .client()
        .await
        .query_one(
            "select count(*) from posthaste.delivery_attempts where outcome = 'interrupted'",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert!(twice as i64 <= interrupted, "{twice} came twice, {interrupted} are explained");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_restarted_in_the_middle_is_found_again_and_nothing_is_missing() {
    let mut shop = Shop::open().await;
    let mut relay = shop.relay().start().await;
    let mut pgbench = shop.pgbench();
    shop.receiver.wait_for(EARLY).await;
    shop.cluster.restart(StopMode::Immediate).await.unwrap();
    // Its clients were cut off; others go on.
    assert!(!within("pgbench", pgbench.wait()).await.unwrap().success());
    assert!(within("pgbench", shop.pgbench().wait()).await.unwrap().success());
    shop.balance().await;
    relay.stop().await;
}
