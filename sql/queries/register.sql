-- register: a new relay, its session lock taken before its row can be seen. Called by store::relays::Lease::take.
-- Locks: lock number `id` of 'phrl' (1885893228), for as long as the session lives; none without a session.
--
-- $1 name  $2 version  $3 whether it has a session
with me as (
  insert into posthaste.relays (name, version, has_session) values ($1::text, $2::text, $3::bool)
  returning id, started_at, has_session
)
select id, started_at, case when has_session then pg_advisory_lock(1885893228, id) end from me
