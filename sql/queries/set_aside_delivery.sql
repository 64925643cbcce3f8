-- set_aside_delivery: ends a claim whose result cannot be recorded, and writes down why. Called by
-- store::set_aside::set_aside_delivery.
-- Index: deliveries_pkey, claims_pkey (see record for the `any`). Locks: the delivery or its batch, which are the
-- caller's.
-- Writes nothing where the claim is no longer the caller's.
--
-- $1 relay  $2 event  $3 endpoint  $4 claim token  $5 place in the batch (-1: in none)  $6 created_at of the event
-- $7 SQLSTATE (null: none)  $8 message  $9 what the attempt came to
with alone as (
  delete from posthaste.deliveries d
   where $5::int < 0 and d.event_id = any(array[$2::bigint]) and d.endpoint_id = $3::bigint
     and d.claimed_by = $1::int and d.claim_token = $4::bigint
  returning 1
),
batch as materialized (
  select c.recorded, c.pending
  from posthaste.claims c
  where $5::int >= 0 and c.relay_id = $1::int and c.token = $4::bigint and get_bit(c.recorded, $5::int) = 0
  for update
),
emptied as (
  delete from posthaste.claims c using batch b
   where b.pending = 1 and c.relay_id = $1::int and c.token = $4::bigint
),
shrunk as (
  update posthaste.claims c set recorded = set_bit(b.recorded, $5::int, 1), pending = b.pending - 1
    from batch b
   where b.pending > 1 and c.relay_id = $1::int and c.token = $4::bigint
)
select posthaste_internal.set_aside(
         $2::bigint, $3::bigint, $6::timestamptz, 'record', $7::text, $8::text, $9::text)::text as said
from (select from alone union all select from batch) held
