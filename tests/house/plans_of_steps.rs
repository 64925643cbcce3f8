//! The statements of a step of routing are planned as their files say.

use posthaste::store::{ROUTER_PLANS, SESSION};

use super::plans::planned;
use crate::support::TestDatabase;

/// The statements of a step: name, text, arguments, and the indexes that it rides on besides those
/// of the outbox.
const STEPS: [(&str, &str, &str, &[&str]); 7] = [
    (
        "read_events",
        include_str!("../../sql/queries/read_events.sql"),
        "1, 500, now() - interval '1 day', null, 1000000",
        &["routed_ahead_pkey", "routing_pkey"],
    ),
    (
        "set_aside_event",
        include_str!("../../sql/queries/set_aside_event.sql"),
        "1, now() - interval '1 day', 1, null, '', false, '{}'",
        &["routed_ahead_pkey", "routing_pkey"],
    ),
    (
        "owed",
        include_str!("../../sql/queries/owed.sql"),
        "'{order.paid,\"\"}', '{\"\",\"\"}', '{null,7}'",
        &["endpoint_health_pkey", "endpoints_by_route", "endpoints_pkey"],
    ),
    (
        "filter_events",
        include_str!("../../sql/queries/filter_events.sql"),
        "'{1,2}', '{2026-01-01,2026-01-01}', '{1,2}'",
        &["endpoints_pkey"],
    ),
    (
        "write_step",
        include_str!("../../sql/queries/write_step.sql"),
        "1, 1, 0, '9:9:', '9:9:', null, null, 1, 1, 0, '9:9:', null, \
         '{1}', '{1}', '{now}', 1, 1, '{1}', '{1}', '{now}', '{null}'",
        &["endpoint_changes_pkey", "routing_pkey"],
    ),
    (
        "read_ahead",
        include_str!("../../sql/queries/read_ahead.sql"),
        "20000, now() - interval '1 day', null, null, null, null, null, 100, 1000, 1000000, null",
        &["endpoints_pkey", "routing_pkey"],
    ),
    (
        "write_ahead",
        include_str!("../../sql/queries/write_ahead.sql"),
        "1, 1, 0, '{1}', '{9}', 1, 0, '9:9:', null, \
         '{1}', '{1}', '{now}', 1, 1, '{1}', '{1}', '{now}', '{null}'",
        &["endpoint_changes_pkey", "routing_pkey"],
    ),
];

#[tokio::test]
async fn a_step_reads_nothing_but_what_it_routes() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    client.batch_execute(&format!("{SESSION} {ROUTER_PLANS}")).await.unwrap();
    for (name, text, _, _) in STEPS {
        client.batch_execute(&format!("prepare {name} as {text}")).await.unwrap();
    }
    let much = "insert into posthaste.endpoints (url, subscriptions) \
                select 'https://example.com/', array['type' || n] from generate_series(1, 2000) n; \
                insert into posthaste.endpoint_health (endpoint_id) select id from posthaste.endpoints; \
                insert into posthaste.endpoint_changes \
                select n::text::xid8 from generate_series(3, 600) n; \
                insert into posthaste.outbox (event_type, payload) \
                select 'order.paid', '{}' from generate_series(1, 20000)";
    for statistics in ["select", much, "analyze"] {
        client.batch_execute(statistics).await.unwrap();
        for (name, _, arguments, expected) in STEPS {
            let (found, indexes) = planned(&client, name, arguments).await;
            let told = format!("{name} after {statistics}: {found:?} {indexes:?}");
            for (node, table) in &found {
                assert!(node != "Seq Scan" || table.is_empty(), "{told}");
                assert!(node != "Sort" || name != "write_step", "{told}");
            }
            let ridden = indexes.iter().map(String::as_str);
            let ridden: Vec<_> = ridden.filter(|index| !index.starts_with("outbox")).collect();
            assert_eq!(ridden, expected, "{told}");
            // A day that is empty and analyzed may be read by either of its indexes.
            let suffix = if ["read_events", "set_aside_event"].contains(&name) {
                "_xid_id_idx"
            } else {
                "_pkey"
            };
            let mut days = indexes.iter().filter(|index| index.starts_with("outbox")).peekable();
            let is_read = days.peek().is_some();
            assert!(!is_read || days.any(|index| index.ends_with(suffix)), "{told}");
        }
    }
}
