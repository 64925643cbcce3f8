//! An event that a step of routing has found, as `read_events` and `read_ahead` tell it.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use super::StoreError;
use super::rows::{Claimed, JsonText, texts};
use crate::model::delivery::{BatchPlace, Delivery, EventId};
use crate::model::endpoint::EndpointId;

/// A type of announcement: all of them are filtered alike.
pub(super) const ANNOUNCED: &str = "posthaste.delivery.dead";

/// An event that is to be routed.
#[derive(Debug, Clone)]
pub struct FoundEvent {
    pub id: EventId,
    pub(super) xid: i64,
    pub event_type: String,
    pub tenant: Option<String>,
    /// The one endpoint that it names.
    pub endpoint_id: Option<EndpointId>,
    pub ordering_key: Option<String>,
    pub created_at: Timestamp,
    /// When it may be sent, if that is later than now, as Postgres writes it.
    pub(super) due_at: Option<String>,
    expired: bool,
    /// Its age counts from then, by the relay's clock.
    aged_from: Timestamp,
    /// Of payload and headers.
    pub bytes: usize,
    payload: bytes::Bytes,
    headers: Vec<(String, String)>,
}

impl FoundEvent {
    /// Whether it is owed to the endpoint that it names only if that one's filter says so. See
    /// `posthaste_internal.is_announcement`.
    #[must_use]
    pub fn is_announcement(&self) -> bool {
        self.event_type == ANNOUNCED || self.event_type.starts_with("posthaste.endpoint.")
    }

    /// Whether it may be sent yet.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.due_at.is_none()
    }

    /// The event as one endpoint is to have it.
    #[must_use]
    pub fn claimed(
        self,
        (endpoint_id, revision): (EndpointId, i64),
        token: i64,
        place: BatchPlace,
    ) -> Claimed {
        Claimed {
            delivery: Delivery {
                event_id: self.id,
                endpoint_id,
                claim_token: token,
                batch: Some(place),
                attempt_count: 0,
                endpoint_revision: revision,
                event_type: self.event_type,
                event_created_at: self.created_at,
                ordering_key: None,
                payload: self.payload,
                headers: self.headers,
                is_suspect: false,
                due_at: self.aged_from,
            },
            cancelled: self.expired.then(|| "expired".to_owned()),
        }
    }
}

/// What the database's clock said at the moment for which the relay's said the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clocks {
    pub(super) database: Timestamp,
    pub(super) relay: Timestamp,
}

/// Where the columns of an event begin: what comes before is the step's.
const EVENT: usize = 11;
pub(super) const BYTES: usize = EVENT + 10;

/// Reads by place, since names are looked up one by one. `None`: the event's payload was left out.
pub(super) fn event(row: &Row, clocks: Clocks) -> Result<Option<FoundEvent>, StoreError> {
    let id = row.get(EVENT);
    let read = || {
        let headers = row.try_get::<_, Option<serde_json::Value>>(EVENT + 12)?;
        let Some(JsonText(payload)) = row.try_get(EVENT + 11)? else { return Ok(None) };
        let created_at = row.try_get(EVENT + 6)?;
        let due_at: Option<String> = row.try_get(EVENT + 7)?;
        let aged_from = if due_at.is_some() {
            clocks.relay
        } else {
            clocks.aged_from(row.try_get::<_, Option<Timestamp>>(EVENT + 8)?.unwrap_or(created_at))
        };
        Ok(Some(FoundEvent {
            id,
            xid: row.try_get::<_, Xid>(EVENT + 1)?.0,
            event_type: row.try_get(EVENT + 2)?,
            tenant: row.try_get(EVENT + 3)?,
            endpoint_id: row.try_get(EVENT + 4)?,
            ordering_key: row.try_get(EVENT + 5)?,
            created_at,
            due_at,
            expired: row.try_get(EVENT + 9)?,
            aged_from,
            bytes: usize::try_from(row.try_get::<_, i32>(BYTES)?).unwrap_or(usize::MAX),
            payload,
            headers: headers.map(|headers| texts(&headers)).unwrap_or_default(),
        }))
    };
    read().map_err(StoreError::unreadable("event", id))
}

impl Clocks {
    /// A moment of the database's clock by the relay's, or now, if it is still to come. A wrong
    /// clock of the relay cancels out.
    fn aged_from(self, moment: Timestamp) -> Timestamp {
        let age = Duration::try_from(self.database.duration_since(moment)).unwrap_or_default();
        self.relay.saturating_sub(age).unwrap_or(Timestamp::MIN)
    }
}

/// A transaction's number.
struct Xid(i64);

impl<'a> FromSql<'a> for Xid {
    fn from_sql(
        ty: &Type,
        raw: &'a [u8],
    ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        i64::from_sql(ty, raw).map(Self)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::XID8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_as_old_by_the_relays_clock_as_by_the_databases() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let clocks = Clocks { database: at(1_000), relay: at(5_000) };
        for (moment, expected) in [(990, 4_990), (1_000, 5_000), (1_001, 5_000)] {
            assert_eq!(clocks.aged_from(at(moment)), at(expected), "{moment}");
        }
    }
}
