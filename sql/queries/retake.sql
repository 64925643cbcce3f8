-- retake: has a new session keep a relay's lease, if its row is still there, and ends the one before.
-- Called by store::relays::Lease::retake.
-- Index: relays_pkey. Locks: its own row.
-- The server may not have noticed that the old session is gone, and would keep its place for hours where a network
-- forgets connections. One that this role may not end, or that is at work, is left to itself: nothing waits for it.
--
-- $1 relay  $2 when it registered
with former as materialized (
  select id, session_pid, session_role, session_began_at
  from posthaste.relays where id = $1::int and started_at = $2::timestamptz
  for update
),
mine as (
  update posthaste.relays r
     set heartbeat_at = clock_timestamp(), session_pid = s.pid, session_role = s.usesysid, session_began_at = s.backend_start
    from former f
    left join pg_stat_activity s on s.pid = pg_backend_pid() and f.session_pid is not null
   where r.id = f.id
  returning r.id
)
select mine.id, ended.it_was
from mine
cross join former f
left join lateral (
  select pg_terminate_backend(a.pid) as it_was
  from pg_stat_activity a
  where a.pid = f.session_pid and a.pid <> pg_backend_pid() and a.state = 'idle'
    and posthaste_internal.is_session(f.session_pid, f.session_role, f.session_began_at)
    and pg_has_role(a.usesysid, 'usage')
  offset 0
) ended on true
