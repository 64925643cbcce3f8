-- trim: shortens the ledgers of routing and of changed endpoints, and forgets old idempotency keys. Called by
-- store::upkeep::trim.
-- Index: routing_pkey, endpoint_changes_pkey, idempotency_by_age. Locks: the rows deleted, at most 10,000 of each a
-- call.
--
-- $1 seconds that the outbox is kept
with old_routing as (
  delete from posthaste.routing
   where number = any(array(
     select number from posthaste.routing
      where number < (select max(number) from posthaste.routing) - 1000
      order by number limit 10000))
),
-- From the lowest on, so that the lowest that is left tells how far back the table reaches.
old_changes as (
  delete from posthaste.endpoint_changes
   where changed_in = any(array(
     select changed_in from posthaste.endpoint_changes
      where changed_in < (select changed_in from posthaste.endpoint_changes order by changed_in desc offset 1000 limit 1)
      order by changed_in limit 10000))
)
delete from posthaste.idempotency
 where (tenant, key) in (
   select tenant, key from posthaste.idempotency
    where created_at < clock_timestamp() - $1::float8 * interval '1 second'
    order by created_at limit 10000)
