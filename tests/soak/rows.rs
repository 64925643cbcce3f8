//! The soak's questions to the database.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use posthaste::model::webhook_id::WebhookIds;

use super::endpoints::Spec;
use super::faults::Session;
use super::ledger::Ledger;

const NO_PARAMETERS: [&(dyn ToSql + Sync); 0] = [];

/// Adds an endpoint; its number and secret.
pub async fn add_endpoint(client: &Client, spec: &Spec, address: SocketAddr) -> (i64, String) {
    let statement = "select endpoint_id, secret from posthaste.add_endpoint($1, array[$2], \
         tenant => $3, filter => $4::text::jsonpath, body_format => $5, \
         timeout => $6 * interval '1 s', max_attempts => $7, schedule => $8::text::interval[], \
         max_concurrency => $9, rate_limit => $10, ordered => $11, description => $12)";
    // Short, so that what failed to the end drains soon.
    let schedule = if spec.is_dead() { "{1 s}" } else { "{1 s,1 s,2 s}" };
    let parameters: [&(dyn ToSql + Sync); 12] = [
        &format!("http://{address}/{}", spec.name.replace(' ', "-")),
        &spec.subscription,
        &spec.tenant,
        &spec.filter.map(|filter| filter.path),
        &(if spec.raw { "raw" } else { "standard" }),
        &spec.timeout().as_secs_f64(),
        &spec.max_attempts(),
        &schedule,
        &spec.max_concurrency,
        &spec.rate_limit,
        &spec.ordered,
        &spec.name,
    ];
    let row = client.query_one(statement, &parameters).await.expect("add an endpoint");
    (row.get(0), row.get(1))
}

/// How much is still to be routed, or owed to others than these. None: the server is away.
pub async fn left(url: &str, dead: &[i64]) -> Option<i64> {
    let session = Session::open(url).await?;
    let statement = "select (select count(*) from posthaste.unrouted_events) \
         + (select count(*) from posthaste.live_deliveries where endpoint_id <> all($1))";
    Some(session.client.query_one(statement, &[&dead]).await.ok()?.get(0))
}

/// Waits until no relay is registered but one: it has reaped the others. False: it took too long.
pub async fn reaped(url: &str, patience: Duration) -> bool {
    const LOOK_EVERY: Duration = Duration::from_millis(100);
    let session = Session::open(url).await.expect("connect");
    let alone = "select count(*) = 1 from posthaste.relays";
    let looking = async {
        while !session
            .client
            .query_one(alone, &[])
            .await
            .expect("count the relays")
            .get::<_, bool>(0)
        {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(patience, looking).await.is_ok()
}

/// Deliveries that are left and why that may be, for a person.
pub async fn stuck(url: &str, dead: &[i64]) -> Vec<String> {
    let Some(session) = Session::open(url).await else { return Vec::new() };
    let statement = "select 'endpoint ' || endpoint_id || ' ' || to_json(stuck)::text from ( \
           select d.endpoint_id, e.description, e.enabled, h.state, h.paused_until, claimed_by, \
                  in_line, blocked_at is not null as blocked, count(*), \
                  count(distinct d.ordering_key) as keys, min(next_attempt_at) as due, \
                  clock_timestamp() as now, min(event_id) as first_event \
             from posthaste.live_deliveries d \
             left join posthaste.endpoints e on e.id = d.endpoint_id \
             left join posthaste.endpoint_health h on h.endpoint_id = d.endpoint_id \
            where d.endpoint_id <> all($1) \
            group by 1, 2, 3, 4, 5, 6, 7, 8) stuck \
         union all select 'relay ' || to_json(r)::text from posthaste.relays r \
         union all select 'not routed: ' || count(*) from posthaste.unrouted_events";
    let rows = session.client.query(statement, &[&dead]).await.unwrap_or_default();
    rows.iter().map(|row| row.get(0)).collect()
}

/// An attempt, as far as it is counted.
#[derive(Debug)]
pub struct Attempt {
    pub event_id: i64,
    pub endpoint_id: i64,
    pub outcome: String,
    pub verdict: String,
    /// Its request may have gone out a second time.
    pub is_sent_twice: bool,
    /// It ended the delivery, with which three relays in a row had ended.
    pub is_set_aside: bool,
}

/// Hands over every attempt there is.
pub async fn each_attempt(client: &Client, mut take: impl FnMut(&Attempt)) {
    let statement = "select event_id, endpoint_id, outcome, verdict, \
           coalesce(reason like 'sent twice%', false), \
           coalesce(reason like 'set aside: three relays%', false) from posthaste.delivery_attempts";
    each(client, statement, |row| {
        let (event_id, endpoint_id) = (row.get(0), row.get(1));
        let (outcome, verdict) = (row.get(2), row.get(3));
        let (is_sent_twice, is_set_aside) = (row.get(4), row.get(5));
        take(&Attempt { event_id, endpoint_id, outcome, verdict, is_sent_twice, is_set_aside });
    })
    .await;
}

/// Hands over event and endpoint of every delivery that is owed.
pub async fn each_delivery(client: &Client, mut take: impl FnMut(i64, i64)) {
    let statement = "select event_id, endpoint_id from posthaste.live_deliveries";
    each(client, statement, |row| take(row.get(0), row.get(1))).await;
}

async fn each(client: &Client, statement: &str, mut take: impl FnMut(&Row)) {
    let rows = client.query_raw(statement, NO_PARAMETERS).await.expect("read a table");
    let mut rows = pin!(rows);
    while let Some(row) = rows.try_next().await.expect("read a table") {
        take(&row);
    }
}

/// A delivery's history, its last attempts first, for a person.
pub async fn evidence(client: &Client, event_id: i64, endpoint_id: i64) -> String {
    let statement = "(select to_json(a)::text from posthaste.delivery_attempts a \
           where event_id = $1 and endpoint_id = $2 order by started_at desc limit 6) \
         union all select to_json(d)::text from posthaste.live_deliveries d \
           where event_id = $1 and endpoint_id = $2 \
         union all select 'outbox: xid ' || xid || ', created ' || created_at \
           from posthaste.outbox where id = $1";
    let rows = client.query(statement, &[&event_id, &endpoint_id]).await.expect("read evidence");
    rows.iter().map(|row| format!("\n      {}", row.get::<_, String>(0))).collect()
}

/// The whole run, as the tables have it.
#[derive(Debug)]
pub struct Totals {
    pub events: i64,
    /// Attempts that say that a relay died while it may have been sending, and of how many relays.
    pub released: i64,
    pub takeovers: i64,
    /// Attempts that an orderly stop interrupted.
    pub interrupted_by_stops: i64,
}

pub async fn totals(client: &Client) -> Totals {
    let statement = "select (select count(*) from posthaste.outbox), \
         count(*) filter (where died), count(distinct relay_id) filter (where died), \
         count(*) filter (where not died) \
         from (select relay_id, reason like 'relay % died%' as died from posthaste.delivery_attempts \
                where outcome = 'interrupted') interrupted";
    let row = client.query_one(statement, &[]).await.expect("count");
    Totals {
        events: row.get(0),
        released: row.get(1),
        takeovers: row.get(2),
        interrupted_by_stops: row.get(3),
    }
}

/// Asks the database what it finds wrong itself, once every relay has stopped.
pub async fn check_consistency(client: &Client, ledger: &Ledger) {
    let statement = "select concat_ws(' ', problem, event_id, endpoint_id, detail) \
         from posthaste.check_consistency(patience => '1 second') \
         union all select 'claimed by relay ' || claimed_by || ': ' || event_id || ' ' || endpoint_id \
           from posthaste.live_deliveries where claimed_by is not null \
         union all select 'set aside, though fewer than three relays ended with it: ' || event_id || ' ' || endpoint_id \
           from posthaste.attempts group by event_id, endpoint_id \
          having bool_or(reason like 'set aside: three relays%') \
             and count(distinct relay_id) filter (where outcome = 'interrupted') < 3 \
         union all select 'relay ' || id || ' is still registered' from posthaste.relays \
         union all select 'event ' || event_id || ' is not routed' from posthaste.unrouted_events";
    for row in client.query(statement, &[]).await.expect("check the consistency") {
        ledger.complain("the database is not consistent", || row.get(0));
    }
}

/// Sizes on the disk, in bytes.
pub async fn sizes(client: &Client, wal: &Path) -> Vec<(&'static str, u64)> {
    let statement = "select (pg_total_relation_size($1::text::regclass) \
           + coalesce(sum(pg_total_relation_size(inhrelid)), 0))::bigint \
         from pg_inherits where inhparent = $1::text::regclass";
    let mut sizes = Vec::new();
    for (name, table) in [
        ("outbox", "posthaste.outbox"),
        ("attempts", "posthaste.attempts"),
        ("deliveries", "posthaste.deliveries"),
    ] {
        let size: i64 =
            client.query_one(statement, &[&table]).await.expect("ask for a size").get(0);
        sizes.push((name, u64::try_from(size).unwrap_or(0)));
    }
    let written = "select (pg_current_wal_lsn() - '0/0')::bigint";
    let written: i64 = client.query_one(written, &[]).await.expect("ask for the log").get(0);
    sizes.push(("WAL written", u64::try_from(written).unwrap_or(0)));
    let files = std::fs::read_dir(wal).into_iter().flatten().flatten();
    let kept = files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum();
    sizes.push(("WAL kept", kept));
    sizes
}

/// A relay's log holds no panic and nothing that a person must see.
pub fn check_log(ledger: &Ledger, log: &Path) {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    for line in text.lines() {
        if line.contains("panicked") || line.contains("\"ERROR\"") {
            ledger.complain("a relay logged an error", || format!("{}: {line}", log.display()));
        }
    }
}

/// The database's way to make them.
pub async fn webhook_ids(client: &Client) -> WebhookIds {
    let row = client.query_one("select key from posthaste.webhook_id_key", &[]).await;
    let key: Vec<u8> = row.expect("it has a key").get(0);
    WebhookIds::new(key.try_into().expect("the key's length"))
}
