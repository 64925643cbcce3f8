//! What the application writes: events with a payload of about 500 bytes.

use anyhow::Result;
use tokio_postgres::Client;

/// Length of the payload's text, in bytes, give or take the digits of its number.
pub(crate) const PAYLOAD: usize = 500;

/// Writes a backlog, each event in a transaction of its own, without waiting for the disk and without
/// ringing: it is to be there, and how it got there is not measured.
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

/// What a receiver is sent for such an event, for those who post without a database.
pub(crate) fn body() -> String {
    let payload = payload();
    format!(r#"{{"type":"order.paid","timestamp":"2026-01-01T00:00:00.000000Z","data":{payload}}}"#)
}
