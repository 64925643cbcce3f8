-- due: for each endpoint with unclaimed deliveries, in how many milliseconds the first is due (negative: it has been).
-- Called by store::deliveries::due. Takes no locks.
-- Index: deliveries_due, walked loosely: two descents per endpoint, whatever is pending behind.
--
-- $1 now (null: the database's clock)
with recursive clock as materialized (
  select coalesce($1::timestamptz, clock_timestamp()) as now
),
first as (
  (select endpoint_id, next_attempt_at from posthaste.deliveries
    where claimed_by is null and in_line is null
    order by endpoint_id, next_attempt_at, event_id limit 1)
  union all
  select next.endpoint_id, next.next_attempt_at
  from first
  cross join lateral (
    select d.endpoint_id, d.next_attempt_at from posthaste.deliveries d
    where d.claimed_by is null and d.in_line is null and d.endpoint_id > first.endpoint_id
    order by d.endpoint_id, d.next_attempt_at, d.event_id limit 1
  ) next
)
select f.endpoint_id, e.revision, e.tenant,
       date_part('epoch', greatest(least(f.next_attempt_at, clock.now + interval '1 year'), clock.now - interval '1 year') - clock.now) * 1000 as due_in_ms
from first f
cross join clock
join posthaste.endpoints e on e.id = f.endpoint_id and e.enabled
