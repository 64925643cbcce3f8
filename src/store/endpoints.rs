//! Endpoints as the relay needs them: settings, secrets, health, and what their windows had.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::rows::texts;
use super::{Store, StoreError};
use crate::model::endpoint::{BodyFormat, Endpoint, EndpointId, OnDead};
use crate::model::health::{Health, Left, State, Trouble, TroubleKind};
use crate::model::secret::Secret;
use crate::model::tenant::Tenant;
use crate::model::window::Remembered;

const ENDPOINTS: &str = include_str!("../../sql/queries/endpoints.sql");
const REVISIONS: &str = include_str!("../../sql/queries/revisions.sql");
const APPLY_EFFECT: &str = include_str!("../../sql/queries/apply_effect.sql");

/// The row of an endpoint.
#[derive(Debug)]
pub struct FoundEndpoint {
    pub id: EndpointId,
    pub revision: i64,
    pub enabled: bool,
    /// `Err`: its row holds a value that this relay cannot read.
    pub known: Result<KnownEndpoint, StoreError>,
}

/// An endpoint with what the database knows of its health.
#[derive(Debug)]
pub struct KnownEndpoint {
    pub endpoint: Endpoint,
    pub health: Health,
    /// What relays have learnt of its window, if that can be trusted.
    pub window: Option<Remembered>,
    /// One of its secrets expires then, so they are to be read again.
    pub secrets_until: Option<Timestamp>,
}

/// Reads these endpoints; those that are gone are missing from the answer.
///
/// # Errors
/// When the statement fails.
pub async fn endpoints(
    store: &Store,
    ids: &[EndpointId],
) -> Result<Vec<FoundEndpoint>, StoreError> {
    let rows = store.queue.query(ENDPOINTS, "read endpoints", &[&ids, &store.now()]).await?;
    Ok(rows.iter().map(found).collect())
}

fn found(row: &Row) -> FoundEndpoint {
    let (id, revision) = (row.get("id"), row.get("revision"));
    let known = known(row, id, revision).map_err(StoreError::unreadable("endpoint", id));
    FoundEndpoint { id, revision, enabled: row.get("enabled"), known }
}

fn known(row: &Row, id: EndpointId, revision: i64) -> Result<KnownEndpoint, tokio_postgres::Error> {
    let endpoint = Endpoint {
        id,
        revision,
        tenant: row.try_get::<_, Option<&str>>("tenant")?.map(Tenant::of),
        url: row.try_get("url")?,
        body_format: match row.try_get("body_format")? {
            "event_payload" => BodyFormat::EventPayload,
            "raw" => BodyFormat::Raw,
            "cloudevents" => BodyFormat::CloudEvents,
            _ => BodyFormat::Standard,
        },
        headers: texts(&row.try_get("headers")?),
        secrets: row.try_get::<_, Vec<String>>("secrets")?.into_iter().map(Secret::new).collect(),
        timeout: row.try_get::<_, Option<f64>>("timeout_ms")?.map(from_millis),
        max_attempts: positive(row.try_get("max_attempts")?),
        schedule: row
            .try_get::<_, Option<Vec<f64>>>("schedule_ms")?
            .map(|delays| delays.into_iter().map(from_millis).collect()),
        max_concurrency: positive(row.try_get("max_concurrency")?),
        rate_limit: row.try_get("rate_limit")?,
        on_dead: match row.try_get("on_dead")? {
            "skip" => OnDead::Skip,
            _ => OnDead::Block,
        },
    };
    let trouble = row.try_get::<_, Option<&str>>("trouble")?.and_then(TroubleKind::parse);
    let reason: Option<String> = row.try_get("reason")?;
    let health = Health::restore(Left {
        state: match (row.try_get("state")?, row.try_get("paused_until")?) {
            (Some("probing"), _) => State::Probing,
            (_, Some(until)) => State::Paused { until },
            (_, None) => State::Flowing,
        },
        consecutive_failures: positive(row.try_get("consecutive_failures")?).unwrap_or(0),
        failing_since: row.try_get("failing_since")?,
        consecutive_rejections: positive(row.try_get("consecutive_rejections")?).unwrap_or(0),
        pauses: positive(row.try_get("pauses")?).unwrap_or(0),
        trouble: trouble.map(|kind| Trouble { kind, reason: reason.unwrap_or_default() }),
    });
    let (window, secrets_until) = (window(row)?, row.try_get("secrets_until")?);
    Ok(KnownEndpoint { endpoint, health, window, secrets_until })
}

fn window(row: &Row) -> Result<Option<Remembered>, tokio_postgres::Error> {
    let size: Option<i16> = row.try_get("window_size")?;
    let normal_ms: Option<f32> = row.try_get("normal_duration_ms")?;
    let age_s: Option<f64> = row.try_get("window_age_s")?;
    let left = size.zip(normal_ms).zip(age_s);
    Ok(left.and_then(|((size, ms), age_s)| Remembered::restore(size.into(), ms.into(), age_s)))
}

fn positive(number: Option<i32>) -> Option<u32> {
    number.and_then(|number| u32::try_from(number).ok())
}

fn from_millis(millis: f64) -> Duration {
    Duration::try_from_secs_f64(millis / 1000.0).unwrap_or(Duration::ZERO)
}

/// The revisions of those of these endpoints that are there and enabled.
///
/// # Errors
/// When the statement fails.
pub async fn revisions(
    store: &Store,
    ids: &[EndpointId],
) -> Result<HashMap<EndpointId, i64>, StoreError> {
    let rows = store.queue.query(REVISIONS, "look whether endpoints changed", &[&ids]).await?;
    Ok(rows.iter().map(|row| (row.get("id"), row.get("revision"))).collect())
}

/// Applies a rule's effect: disables an endpoint and holds its deliveries, or deletes it and
/// cancels them. Returns whether that changed anything.
///
/// # Errors
/// When the statement fails.
pub async fn apply_effect(
    store: &Store,
    endpoint: EndpointId,
    delete: bool,
    reason: &str,
) -> Result<bool, StoreError> {
    let doing = "disable or delete an endpoint";
    let row = store.queue.query_one(APPLY_EFFECT, doing, &[&endpoint, &delete, &reason]).await?;
    Ok(row.get(0))
}
