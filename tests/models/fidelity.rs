//! The transcriptions of the statements do what the statements do: every small state of the tables
//! is put into a real database, each statement is run, and what it leaves is compared.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use posthaste::clock::Clock;
use posthaste::model::delivery::BatchPlace;
use posthaste::model::dispatch::ClaimRequest;
use posthaste::model::outcome::{Answer, Outcome, Phases};
use posthaste::model::verdict::{Decision, Verdict};
use posthaste::store::attempts::{Attempt, Commit, record};
use posthaste::store::deliveries::{ClaimKey, claim, disown, release};
use posthaste::store::relays::reap;
use posthaste::store::upkeep::release_orphans;
use posthaste::store::{Database, Store};
use tokio_postgres::Client;

use super::statements::{Attempted, Batch, Claim, Logged, Registered, Tables};
use crate::support::{PATIENCE, TestDatabase};

/// The relay that makes the statements.
const ME: u8 = 1;
const CLAIMS: [Claim; 3] =
    [Claim { relay: ME, token: 5 }, Claim { relay: ME, token: 6 }, Claim { relay: 2, token: 5 }];

/// One row that is not there, not claimed, or claimed; one batch of two that is not there, or is in
/// part recorded.
fn states() -> Vec<Tables> {
    let rows = [None, Some(None)].into_iter().chain(CLAIMS.map(|one| Some(Some(one))));
    let bits = [[false, false], [true, false], [false, true]];
    let mut states = Vec::new();
    for row in rows {
        let deliveries: BTreeMap<u8, Option<Claim>> =
            row.into_iter().map(|held| (0, held)).collect();
        let mut put = |claims: BTreeMap<Claim, Batch>| {
            let registered = |relay, is_heard| Registered { relay, is_heard, is_locked: true };
            for other in [Some(true), Some(false), None] {
                let others = other.map(|is_heard| registered(2, is_heard));
                let relays = [registered(ME, true)].into_iter().chain(others).collect();
                let (deliveries, claims) = (deliveries.clone(), claims.clone());
                states.push(Tables { relays, deliveries, claims, ..Tables::default() });
            }
        };
        put(BTreeMap::new());
        for claim in CLAIMS {
            for bits in bits {
                put([(claim, vec![(1, bits[0]), (2, bits[1])])].into_iter().collect());
            }
        }
    }
    states
}

#[derive(Debug, Clone)]
enum Statement {
    Claim,
    Record(Vec<Attempted>),
    Release(Vec<Attempted>),
    Disown(Vec<u8>),
    Reap,
    ReleaseOrphans { held: Vec<u8>, newest: u8 },
}

fn statements() -> Vec<Statement> {
    let row = |token, again| Attempted { delivery: 0, token, place: None, again };
    let bit =
        |token, place, again| Attempted { delivery: 1 + place, token, place: Some(place), again };
    let some = [
        vec![row(5, false)],
        vec![row(6, true)],
        vec![bit(5, 0, true)],
        vec![bit(5, 1, false), row(5, false)],
        vec![bit(6, 0, false), bit(6, 1, true), row(5, true)],
    ];
    let mut all = vec![Statement::Claim, Statement::Disown(vec![5]), Statement::Disown(vec![6, 7])];
    all.extend(some.iter().cloned().map(Statement::Record));
    all.extend(some.into_iter().map(Statement::Release));
    all.push(Statement::Reap);
    all.push(Statement::ReleaseOrphans { held: vec![], newest: 6 });
    all.push(Statement::ReleaseOrphans { held: vec![5], newest: 7 });
    all
}

/// What the transcription gives, as a number.
fn transcribed(tables: &mut Tables, statement: &Statement) -> usize {
    match statement {
        Statement::Claim => tables.claim(Claim { relay: ME, token: 9 }, 2).len(),
        Statement::Record(attempts) => tables.record(ME, attempts).len(),
        Statement::Release(claims) => tables.release(ME, claims),
        Statement::Disown(tokens) => tables.disown(ME, tokens),
        Statement::Reap => tables.reap(ME),
        Statement::ReleaseOrphans { held, newest } => tables.release_orphans(ME, held, *newest),
    }
}

struct Ground {
    _database: TestDatabase,
    client: Client,
    store: Store,
}

impl Ground {
    async fn new() -> Self {
        let database = TestDatabase::new().await;
        let client = database.client().await;
        let fill = "insert into posthaste.endpoints (url) values ('https://a.example');
                    insert into posthaste.outbox (event_type, payload) select 'x', '1' from generate_series(1, 3)";
        client.batch_execute(fill).await.unwrap();
        let way = Database::parse(&database.url(), None, None, PATIENCE).unwrap();
        let store = Store::open(way, 1, PATIENCE).unwrap();
        Self { _database: database, client, store }
    }

    /// Delivery n is event n + 1 to the one endpoint.
    async fn put(&self, tables: &Tables) {
        let mut sql = "delete from posthaste.deliveries; delete from posthaste.claims; \
                       delete from posthaste.attempts; delete from posthaste.relays;"
            .to_owned();
        for Registered { relay, is_heard, .. } in &tables.relays {
            let age = if *is_heard { 0 } else { 60 };
            sql += &format!(
                "insert into posthaste.relays (id, name, version, heartbeat_at) \
                 overriding system value \
                 values ({relay}, 'r', '1', now() - interval '{age} s');"
            );
        }
        for (delivery, held) in &tables.deliveries {
            let held = held
                .map_or("null, null".to_owned(), |held| format!("{}, {}", held.relay, held.token));
            sql += &format!(
                "insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, \
                   next_attempt_at, claimed_by, claim_token) \
                 select id, 1, created_at, now(), {held} from posthaste.outbox \
                  where id = {delivery} + 1;"
            );
        }
        for (Claim { relay, token }, batch) in &tables.claims {
            let bits: String =
                batch.iter().map(|(_, is_set)| if *is_set { '1' } else { '0' }).collect();
            sql += &format!(
                "insert into posthaste.claims (relay_id, token, pending, recorded, due_at, \
                   first_event, last_event, event_ids, endpoint_ids, event_created_ats) \
                 select {relay}, {token}, length('{bits}') - bit_count('{bits}'::varbit), \
                   '{bits}', now(), 2, 3, array_agg(id order by id), '{{1,1}}', \
                   array_agg(created_at order by id) from posthaste.outbox where id in (2, 3);"
            );
        }
        self.client.batch_execute(&sql).await.unwrap();
    }

    async fn rows(&self, sql: &str) -> Vec<Vec<i64>> {
        let rows = self.client.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// The tables as they are now.
    async fn taken(&self) -> Tables {
        let small = |number: i64| u8::try_from(number).unwrap();
        let held = |relay: i64, token: i64| Claim { relay: small(relay), token: small(token) };
        let relays = "select array[id, (heartbeat_at > now() - interval '30 s')::int]::bigint[] \
                      from posthaste.relays order by id";
        let relays = self.rows(relays).await.into_iter().map(|row| Registered {
            relay: small(row[0]),
            is_heard: row[1] == 1,
            is_locked: true,
        });
        let deliveries = "select array[event_id - 1, coalesce(claimed_by, 0), coalesce(claim_token, 0)]::bigint[] \
                          from posthaste.deliveries";
        let row = |row: Vec<i64>| (small(row[0]), (row[1] > 0).then(|| held(row[1], row[2])));
        let deliveries = self.rows(deliveries).await.into_iter().map(row);
        let claims = "select array[relay_id, token, get_bit(recorded, 0), get_bit(recorded, 1)]::bigint[] \
                      from posthaste.claims";
        let batch =
            |row: Vec<i64>| (held(row[0], row[1]), vec![(1, row[2] == 1), (2, row[3] == 1)]);
        let claims = self.rows(claims).await.into_iter().map(batch);
        let attempts = "select array[event_id - 1, relay_id, coalesce(outcome = 'interrupted', false)::int]::bigint[] \
                        from posthaste.attempts";
        let logged = |row: Vec<i64>| Logged {
            delivery: small(row[0]),
            relay: small(row[1]),
            interrupted: row[2] == 1,
        };
        Tables {
            relays: relays.collect(),
            deliveries: deliveries.collect(),
            claims: claims.collect(),
            attempts: self.rows(attempts).await.into_iter().map(logged).collect(),
            ..Tables::default()
        }
    }

    /// What the statement itself gives, as a number.
    async fn run(&self, statement: &Statement) -> usize {
        let (store, me) = (&self.store, i32::from(ME));
        let tokens = |tokens: &[u8]| tokens.iter().map(|one| i64::from(*one)).collect::<Vec<_>>();
        let count = |count: u64| usize::try_from(count).unwrap();
        match statement {
            Statement::Claim => {
                let asked = ClaimRequest {
                    endpoints: vec![1],
                    rooms: vec![2],
                    bytes: vec![1_000],
                    tenant_of: vec![None],
                    tenants: Vec::new(),
                };
                claim(store, me, 9, &asked, (1_000, true)).await.unwrap().claimed.len()
            }
            Statement::Record(attempts) => {
                let attempts: Vec<Attempt> = attempts.iter().map(attempt).collect();
                let all: Vec<&Attempt> = attempts.iter().collect();
                let held = record(store, me, &all, Clock.instant(), Commit::Waits).await.unwrap();
                attempts.iter().filter(|one| held.has(one)).count()
            }
            Statement::Release(claims) => {
                let keys: Vec<ClaimKey> = claims.iter().map(key).collect();
                count(release(store, me, &keys).await.unwrap())
            }
            Statement::Disown(of) => count(disown(store, me, &tokens(of)).await.unwrap()),
            Statement::Reap => {
                let reaped = reap(store, me, Duration::from_secs(30)).await.unwrap();
                usize::try_from(reaped.claims).unwrap()
            }
            Statement::ReleaseOrphans { held, newest } => {
                let newest = (*newest).into();
                let released = release_orphans(store, me, &tokens(held), newest).await.unwrap();
                usize::try_from(released).unwrap()
            }
        }
    }
}

fn key(one: &Attempted) -> ClaimKey {
    let batch = one.place.map(|at| BatchPlace { at: at.into(), of: 2 });
    let event_id = i64::from(one.delivery) + 1;
    ClaimKey { event_id, endpoint_id: 1, token: one.token.into(), batch }
}

fn attempt(one: &Attempted) -> Attempt {
    let ClaimKey { event_id, endpoint_id, token, batch } = key(one);
    let answer = Answer {
        status: if one.again { 500 } else { 200 },
        headers: Vec::new(),
        body: Vec::new(),
        body_truncated: false,
        detail: None,
    };
    let again = Decision::Retry { after: Duration::ZERO };
    let decision = if one.again { again } else { Decision::Delivered };
    Attempt {
        event_id,
        endpoint_id,
        claim_token: token,
        batch,
        event_created_at: Timestamp::now(),
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

#[tokio::test]
async fn what_is_written_down_of_the_statements_is_what_they_do() {
    let ground = Ground::new().await;
    let mut compared = 0;
    for before in states() {
        for statement in statements() {
            let sees_relays =
                matches!(statement, Statement::Reap | Statement::ReleaseOrphans { .. });
            // No other statement looks at relays: one state of them is enough.
            if !sees_relays && !before.relays.get(1).is_some_and(|other| other.is_heard) {
                continue;
            }
            let mut expected = before.clone();
            let number = transcribed(&mut expected, &statement);
            ground.put(&before).await;
            let given = ground.run(&statement).await;
            let mut after = ground.taken().await;
            expected.attempts.sort_unstable();
            after.attempts.sort_unstable();
            assert_eq!((after, given), (expected, number), "{statement:?} of {before:?}");
            compared += 1;
        }
    }
    assert_eq!(compared, 50 * 13 + 150 * 3);
}
