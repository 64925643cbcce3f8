//! What a statement reads for one endpoint does not grow with the number of the others, whatever
//! the statistics were when it was planned. Which indexes statements ride on is in `plans.rs`.

use posthaste::store::{QUEUE_PLANS, SESSION};
use serde_json::Value;

use crate::support::{TestDatabase, value};

/// Statements that are given many endpoints: `%` stands for their numbers, `%x` for as many x.
const OF_ENDPOINTS: [(&str, &str, &str); 3] = [
    (
        "claim",
        include_str!("../../sql/queries/claim.sql"),
        "1, 1, null, %, %9, 1000000, %999, %null, null, true",
    ),
    ("endpoints", include_str!("../../sql/queries/endpoints.sql"), "%, null"),
    (
        "note_health",
        include_str!("../../sql/queries/note_health.sql"),
        "null, %, %1, %0, %5, %flowing, %0, %null, %0, %null, %0, %null, %null, %64, %5",
    ),
];

#[tokio::test]
async fn what_is_asked_of_an_endpoint_does_not_grow_with_the_others() {
    const MANY: u16 = 1000;
    let list = |one: &str| format!("'{{{}}}'", vec![one; usize::from(MANY)].join(","));
    let numbers = (1..=MANY).map(|id| id.to_string()).collect::<Vec<_>>().join(",");
    for statistics in ["never analyzed", "analyzed when empty"] {
        let database = TestDatabase::new().await;
        let client = database.client().await;
        for table in ["endpoints", "endpoint_health", "endpoint_secrets", "deliveries"] {
            let off = format!("alter table posthaste.{table} set (autovacuum_enabled = off)");
            client.batch_execute(&off).await.unwrap();
            if statistics != "never analyzed" {
                client.batch_execute(&format!("vacuum analyze posthaste.{table}")).await.unwrap();
            }
        }
        client.batch_execute(&format!("{SESSION} {QUEUE_PLANS}")).await.unwrap();
        let some = format!(
            "insert into posthaste.endpoints (url) \
             select 'https://example.com/' from generate_series(1, {MANY})"
        );
        client.batch_execute(&some).await.unwrap();
        let owed = format!(
            "insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at) \
             select n, n, now(), now() from generate_series(1, {MANY}) n"
        );
        client.batch_execute(&owed).await.unwrap();
        for (name, text, arguments) in OF_ENDPOINTS {
            client.batch_execute(&format!("prepare {name} as {text}")).await.unwrap();
            let arguments =
                arguments.split(", ").map(|argument| match argument.strip_prefix('%') {
                    None => argument.to_owned(),
                    Some("") => format!("'{{{numbers}}}'"),
                    Some(one) => list(one),
                });
            let arguments = arguments.collect::<Vec<_>>().join(", ");
            // Twice: where the first inserts, the second updates.
            for _ in 0..2 {
                let explain = format!(
                    "explain (analyze, timing off, format json) execute {name} ({arguments})"
                );
                let plan: Value = value(&client, &explain).await;
                let rows = most_rows(&plan);
                assert!(
                    (1.0..=3.0 * f64::from(MANY)).contains(&rows),
                    "{name}, {statistics}: {rows} {plan}"
                );
            }
        }
    }
}

/// The most rows that one node of a plan gave or passed over, in all its loops.
fn most_rows(plan: &Value) -> f64 {
    let Value::Object(fields) = plan else {
        return plan.as_array().into_iter().flatten().map(most_rows).fold(0.0, f64::max);
    };
    let of = |key: &str| fields.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    let removed = of("Rows Removed by Filter") + of("Rows Removed by Join Filter");
    let rows = (of("Actual Rows") + removed) * of("Actual Loops");
    fields.values().map(most_rows).fold(rows, f64::max)
}
