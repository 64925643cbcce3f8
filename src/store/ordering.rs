//! Lines: the deliveries of one ordering key to an ordered endpoint, one of which at a time has its
//! turn.

use std::time::Duration;

use super::rows::millis;
use super::{Store, StoreError};
use crate::model::endpoint::EndpointId;

pub use super::rows::Line;

const GIVE_TURNS: &str = include_str!("../../sql/queries/give_turns.sql");
const LINES: &str = include_str!("../../sql/queries/lines.sql");

/// Gives the next in these lines its turn where nobody has it. Returns the endpoints that may have
/// something due by it, and in how long.
///
/// # Errors
/// When the statement fails; also, and rarely, when another relay gave a turn at the same moment:
/// then the caller tries again.
pub async fn give_turns(
    store: &Store,
    lines: &[Line],
) -> Result<Vec<(EndpointId, Duration)>, StoreError> {
    let (endpoints, keys): (Vec<EndpointId>, Vec<&str>) =
        lines.iter().map(|(endpoint, key)| (*endpoint, key.as_str())).unzip();
    let rows = store
        .queue
        .query(GIVE_TURNS, "give the next in line its turn", &[&endpoints, &keys, &store.now()])
        .await?;
    Ok(rows.iter().map(|row| (row.get("endpoint_id"), millis(row.get("due_in_ms")))).collect())
}

/// The lines with waiting deliveries after this line, at most `most`, by endpoint and key.
///
/// # Errors
/// When the statement fails.
pub async fn lines(store: &Store, after: &Line, most: u32) -> Result<Vec<Line>, StoreError> {
    let most = i32::try_from(most).unwrap_or(i32::MAX);
    let rows = store.queue.query(LINES, "read the lines", &[&after.0, &after.1, &most]).await?;
    Ok(rows.iter().map(|row| (row.get("endpoint_id"), row.get("ordering_key"))).collect())
}
