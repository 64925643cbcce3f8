-- retake: takes a relay's lock again in a new session, if its row is still there. Called by
-- store::relays::Lease::retake.
-- Index: relays_pkey. Locks: the relay's lock, if it has a session; waits for the one that held it to end (see evict).
--
-- $1 relay  $2 when it registered
with mine as (
  update posthaste.relays set heartbeat_at = clock_timestamp()
   where id = $1::int and started_at = $2::timestamptz
  returning id, has_session
)
select id, case when has_session then pg_advisory_lock(1885893228, id) end from mine
