-- release: gives claims back without spending an attempt. Called by store::deliveries::release.
-- Index: deliveries_pkey, claims_pkey (see record for the `any`). Locks: the rows released, which are the caller's.
--
-- $1 relay  $2 events, $3 endpoints and $4 claim tokens of the claims that are in no batch
-- $5 tokens of batches, with $6 a bit for each delivery: 1 where it is released
with alone as (
  update posthaste.deliveries d
     set claimed_by = null, claim_token = null, is_begun = null
    from unnest($2::bigint[], $3::bigint[], $4::bigint[]) r(event_id, endpoint_id, claim_token)
   where d.event_id = any(array[r.event_id]) and d.endpoint_id = r.endpoint_id
     and d.claimed_by = $1::int and d.claim_token = r.claim_token
  returning 1
),
batch as materialized (
  select c.*, m.mask & ~c.recorded as given
  from unnest($5::bigint[], $6::varbit[]) m(token, mask)
  cross join lateral (
    select * from posthaste.claims l where l.relay_id = $1::int and l.token = m.token offset 0 for update) c
),
emptied as (
  delete from posthaste.claims c
   using batch b
   where c.relay_id = $1::int and c.token = any(array[b.token])
     and bit_count(b.recorded | b.given) = length(b.recorded)
),
shrunk as (
  update posthaste.claims c
     set recorded = b.recorded | b.given, pending = length(b.recorded) - bit_count(b.recorded | b.given)
    from batch b
   where c.relay_id = $1::int and c.token = any(array[b.token])
     and bit_count(b.given) > 0 and bit_count(b.recorded | b.given) < length(b.recorded)
),
back as (
  insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at, created_at)
  select h.event_id, h.endpoint_id, h.event_created_at, b.due_at, b.created_at
  from batch b
  cross join lateral posthaste_internal.claimed_in(b.event_ids, b.endpoint_ids, b.event_created_ats, ~b.given) h
  on conflict do nothing
)
select (select count(*) from alone) + (select coalesce(sum(bit_count(given)), 0) from batch)::bigint as released
