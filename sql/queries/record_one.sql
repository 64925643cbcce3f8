-- record_one: appends the attempt that delivered a delivery of no line, and ends the delivery. Called by
-- store::attempts::record where that is all there is to record: at a low rate most of the time that record takes is in
-- beginning and ending its plan, and this one has an eighth of its nodes.
-- Index: deliveries_pkey. Locks: the delivery, which no other relay touches: the claim is the caller's.
-- Writes nothing where the claim is no longer the caller's.
--
-- $1 relay  $2 now (null: the database's clock)  $3 event  $4 endpoint  $5 claim token  $6 number of the attempt
-- $7 milliseconds since it began  $8 status
-- $9 duration in milliseconds, of it to $10 resolve, $11 connect, $12 shake hands, $13 get the head and $14 read the
-- body (null: did not happen)  $15 whether the body was truncated (null: nothing of it is kept)
-- $16 outcome (null: answered)  $17 cause  $18 detail  $19 response headers (JSON)  $20 response body  $21 reason
-- $22 whether the commit is not to wait for the disk
with ended as (
  delete from posthaste.deliveries d
   where d.event_id = any(array[$3::bigint]) and d.endpoint_id = $4::bigint
     and d.claimed_by = $1::int and d.claim_token = $5::bigint
  returning d.event_id, d.endpoint_id, d.event_created_at
)
insert into posthaste.attempts
  (event_id, endpoint_id, event_created_at, started_at, relay_id, number, status, duration_ms, resolve_ms, connect_ms,
   tls_ms, headers_ms, body_ms, body_truncated, outcome, cause, detail, response_headers, response_body, reason)
select event_id, endpoint_id, event_created_at,
       coalesce($2::timestamptz, clock_timestamp()) - $7::float8 * interval '1 ms', $1::int,
       $6::int, $8::int, $9::float4, $10::float4, $11::float4,
       $12::float4, $13::float4, $14::float4, $15::bool, $16::text, $17::text, $18::text, $19::text::json, $20::text,
       $21::text
from ended
returning case when $22::bool then set_config('synchronous_commit', 'off', true) end
