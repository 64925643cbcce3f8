//! A result leaves the same row by whichever statement it is recorded: alone by the small one,
//! among others, or of a delivery that was claimed in a batch, which mostly has one of its own.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use posthaste::clock::Clock;
use posthaste::model::delivery::BatchPlace;
use posthaste::model::outcome::{Answer, Cause, Outcome, Phase, Phases, Refusal};
use posthaste::model::verdict::{Decision, Verdict};
use posthaste::store::attempts::{Attempt, Commit, record};
use posthaste::store::{Database, Store};
use serde_json::Value;
use tokio_postgres::Client;

use crate::support::{PATIENCE, TestDatabase, value};

const RELAY: i32 = 3;
const TOKEN: i64 = 7;

fn delivered(outcome: Outcome, reason: Option<&str>) -> (Phases, Outcome, Verdict) {
    let verdict =
        Verdict { decision: Decision::Delivered, effect: None, reason: reason.map(str::to_owned) };
    let phases = Phases { headers: Some(Duration::from_micros(1234)), ..Phases::default() };
    (phases, outcome, verdict)
}

fn answered(headers: &[(&str, &str)], body: &str, detail: Option<&str>) -> Outcome {
    Outcome::Answered(Answer {
        status: 201,
        headers: headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        body: body.as_bytes().to_vec(),
        body_truncated: body.len() > 3,
        detail: detail.map(str::to_owned),
    })
}

/// What may come of an attempt whose delivery has ended as it should.
fn results() -> Vec<(Phases, Outcome, Verdict)> {
    let detail = || "no\0 route".to_owned();
    let every = Some(Duration::from_millis(2));
    let phases = Phases { resolve: every, connect: every, tls: every, headers: every, body: every };
    let short = Phases { body: Some(Duration::from_micros(20)), ..Phases::default() };
    let plain = || delivered(answered(&[], "", None), None);
    vec![
        plain(),
        (phases, plain().1, plain().2),
        (short, plain().1, plain().2),
        delivered(answered(&[("x-a", "1"), ("x-a", "\0")], "", None), None),
        delivered(answered(&[], "long\0", None), None),
        delivered(answered(&[("date", "today")], "ok", Some("odd\0")), Some("sent twice\0")),
        delivered(Outcome::TimedOut { phase: Phase::Headers }, Some("rule")),
        delivered(Outcome::Unreachable { cause: Cause::Reset, detail: detail() }, Some("rule")),
        delivered(Outcome::Refused { why: Refusal::Fault, detail: detail() }, Some("rule")),
        delivered(Outcome::Interrupted, Some("rule")),
    ]
}

fn attempt(
    event_id: i64,
    began: Instant,
    (phases, outcome, verdict): (Phases, Outcome, Verdict),
) -> Attempt {
    Attempt {
        event_id,
        endpoint_id: 1,
        claim_token: TOKEN,
        batch: None,
        event_created_at: Timestamp::from_second(1_767_225_600).unwrap(), // 2026
        number: 1,
        began,
        took: Duration::from_micros(4321),
        phases,
        outcome: Some(outcome),
        verdict,
        is_of_a_line: false,
        blocks: false,
    }
}

async fn owe(client: &Client, event: i64) {
    let owe = format!(
        "insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at, \
                                           claimed_by, claim_token) \
         values ({event}, 1, '2026-01-01Z', now(), {RELAY}, {TOKEN})"
    );
    client.batch_execute(&owe).await.unwrap();
}

/// The same, claimed by a step of routing.
async fn claim(client: &Client, event: i64) {
    let claim = format!(
        "insert into posthaste.claims (relay_id, token, pending, recorded, due_at, first_event, \
           last_event, event_ids, endpoint_ids, event_created_ats) \
         values ({RELAY}, {TOKEN}, 1, '0', now(), {event}, {event}, '{{{event}}}', '{{1}}', \
           array[timestamptz '2026-01-01Z'])"
    );
    client.batch_execute(&claim).await.unwrap();
}

/// The row of an event's attempt, without what names the event; its beginning to the minute.
async fn row_of(client: &Client, event: i64) -> Value {
    let row = format!(
        "select to_jsonb(a) - '{{event_id,started_at}}'::text[] || jsonb_build_object('began', \
           abs(extract(epoch from now() - started_at) - 3600) < 60) \
         from posthaste.attempts a where event_id = {event}"
    );
    value(client, &row).await
}

#[tokio::test]
async fn a_result_leaves_the_same_row_alone_as_among_others_and_in_a_batch() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let way = Database::parse(&database.url(), None, None, PATIENCE).unwrap();
    let store = Store::open(way, 1, PATIENCE).unwrap();
    let began = Clock.instant();
    let now = began + Duration::from_secs(3600);
    for (n, result) in results().into_iter().enumerate() {
        let first = 4 * i64::try_from(n).unwrap() + 1;
        for event in first..first + 3 {
            owe(&client, event).await;
        }
        claim(&client, first + 3).await;
        let [alone, among, other] =
            [first, first + 1, first + 2].map(|event| attempt(event, began, result.clone()));
        // Of another relay, and of another claim.
        let lost = Attempt { claim_token: TOKEN + 1, ..alone.clone() };
        assert!(
            !record(&store, RELAY + 1, &[&alone], now, Commit::Waits).await.unwrap().has(&alone)
        );
        assert!(!record(&store, RELAY, &[&lost], now, Commit::Waits).await.unwrap().has(&lost));

        let held = record(&store, RELAY, &[&alone], now, Commit::Waits).await.unwrap();
        assert!(held.has(&alone) && held.next_due_in(&alone).is_none());
        let held = record(&store, RELAY, &[&among, &other], now, Commit::Waits).await.unwrap();
        assert!(held.has(&among) && held.has(&other) && !held.has(&lost));
        let place = Some(BatchPlace { at: 0, of: 1 });
        let claimed = Attempt { event_id: first + 3, batch: place, ..alone.clone() };
        assert!(
            record(&store, RELAY, &[&claimed], now, Commit::Waits).await.unwrap().has(&claimed)
        );
        let row = row_of(&client, first).await;
        assert_eq!(row["began"], true, "{row}");
        assert_eq!(row, row_of(&client, first + 1).await, "{result:?}");
        assert_eq!(row, row_of(&client, first + 3).await, "{result:?}");
    }
    let left = "select count(*) from posthaste.live_deliveries";
    assert_eq!(value::<i64>(&client, left).await, 0);
    let rows = "select count(*) from posthaste.attempts";
    assert_eq!(value::<i64>(&client, rows).await, 40);
}
