-- filter_events: which of these events an endpoint's filter lets through. Called by store::steps::filter_events.
-- Index: the primary keys of outbox and endpoints, a look-up for each pair. Takes no locks.
--
-- $1 events with $2 their created_at and $3 the endpoint
select c.n::int as n
from unnest($1::bigint[], $2::timestamptz[], $3::bigint[]) with ordinality c(event_id, created_at, endpoint_id, n)
cross join lateral (
  select o.payload from posthaste.outbox o where o.id = c.event_id and o.created_at = c.created_at offset 0
) o
cross join lateral (select e.filter from posthaste.endpoints e where e.id = c.endpoint_id offset 0) e
where e.filter is null or posthaste_internal.filter_matches(o.payload, e.filter)
