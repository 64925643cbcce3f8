//! The settings of every session, and the database that it leads to. An operator may set nearly
//! everything for a database or a role; settings that would change the meaning of Posthaste's
//! statements, or end them, are set back for its own sessions alone. An address may lead to one
//! database today and to another tomorrow, and claims and locks of one mean nothing on the other.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::StoreError;

/// Set by statement, not by start-up option: poolers refuse those.
///
/// * Routing compares snapshots of single statements, so the isolation level must be the one that
///   takes them anew.
/// * `row_security`: rows that a policy hides would be taken for rows that are not there, and the
///   cursor would pass them for good. Off, they are an error, also for an owner with FORCE.
/// * `session_replication_role`: without triggers no dead delivery is announced. Only a superuser
///   may set it back; for other roles this is an error, and better than silence.
/// * The time-outs: sessions rest between statements, and each kind has bounds of its own.
/// * `gin_fuzzy_search_limit` has an index leave out matches by chance: subscribers.
/// * The texts of times and numbers are read by people and by receivers.
///
/// Left as they are: `default_transaction_read_only`, by which an operator stops all writers,
/// relays too (`target_session_attrs`); `default_tablespace` and `synchronous_commit`, which are
/// the operator's choice, but that a few results are recorded without waiting.
pub const SESSION: &str = "set standard_conforming_strings = on; \
     set application_name = 'posthaste'; set search_path = pg_catalog, pg_temp; \
     set timezone = 'UTC'; set datestyle = 'ISO'; set intervalstyle = 'postgres'; \
     set extra_float_digits = 1; set bytea_output = 'hex'; \
     set default_transaction_isolation = 'read committed'; set row_security = off; \
     set statement_timeout = 0; set lock_timeout = 0; set idle_session_timeout = 0; \
     set idle_in_transaction_session_timeout = 0; set gin_fuzzy_search_limit = 0; \
     set enable_indexscan = on; set enable_bitmapscan = on; set enable_partition_pruning = on;";

/// Set back only where needed: older servers lack the first, and the second needs a superuser.
const SET_BACK: &str = "select \
     case when current_setting('server_version_num')::int >= 170000 \
       then set_config('transaction_timeout', '0', is_local) end, \
     case when current_setting('session_replication_role') <> 'origin' \
       then set_config('session_replication_role', 'origin', is_local) end;";

/// These settings and `settings`, for a session of our own.
pub(super) fn for_session(settings: &str) -> String {
    format!("{SESSION}{settings}{}", SET_BACK.replace("is_local", "false"))
}

/// The same for one transaction, in a session that a pooler lends.
pub(super) fn for_transaction(settings: &str) -> String {
    let local = format!("{SESSION}{settings}").replace("set ", "set local ");
    format!("{local}{}", SET_BACK.replace("is_local", "true"))
}

/// Identifies a database of a cluster. A standby that takes over has the same identity, and so has
/// a restarted server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    /// `None`: the role may not ask.
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
            // Every role may ask, unless that was revoked.
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                let row = client.query_typed_one(DATABASE, &[]).await;
                let row = row.map_err(StoreError::query(DOING))?;
                Ok(Self { database: row.get(0), system: None })
            }
            Err(error) => Err(StoreError::query(DOING)(error)),
        }
    }

    /// Whether both are the same database, as far as is known.
    fn is(self, other: Self) -> bool {
        let is_one_system = match (self.system, other.system) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        is_one_system && self.database == other.database
    }

    /// A statement that fails in any other database, with the error that [`is_elsewhere`]
    /// recognises; the message names the database. Its failure spoils the rest of its transaction.
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

/// The database that one way has led to, shared by all its sessions.
#[derive(Debug, Default)]
pub(super) struct KnownDatabase {
    /// The identity that the first session reported, and the statement by which the others insist
    /// on it.
    first: OnceLock<(Identity, String)>,
    /// Where a later session led instead. It stays set: the address is wrong, wherever the next
    /// session leads.
    strayed: OnceLock<String>,
    /// How many sessions have been opened.
    opened: AtomicU64,
}

impl KnownDatabase {
    /// Notes the database that a session by this address has reached; refuses it if the first
    /// session reached another.
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

    /// The beginning of a transaction by this way, so that it fails in any other database.
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
