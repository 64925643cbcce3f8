-- retake: takes a relay's lock again in a new session, if its row is still there. Called by store::relays::Lease::retake.
-- Index: relays_pkey. Locks: the relay's lock, if it has a session; waits for the server to notice that the old one is gone.
--
-- $1 relay
with mine as (
  update posthaste.relays set heartbeat_at = clock_timestamp() where id = $1::int
  returning id, has_session
)
select id, case when has_session then pg_advisory_lock(1885893228, id) end from mine
