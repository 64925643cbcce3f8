-- register: a new relay, with the session that keeps its lease. Called by store::relays::Lease::take. Takes no locks.
--
-- $1 name  $2 version  $3 whether it has a session
insert into posthaste.relays (name, version, session_pid, session_role, session_began_at)
select $1::text, $2::text, s.pid, s.usesysid, s.backend_start
from (select) one
left join pg_stat_activity s on s.pid = pg_backend_pid() and $3::bool
returning id, started_at
