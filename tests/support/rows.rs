//! Rows that a test writes into its database and reads out of it: builders that name only what
//! matters, and waits for what a relay will have written.

use std::collections::BTreeSet;

use jiff::Timestamp;
use tokio_postgres::Client;
use tokio_postgres::types::FromSqlOwned;

use super::until;

/// A row in the making. Every value is text and becomes whatever its column is.
#[derive(Debug)]
#[must_use = "it is not there before it is added"]
pub struct NewRow {
    table: &'static str,
    values: Vec<(&'static str, String)>,
}

/// A row of `posthaste.delivery_attempts`.
#[derive(Debug)]
pub struct Attempt {
    pub endpoint_id: i64,
    pub webhook_id: String,
    pub number: i32,
    pub started_at: Timestamp,
    pub outcome: String,
    pub cause: Option<String>,
    pub detail: Option<String>,
    pub status: Option<i32>,
    pub verdict: String,
    pub reason: Option<String>,
    pub next_attempt_at: Option<Timestamp>,
    pub response_headers: serde_json::Value,
    pub response_body: Option<String>,
    pub body_truncated: bool,
    pub relay_id: i32,
}

/// An endpoint at this URL, subscribed to everything.
pub fn endpoint(url: &str) -> NewRow {
    NewRow { table: "endpoints", values: vec![("url", url.to_owned())] }
}

/// An event of this type, with a payload of no interest.
pub fn event(event_type: &str) -> NewRow {
    let values = vec![("event_type", event_type.to_owned()), ("payload", "{}".to_owned())];
    NewRow { table: "outbox", values }
}

impl NewRow {
    /// A row of another table of ours.
    pub fn into(table: &'static str) -> Self {
        Self { table, values: Vec::new() }
    }

    /// Another column, or another value for it.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "literals read better than references to them"
    )]
    pub fn with(mut self, column: &'static str, value: impl ToString) -> Self {
        self.values.retain(|(name, _)| *name != column);
        self.values.push((column, value.to_string()));
        self
    }

    /// The statement, for transactions that do more; it returns the id.
    pub fn sql(&self) -> String {
        let names: Vec<_> = self.values.iter().map(|(name, _)| *name).collect();
        let values: Vec<_> = self
            .values
            .iter()
            .map(|(_, value)| format!("'{}'", value.replace('\'', "''")))
            .collect();
        let (names, values) = (names.join(", "), values.join(", "));
        format!("insert into posthaste.{} ({names}) values ({values}) returning id", self.table)
    }

    /// Inserts it as an application does, and returns its id.
    pub async fn add(&self, client: &Client) -> i64 {
        client.query_one(&self.sql(), &[]).await.expect("insert the row").get(0)
    }

    /// The name of the constraint that refuses it.
    pub async fn refused_by(&self, client: &Client) -> String {
        let refused = client.query(&self.sql(), &[]).await.expect_err("nothing refuses this row");
        let refused = refused.as_db_error().expect("the server refuses it");
        refused.constraint().map_or_else(|| refused.code().code().to_owned(), str::to_owned)
    }
}

/// The only value of the only row.
pub async fn value<T: FromSqlOwned>(client: &Client, statement: &str) -> T {
    client.query_one(statement, &[]).await.expect("ask for a value").get(0)
}

/// The ids of all events, as receivers see them.
pub async fn webhook_ids(client: &Client) -> BTreeSet<String> {
    let statement = "select posthaste.webhook_id(id, created_at) from posthaste.outbox";
    let rows = client.query(statement, &[]).await.expect("read the outbox");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Every attempt of an event's deliveries so far, oldest first.
pub async fn attempts(client: &Client, event: i64) -> Vec<Attempt> {
    let statement = "select *, coalesce(response_headers, '{}') as heads \
         from posthaste.delivery_attempts where event_id = $1 order by started_at, number";
    let rows = client.query(statement, &[&event]).await.expect("read the attempts");
    let attempt = |row: &tokio_postgres::Row| Attempt {
        endpoint_id: row.get("endpoint_id"),
        webhook_id: row.get("webhook_id"),
        number: row.get("number"),
        started_at: row.get("started_at"),
        outcome: row.get("outcome"),
        cause: row.get("cause"),
        detail: row.get("detail"),
        status: row.get("status"),
        verdict: row.get("verdict"),
        reason: row.get("reason"),
        next_attempt_at: row.get("next_attempt_at"),
        response_headers: row.get("heads"),
        response_body: row.get("response_body"),
        body_truncated: row.get::<_, Option<bool>>("body_truncated").unwrap_or(false),
        relay_id: row.get("relay_id"),
    };
    rows.iter().map(attempt).collect()
}

/// Waits until an event has so many attempts, and returns them.
#[track_caller]
pub fn attempted(
    client: &Client,
    event: i64,
    times: usize,
) -> impl Future<Output = Vec<Attempt>> + '_ {
    until("the event's attempts", move || async move {
        let attempts = attempts(client, event).await;
        (attempts.len() >= times).then_some(attempts)
    })
}

/// Waits until every event is routed and no delivery is owed any more.
#[track_caller]
pub fn settled(client: &Client) -> impl Future<Output = ()> + '_ {
    let statement = "select not exists (select from posthaste.unrouted_events) \
                 and not exists (select from posthaste.live_deliveries)";
    until("all deliveries to end", move || async move {
        value::<bool>(client, statement).await.then_some(())
    })
}

/// Every row that says that the promise of an end for each delivery is broken.
pub async fn inconsistencies(client: &Client) -> Vec<String> {
    let statement = "select concat_ws(' ', problem, event_id, endpoint_id, detail) \
                     from posthaste.check_consistency(patience => '10 minutes')";
    let rows = client.query(statement, &[]).await.expect("check the consistency");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Makes what waits for its retry due now.
pub async fn make_due(client: &Client) {
    let statement = "update posthaste.deliveries set next_attempt_at = clock_timestamp()";
    client.execute(statement, &[]).await.expect("make deliveries due");
}

/// Waits until a condition, written in SQL, is true; of a table, `condition from table where …`.
#[track_caller]
pub fn holds<'a>(client: &'a Client, condition: &'a str) -> impl Future<Output = ()> + 'a {
    until(condition, move || async move {
        let row = client.query_opt(&format!("select {condition}"), &[]).await;
        let holds = row.expect("ask whether it holds").is_some_and(|row| row.get(0));
        holds.then_some(())
    })
}

/// Waits until a statement of the relay's, by the name in its first line, waits for a lock.
pub async fn waits_for_a_lock(client: &Client, statement: &str) {
    let waits = format!(
        "exists (select from pg_stat_activity where datname = current_database() \
                 and wait_event_type = 'Lock' and query like '-- {statement}:%')"
    );
    holds(client, &waits).await;
}

/// That a row of `pg_stat_activity` is the session which hears the bell, by its last statement.
pub const HEARS_THE_BELL: &str =
    "query in ('listen posthaste', 'select pg_current_xact_id()::text::bigint')";

/// Holds up the next routing statement while it runs: it writes the row that this has written, and
/// waits to see whether that is taken back.
pub const HOLD_ROUTING: &str = "begin; insert into posthaste.routing \
     (number, since, until, floor_at, mark_xid, mark_at, events, deliveries, unmatched, \
      system_identifier, database_oid) \
     select number + 1, since, until, floor_at, mark_xid, mark_at, 0, 0, 0, system_identifier, \
            database_oid from posthaste.routing order by number desc limit 1";

/// Lets rows in that a CHECK on this column refuses.
pub async fn unchecked(client: &Client, table: &str, column: &str) {
    let drop = format!(
        "do $$ declare c name; begin \
           for c in select conname from pg_constraint where contype = 'c' \
                      and conrelid = 'posthaste.{table}'::regclass \
                      and pg_get_constraintdef(oid) ~ '\\m{column}\\M' loop \
             execute format('alter table posthaste.{table} drop constraint %I', c); \
           end loop; end $$"
    );
    client.batch_execute(&drop).await.unwrap();
}
