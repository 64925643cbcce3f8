-- evict: ends the session that still holds the lock of a relay that has lost its session.
-- Called by store::relays::Lease::retake.
-- Index: relays_pkey. Locks: none; the relay's lock is free once that session has ended.
-- Only a session that is idle: other relays hold the lock for a statement, while they look for dead ones (renew) or
-- reap this one, and would lose their own lease or connection.
--
-- $1 relay  $2 when it registered
select pg_terminate_backend(l.pid)
from posthaste.relays r
join pg_locks l on l.locktype = 'advisory' and l.classid = 1885893228 and l.objid = r.id::oid and l.objsubid = 2
join pg_stat_activity a on a.pid = l.pid and a.state = 'idle'
where r.id = $1::int and r.started_at = $2::timestamptz
  and l.granted and l.pid <> pg_backend_pid()
  and l.database = (select oid from pg_database where datname = current_database())
