-- receive: inserts webhooks that came in as events, each once by its sender's id. Called by store::received::receive.
-- Index: received_pkey, a descent or two for each. Locks: the rows it inserts; where another transaction is
-- inserting the same, it waits for that one. Rows go in by the order of the key, so that no two calls wait for each
-- other.
-- Numbers are drawn for new webhooks alone, in the order of arrival, so that they are routed in that order.
-- posthaste.numbering tells the outbox's trigger, for this transaction, that the numbers have been drawn.
-- This statement does not see a row that a transaction beside it has just inserted: its answer calls that webhook
-- known, and has no event for it. With each row comes the key that its event's webhook-id is made with.
--
-- Arrays, the n-th element of each for the n-th webhook: $1 sources  $2 the senders' ids  $3 event types
-- $4 payloads (JSON)  $5 tenants (null: none)  $6 ordering keys (null: none)  $7 headers (JSON; null: none)
with came as materialized (
  select r.*
  from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) with ordinality
       r(source, sender_id, event_type, payload, tenant, ordering_key, headers, place)
),
first as materialized (
  select distinct on (source, sender_id) * from came order by source, sender_id, place
),
known as materialized (
  select r.source, r.sender_id, r.event_id, r.event_created_at
  from first f
  cross join lateral (
    -- The first at this key or behind it: an order that leaves the planner no other index, and one row that ends the
    -- scan. (An upper bound of two columns would not: all the source's rows would be read.)
    select r.* from posthaste.received r
    where (r.source, r.sender_id) >= (f.source, f.sender_id)
    order by r.source, r.sender_id
    limit 1
  ) r
  where r.source = f.source and r.sender_id = f.sender_id
),
numbered as materialized (
  select set_config('posthaste.numbering', 'on', true) as numbering,
         nextval('posthaste.ids_are_given_by_the_database') as id, clock_timestamp() as created_at, f.*
  from (select * from first f
         where (f.source, f.sender_id) not in (select k.source, k.sender_id from known k)
         order by f.place) f
),
noted as (
  insert into posthaste.received (source, sender_id, event_id, event_created_at)
  select source, sender_id, id, created_at from numbered order by source, sender_id
  on conflict do nothing
  returning event_id
),
inserted as (
  insert into posthaste.outbox (id, event_type, payload, tenant, ordering_key, headers, created_at)
  overriding system value
  select id, event_type, payload::json, tenant, ordering_key, headers::jsonb, created_at
  from numbered
  where id in (select event_id from noted)
  order by place
)
select c.place, n.id is not null and n.place = c.place as is_new,
       coalesce(k.event_id, n.id) as event_id, coalesce(k.event_created_at, n.created_at) as created_at,
       (select key from posthaste.webhook_id_key) as webhook_id_key
from came c
left join known k on k.source = c.source and k.sender_id = c.sender_id
left join (select * from numbered where id in (select event_id from noted)) n
  on n.source = c.source and n.sender_id = c.sender_id
order by c.place
