//! Which database a session has come to, and whether Posthaste can live there.
//!
//! Asked before anything else: what a wrong server or encoding leads to later are riddles about a statement or
//! a character.

use tokio_postgres::Client;

use super::{Database, StoreError};

const PLACE: &str = include_str!("../../sql/queries/place.sql");

/// The oldest that is tested: 14.
const OLDEST_SERVER: i32 = 140_000;
/// Payloads are JSON, which is Unicode, and so is every text that the relay reads. Where the server keeps
/// another encoding, an event may hold what cannot be stored; in `SQL_ASCII`, bytes that are no text at all.
const ENCODING: &str = "UTF8";

/// A database as a session of ours finds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// Host and port, or socket, of the server that we are connected to.
    pub address: String,
    /// The database's name.
    pub name: String,
    /// As whom we are there.
    pub role: String,
    /// The server's, as it says it.
    pub version: String,
    version_number: i32,
    pub encoding: String,
    /// Milliseconds since 1970 on the server's clock.
    pub(super) now_ms: f64,
}

impl Place {
    /// Refuses what Posthaste cannot live in.
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

/// Connects, looks where that led, and refuses what Posthaste cannot live in.
///
/// # Errors
/// As said, or when the database cannot be reached.
pub async fn arrive(database: &Database) -> Result<Place, StoreError> {
    let (client, driver) = database.session(|_| {}).await?;
    let arriving = async {
        let place = look(&client, database).await?;
        place.is_fit()?;
        Ok(place)
    };
    tokio::select! {
        result = arriving => result,
        _ = driver => Err(StoreError::SessionEnded),
    }
}

/// Looks where a session of this database has led.
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
