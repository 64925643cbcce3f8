//! One endpoint is down for an hour and comes back, with rules, schedule and health as they come.
//! The relay runs in this process on a present that the test moves ahead, so the hours pass in
//! seconds.

use std::collections::BTreeSet;
use std::time::Duration;

use posthaste::clock::Present;
use posthaste::stopper::Stopper;
use tokio_postgres::Client;

use crate::support::{Receiver, Reply, TestDatabase, holds, run_inside, until, within};

const MINUTE: Duration = Duration::from_secs(60);

struct Hours {
    client: Client,
    present: Present,
    healthy: Receiver,
    failing: Receiver,
    sent: usize,
}

impl Hours {
    /// A minute passes, an event is written, and the healthy endpoint has it before the next.
    async fn minute_with_an_event(&mut self) {
        self.client
            .execute(
                "insert into posthaste.outbox (event_type, payload) values ('minute.passed', '{}')",
                &[],
            )
            .await
            .unwrap();
        self.sent += 1;
        self.healthy.wait_for(self.sent).await;
        self.present.advance(MINUTE);
    }

    /// The events that the failing endpoint has accepted.
    async fn accepted(&self) -> BTreeSet<i64> {
        self.client
            .query(
                "select event_id from posthaste.delivery_attempts a join posthaste.endpoints e on e.id = a.endpoint_id
                  where e.url like '%/failing' and a.verdict = 'delivered'",
                &[],
            )
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect()
    }

    async fn count(&self, what: &str) -> i64 {
        self.client.query_one(&format!("select count(*) from {what}"), &[]).await.unwrap().get(0)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_was_down_for_an_hour_gets_every_event_and_no_other_endpoint_noticed() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (healthy, failing) = (Receiver::start().await, Receiver::start().await);
    for url in [healthy.url("/healthy"), failing.url("/failing")] {
        client.execute("insert into posthaste.endpoints (url) values ($1)", &[&url]).await.unwrap();
    }
    failing.otherwise(Reply::status(503));

    let (stopper, present) = (Stopper::new(), Present::movable());
    // Polls that keep up with the hours.
    let relay = run_inside(&database, &[], present.clone(), stopper.clone());

    let story = async {
        let mut hours = Hours { client, present, healthy, failing, sent: 0 };
        for _ in 0..60 {
            hours.minute_with_an_event().await;
        }
        let knocks = hours.failing.received().len();
        // Ten failures pause it; then a probe at the end of each pause, at most an hour long.
        assert!((10..40).contains(&knocks), "it was asked {knocks} times while it was down");

        hours.failing.otherwise(Reply::status(200));
        let mut waited = Duration::ZERO;
        until("the endpoint to have every event", || {
            hours.present.advance(MINUTE);
            waited += MINUTE;
            let hours = &hours;
            async move { (hours.accepted().await.len() == 60).then_some(()) }
        })
        .await;
        // The longest pause, and one step of the schedule.
        assert!(waited < 3 * 60 * MINUTE, "it took {waited:?} after it had come back");

        until("all to be recorded", || async {
            (hours.count("posthaste.live_deliveries").await == 0).then_some(())
        })
        .await;
        assert_eq!(
            hours.count("posthaste.delivery_attempts where verdict in ('dead', 'cancelled')").await,
            0
        );
        let healthy =
            "posthaste.delivery_attempts a join posthaste.endpoints e on e.id = a.endpoint_id
                        where e.url like '%/healthy'";
        assert_eq!(hours.count(healthy).await, 60, "one attempt each, no more");
        // It is noted about once a second.
        let health = "health = 'flowing' from posthaste.endpoint_status where url like '%/failing'";
        holds(&hours.client, health).await;
        stopper.stop();
    };
    let (ended, ()) =
        Box::pin(within("the hours to pass", async { tokio::join!(relay, story) })).await;
    ended.unwrap();
}
