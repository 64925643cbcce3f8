-- record: appends attempts and ends, reschedules or cancels their deliveries. Called by store::attempts::record.
-- Index: deliveries_pkey, one descent per row. `= any(array[…])` leaves no other plan: with `=`, a table
-- that was empty when it was last vacuumed is read whole for each row (*measured*: 20 times as slow).
-- Locks: the deliveries recorded, which nobody else touches: the claim is the caller's.
-- A row whose claim is no longer the caller's is neither changed nor logged; it is missing from the answer.
-- Where the head of a line ends, the next one has its turn. What was routed beside us is not seen here: the
-- caller looks at the lines that did not move on once more (give_turns).
--
-- $1 relay  $2 now (null: the database's clock)  $3… one array per column of a result
with clock as materialized (
  select coalesce($2::timestamptz, clock_timestamp()) as now
),
result as materialized (
  select r.*
  from unnest($3::bigint[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::int[], $8::float8[],
              $9::text[], $10::text[], $11::text[], $12::int[], $13::text[], $14::text[], $15::bool[],
              $16::float4[], $17::float4[], $18::float4[], $19::float4[], $20::float4[], $21::float4[],
              $22::text[], $23::text[], $24::float8[], $25::bool[])
       r(event_id, endpoint_id, claim_token, event_created_at, number, began_ms_ago,
         outcome, cause, detail, status, response_headers, response_body, body_truncated,
         duration_ms, resolve_ms, connect_ms, tls_ms, headers_ms, body_ms,
         verdict, reason, retry_after_ms, blocks)
),
ended as (
  delete from posthaste.deliveries d
   using result r
   where d.event_id = any(array[r.event_id]) and d.endpoint_id = r.endpoint_id
     and d.claimed_by = $1::int and d.claim_token = r.claim_token
     and r.retry_after_ms is null and not r.blocks
  returning r.*, d.ordering_key
),
rescheduled as (
  update posthaste.deliveries d
     set attempt_count = case when r.outcome = 'interrupted' then d.attempt_count else r.number end,
         claimed_by = null, claim_token = null,
         blocked_at = case when r.blocks then clock.now end,
         next_attempt_at = case when not r.blocks then clock.now + r.retry_after_ms * interval '1 ms'
                                else coalesce((select o.expires_at from posthaste.outbox o
                                                where o.id = r.event_id and o.created_at = r.event_created_at), 'infinity') end
    from result r cross join clock
   where d.event_id = any(array[r.event_id]) and d.endpoint_id = r.endpoint_id
     and d.claimed_by = $1::int and d.claim_token = r.claim_token
     and (r.retry_after_ms is not null or r.blocks)
  returning r.*, d.ordering_key
),
next as materialized (
  select e.event_id as after, n.event_id, n.endpoint_id
  from ended e
  cross join lateral (
    select d.event_id, d.endpoint_id, d.place from posthaste.deliveries d
    where d.endpoint_id = e.endpoint_id and d.ordering_key = e.ordering_key and d.in_line
    order by d.place, d.event_id
    limit 1
  ) n
  where e.ordering_key is not null
    and n.place < coalesce((select posthaste.open_span()), 9223372036854775807)
),
given as (
  update posthaste.deliveries d set in_line = null
    from next n
   where d.event_id = any(array[n.event_id]) and d.endpoint_id = n.endpoint_id
     and coalesce(d.in_line, false) -- see give_turns
  returning n.after, d.endpoint_id, d.next_attempt_at
),
held as (
  select * from ended union all select * from rescheduled
),
logged as (
  insert into posthaste.attempts
    (event_id, endpoint_id, event_created_at, started_at, number, relay_id, outcome, cause, detail,
     status, response_headers, response_body, body_truncated, duration_ms, resolve_ms, connect_ms,
     tls_ms, headers_ms, body_ms, verdict, reason, next_attempt_at)
  select event_id, endpoint_id, event_created_at, clock.now - began_ms_ago * interval '1 ms', number,
         $1::int, outcome, cause, detail, status, response_headers::json, response_body,
         body_truncated, duration_ms, resolve_ms, connect_ms, tls_ms, headers_ms, body_ms, verdict,
         reason, clock.now + retry_after_ms * interval '1 ms'
  from held cross join clock
)
select held.event_id, held.endpoint_id,
       (extract(epoch from least(given.next_attempt_at, clock.now + interval '1 year') - clock.now) * 1000)::float8 as next_due_in_ms
from held
cross join clock
left join given on given.after = held.event_id and given.endpoint_id = held.endpoint_id
