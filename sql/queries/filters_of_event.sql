-- filters_of_event: the endpoints whose filter decides whether they are owed this event. Called by
-- store::set_aside::filters_of_event.
-- Index: outbox_pkey, endpoints_by_route. Takes no locks.
--
-- $1 event with $2 its created_at
select w.endpoint_id
from posthaste.outbox o
cross join lateral posthaste_internal.owners_of(o.event_type, o.tenant, o.endpoint_id) w
where o.id = $1::bigint and o.created_at = $2::timestamptz and w.filter is not null
