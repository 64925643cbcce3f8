//! What a step of routing claims is one row, a batch. However a claim of it ends, it ends as one
//! that was claimed alone does, and the others of its batch go on.

use std::time::Duration;

use posthaste::clock::Clock;
use posthaste::model::delivery::Delivery;
use posthaste::model::outcome::{Answer, Outcome, Phases};
use posthaste::model::routing::{LaneRoom, Recipients, StepRoom};
use posthaste::model::tenant::TenantRoom;
use posthaste::model::verdict::{Decision, Verdict};
use posthaste::relay::{Stepped, route_in_steps};
use posthaste::store::attempts::{Attempt, Commit, record};
use posthaste::store::deliveries::{ClaimKey, disown, release};
use posthaste::store::relays::reap;
use posthaste::store::routing::floor;
use posthaste::store::upkeep::release_orphans;
use posthaste::store::{Database, Store};
use tokio_postgres::Client;

use crate::support::{PATIENCE, TestDatabase, inconsistencies, value};

const RELAY: i32 = 1;
const TOKEN: i64 = 7;
const RETRY: Decision = Decision::Retry { after: Duration::from_secs(3600) };

/// A relay that has routed events 1 to 3 for endpoints 1 and 2, and claimed all of that.
struct Ground {
    _database: TestDatabase,
    client: Client,
    store: Store,
    claimed: Vec<Delivery>,
}

impl Ground {
    async fn new() -> Self {
        let database = TestDatabase::new().await;
        let client = database.client().await;
        let fill = "insert into posthaste.endpoints (url) select 'https://a.example' from generate_series(1, 2);
                    insert into posthaste.relays (name, version) values ('a', '1');
                    insert into posthaste.outbox (event_type, payload) select 'x', '1' from generate_series(1, 3)";
        client.batch_execute(fill).await.unwrap();
        let way = Database::parse(&database.url(), None, None, PATIENCE).unwrap();
        let store = Store::open(way, 1, PATIENCE).unwrap();
        let floor = floor(&store).await.unwrap();
        let lane = |_| Some(LaneRoom { room: 100, bytes: 1_000_000, held: 0, flows: true });
        let room = StepRoom {
            lane: &lane,
            of_others: 100,
            tenant: &|tenant| TenantRoom { tenant, claims: 100, bytes: 1_000_000 },
            in_all: 100,
            bytes: 1_000_000,
            may_overflow: false,
        };
        let mut known = Recipients::default();
        let stepped =
            route_in_steps(&store, (RELAY, TOKEN), 100, floor, &room, &mut known).await.unwrap();
        let Stepped::Routed(routed) = stepped else { panic!("{stepped:?}") };
        let claimed: Vec<_> = routed.claimed.into_iter().map(|one| one.delivery).collect();
        assert_eq!(claimed.len(), 6);
        let ground = Self { _database: database, client, store, claimed };
        assert_eq!(ground.owed().await, "1/1c 1/2c 2/1c 2/2c 3/1c 3/2c");
        ground
    }

    /// What is owed, as event/endpoint; c: claimed in a batch, a: alone, w: waiting.
    async fn owed(&self) -> String {
        let statement = "select coalesce(string_agg(event_id || '/' || endpoint_id || \
             case when claimed_by is null then 'w' when d.alone then 'a' else 'c' end, ' ' \
               order by event_id, endpoint_id), '') \
             from posthaste.live_deliveries l left join lateral (select true as alone \
               from posthaste.deliveries d where (d.event_id, d.endpoint_id) = (l.event_id, l.endpoint_id)) d on true";
        value(&self.client, statement).await
    }

    fn delivery(&self, event: i64, endpoint: i64) -> &Delivery {
        let is_it = |one: &&Delivery| (one.event_id, one.endpoint_id) == (event, endpoint);
        self.claimed.iter().find(is_it).unwrap()
    }

    fn attempt(&self, event: i64, endpoint: i64, decision: Decision) -> Attempt {
        let delivery = self.delivery(event, endpoint);
        let answer = Answer {
            status: 200,
            headers: Vec::new(),
            body: Vec::new(),
            body_truncated: false,
            detail: None,
        };
        Attempt {
            event_id: event,
            endpoint_id: endpoint,
            claim_token: delivery.claim_token,
            batch: delivery.batch,
            event_created_at: delivery.event_created_at,
            number: 1,
            began: Clock.instant(),
            took: Duration::from_millis(3),
            phases: Phases::default(),
            outcome: Some(Outcome::Answered(answer)),
            verdict: Verdict { decision, effect: None, reason: None },
            is_of_a_line: false,
            blocks: false,
        }
    }

    /// Records these, and says of which the claim was held.
    async fn record(&self, relay: i32, attempts: &[Attempt]) -> Vec<bool> {
        let all: Vec<_> = attempts.iter().collect();
        let held = record(&self.store, relay, &all, Clock.instant(), Commit::Waits).await.unwrap();
        attempts.iter().map(|attempt| held.has(attempt)).collect()
    }

    fn key(&self, event: i64, endpoint: i64) -> ClaimKey {
        let Delivery { claim_token: token, batch, .. } = *self.delivery(event, endpoint);
        ClaimKey { event_id: event, endpoint_id: endpoint, token, batch }
    }

    async fn count(&self, of: &str) -> i64 {
        value(&self.client, &format!("select count(*) from {of}")).await
    }
}

#[tokio::test]
async fn what_was_just_delivered_is_recorded_once_whatever_was_recorded_before() {
    let ground = Ground::new().await;
    let delivered = |(event, endpoint)| ground.attempt(event, endpoint, Decision::Delivered);
    let first = [(1, 1), (3, 2)].map(delivered);
    assert_eq!(ground.record(RELAY + 1, &first).await, [false; 2], "of another relay");
    let [one, other] = &first;
    let lost = Attempt { claim_token: TOKEN - 1, ..delivered((2, 2)) };
    assert_eq!(ground.record(RELAY, &[one.clone(), lost.clone()]).await, [true, false]);
    assert_eq!(ground.owed().await, "1/2c 2/1c 2/2c 3/1c 3/2c");
    // Sent again, since its answer did not come; with others that are new.
    let again = [lost, other.clone(), one.clone(), delivered((2, 2))];
    assert_eq!(ground.record(RELAY, &again).await, [false, true, false, true]);
    assert_eq!(ground.record(RELAY, &first).await, [false; 2]);
    assert_eq!(ground.owed().await, "1/2c 2/1c 3/1c");
    let rest = [(3, 1), (1, 2), (2, 1)].map(delivered);
    assert_eq!(ground.record(RELAY, &rest).await, [true; 3]);
    assert_eq!(ground.owed().await, "");
    assert_eq!(ground.count("posthaste.claims").await, 0);
    let attempts = "(select distinct event_id, endpoint_id from posthaste.attempts) a";
    assert_eq!((ground.count("posthaste.attempts").await, ground.count(attempts).await), (6, 6));
    assert_eq!(inconsistencies(&ground.client).await, [""; 0]);
}

#[tokio::test]
async fn a_batch_is_recorded_by_and_by_each_delivery_once_and_only_failures_stay() {
    let ground = Ground::new().await;
    let first = [ground.attempt(1, 1, Decision::Delivered), ground.attempt(1, 2, RETRY)];
    assert_eq!(ground.record(RELAY + 1, &first).await, [false; 2], "of another relay");
    let lost = first.clone().map(|one| Attempt { claim_token: TOKEN + 1, ..one });
    assert_eq!(ground.record(RELAY, &lost).await, [false; 2], "of another batch");
    assert_eq!(ground.record(RELAY, &first).await, [true; 2]);
    assert_eq!(ground.owed().await, "1/2w 2/1c 2/2c 3/1c 3/2c");
    // Sent again, since its answer did not come; with one that is new.
    let [one, other] = first;
    let again = [other, ground.attempt(2, 2, Decision::Dead), one];
    assert_eq!(ground.record(RELAY, &again).await, [false, true, false]);
    assert_eq!(ground.count("posthaste.attempts").await, 3);
    let retried = "select attempt_count = 1 and next_attempt_at > now() + interval '50 min' \
         from posthaste.deliveries";
    assert!(value::<bool>(&ground.client, retried).await);

    let rest = [(2, 1), (3, 1), (3, 2)]
        .map(|(event, endpoint)| ground.attempt(event, endpoint, Decision::Delivered));
    assert_eq!(ground.record(RELAY, &rest).await, [true; 3]);
    assert_eq!(ground.owed().await, "1/2w");
    assert_eq!(ground.count("posthaste.claims").await, 0);
    let created = "posthaste.attempts a join posthaste.outbox o \
         on (o.id, o.created_at) = (a.event_id, a.event_created_at)";
    assert_eq!(ground.count(created).await, 6);
    assert_eq!(inconsistencies(&ground.client).await, [""; 0]);
}

#[tokio::test]
async fn an_interruption_and_a_refusal_by_the_settings_spend_no_attempt() {
    let ground = Ground::new().await;
    let interrupted =
        Attempt { outcome: Some(Outcome::Interrupted), ..ground.attempt(1, 1, RETRY) };
    assert_eq!(ground.record(RELAY, &[interrupted]).await, [true]);
    let unspent = "select attempt_count = 0 from posthaste.deliveries";
    assert!(value::<bool>(&ground.client, unspent).await);
}

#[tokio::test]
async fn results_of_a_batch_and_of_claims_alone_are_recorded_together() {
    let ground = Ground::new().await;
    let alone = "insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, \
           next_attempt_at, claimed_by, claim_token) values (9, 1, now(), now(), 1, 8)";
    ground.client.batch_execute(alone).await.unwrap();
    let of_batch = ground.attempt(2, 1, Decision::Delivered);
    let alone = Attempt { event_id: 9, claim_token: 8, batch: None, ..of_batch.clone() };
    assert_eq!(ground.record(RELAY, &[alone, of_batch]).await, [true; 2]);
    assert_eq!(ground.owed().await, "1/1c 1/2c 2/2c 3/1c 3/2c");
}

#[tokio::test]
async fn what_is_given_back_waits_as_if_it_had_never_been_claimed() {
    let ground = Ground::new().await;
    let keys = [ground.key(1, 2), ground.key(3, 1)];
    assert_eq!(release(&ground.store, RELAY + 1, &keys).await.unwrap(), 0);
    assert_eq!(release(&ground.store, RELAY, &keys).await.unwrap(), 2);
    assert_eq!(release(&ground.store, RELAY, &keys).await.unwrap(), 0, "it is no longer claimed");
    assert_eq!(ground.owed().await, "1/1c 1/2w 2/1c 2/2c 3/1w 3/2c");
    let due =
        "select bool_and(next_attempt_at <= now() and attempt_count = 0) from posthaste.deliveries";
    assert!(value::<bool>(&ground.client, due).await);

    assert_eq!(disown(&ground.store, RELAY, &[TOKEN + 1]).await.unwrap(), 0);
    assert_eq!(disown(&ground.store, RELAY, &[TOKEN]).await.unwrap(), 4);
    assert_eq!(ground.owed().await, "1/1w 1/2w 2/1w 2/2w 3/1w 3/2w");
    assert_eq!(ground.record(RELAY, &[ground.attempt(1, 1, RETRY)]).await, [false]);
    assert_eq!(ground.count("posthaste.attempts").await, 0);
}

#[tokio::test]
async fn a_relay_that_is_taken_for_dead_loses_what_it_has_not_recorded() {
    let ground = Ground::new().await;
    ground.record(RELAY, &[ground.attempt(1, 1, Decision::Delivered)]).await;
    let silent = "update posthaste.relays set heartbeat_at = now() - interval '1 hour'";
    ground.client.batch_execute(silent).await.unwrap();
    let reaped = reap(&ground.store, RELAY + 1, Duration::from_secs(10)).await.unwrap();
    assert_eq!((reaped.relays, reaped.claims), (1, 5));
    assert_eq!(ground.owed().await, "1/2w 2/1w 2/2w 3/1w 3/2w");
    let said = "posthaste.delivery_attempts where outcome = 'interrupted' and verdict = 'retry' \
         and number = 1 and relay_id = 1 and reason like 'relay 1 died%'";
    assert_eq!(ground.count(said).await, 5);
    assert_eq!(ground.record(RELAY, &[ground.attempt(2, 1, RETRY)]).await, [false]);
    assert_eq!(inconsistencies(&ground.client).await, [""; 0]);
}

#[tokio::test]
async fn a_batch_that_no_relay_knows_of_is_released() {
    for (relay, held, released) in [
        (RELAY, vec![TOKEN], 0),
        (RELAY, vec![], 6),
        // Of one that is gone.
        (RELAY + 1, vec![], 6),
    ] {
        let ground = Ground::new().await;
        if relay != RELAY {
            ground.client.batch_execute("delete from posthaste.relays").await.unwrap();
        }
        let orphans = release_orphans(&ground.store, relay, &held, TOKEN + 1).await.unwrap();
        assert_eq!(orphans, released);
        let interrupted = "posthaste.delivery_attempts where outcome = 'interrupted'";
        assert_eq!(ground.count(interrupted).await, released);
        assert_eq!(ground.count("posthaste.deliveries").await, released);
    }
}

#[tokio::test]
async fn operators_are_told_of_what_is_claimed_in_batches() {
    let ground = Ground::new().await;
    let client = &ground.client;
    ground.record(RELAY, &[ground.attempt(1, 1, Decision::Delivered)]).await;
    let sending = "posthaste.delivery_status where state = 'sending'";
    assert_eq!(ground.count(sending).await, 5);
    let why: String = value(
        client,
        "select string_agg(concat_ws(' ', endpoint_id, state, why), '; ' order by endpoint_id) \
         from posthaste.explain(1)",
    )
    .await;
    assert!(why.starts_with("1 delivered delivered at "), "{why}");
    assert!(why.ends_with("; 2 sending relay 1 is making attempt 1"), "{why}");

    assert_eq!(value::<String>(client, "select posthaste.retry(1, 2)").await, "sending");
    for (of, in_flight) in [("cancel(1)", 1), ("cancel(1, 1)", 0), ("cancel_endpoint(1)", 2)] {
        let cancel =
            format!("select cancelled = 0 and in_flight = {in_flight} from posthaste.{of}");
        assert!(value::<bool>(client, &cancel).await, "{of}");
    }
    let never = "select posthaste.replay(1, now() - interval '1 day', now(), states => '{never}')";
    assert_eq!(value::<i64>(client, never).await, 0, "what is being sent was owed");
    assert_eq!(ground.owed().await, "1/2c 2/1c 2/2c 3/1c 3/2c");
    assert_eq!(inconsistencies(client).await, [""; 0]);

    client.batch_execute("delete from posthaste.relays").await.unwrap();
    let problems = inconsistencies(client).await;
    let is_orphan = |problem: &String| problem.contains("claimed by a relay that is gone");
    assert_eq!(problems.iter().filter(|problem| is_orphan(problem)).count(), 5, "{problems:?}");
}

#[tokio::test]
async fn deleting_an_endpoint_cancels_what_is_claimed_for_it_and_no_other() {
    let ground = Ground::new().await;
    ground.record(RELAY, &[ground.attempt(1, 2, Decision::Delivered)]).await;
    ground.client.batch_execute("delete from posthaste.endpoints where id = 2").await.unwrap();
    assert_eq!(ground.owed().await, "1/1c 2/1c 3/1c");
    let cancelled =
        "posthaste.delivery_attempts where verdict = 'cancelled' and reason = 'endpoint deleted'";
    assert_eq!(ground.count(cancelled).await, 2);
    let results = [ground.attempt(2, 2, RETRY), ground.attempt(2, 1, RETRY)];
    assert_eq!(ground.record(RELAY, &results).await, [false, true]);
    ground.client.batch_execute("delete from posthaste.endpoints").await.unwrap();
    assert_eq!(ground.owed().await, "");
    assert_eq!(ground.count("posthaste.claims").await, 0);
    assert_eq!(inconsistencies(&ground.client).await, [""; 0]);
}

#[tokio::test]
async fn a_copy_of_the_database_does_not_route_what_is_claimed_again() {
    let ground = Ground::new().await;
    ground
        .client
        .batch_execute("update posthaste.routing set system_identifier = 1")
        .await
        .unwrap();
    let anew = "select events from posthaste_internal.rebase_routing()";
    assert_eq!(value::<i64>(&ground.client, anew).await, 0);
}
