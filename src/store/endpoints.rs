//! Endpoints as the relay needs them: settings, secrets, health.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::routing::texts;
use super::{Store, StoreError};
use crate::model::endpoint::{BodyFormat, Endpoint, EndpointId, OnDeadHead, Secret};
use crate::model::health::{Fault, Health, Left, State, Trouble};

const ENDPOINTS: &str = include_str!("../../sql/queries/endpoints.sql");
const STRIKE: &str = include_str!("../../sql/queries/strike.sql");

/// An endpoint with what the database knows of its health.
#[derive(Debug)]
pub struct Known {
    pub endpoint: Endpoint,
    pub health: Health,
    /// Its secrets are to be read again after this: one of them expires.
    pub secrets_until: Option<Timestamp>,
}

/// Reads these endpoints; those that are gone are missing from the answer.
///
/// # Errors
/// When the statement fails.
pub async fn endpoints(store: &Store, ids: &[EndpointId]) -> Result<Vec<Known>, StoreError> {
    let rows = store.queue.query(ENDPOINTS, "read endpoints", &[&ids, &store.now()]).await?;
    Ok(rows.iter().map(known).collect())
}

fn known(row: &Row) -> Known {
    Known {
        endpoint: Endpoint {
            id: row.get("id"),
            revision: row.get("revision"),
            url: row.get("url"),
            body_format: match row.get("body_format") {
                "event_payload" => BodyFormat::EventPayload,
                "raw" => BodyFormat::Raw,
                "cloudevents" => BodyFormat::CloudEvents,
                _ => BodyFormat::Standard,
            },
            headers: texts(&row.get("headers")),
            secrets: row.get::<_, Vec<String>>("secrets").into_iter().map(Secret::new).collect(),
            timeout: row.get::<_, Option<f64>>("timeout_ms").map(from_millis),
            max_attempts: positive(row.get("max_attempts")),
            schedule: row
                .get::<_, Option<Vec<f64>>>("schedule_ms")
                .map(|delays| delays.into_iter().map(from_millis).collect()),
            max_concurrency: positive(row.get("max_concurrency")),
            rate_limit: row.get("rate_limit"),
            on_dead_head: match row.get("on_dead_head") {
                "skip" => OnDeadHead::Skip,
                _ => OnDeadHead::Block,
            },
        },
        health: Health::restore(Left {
            state: match (row.get("state"), row.get("paused_until")) {
                (Some("probing"), _) => State::Probing,
                (_, Some(until)) => State::Paused { until },
                (_, None) => State::Flowing,
            },
            consecutive_failures: positive(row.get("consecutive_failures")).unwrap_or(0),
            failing_since: row.get("failing_since"),
            consecutive_rejections: positive(row.get("consecutive_rejections")).unwrap_or(0),
            pauses: positive(row.get("pauses")).unwrap_or(0),
            trouble: row.get::<_, Option<&str>>("trouble").and_then(Fault::parse).map(|fault| {
                let reason = row.get::<_, Option<String>>("reason").unwrap_or_default();
                Trouble { fault, reason }
            }),
        }),
        secrets_until: row.get("secrets_until"),
    }
}

fn positive(number: Option<i32>) -> Option<u32> {
    number.and_then(|number| u32::try_from(number).ok())
}

fn from_millis(millis: f64) -> Duration {
    Duration::try_from_secs_f64(millis / 1000.0).unwrap_or(Duration::ZERO)
}

/// Disables (and holds what is pending) or deletes (and cancels it) an endpoint, as a rule says.
/// Returns whether that changed anything.
///
/// # Errors
/// When the statement fails.
pub async fn strike(
    store: &Store,
    endpoint: EndpointId,
    delete: bool,
    reason: &str,
) -> Result<bool, StoreError> {
    let doing = "disable or delete an endpoint";
    let row = store.queue.query_one(STRIKE, doing, &[&endpoint, &delete, &reason]).await?;
    Ok(row.get(0))
}
