//! Routing ahead of the cursor is exact: an event is routed once, whoever else routes meanwhile.

use std::time::Duration;

use jiff::Timestamp;
use posthaste::model::dispatch::LookedAhead;
use posthaste::model::routing::{Recipients, StepRoom};
use posthaste::model::tenant::TenantRoom;
use posthaste::relay::{Lookout, Stepped, route_ahead, route_in_steps};
use posthaste::store::ahead::trim_ahead;
use posthaste::store::routing::{Few, RoutingRoom, floor, route, route_few};
use posthaste::store::set_aside::next_event;
use posthaste::store::steps::{StepDelivery, StepResult, StepToWrite, step_session};
use posthaste::store::{Database, Store};
use tokio_postgres::Client;

use crate::support::{TestDatabase, inconsistencies, value};

const RELAY: i32 = 1;
const ROOM: RoutingRoom<'_> =
    RoutingRoom { endpoints: &[], rooms: &[], of_others: 1000, in_all: 1000, bytes: 1_000_000 };

/// Two tenants' endpoints, a relay's way to the database, and what it remembers.
struct Ground {
    database: TestDatabase,
    client: Client,
    store: Store,
    floor: Timestamp,
    known: Recipients,
    lookout: Lookout,
    token: i64,
}

impl Ground {
    async fn new() -> Self {
        let database = TestDatabase::new().await;
        let client = database.client().await;
        let fill =
            "insert into posthaste.endpoints (url, tenant) values ('https://a.example', 'acme'), \
                    ('https://g.example', 'globex');
                    insert into posthaste.relays (name, version) values ('a', '1')";
        client.batch_execute(fill).await.unwrap();
        let patience = Duration::from_secs(10);
        let way = Database::parse(&database.url(), None, None, patience).unwrap();
        let store = Store::open(way, 2, patience).unwrap();
        let floor = floor(&store).await.unwrap();
        let (known, lookout) = (Recipients::default(), Lookout::default());
        Self { database, client, store, floor, known, lookout, token: 0 }
    }

    async fn publish(&self, tenant: &str, events: u32) {
        publish(&self.client, tenant, events).await;
    }

    /// Looks ahead once. Returns how much it routed.
    async fn ahead(&mut self) -> (LookedAhead, usize) {
        self.token += 1;
        let by = (RELAY, self.token);
        let room = ample();
        let (store, known, lookout) = (&self.store, &mut self.known, &mut self.lookout);
        let done = route_ahead(store, by, self.floor, &room, known, lookout).await.unwrap();
        let count = done.step.map_or(0, |step| {
            assert_eq!((step.deliveries, step.unmatched), (step.claimed.len(), 0));
            step.events
        });
        (done.looked, count)
    }

    /// A step of the cursor. Returns how many events it routed.
    async fn step(&mut self, most: u32) -> u32 {
        self.token += 1;
        let by = (RELAY, self.token);
        let (store, room) = (&self.store, ample());
        let stepped = route_in_steps(store, by, most, self.floor, &room, &mut self.known).await;
        let Ok(Stepped::Routed(routed)) = stepped else { panic!("{stepped:?}") };
        routed.events
    }

    /// Routes to the end. Every event is then owed once, and nothing is left to pass over.
    async fn ends_with(mut self, events: i64) {
        while self.step(7).await > 0 {}
        let owed = "select count(*) from posthaste.live_deliveries";
        let different = "select count(distinct event_id) from posthaste.live_deliveries";
        assert_eq!(value::<i64>(&self.client, owed).await, events);
        assert_eq!(value::<i64>(&self.client, different).await, events);
        let ledger = "select sum(events)::bigint from posthaste.routing";
        assert_eq!(value::<i64>(&self.client, ledger).await, events);
        assert!(!trim_ahead(&self.store).await.unwrap());
        let left = "select count(*) from posthaste.routed_ahead";
        assert_eq!(value::<i64>(&self.client, left).await, 0);
        let unrouted = "select count(*) from posthaste.unrouted_events";
        assert_eq!(value::<i64>(&self.client, unrouted).await, 0);
        assert_eq!(inconsistencies(&self.client).await, Vec::<String>::new());
    }
}

fn ample() -> StepRoom<'static> {
    StepRoom {
        lane: &|_| None,
        of_others: 10_000,
        tenant: &|tenant| TenantRoom { tenant, claims: 10_000, bytes: 1_000_000 },
        in_all: 10_000,
        bytes: 1_000_000,
        may_overflow: true,
    }
}

async fn publish(client: &Client, tenant: &str, events: u32) {
    let insert = format!(
        "insert into posthaste.outbox (event_type, payload, tenant) \
         select 'x', '1', '{tenant}' from generate_series(1, {events})"
    );
    client.batch_execute(&insert).await.unwrap();
}

#[tokio::test]
async fn the_cursor_passes_over_what_was_routed_ahead_in_its_span_and_after_it() {
    let mut ground = Ground::new().await;
    ground.publish("acme", 30).await;
    ground.publish("globex", 2).await;
    // The span ends here; what follows is of the next.
    assert_eq!(ground.step(10).await, 10);
    ground.publish("acme", 30).await;
    ground.publish("globex", 3).await;
    assert_eq!(ground.ahead().await, (LookedAhead::ToTheEnd, 5));
    assert_eq!(ground.ahead().await, (LookedAhead::ToTheEnd, 0));
    ground.publish("globex", 1).await;
    assert_eq!(ground.ahead().await, (LookedAhead::ToTheEnd, 1));
    assert!(trim_ahead(&ground.store).await.unwrap(), "the cursor has not passed them");
    let ahead = "select count(*) from posthaste.routed_ahead";
    assert_eq!(value::<i64>(&ground.client, ahead).await, 6);
    let unrouted = "select count(*) from posthaste.unrouted_events";
    assert_eq!(value::<i64>(&ground.client, unrouted).await, 50);
    ground.ends_with(66).await;
}

#[tokio::test]
async fn every_way_of_routing_passes_over_what_was_routed_ahead() {
    let mut ground = Ground::new().await;
    ground.publish("acme", 30).await;
    ground.publish("globex", 2).await;
    assert_eq!(ground.ahead().await.1, 2);
    // The few leave it to the others.
    let few = route_few(&ground.store, RELAY, 100, ground.floor, &ROOM).await.unwrap();
    assert!(matches!(few, Few::Unusual), "{few:?}");
    let whole = route(&ground.store, RELAY, 101, 500, ground.floor, &ROOM).await.unwrap().unwrap();
    assert_eq!((whole.events, whole.claimed.len()), (30, 30));
    assert!(!trim_ahead(&ground.store).await.unwrap());
    ground.publish("acme", 1).await;
    let few = route_few(&ground.store, RELAY, 102, ground.floor, &ROOM).await.unwrap();
    assert!(matches!(few, Few::Routed(Some(routed)) if routed.events == 1));
    ground.ends_with(33).await;
}

#[tokio::test]
async fn the_event_that_is_set_aside_when_routing_fails_is_none_that_was_routed_ahead() {
    let mut ground = Ground::new().await;
    ground.publish("globex", 2).await;
    ground.publish("acme", 30).await;
    assert_eq!(ground.ahead().await.1, 2);
    let next = next_event(&ground.store, RELAY, ground.floor).await.unwrap().unwrap();
    let first = "select min(id) from posthaste.outbox where tenant = 'acme'";
    assert_eq!(next.id, value::<i64>(&ground.client, first).await);
    ground.ends_with(32).await;
}

#[tokio::test]
async fn an_event_that_has_more_than_its_part_of_the_bytes_is_left_to_the_cursor_unless_it_is_alone()
 {
    let mut ground = Ground::new().await;
    ground.publish("acme", 30).await;
    let large = "insert into posthaste.outbox (event_type, payload, tenant) \
                 values ('x', to_json(repeat('x', 600000)), 'globex')";
    ground.client.batch_execute(large).await.unwrap();
    ground.publish("globex", 1).await;
    assert_eq!(ground.ahead().await, (LookedAhead::ToTheEnd, 1));
    ground.client.batch_execute(large).await.unwrap();
    assert_eq!(ground.ahead().await, (LookedAhead::ToTheEnd, 1));
    ground.ends_with(33).await;
}

#[tokio::test]
async fn a_look_takes_in_what_commits_after_it_has_passed_its_place() {
    let mut ground = Ground::new().await;
    let late = ground.database.client().await;
    late.batch_execute("begin").await.unwrap();
    publish(&late, "globex", 1).await;
    ground.publish("acme", 30).await;
    assert_eq!(ground.ahead().await, (LookedAhead::ToTheEnd, 0));
    late.batch_execute("commit").await.unwrap();
    assert_eq!(ground.ahead().await, (LookedAhead::ToTheEnd, 1));
    // Only the cursor knows of the order of a line.
    let in_line = "insert into posthaste.outbox (event_type, payload, tenant, ordering_key) \
                   values ('x', '1', 'globex', 'key')";
    ground.client.batch_execute(in_line).await.unwrap();
    assert_eq!(ground.ahead().await, (LookedAhead::ToTheEnd, 0));
    ground.ends_with(32).await;
}

#[tokio::test]
async fn a_look_that_comes_behind_the_cursor_routes_nothing_twice() {
    let mut ground = Ground::new().await;
    ground.publish("acme", 30).await;
    assert_eq!(ground.ahead().await, (LookedAhead::ToTheEnd, 0));
    ground.publish("globex", 2).await;
    while ground.step(7).await > 0 {}
    assert_eq!(ground.ahead().await, (LookedAhead::ToTheEnd, 0));
    ground.ends_with(32).await;
}

#[tokio::test]
async fn a_look_goes_on_where_it_ended_and_one_tenant_has_a_part_of_it() {
    let mut ground = Ground::new().await;
    ground.publish("acme", 20_000).await;
    ground.publish("globex", 150).await;
    assert_eq!(ground.ahead().await, (LookedAhead::Further, 0));
    assert_eq!(ground.ahead().await, (LookedAhead::ToTheEnd, 100));
    ground.publish("acme", 200).await;
    ground.publish("globex", 150).await;
    assert_eq!(ground.ahead().await, (LookedAhead::ToTheEnd, 100));
}

#[tokio::test]
async fn a_step_ahead_is_not_written_beside_another_or_by_endpoints_that_changed() {
    let mut ground = Ground::new().await;
    ground.publish("acme", 30).await;
    ground.publish("globex", 1).await;
    let session = step_session(&ground.store).await.unwrap().unwrap();
    let mut tokens = 500..;
    let mut write = async |as_of: &str, number: Option<i64>| {
        let mut look = session.read_ahead(None, 1_000, ground.floor).await.unwrap().unwrap();
        look.found.last.number = number.unwrap_or(look.found.last.number);
        let claimed = [StepDelivery { event: 0, endpoint: 2, revision: 2 }];
        let step = StepToWrite {
            taken: 1,
            more: true,
            unmatched: 0,
            claimed: &claimed,
            waiting: &[],
            endpoints_as_of: as_of,
        };
        let token = tokens.next().unwrap();
        session.write_ahead(RELAY, token, &look.found, &step).await.unwrap()
    };
    let now: String = value(&ground.client, "select pg_current_snapshot()::text").await;
    // Another relay has taken a step since it was read.
    let lost = write(&now, Some(-1)).await;
    assert!(matches!(lost, StepResult::Lost), "{lost:?}");
    ground.client.batch_execute("update posthaste.endpoints set max_attempts = 3").await.unwrap();
    let changed = write(&now, None).await;
    assert!(matches!(changed, StepResult::EndpointsChanged), "{changed:?}");
    let written = "select count(*) from posthaste.routed_ahead";
    assert_eq!(value::<i64>(&ground.client, written).await, 0);
    assert_eq!(ground.ahead().await.1, 1);
    ground.ends_with(31).await;
}

#[tokio::test]
async fn without_tenants_nothing_is_looked_at() {
    let mut ground = Ground::new().await;
    let none = "update posthaste.endpoints set tenant = null";
    ground.client.batch_execute(none).await.unwrap();
    ground.publish("acme", 30).await;
    ground.publish("globex", 1).await;
    assert_eq!(ground.ahead().await, (LookedAhead::NoTenants, 0));
}
