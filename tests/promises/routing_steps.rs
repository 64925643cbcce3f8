//! Routing in steps: a step does what the whole statement would do, goes by endpoints as they are
//! when it is written, and is written once.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use posthaste::model::routing::{EventKind, LaneRoom, Recipients, StepRoom};
use posthaste::model::tenant::TenantRoom;
use posthaste::relay::{Stepped, route_in_steps};
use posthaste::store::routing::{Claimed, RoutingRoom, floor, route};
use posthaste::store::steps::{
    Found, StepDelivery, StepResult, StepSession, StepToWrite, step_session,
};
use posthaste::store::{Database, Store};
use tokio_postgres::Client;

use crate::support::{TestDatabase, unchecked, value};

/// A relay, and its claim token.
const BY: (i32, i64) = (1, 1);
const MANY: u32 = 500;

const ENDPOINTS: &str =
    "insert into posthaste.endpoints (url, tenant, subscriptions, filter, enabled, hold, ordered)
     select 'https://example.com/', tenant, subscriptions, filter::jsonpath, enabled, hold, ordered
     from (values
       (null, array['*'], null, true, false, false),
       (null, array['order.*', '*'], null, true, false, false),
       ('acme', array['*'], null, true, false, false),
       (null, array['order.*'], '$ ? (@.total > 100)', true, false, false),
       (null, array['*'], null, false, false, false),
       (null, array['order.paid'], null, false, true, false),
       (null, array['order.paid'], null, true, false, true),
       (null, array['line'], null, true, false, true)
     ) e (tenant, subscriptions, filter, enabled, hold, ordered);
     insert into posthaste.endpoint_health (endpoint_id, state, paused_until)
     values (2, 'paused', now() + interval '1 hour')";

const EVENTS: &str = "insert into posthaste.outbox
       (event_type, payload, tenant, endpoint_id, headers, deliver_at, expires_at, ordering_key)
     select event_type, payload::json, tenant, endpoint_id, headers::jsonb, deliver_at::timestamptz, expires_at::timestamptz, null
     from (values
       ('order.paid', '{\"total\": 100}', null, null, null, null, null),
       ('order.paid', '{\"total\": 101}', 'acme', null, '{\"x-a\": \"b\"}', null, null),
       ('order.paid', '{\"total\": \"\\u0000\"}', null, null, null, '2199-12-31', null),
       ('other', '1', 'globex', null, null, null, null),
       ('other', '1', null, 5, null, null, null),
       ('other', '1', null, 99, null, null, null),
       ('other', '1', null, 0, null, null, null),
       ('order.late', '1', null, null, null, null, now()::text),
       ('order.sent', '1', null, null, null, '2001-01-01', null)
     ) e (event_type, payload, tenant, endpoint_id, headers, deliver_at, expires_at)";

/// A database with these endpoints, and a relay's way to it.
async fn ground(endpoints: &str) -> (TestDatabase, Client, Store, Timestamp) {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    client.batch_execute(endpoints).await.unwrap();
    let patience = Duration::from_secs(10);
    let way = Database::parse(&database.url(), None, None, patience).unwrap();
    let store = Store::open(way, 1, patience).unwrap();
    let floor = floor(&store).await.unwrap();
    (database, client, store, floor)
}

fn ample(lane: &(dyn Fn(i64) -> Option<LaneRoom> + Send + Sync)) -> StepRoom<'_> {
    StepRoom {
        lane,
        of_others: 100,
        tenant: &|tenant| TenantRoom { tenant, claims: 1000, bytes: 1_000_000 },
        in_all: 1000,
        bytes: 1_000_000,
        may_overflow: false,
    }
}

async fn publish(client: &Client, events: u32) {
    let insert = format!(
        "insert into posthaste.outbox (event_type, payload) select 'x', '1' from generate_series(1, {events})"
    );
    client.batch_execute(&insert).await.unwrap();
}

/// What routing has left, and what it handed to the relay.
type Rows = (Vec<String>, HashSet<String>);

async fn rows(client: &Client, claimed: &[Claimed]) -> Rows {
    let statement = "select concat_ws(' ', event_id, endpoint_id, event_created_at, claimed_by, claim_token, \
         date_trunc('day', next_attempt_at), place, in_line) from posthaste.live_deliveries order by 1";
    let written = client.query(statement, &[]).await.unwrap();
    let handed = claimed.iter().map(|one| {
        let delivery = &one.delivery;
        format!(
            "{} {} {} {:?} {:?} {:?} {}",
            delivery.event_id,
            delivery.endpoint_id,
            delivery.endpoint_revision,
            delivery.headers,
            delivery.payload,
            one.cancelled,
            delivery.event_type,
        )
    });
    (written.iter().map(|row| row.get(0)).collect(), handed.collect())
}

#[tokio::test]
async fn a_step_does_what_the_whole_statement_does() {
    let (_database, client, store, floor) = ground(ENDPOINTS).await;
    client.batch_execute(EVENTS).await.unwrap();
    let lane = |_| None;
    let mut known = Recipients::default();
    let stepped = route_in_steps(&store, BY, MANY, floor, &ample(&lane), &mut known).await;
    let Ok(Stepped::Routed(stepped)) = stepped else { panic!("{stepped:?}") };
    let by_steps = rows(&client, &stepped.claimed).await;
    assert!(by_steps.0.len() > 8 && by_steps.1.len() > 5, "{by_steps:?}");
    let counted = (stepped.events, stepped.deliveries, stepped.unmatched, stepped.more);
    // The same once more, by the whole statement.
    let undo = "delete from posthaste.deliveries; delete from posthaste.claims; \
                delete from posthaste.routing where number > 0";
    client.batch_execute(undo).await.unwrap();
    let room =
        RoutingRoom { endpoints: &[], rooms: &[], of_others: 100, in_all: 1000, bytes: 1_000_000 };
    let whole = route(&store, BY.0, BY.1, MANY, floor, &room).await.unwrap().unwrap();
    assert_eq!(by_steps, rows(&client, &whole.claimed).await);
    assert_eq!(counted, (whole.events, whole.deliveries, whole.unmatched, whole.more));
    let waiting = |routed: Vec<i64>| routed.into_iter().collect::<HashSet<_>>();
    assert_eq!(waiting(stepped.waiting), waiting(whole.waiting));
}

#[tokio::test]
async fn a_step_without_room_for_all_goes_on_where_it_ended() {
    let (_database, client, store, floor) =
        ground("insert into posthaste.endpoints (url) values ('https://a.example')").await;
    publish(&client, 7).await;
    let mut known = Recipients::default();
    let mut events = Vec::new();
    for (token, room) in (BY.1..).zip([3, 0, 2, 9]) {
        let lane = move |_| Some(LaneRoom { room, bytes: 1_000_000, held: 1, flows: true });
        let by = (BY.0, token);
        let stepped = route_in_steps(&store, by, MANY, floor, &ample(&lane), &mut known).await;
        match stepped.unwrap() {
            Stepped::Routed(routed) => {
                assert_eq!(routed.cut.is_some(), room < 9, "{routed:?}");
                events.extend(routed.claimed.iter().map(|one| one.delivery.event_id));
            }
            Stepped::Full(cut) => assert_eq!((room, cut.full), (0, 1)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(events, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.unrouted_events").await, 0);
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.live_deliveries").await, 7);
}

#[tokio::test]
async fn a_step_reads_no_more_bytes_than_there_is_room_for_but_one_event_at_least() {
    let (_database, client, store, floor) = ground(ONE).await;
    let large = "insert into posthaste.outbox (event_type, payload) \
                 select 'x', to_json(repeat('x', 994)) from generate_series(1, 5)";
    client.batch_execute(large).await.unwrap();
    let session = step_session(&store).await.unwrap().unwrap();
    for (most, bytes, expected, is_full) in [
        (500, 1_000_000, 5, false),
        (5, 1_000_000, 5, true),
        (500, 3_999, 3, true),
        (500, 4_000, 4, true),
        (500, 0, 1, true),
    ] {
        let found = session.read_events(BY.0, (most, bytes), floor).await.unwrap();
        assert_eq!((found.events.len(), found.is_full), (expected, is_full), "{most} {bytes}");
        assert_eq!(found.events[0].bytes, 1_000);
    }
}

#[tokio::test]
async fn an_event_ages_from_when_it_was_made_or_fell_due() {
    let (_database, client, store, floor) = ground(ONE).await;
    // Half of it before and half of it after the event fell due, within today's partition.
    let made = "set session_replication_role = replica; \
                insert into posthaste.outbox (event_type, payload, created_at, deliver_at) \
                select 'x', '1', now() - age, now() - age * part \
                from (select least(now() - date_trunc('day', now()), interval '40 min')) t (age), \
                     unnest(array[null, 2, 0.5]) part; \
                insert into posthaste.outbox (event_type, payload, deliver_at) \
                values ('x', '1', now() + interval '1 day')";
    client.batch_execute(made).await.unwrap();
    let lane = |_| None;
    let mut known = Recipients::default();
    let stepped = route_in_steps(&store, BY, MANY, floor, &ample(&lane), &mut known).await;
    let Ok(Stepped::Routed(routed)) = stepped else { panic!("{stepped:?}") };
    assert_eq!((routed.events, routed.claimed.len()), (4, 3));
    for Claimed { delivery, .. } in routed.claimed {
        let from = "select extract(epoch from greatest(created_at, deliver_at))::float8 \
                    from posthaste.outbox where id = ";
        let expected: f64 = value(&client, &format!("{from}{}", delivery.event_id)).await;
        let off = delivery.due_at.as_duration().as_secs_f64() - expected;
        assert!(off.abs() < 60.0, "{off} s {delivery:?}");
    }
}

#[tokio::test]
async fn a_step_ends_before_an_event_that_is_much_larger_and_the_next_begins_with_it() {
    let (_database, client, store, floor) = ground(ONE).await;
    let mixed = "insert into posthaste.outbox (event_type, payload) \
                 select 'x', to_json(repeat('x', case n when 3 then 1994 else 94 end)) \
                 from generate_series(1, 9) n";
    client.batch_execute(mixed).await.unwrap();
    let lane = |_| Some(LaneRoom { room: 100, bytes: 1_000_000, held: 1, flows: true });
    let mut known = Recipients::default();
    let mut taken = Vec::new();
    for token in 1..=4 {
        let room = StepRoom { bytes: 2_200, ..ample(&lane) };
        let by = (BY.0, token);
        let stepped = route_in_steps(&store, by, 9, floor, &room, &mut known).await;
        let Ok(Stepped::Routed(routed)) = stepped else { panic!("{stepped:?}") };
        let bytes: usize = routed.claimed.iter().map(|one| one.delivery.payload.len()).sum();
        assert!(bytes <= 2_200, "{bytes}");
        taken.push((routed.events, routed.more));
    }
    assert_eq!(taken, [(2, true), (1, true), (6, false), (0, false)]);
}

#[tokio::test]
async fn an_event_in_a_line_and_a_pooler_are_left_to_the_whole_statement() {
    let (database, client, store, floor) = ground(ENDPOINTS).await;
    client
        .batch_execute("insert into posthaste.outbox (event_type, payload, ordering_key) values ('line', '1', 'k')")
        .await
        .unwrap();
    let lane = |_| None;
    let mut known = Recipients::default();
    let stepped = route_in_steps(&store, BY, MANY, floor, &ample(&lane), &mut known).await;
    assert!(matches!(stepped, Ok(Stepped::Unusual)), "{stepped:?}");
    let way = Database::parse(&database.url(), None, None, Duration::from_secs(10)).unwrap();
    let pooled = Store::open(way.behind_pooler(), 1, Duration::from_secs(10)).unwrap();
    assert!(step_session(&pooled).await.unwrap().is_none());
}

#[tokio::test]
async fn an_event_that_the_relay_cannot_read_is_left_to_the_whole_statement_alone() {
    let (_database, client, store, floor) = ground(ONE).await;
    unchecked(&client, "outbox", "headers").await;
    let insert = "insert into posthaste.outbox (event_type, payload, headers)
                  values ('x', '1', null), ('x', '1', (repeat('[', 200) || repeat(']', 200))::jsonb)";
    client.batch_execute(insert).await.unwrap();
    let lane = |_| None;
    let mut known = Recipients::default();
    let step = route_in_steps(&store, BY, MANY, floor, &ample(&lane), &mut known).await;
    let Ok(Stepped::Routed(step)) = step else { panic!("{step:?}") };
    assert_eq!((step.events, step.more), (1, true));
    let step = route_in_steps(&store, BY, MANY, floor, &ample(&lane), &mut known).await;
    assert!(matches!(step, Ok(Stepped::Unusual)), "{step:?}");
}

#[tokio::test]
async fn while_another_relay_takes_full_steps_routing_is_left_to_it() {
    let (_database, client, store, floor) = ground("select").await;
    publish(&client, 9).await;
    let lane = |_| None;
    let mut known = Recipients::default();
    let step = route_in_steps(&store, BY, 5, floor, &ample(&lane), &mut known).await;
    assert!(matches!(step, Ok(Stepped::Routed(_))), "{step:?}");
    let just_now = "update posthaste.routing set routed_at = now() + interval '1 min'";
    client.batch_execute(just_now).await.unwrap();
    let other = route_in_steps(&store, (2, 1), 5, floor, &ample(&lane), &mut known).await;
    assert!(matches!(other, Ok(Stepped::OtherRelay)), "{other:?}");
    let step = route_in_steps(&store, BY, 5, floor, &ample(&lane), &mut known).await;
    let Ok(Stepped::Routed(step)) = step else { panic!("{step:?}") };
    assert_eq!((step.events, step.more, step.closes_span), (4, false, true));
}

/// Reads a step and who is owed it, and says what would be written.
async fn begun(session: &StepSession, floor: Timestamp) -> (Found, String, Vec<StepDelivery>) {
    let found = session.read_events(BY.0, (MANY, 1_000_000), floor).await.unwrap();
    let kind = EventKind::Published { event_type: "x".to_owned(), tenant: None };
    let (snapshot, owed) = session.owed(&[kind]).await.unwrap();
    let one = |event| {
        owed[0].iter().map(move |to| StepDelivery {
            event,
            endpoint: to.endpoint,
            revision: to.revision,
        })
    };
    let deliveries = (0..found.events.len()).flat_map(one).collect();
    (found, snapshot, deliveries)
}

async fn end(
    session: &StepSession,
    (found, snapshot, claimed): &(Found, String, Vec<StepDelivery>),
) -> StepResult {
    let step = StepToWrite {
        taken: found.events.len(),
        more: false,
        unmatched: 0,
        claimed,
        waiting: &[],
        endpoints_as_of: snapshot,
    };
    session.write_step(BY.0, BY.1, found, &step).await.unwrap()
}

const ONE: &str = "insert into posthaste.endpoints (url) values ('https://a.example')";

#[tokio::test]
async fn a_step_that_goes_by_endpoints_which_have_changed_since_is_not_written() {
    let (database, client, store, floor) = ground(ONE).await;
    publish(&client, 2).await;
    let session = step_session(&store).await.unwrap().unwrap();
    for change in [
        "insert into posthaste.endpoints (url) values ('https://b.example')",
        "update posthaste.endpoints set enabled = false where id = 1",
        "update posthaste.endpoints set enabled = true where id = 1",
        "select posthaste.rotate_secret(1)",
        "delete from posthaste.endpoints where id = 2",
    ] {
        let step = begun(&session, floor).await;
        client.batch_execute(change).await.unwrap();
        let written = end(&session, &step).await;
        assert!(matches!(written, StepResult::EndpointsChanged), "{change}: {written:?}");
    }
    // A change that had begun before, and commits before the step is written.
    let other = database.client().await;
    other.batch_execute("begin; update posthaste.endpoints set description = 'x'").await.unwrap();
    let (step, again) = (begun(&session, floor).await, begun(&session, floor).await);
    other.batch_execute("commit").await.unwrap();
    let written = end(&session, &step).await;
    assert!(matches!(written, StepResult::EndpointsChanged), "{written:?}");
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.live_deliveries").await, 0);
    // One that has not committed is not seen; nor is one that never will be.
    other.batch_execute("begin; delete from posthaste.endpoints").await.unwrap();
    let step = begun(&session, floor).await;
    let written = end(&session, &step).await;
    assert!(matches!(written, StepResult::Done { .. }), "{written:?}");
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.live_deliveries").await, 2);
    // What has been trimmed may have told of a change.
    let trimmed = "delete from posthaste.endpoint_changes where changed_in < \
                   (select max(changed_in::text::bigint)::text::xid8 from posthaste.endpoint_changes)";
    client.batch_execute(trimmed).await.unwrap();
    let written = end(&session, &again).await;
    assert!(matches!(written, StepResult::EndpointsChanged), "{written:?}");
}

#[tokio::test]
async fn of_two_that_read_the_same_events_one_writes_them() {
    let (_database, client, store, floor) = ground(ONE).await;
    publish(&client, 3).await;
    let one = step_session(&store).await.unwrap().unwrap();
    let other = step_session(&store).await.unwrap().unwrap();
    let (first, second) = (begun(&one, floor).await, begun(&other, floor).await);
    let written = end(&other, &second).await;
    assert!(matches!(written, StepResult::Done { .. }), "{written:?}");
    let written = end(&one, &first).await;
    assert!(matches!(written, StepResult::Lost), "{written:?}");
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.live_deliveries").await, 3);
    assert_eq!(value::<i64>(&client, "select sum(events) from posthaste.routing").await, 3);
}
