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
pub const SESSION: &str = "set application_name = 'posthaste'; \
     set search_path = pg_catalog, pg_temp; set timezone = 'UTC'; \
     set default_transaction_isolation = 'read committed'; set row_security = off;";

/// The same and what follows for one transaction, in a session that is lent.
pub(super) fn for_transaction(settings: &str) -> String {
    format!("{SESSION}{settings}").replace("set ", "set local ")
}
