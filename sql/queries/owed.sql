-- owed: the endpoints that are owed events of these kinds, and the snapshot in which that is so.
-- Called by store::steps::owed.
-- Index: endpoints_by_route and the primary keys, a look-up for each kind. Takes no locks.
--
-- $1 event types with $2 their tenants (empty: none) and $3 the endpoint that the event names (null:
-- none; the type then only says whether it is an announcement)
select k.n::int as n, e.id as endpoint_id, e.revision, e.ordered, e.filter is not null as filtered,
       e.enabled and coalesce(h.state = 'flowing', true) as flowing, e.tenant, pg_current_snapshot()::text as snapshot
from unnest($1::text[], $2::text[], $3::bigint[]) with ordinality k(event_type, tenant, named, n)
left join lateral (
  (select e.id, e.revision, e.ordered, e.filter, e.enabled, e.tenant from posthaste.endpoints e
   where k.named is null and (e.enabled or e.hold)
     and posthaste_internal.route_keys(e.tenant, e.subscriptions)
         && posthaste_internal.route_keys_of_event(nullif(k.tenant, ''), k.event_type)
   offset 0)
  union all
  (select e.id, e.revision, e.ordered, case when posthaste_internal.is_announcement(k.event_type) then e.filter end, e.enabled,
          e.tenant
   from posthaste.endpoints e where e.id = k.named offset 0)
) e on true
left join lateral (select h.state from posthaste.endpoint_health h where h.endpoint_id = e.id offset 0) h on true
order by k.n, e.id
