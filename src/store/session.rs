//! What a session of ours is told before anything else. An operator may set nearly everything for a
//! database or a role, for reasons of their own; what would change the meaning of our statements, or end
//! them, is set back for our sessions alone. And which database it leads to: an address may lead to one
//! today and to another tomorrow, and what holds on one means nothing on the other.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::StoreError;

/// Set by statement, not by start-up option: poolers refuse those.
///
/// * Routing compares snapshots of single statements, so the isolation level must be the one that takes
///   them anew.
/// * `row_security`: rows that a policy hides would be taken for rows that are not there, and the cursor
///   would pass them for good. Off, they are an error, also for an owner with FORCE.
/// * `session_replication_role`: without triggers no death is announced. Only a superuser may set it back;
///   for others this is an error, and better than silence.
/// * The time-outs: our sessions rest between statements, and each kind of them has bounds of its own.
/// * `gin_fuzzy_search_limit` has an index leave out matches by chance: subscribers.
/// * The texts of times and numbers are read by people and by receivers.
///
/// Left as they are: `default_transaction_read_only`, by which an operator keeps writers out, us as well
/// (`target_session_attrs`); `synchronous_commit` and `default_tablespace`, which are theirs to choose.
pub const SESSION: &str = "set standard_conforming_strings = on; \
     set application_name = 'posthaste'; set search_path = pg_catalog, pg_temp; \
     set timezone = 'UTC'; set datestyle = 'ISO'; set intervalstyle = 'postgres'; \
     set extra_float_digits = 1; set bytea_output = 'hex'; \
     set default_transaction_isolation = 'read committed'; set row_security = off; \
     set statement_timeout = 0; set lock_timeout = 0; set idle_session_timeout = 0; \
     set idle_in_transaction_session_timeout = 0; set gin_fuzzy_search_limit = 0; \
     set enable_indexscan = on; set enable_bitmapscan = on; set enable_partition_pruning = on;";

/// What is only set back where that is needed: not every server knows of the one, and only a superuser may
/// do the other.
const SET_BACK: &str = "select \
     case when current_setting('server_version_num')::int >= 170000 \
       then set_config('transaction_timeout', '0', is_local) end, \
     case when current_setting('session_replication_role') <> 'origin' \
       then set_config('session_replication_role', 'origin', is_local) end;";

/// All of it and what follows, for a session that is ours.
pub(super) fn for_session(settings: &str) -> String {
    format!("{SESSION}{settings}{}", SET_BACK.replace("is_local", "false"))
}

/// All of it and what follows for one transaction, in a session that is lent.
pub(super) fn for_transaction(settings: &str) -> String {
    let local = format!("{SESSION}{settings}").replace("set ", "set local ");
    format!("{local}{}", SET_BACK.replace("is_local", "true"))
}

/// A database of a cluster. A standby that takes over is the same one, and so is a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    /// `None`: we may not ask.
    system: Option<i64>,
    database: u32,
}

/// Every name with its schema: nothing has been set yet.
const DATABASE: &str = "select oid from pg_catalog.pg_database \
     where datname operator(pg_catalog.=) pg_catalog.current_database()";
const SYSTEM: &str = "select system_identifier from pg_catalog.pg_control_system()";

impl Identity {
    /// Asks where a session has led to.
    pub(super) async fn of(client: &Client) -> Result<Self, StoreError> {
        const DOING: &str = "ask which database this is";
        let both = format!("select ({DATABASE}), ({SYSTEM})");
        match client.query_typed_one(&both, &[]).await {
            Ok(row) => Ok(Self { database: row.get(0), system: row.get(1) }),
            // Everybody may, unless that was taken from them.
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                let row = client.query_typed_one(DATABASE, &[]).await;
                let row = row.map_err(StoreError::query(DOING))?;
                Ok(Self { database: row.get(0), system: None })
            }
            Err(error) => Err(StoreError::query(DOING)(error)),
        }
    }

    /// Whether both are one, as far as is known.
    fn is(self, other: Self) -> bool {
        let is_one_system = match (self.system, other.system) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        is_one_system && self.database == other.database
    }

    /// A statement that fails anywhere else, with the error that [`is_elsewhere`] knows and what was found
    /// instead in its words. It stands in the transaction that the rest of it would spoil.
    fn insistence(self) -> String {
        let database = self.database;
        let elsewhere =
            format!("(select ({DATABASE}) as database) d where d.database <> {database}");
        let Some(system) = self.system else {
            return format!("select ('database ' || d.database)::int from {elsewhere};");
        };
        format!(
            "select ('cluster ' || s.system_identifier || ', database ' || d.database)::int \
               from ({SYSTEM}) s, {elsewhere} or s.system_identifier <> {system};"
        )
    }
}

/// Whether the beginning of a transaction failed because it was begun in another database.
pub(super) fn is_elsewhere(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::INVALID_TEXT_REPRESENTATION)
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { system, database } = self;
        match system {
            Some(system) => write!(f, "cluster {system}, database {database}"),
            None => write!(f, "database {database}"),
        }
    }
}

/// Where one way has led to, for all who go it.
#[derive(Debug, Default)]
pub(super) struct KnownDatabase {
    /// What the first session was asked, and how the others insist on it.
    first: OnceLock<(Identity, String)>,
    /// Where else a later one led to. That stays: the address is wrong, however the next one fares.
    strayed: OnceLock<String>,
    /// How many sessions have been opened.
    opened: AtomicU64,
}

impl KnownDatabase {
    /// Takes in where a session by this address has led to; refuses it where the first led elsewhere.
    pub(super) fn meet(&self, address: &str, found: Identity) -> Result<(), StoreError> {
        let (first, _) = self.first.get_or_init(|| (found, found.insistence()));
        if !first.is(found) {
            return Err(self.stray(address, &found.to_string()));
        }
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    pub(super) fn stray(&self, address: &str, found: &str) -> StoreError {
        let first = self.identity().map(|first| first.to_string()).unwrap_or_default();
        let error =
            StoreError::Strayed { address: address.to_owned(), first, found: found.to_owned() };
        self.strayed.get_or_init(|| error.to_string());
        error
    }

    pub(super) fn identity(&self) -> Option<Identity> {
        self.first.get().map(|(first, _)| *first)
    }

    /// What a transaction by this way begins with, so that it ends anywhere else.
    pub(super) fn insistence(&self) -> &str {
        self.first.get().map_or("", |(_, insistence)| insistence)
    }

    pub(super) fn strayed(&self) -> Option<&str> {
        self.strayed.get().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_of_a_database_tells_it_from_no_other() {
        let of = |system, database| Identity { system, database };
        assert!(of(Some(1), 5).is(of(Some(1), 5)));
        assert!(of(Some(1), 5).is(of(None, 5)) && of(None, 5).is(of(Some(1), 5)));
        assert!(!of(Some(1), 5).is(of(Some(2), 5)) && !of(Some(1), 5).is(of(Some(1), 6)));
    }
}
