-- register: a new relay, its session lock taken before its row can be seen. Called by store::relays::Lease::take.
-- Locks: lock number `id` of 'phrl' (1885893228), for as long as the session lives.
--
-- $1 name  $2 version
with me as (
  insert into posthaste.relays (name, version) values ($1, $2) returning id, started_at
)
select id, started_at, pg_advisory_lock(1885893228, id) from me
