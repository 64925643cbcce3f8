-- give_turns: gives the next in line its turn where no delivery has it. Called by store::ordering::give_turns.
-- Index: deliveries_in_line and one_delivery_of_a_line_has_its_turn, one descent each a line; deliveries_pkey.
-- Locks: the deliveries that have their turn now; of two calls at once, the second changes nothing.
--
-- $1 endpoints and $2 ordering keys of the lines  $3 now (null: the database's clock)
with clock as materialized (
  select coalesce($3::timestamptz, clock_timestamp()) as now
),
line as materialized (
  select distinct l.endpoint_id, l.ordering_key from unnest($1::bigint[], $2::text[]) l(endpoint_id, ordering_key)
),
next as materialized (
  select n.event_id, n.endpoint_id
  from line
  cross join lateral (
    select d.event_id, d.endpoint_id, d.place from posthaste.deliveries d
    where d.endpoint_id = line.endpoint_id and d.ordering_key = line.ordering_key and d.in_line
    order by d.place, d.event_id
    limit 1
  ) n
  -- The first at this key or behind it: an order that leaves the planner no other index, and one row that ends the
  -- scan. (An upper bound of two columns would not: where there is no head, it would read those of all later keys of
  -- the endpoint.)
  left join lateral (
    select h.endpoint_id, h.ordering_key from posthaste.deliveries h
    where h.ordering_key is not null and h.in_line is null
      and (h.endpoint_id, h.ordering_key) >= (line.endpoint_id, line.ordering_key)
    order by h.endpoint_id, h.ordering_key
    limit 1
  ) head on head.endpoint_id = line.endpoint_id and head.ordering_key = line.ordering_key
  where head.endpoint_id is null
    and n.place < coalesce((select posthaste_internal.open_span()), 9223372036854775807)
),
given as (
  update posthaste.deliveries d set in_line = null
    from next n
   where d.event_id = any(array[n.event_id]) and d.endpoint_id = n.endpoint_id
     -- Not plainly `d.in_line`, which would let the planner read a whole line for each.
     and coalesce(d.in_line, false)
  returning d.endpoint_id, d.next_attempt_at
)
select g.endpoint_id,
       date_part('epoch', greatest(least(g.next_attempt_at, clock.now + interval '1 year'), clock.now - interval '1 year') - clock.now) * 1000 as due_in_ms
from given g cross join clock
