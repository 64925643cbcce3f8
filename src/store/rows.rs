//! Columns that several statements return alike, and the values they become.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use super::StoreError;
use crate::model::delivery::Delivery;
use crate::model::endpoint::EndpointId;

/// An endpoint and an ordering key.
pub type Line = (EndpointId, String);

/// A claimed delivery, and whether it is to be sent at all.
#[derive(Debug)]
pub struct Claimed {
    pub delivery: Delivery,
    /// Why it is to be cancelled instead of sent.
    pub cancelled: Option<String>,
}

/// Reads the columns that routing and claiming have in common.
///
/// `now` is the relay's. The database tells the age of an event; `due_at` is `now` less that age,
/// so that a wrong clock of the relay cancels out.
///
/// # Errors
/// When a column holds something that cannot be read.
pub(super) fn delivery(
    row: &Row,
    claim_token: i64,
    attempt_count: u32,
    now: Timestamp,
) -> Result<Delivery, StoreError> {
    let event_id = row.get("event_id");
    let read = || {
        let age = Duration::try_from_secs_f64(row.try_get::<_, f64>("age_ms")? / 1000.0);
        let payload = row.try_get::<_, Option<JsonText>>("payload")?;
        let headers = row.try_get::<_, Option<serde_json::Value>>("headers")?;
        Ok(Delivery {
            event_id,
            endpoint_id: row.try_get("endpoint_id")?,
            claim_token,
            batch: None,
            attempt_count,
            endpoint_revision: row.try_get("revision")?,
            event_type: row.try_get::<_, Option<String>>("event_type")?.unwrap_or_default(),
            event_created_at: row.try_get("created_at")?,
            ordering_key: row.try_get("ordering_key")?,
            payload: payload.map(|payload| payload.0).unwrap_or_default(),
            headers: headers.map(|headers| texts(&headers)).unwrap_or_default(),
            is_suspect: false,
            due_at: now.saturating_sub(age.unwrap_or_default()).unwrap_or(Timestamp::MIN),
        })
    };
    read().map_err(StoreError::unreadable("event", event_id))
}

/// Lines that routing has joined.
pub(super) fn lines(row: &Row) -> Vec<Line> {
    let endpoints: Option<Vec<i64>> = row.get("line_endpoints");
    let keys: Option<Vec<String>> = row.get("line_keys");
    endpoints.unwrap_or_default().into_iter().zip(keys.unwrap_or_default()).collect()
}

/// Zero for a negative number.
pub(super) fn millis(millis: f64) -> Duration {
    Duration::try_from_secs_f64(millis.max(0.0) / 1000.0).unwrap_or(Duration::MAX)
}

/// The pairs of a JSON object of texts.
pub(super) fn texts(object: &serde_json::Value) -> Vec<(String, String)> {
    object
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// `json` in binary form is the text itself.
pub(super) struct JsonText(pub(super) Bytes);

impl<'a> FromSql<'a> for JsonText {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(Bytes::copy_from_slice(raw)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSON
    }
}
