-- lines: the next lines with a waiting delivery, each an endpoint and an ordering key. Called by
-- store::ordering::lines.
-- Index: deliveries_in_line, walked loosely: one descent a line. Takes no locks.
--
-- $1 endpoint and $2 ordering key after which  $3 most lines
with recursive line as (
  (select d.endpoint_id, d.ordering_key, 1 as count from posthaste.deliveries d
    where d.in_line and (d.endpoint_id, d.ordering_key) > ($1::bigint, $2::text)
    order by d.endpoint_id, d.ordering_key limit 1)
  union all
  select n.endpoint_id, n.ordering_key, line.count + 1
  from line
  cross join lateral (
    select d.endpoint_id, d.ordering_key from posthaste.deliveries d
    where d.in_line and (d.endpoint_id, d.ordering_key) > (line.endpoint_id, line.ordering_key)
    order by d.endpoint_id, d.ordering_key limit 1
  ) n
  where line.count < $3::int
)
select endpoint_id, ordering_key from line
