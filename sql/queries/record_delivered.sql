-- record_delivered: appends the attempts that delivered deliveries of batches, and ends the deliveries. Called by
-- store::delivered::record_delivered where that is all there is to record, as it is while a backlog goes out: record,
-- which writes whatever there is, takes half as much again (*measured*).
-- Index: claims_pkey, one descent per batch. Locks: the batches, which no other relay touches: the claims are the
-- caller's.
-- A delivery whose claim is no longer the caller's is neither changed nor logged. The answer has a row for each batch,
-- with a bit for each delivery that is recorded.
--
-- $1 relay  $2 now (null: the database's clock)  $3 tokens of batches, with $4 a bit for each delivery: 1 where it is
-- one of the results
-- Then arrays, the n-th element of each for the n-th result. None holds a null, so that the n-th element is found at
-- once. One that has no n-th element says that it did not happen.
-- $5 events  $6 endpoints  $7 created_at of the events  $8 which of the batches, from 1  $9 the place there, from 0
-- $10 time since the attempts began  $11 statuses
-- $12 durations in milliseconds, of them to $13 get the head and $14 read the body (-1: did not happen)
-- $15 which of the following it has (0: none)
-- $16 milliseconds to resolve, $17 to connect, $18 to shake hands (-1: did not happen)
-- $19 whether the commit is not to wait for the disk
with batch as materialized (
  select m.token, c.recorded, m.mask & ~c.recorded as fresh, coalesce(bit_count(m.mask & c.recorded) = 0, false) as is_fresh
  from unnest($3::bigint[], $4::varbit[]) m(token, mask)
  left join lateral (
    select * from posthaste.claims l where l.relay_id = $1::int and l.token = m.token offset 0 for update) c on true
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
logged as (
  insert into posthaste.attempts
    (event_id, endpoint_id, event_created_at, started_at, relay_id, number, status,
     duration_ms, headers_ms, body_ms,
     resolve_ms, connect_ms, tls_ms)
  select event_id, ($6::bigint[])[n], ($7::timestamptz[])[n],
         (select coalesce($2::timestamptz, clock_timestamp())) - ($10::interval[])[n], $1::int, 1, ($11::smallint[])[n],
         ($12::float4[])[n], nullif(($13::float4[])[n], -1), nullif(($14::float4[])[n], -1),
         nullif(($16::float4[])[more], -1), nullif(($17::float4[])[more], -1), nullif(($18::float4[])[more], -1)
  from unnest($5::bigint[]) with ordinality e(event_id, position)
  cross join lateral (select e.position::int, nullif(($15::int[])[e.position::int], 0)) r(n, more)
  -- Nearly always all of them are the caller's, and none needs to be asked for.
  where (select bool_and(is_fresh) from batch)
     or get_bit(((select array_agg(fresh) from batch))[($8::int[])[n]], ($9::int[])[n]) = 1
)
select token, fresh::varbit, case when $19::bool then set_config('synchronous_commit', 'off', true) end
from batch where fresh is not null
