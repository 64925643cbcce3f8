//! What a session of ours is told before anything else. An operator may set nearly everything for a
//! database or a role, for reasons of their own; what would change the meaning of our statements, or end
//! them, is set back for our sessions alone.

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
