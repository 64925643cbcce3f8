-- release_orphans: releases claims that no relay knows of, and appends an interrupted attempt for each. Called by
-- store::upkeep::release_orphans.
-- Index: none for claimed_by, on purpose (see reap). One scan of deliveries, and one of claims.
-- Locks: the deliveries and batches released, which no relay will record.
-- Such is a claim that was under way while its relay was reaped, since reap did not see it; and one that a standby
-- still has, which took over without the record of its attempt. No relay has ended with it, or that end was counted
-- when the relay was reaped.
--
-- $1 the caller  $2 the tokens under which it holds something  $3 its newest token
with orphan as materialized (
  select d.event_id, d.endpoint_id, d.claimed_by, d.claim_token
  from posthaste.deliveries d
  where d.claimed_by = $1::int and d.claim_token < $3::bigint and d.claim_token <> all($2::bigint[])
     or d.claimed_by is not null and not exists (select from posthaste.relays r where r.id = d.claimed_by)
),
alone as materialized (
  select posthaste_internal.interrupt(
           array_agg(event_id), array_agg(endpoint_id), array_agg(claimed_by), array_agg(claim_token),
           'relay %s may have sent it, and there is no record of that', are_ends => false) as released
  from orphan
  having count(*) > 0
),
batch as (
  delete from posthaste.claims c
   where c.relay_id = $1::int and c.token < $3::bigint and c.token <> all($2::bigint[])
      or not exists (select from posthaste.relays r where r.id = c.relay_id)
  returning c.*
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
logged as (
  insert into posthaste.attempts
    (event_id, endpoint_id, event_created_at, started_at, number, relay_id, duration_ms, outcome,
     verdict, reason, next_attempt_at)
  select event_id, endpoint_id, event_created_at, clock_timestamp(), 1, relay_id, 0,
         'interrupted', 'retry', 'relay ' || relay_id || ' may have sent it, and there is no record of that', clock_timestamp()
  from claimed
)
select coalesce((select released from alone), 0) + (select count(*) from claimed)
