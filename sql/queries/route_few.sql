-- route_few: what route does, for the few events that a look finds most of the time. Called by
-- store::routing::route_few.
-- Its plan has a third of the nodes, and starting and ending a plan is most of such a look (docs/decisions/0017).
-- It leaves to route, untouched: many events, a span that is not finished, an event for one endpoint or in a line,
-- an endpoint with a filter (which is asked where no other endpoint waits for it), events that were routed ahead, more
-- than there is room for.
-- Index: outbox_by_xid, in the partitions from $5 to tomorrow; endpoints_by_route.
-- Locks and cursor: as route.
--
-- $1 relay  $2 claim token  $3 most rows to read  $4 now (null: the database's clock)
-- $5 no event to be routed is older  $6 endpoints with $7 their room, $8 room of all others
-- $9 room in all  $10 room in bytes of payload and headers
with span as materialized (
  select last.number, last.until as since, last.after_id, last.floor_at, last.mark_xid, last.mark_at,
         last.routed_at, last.system_identifier, last.database_oid,
         pg_current_snapshot() as until,
         -- The oldest transaction that was open then and has ended.
         (select x.xid from pg_snapshot_xip(last.until) x(xid)
           where pg_visible_in_snapshot(x.xid, pg_current_snapshot()) order by x.xid limit 1) as late_xid,
         coalesce($4::timestamptz, clock_timestamp()) as now
  from (select * from posthaste.routing order by number desc limit 1) last
  where posthaste_internal.may_route()
),
-- Events that were routed beside a late transaction are read again, and count.
seen as materialized (
  select o.*, span.now, not pg_visible_in_snapshot(o.xid, span.since) as is_new,
         posthaste_internal.event_bytes(o.payload, o.headers) as bytes
  from span
  cross join lateral (
    select o.xid, o.id, o.event_type, o.payload, o.tenant, o.ordering_key, o.endpoint_id, o.headers,
           o.deliver_at, o.expires_at, o.created_at
    from posthaste.outbox o
    where o.xid >= coalesce(span.late_xid, pg_snapshot_xmax(span.since)) and o.xid < pg_snapshot_xmax(span.until)
      and o.created_at >= $5::timestamptz
      and o.created_at < now() + interval '1 day'
    order by o.xid, o.id
    limit $3::bigint
  ) o
),
chunk as materialized (
  select count(*) filter (where is_new) as events,
         count(*) < $3::bigint and coalesce(bool_and(endpoint_id is null) filter (where is_new), true) as is_usual
  from seen
),
owed as materialized (
  select o.*, e.id as owed_to, e.revision, e.ordered and o.ordering_key is not null as in_line,
         e.filter is not null as is_filtered,
         o.deliver_at > o.now is not true as is_due,
         o.deliver_at > o.now is not true
         and e.enabled and coalesce(h.state = 'flowing', true)
         -- All of them might be this endpoint's.
         and (select events from chunk)
             <= coalesce(($7::int[])[array_position($6::bigint[], e.id)], $8::int) as claimed
  from seen o
  cross join lateral (
    select e.* from posthaste.endpoints e
    where (e.enabled or e.hold)
      and posthaste_internal.route_keys(e.tenant, e.subscriptions)
          && posthaste_internal.route_keys_of_event(o.tenant, o.event_type)
    offset 0
  ) e
  left join lateral (select h.state from posthaste.endpoint_health h where h.endpoint_id = e.id offset 0) h on true
  where o.is_new
),
step as materialized (
  select span.*, chunk.events, owed.deliveries, owed.matched, owed.waiting,
         span.after_id is null and chunk.is_usual and owed.is_usual
         and not exists (select from posthaste.routed_ahead) as is_usual
  from span
  cross join chunk
  cross join (
    select count(*) as deliveries, count(distinct id) as matched,
           coalesce(not bool_or(in_line or is_filtered), true) and count(*) <= $9::int and coalesce(sum(bytes), 0) <= $10::bigint
             as is_usual,
           array_agg(distinct owed_to) filter (where is_due and not claimed) as waiting
    from owed
  ) owed
),
advanced as (
  insert into posthaste.routing
    (number, since, until, floor_at, mark_xid, mark_at, events, deliveries,
     unmatched, routed_at, system_identifier, database_oid, relay_id)
  select step.number + 1, step.since, step.until,
         case when mark.is_passed then step.mark_at else step.floor_at end,
         case when mark.is_passed then pg_snapshot_xmax(step.until) else step.mark_xid end,
         case when mark.is_passed then step.routed_at else step.mark_at end,
         step.events, step.deliveries, step.events - step.matched,
         clock_timestamp(), step.system_identifier, step.database_oid, $1::int
  from step
  cross join lateral (select pg_snapshot_xmin(step.until) >= step.mark_xid as is_passed) mark
  where step.is_usual and (step.events > 0 or step.routed_at < clock_timestamp() - interval '1 minute')
  on conflict (number) do nothing
  returning number, floor_at, events, deliveries, unmatched, routed_at
),
inserted as (
  insert into posthaste.deliveries
    (event_id, endpoint_id, event_created_at, next_attempt_at, claimed_by, claim_token)
  select o.id, o.owed_to, o.created_at, greatest(o.deliver_at, o.now),
         case when o.claimed then $1::int end,
         case when o.claimed then $2::bigint end
  from owed o
  where exists (select from advanced)
)
-- One row for each claim, or one without any; each says what the step has done.
select step.is_usual,
       coalesce(a.floor_at, step.floor_at) as floor_at,
       coalesce(a.events, 0) as events,
       coalesce(a.deliveries, 0) as deliveries,
       coalesce(a.unmatched, 0) as unmatched,
       false as more,
       pg_snapshot_xmin(step.until)::text::bigint as xmin,
       step.waiting,
       null::bigint[] as line_endpoints,
       null::text[] as line_keys,
       false as closes_span,
       coalesce(a.number, step.number) as step_number,
       coalesce(a.routed_at, step.routed_at) as step_at,
       o.id as event_id, o.owed_to as endpoint_id, o.revision, o.event_type, o.created_at, o.payload, o.headers,
       null as ordering_key,
       date_part('epoch', o.now - least(greatest(o.created_at, o.deliver_at), o.now)) * 1000 as age_ms,
       o.expires_at <= o.now is true as expired
from step
left join advanced a on true
left join owed o on o.claimed and a.number is not null
