-- disown: gives back the claims of statements whose answer was lost. Called by store::deliveries::disown.
-- Index: claims_pkey; none for the claims that are in no batch, on purpose, as for reap.
-- Locks: the rows released, which are the caller's.
--
-- $1 relay  $2 claim tokens
with alone as (
  update posthaste.deliveries set claimed_by = null, claim_token = null, is_begun = null
   where claimed_by = $1::int and claim_token = any($2::bigint[])
  returning 1
),
batch as (
  delete from posthaste.claims c
   where c.relay_id = $1::int and c.token = any($2::bigint[])
  returning c.*
),
back as (
  insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at, created_at)
  select h.event_id, h.endpoint_id, h.event_created_at, b.due_at, b.created_at
  from batch b
  cross join lateral posthaste_internal.claimed_in(b.event_ids, b.endpoint_ids, b.event_created_ats, b.recorded) h
  on conflict do nothing
)
select (select count(*) from alone) + (select coalesce(sum(pending), 0) from batch)::bigint as released
