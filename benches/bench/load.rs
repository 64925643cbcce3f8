//! The application's load: events with a payload of about 500 bytes.

use anyhow::Result;
use tokio_postgres::Client;

/// Length of the payload's text, in bytes, give or take the digits of its number.
pub(crate) const PAYLOAD: usize = 500;

/// Writes a backlog, each event in a transaction of its own, without waiting for the disk and
/// without ringing: it is to be there, and how it got there is not measured.
pub(crate) async fn backlog(client: &Client, events: usize) -> Result<()> {
    let payload = PAYLOAD - r#"{"order": 10000, "note": ""}"#.len();
    let write = format!(
        "set synchronous_commit = off; set session_replication_role = replica;
         do $$ begin
           for n in 1..{events} loop
             insert into posthaste.outbox (event_type, payload)
             values ('order.paid', json_build_object('order', n, 'note', repeat('x', {payload})));
             commit;
           end loop;
         end $$;
         reset session_replication_role; reset synchronous_commit"
    );
    // One statement at a time: a DO block that commits may not stand in a transaction.
    for statement in write.split_inclusive("end $$;").flat_map(apart) {
        client.batch_execute(statement).await?;
    }
    Ok(())
}

/// Has these endpoints be owed so many deliveries that are due, as routing leaves what there is no
/// room for: events, deliveries that are not claimed, and a cursor that has passed them. No
/// relay may be there meanwhile.
pub(crate) async fn owed(client: &Client, endpoints: &[i64], deliveries: i64) -> Result<()> {
    let fill = "with event as (
          insert into posthaste.outbox (event_type, payload, endpoint_id)
          select 'order.paid', json_build_object('order', n), ($1::bigint[])[(1 + n % cardinality($1))::int]
          from generate_series(1, $2::bigint) n
          returning id, endpoint_id, created_at
        )
        insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at)
        select id, endpoint_id, created_at, created_at from event";
    client.execute(fill, &[&endpoints, &deliveries]).await?;
    let pass = "insert into posthaste.routing
          (number, since, until, floor_at, mark_xid, mark_at, events, deliveries, unmatched,
           system_identifier, database_oid)
        select number + 1, until, pg_current_snapshot(), floor_at, mark_xid, mark_at, $1::bigint::int, $1::bigint::int, 0,
               system_identifier, database_oid
        from posthaste.routing order by number desc limit 1";
    client.execute(pass, &[&deliveries]).await?;
    Ok(())
}

/// Settings one by one; the block as a whole.
fn apart(text: &str) -> Vec<&str> {
    match text.find("do $$") {
        Some(at) => text[..at].split_inclusive(';').chain([&text[at..]]).collect(),
        None => text.split_inclusive(';').collect(),
    }
}

/// A payload as [`backlog`] writes it.
pub(crate) fn payload() -> String {
    let note = "x".repeat(PAYLOAD - r#"{"order": 10000, "note": ""}"#.len());
    format!(r#"{{"order": 10000, "note": "{note}"}}"#)
}

/// The body of such an event as a receiver gets it, for clients that post without a database.
pub(crate) fn body() -> String {
    let payload = payload();
    format!(r#"{{"type":"order.paid","timestamp":"2026-01-01T00:00:00.000000Z","data":{payload}}}"#)
}
