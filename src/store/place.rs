//! The server and database that a session has reached, and whether Posthaste can work there.
//!
//! Checked before anything else: later, a wrong server or encoding shows only as an obscure error
//! about a statement or a character.

use tokio_postgres::Client;

use super::visit::Visit;
use super::{Database, StoreError};

const PLACE: &str = include_str!("../../sql/queries/place.sql");

/// The oldest that is tested: 14.
const OLDEST_SERVER: i32 = 140_000;
/// Payloads are JSON, which is Unicode, and so is every text that the relay reads. Where the server
/// keeps another encoding, an event may hold what cannot be stored; in `SQL_ASCII`, bytes that are
/// no text at all.
const ENCODING: &str = "UTF8";

/// A database as a session finds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// Host and port, or socket, of the server.
    pub address: String,
    /// The database's name.
    pub name: String,
    /// The role of the session.
    pub role: String,
    /// The server's version, as it reports it.
    pub version: String,
    version_number: i32,
    pub encoding: String,
    /// Milliseconds since 1970 on the server's clock.
    pub(super) now_ms: f64,
}

impl Place {
    /// Refuses a server or an encoding that Posthaste does not support.
    ///
    /// # Errors
    /// With the reason.
    pub fn is_fit(&self) -> Result<(), StoreError> {
        if !self.is_new_enough() {
            return Err(StoreError::ServerTooOld { version: self.version.clone() });
        }
        if self.encoding != ENCODING {
            let (name, encoding) = (self.name.clone(), self.encoding.clone());
            return Err(StoreError::Encoding { name, encoding });
        }
        Ok(())
    }

    pub(super) fn is_new_enough(&self) -> bool {
        self.version_number >= OLDEST_SERVER
    }
}

/// Connects, and refuses a server or an encoding that Posthaste does not support.
///
/// # Errors
/// When it is refused, or cannot be reached.
pub async fn arrive(visit: &mut Visit<'_>) -> Result<Place, StoreError> {
    let session = visit.first().await?;
    let place = look(session.client(), visit.database()).await?;
    place.is_fit()?;
    visit.keep(session);
    Ok(place)
}

/// Reads where a session of this database has led.
pub(super) async fn look(client: &Client, database: &Database) -> Result<Place, StoreError> {
    let row = client.query_typed_one(PLACE, &[]).await;
    let row = row.map_err(StoreError::query("ask which database this is"))?;
    Ok(Place {
        address: database.address(),
        name: row.get("name"),
        role: row.get("role"),
        version: row.get("version"),
        version_number: row.get("version_number"),
        encoding: row.get("encoding"),
        now_ms: row.get("now_ms"),
    })
}
