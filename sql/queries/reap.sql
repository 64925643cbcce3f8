-- reap: releases the claims of dead relays, and appends an interrupted attempt for each. Called by store::relays::reap.
-- Index: claims_pkey; none for claimed_by, on purpose: it would cost every claim, and a crash is rare. One scan of
-- deliveries.
-- Locks: the dead relays' rows, then their deliveries and batches.
-- Whether an interrupted request arrived is unknown: the attempt is made again, under its number.
-- A relay without a session is dead when its heartbeat is too old.
--
-- $1 the caller  $2 seconds after which a heartbeat is too old
with dead as materialized (
  select id from posthaste.relays
  where id <> $1::int
    and (heartbeat_at < clock_timestamp() - $2::float8 * interval '1 second'
         or session_pid is not null and not posthaste_internal.is_session(session_pid, session_role, session_began_at))
  for update skip locked
),
gone as (
  delete from posthaste.relays r using dead where r.id = dead.id returning r.id
),
alone as (
  update posthaste.deliveries d
     set claimed_by = null, claim_token = null, next_attempt_at = clock_timestamp()
    from dead
   where d.claimed_by = dead.id
     -- PostgreSQL runs this even when no relay is dead; then it looks at no row of deliveries.
     and exists (select from dead)
  returning d.event_id, d.endpoint_id, d.event_created_at, d.attempt_count, dead.id as relay_id
),
batch as (
  delete from posthaste.claims c using dead where c.relay_id = any(array[dead.id]) returning c.*
),
claimed as materialized (
  select h.event_id, h.endpoint_id, h.event_created_at, b.relay_id, b.created_at
  from batch b
  cross join lateral posthaste_internal.claimed_in(b.event_ids, b.endpoint_ids, b.event_created_ats, b.recorded) h
),
back as (
  insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at, created_at)
  select event_id, endpoint_id, event_created_at, clock_timestamp(), created_at from claimed
  on conflict do nothing
),
released as (
  select event_id, endpoint_id, event_created_at, attempt_count, relay_id from alone
  union all
  select event_id, endpoint_id, event_created_at, 0, relay_id from claimed
),
logged as (
  insert into posthaste.attempts
    (event_id, endpoint_id, event_created_at, started_at, number, relay_id, duration_ms, outcome,
     verdict, reason, next_attempt_at)
  select event_id, endpoint_id, event_created_at, clock_timestamp(), least(attempt_count, 32766) + 1, relay_id, 0,
         'interrupted', 'retry', 'relay ' || relay_id || ' died while it may have been sending', clock_timestamp()
  from released
)
select (select count(*) from gone) as relays, (select count(*) from released) as claims
