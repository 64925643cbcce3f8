-- record: appends attempts and ends, reschedules or cancels their deliveries. Called by store::attempts::record.
-- Index: deliveries_pkey, one descent per row. `= any(array[…])` leaves no other plan: with `=`, a table
-- that was empty when it was last vacuumed is read whole for each row (*measured*: 20 times as slow).
-- Locks: the deliveries recorded, which no other relay touches: the claim is the caller's.
-- A row whose claim is no longer the caller's is neither changed nor logged; it is missing from the answer.
-- Where the head of a line ends, the next one has its turn. This statement does not see what is routed beside it: the
-- caller looks once more at the lines that did not move on (give_turns).
--
-- $1 relay  $2 now (null: the database's clock)
-- Then arrays, the n-th element of each for the n-th result. None holds a null, so that the n-th element is found at
-- once; another value stands for it. Unnesting all arrays keeps a tuple store for each: 2 µs a result more
-- (*measured*).
-- $3 events  $4 endpoints  $5 claim tokens  $6 milliseconds to the next attempt (-1: the delivery ends)
-- $7 whether the delivery blocks its line  $8 numbers of the attempts  $9 milliseconds since they began
-- $10 statuses (0: none)  $11 durations in milliseconds, of them to $12 get the head and $13 read the body (-1: did not
-- happen)
-- $14 which of the following it has (0: none). Most results have none, and what is not sent is not read.
-- $15 milliseconds to resolve, $16 to connect, $17 to shake hands (-1: did not happen)
-- $18 whether the body was truncated, if any of the response is kept
-- Texts repeat, so each column has an array of the different ones, and one that says which is the n-th (0: none):
-- $19 $20 outcomes (none: answered)  $21 $22 causes  $23 $24 details  $25 $26 response headers (JSON)
-- $27 $28 response bodies  $29 $30 verdicts (none: delivered)  $31 $32 reasons
with clock as materialized (
  select coalesce($2::timestamptz, clock_timestamp()) as now
),
result as materialized (
  select n::int, event_id, ($4::bigint[])[n::int] as endpoint_id, ($5::bigint[])[n::int] as claim_token,
         nullif(($6::float8[])[n::int], -1) as retry_after_ms, ($7::bool[])[n::int] as blocks,
         nullif(($14::int[])[n::int], 0) as more
  from unnest($3::bigint[]) with ordinality r(event_id, n)
),
ended as (
  delete from posthaste.deliveries d
   using result r
   where d.event_id = any(array[r.event_id]) and d.endpoint_id = r.endpoint_id
     and d.claimed_by = $1::int and d.claim_token = r.claim_token
     and r.retry_after_ms is null and not r.blocks
  returning r.n, r.more, d.event_id, d.endpoint_id, d.event_created_at, d.ordering_key, r.retry_after_ms
),
rescheduled as (
  update posthaste.deliveries d
     -- An interruption of the relay and a refusal by its settings are not the receiver's doing, and do not count. (A
     -- fault of the relay counts, or the delivery would meet it for ever.)
     set attempt_count = case when ($19::text[])[($20::int[])[r.more]] = 'interrupted'
                                or ($19::text[])[($20::int[])[r.more]] = 'refused'
                                   and ($21::text[])[($22::int[])[r.more]] <> 'fault' then d.attempt_count
                              else ($8::int[])[r.n] end,
         claimed_by = null, claim_token = null,
         blocked_at = case when r.blocks then clock.now end,
         next_attempt_at = case when not r.blocks then clock.now + r.retry_after_ms * interval '1 ms'
                                else coalesce((select o.expires_at from posthaste.outbox o
                                                where o.id = d.event_id and o.created_at = d.event_created_at), 'infinity') end
    from result r cross join clock
   where d.event_id = any(array[r.event_id]) and d.endpoint_id = r.endpoint_id
     and d.claimed_by = $1::int and d.claim_token = r.claim_token
     and (r.retry_after_ms is not null or r.blocks)
  returning r.n, r.more, d.event_id, d.endpoint_id, d.event_created_at, d.ordering_key, r.retry_after_ms
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
    and n.place < coalesce((select posthaste_internal.open_span()), 9223372036854775807)
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
    (event_id, endpoint_id, event_created_at, next_attempt_at, started_at, relay_id,
     number, status,
     duration_ms, headers_ms, body_ms,
     resolve_ms, connect_ms, tls_ms,
     body_truncated,
     outcome, cause, detail,
     response_headers, response_body,
     verdict, reason)
  select event_id, endpoint_id, event_created_at, clock.now + retry_after_ms * interval '1 ms',
         clock.now - ($9::float8[])[n] * interval '1 ms', $1::int,
         ($8::int[])[n], nullif(($10::int[])[n], 0),
         ($11::float4[])[n], nullif(($12::float4[])[n], -1), nullif(($13::float4[])[n], -1),
         nullif(($15::float4[])[more], -1), nullif(($16::float4[])[more], -1), nullif(($17::float4[])[more], -1),
         case when ($26::int[])[more] > 0 or ($28::int[])[more] > 0 then ($18::bool[])[more] end,
         ($19::text[])[($20::int[])[more]], ($21::text[])[($22::int[])[more]], ($23::text[])[($24::int[])[more]],
         ($25::text[])[($26::int[])[more]]::json, ($27::text[])[($28::int[])[more]],
         ($29::text[])[($30::int[])[more]], ($31::text[])[($32::int[])[more]]
  from held cross join clock
)
select event_id, endpoint_id, null::float8 as next_due_in_ms from held
union all
select g.after, g.endpoint_id,
       (extract(epoch from greatest(least(g.next_attempt_at, clock.now + interval '1 year'), clock.now - interval '1 year') - clock.now) * 1000)::float8
from given g cross join clock
