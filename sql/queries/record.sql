-- record: appends attempts and ends, reschedules or cancels their deliveries. Called by store::attempts::record.
-- Index: claims_pkey, one descent per batch; deliveries_pkey, one per delivery that is in none. `= any(array[…])`
-- leaves no other plan: with `=`, a table that was empty when it was last vacuumed is read whole for each row
-- (*measured*: 20 times as slow).
-- Locks: the batches and deliveries recorded, which no other relay touches: the claims are the caller's.
-- A delivery whose claim is no longer the caller's is neither changed nor logged. The answer has a row for each of the
-- others or, of a batch, one with a bit for each.
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
-- Of those that were claimed in a batch:
-- $33 the place there, from 0 (-1: in none)  $34 created_at of the event
-- $35 the tokens of the batches, with $36 a bit for each delivery: 1 where it is one of the results
-- $37 whether the commit is not to wait for the disk
with clock as materialized (
  select coalesce($2::timestamptz, clock_timestamp()) as now,
         case when $37::bool then set_config('synchronous_commit', 'off', true) end
),
result as materialized (
  select n, r.event_id, r.endpoint_id, r.claim_token, r.retry_after_ms, r.blocks, r.more, r.place,
         -- An interruption of the relay and a refusal by its settings are not the receiver's doing, and do not
         -- count. (A fault of the relay counts, or the delivery would meet it for ever.)
         ($19::text[])[($20::int[])[r.more]] is not distinct from 'interrupted'
         or ($19::text[])[($20::int[])[r.more]] is not distinct from 'refused'
            and ($21::text[])[($22::int[])[r.more]] <> 'fault' as is_free
  from unnest($3::bigint[]) with ordinality e(event_id, position)
  cross join lateral (select e.position::int) p(n)
  cross join lateral (
    select e.event_id, ($4::bigint[])[n] as endpoint_id, ($5::bigint[])[n] as claim_token,
           nullif(($6::float8[])[n], -1) as retry_after_ms, ($7::bool[])[n] as blocks,
           nullif(($14::int[])[n], 0) as more, nullif(($33::int[])[n], -1) as place) r
),
batch as materialized (
  select c.token, c.recorded, c.created_at, m.mask & ~c.recorded as fresh
  from unnest($35::bigint[], $36::varbit[]) m(token, mask)
  cross join lateral (
    select * from posthaste.claims l where l.relay_id = $1::int and l.token = m.token offset 0 for update) c
),
emptied as (
  delete from posthaste.claims c
   using batch b
   where c.relay_id = $1::int and c.token = any(array[b.token])
     and bit_count(b.recorded | b.fresh) = length(b.recorded)
),
shrunk as (
  update posthaste.claims c
     set recorded = b.recorded | b.fresh, pending = length(b.recorded) - bit_count(b.recorded | b.fresh)
    from batch b
   where c.relay_id = $1::int and c.token = any(array[b.token])
     and bit_count(b.fresh) > 0 and bit_count(b.recorded | b.fresh) < length(b.recorded)
),
batches as materialized (
  select array_agg(token) as tokens, array_agg(fresh) as fresh, array_agg(created_at) as created from batch
),
taken as materialized (
  select r.n, r.more, r.event_id, r.endpoint_id, ($34::timestamptz[])[r.n] as event_created_at, r.retry_after_ms,
         r.is_free, b.created[array_position(b.tokens, r.claim_token)] as created_at
  from result r
  cross join batches b
  where r.place is not null and get_bit(b.fresh[array_position(b.tokens, r.claim_token)], r.place) = 1
),
again as (
  insert into posthaste.deliveries
    (event_id, endpoint_id, event_created_at, attempt_count, next_attempt_at, created_at)
  select event_id, endpoint_id, event_created_at, case when is_free then 0 else ($8::int[])[n] end,
         clock.now + retry_after_ms * interval '1 ms', created_at
  from taken cross join clock
  where retry_after_ms is not null
  on conflict do nothing
),
ended as (
  delete from posthaste.deliveries d
   using result r
   where r.place is null
     and d.event_id = any(array[r.event_id]) and d.endpoint_id = r.endpoint_id
     and d.claimed_by = $1::int and d.claim_token = r.claim_token
     and r.retry_after_ms is null and not r.blocks
  returning r.n, r.more, d.event_id, d.endpoint_id, d.event_created_at, d.ordering_key, r.retry_after_ms
),
rescheduled as (
  update posthaste.deliveries d
     set attempt_count = case when r.is_free then d.attempt_count else ($8::int[])[r.n] end,
         claimed_by = null, claim_token = null, interruptions = null, is_begun = null,
         blocked_at = case when r.blocks then clock.now end,
         next_attempt_at = case when not r.blocks then clock.now + r.retry_after_ms * interval '1 ms'
                                else coalesce((select o.expires_at from posthaste.outbox o
                                                where o.id = d.event_id and o.created_at = d.event_created_at), 'infinity') end
    from result r cross join clock
   where r.place is null
     and d.event_id = any(array[r.event_id]) and d.endpoint_id = r.endpoint_id
     and d.claimed_by = $1::int and d.claim_token = r.claim_token
     and (r.retry_after_ms is not null or r.blocks)
  returning r.n, r.more, d.event_id, d.endpoint_id, d.event_created_at, r.retry_after_ms
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
  select n, more, event_id, endpoint_id, event_created_at, retry_after_ms from taken
  union all
  select n, more, event_id, endpoint_id, event_created_at, retry_after_ms from ended
  union all
  select n, more, event_id, endpoint_id, event_created_at, retry_after_ms from rescheduled
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
select event_id, endpoint_id, null::float8 as next_due_in_ms, null::bigint as token, null::varbit as fresh from ended
union all
select event_id, endpoint_id, null, null, null from rescheduled
union all
select g.after, g.endpoint_id,
       date_part('epoch', greatest(least(g.next_attempt_at, clock.now + interval '1 year'), clock.now - interval '1 year') - clock.now) * 1000,
       null, null
from given g cross join clock
union all
select null, null, null, token, fresh from batch
