-- set_aside_event: which event is the next to be routed; and passes it, if it is the one that is to be set aside.
-- Called by store::set_aside::next_event and set_aside_event.
-- Index: routing_pkey; outbox_by_xid, in the partitions from $2 to tomorrow. Locks: nothing that exists already.
-- Passes over what was routed ahead of it (read_ahead).
-- It reads nothing of the event but its number and time: the rest may be what fails. What endpoints are owed of it is
-- made by posthaste_internal.route_by_endpoint, or nothing at all if that is what fails.
--
-- $1 relay  $2 no event to be routed is older  $3 the event to be passed (null: none)  $4 SQLSTATE (null: none)
-- $5 message  $6 whether to route it by endpoint  $7 endpoints whose filter is not to be asked
with span as materialized (
  select case when last.after_id is null then last.until else last.since end as since,
         case when last.after_id is null then pg_current_snapshot() else last.until end as until,
         coalesce(last.after_xid, '0'::xid8) as after_xid,
         coalesce(last.after_id, -1) as after_id,
         last.number, last.span_number, last.after_id is not null as taken_up,
         last.floor_at, last.mark_xid, last.mark_at, last.routed_at, last.system_identifier, last.database_oid,
         exists (select from posthaste.routed_ahead) as has_ahead
  from (select * from posthaste.routing order by number desc limit 1) last
),
range as materialized (
  -- As in read_events.
  select x.xid as after_xid, case when x.xid = span.after_xid then span.after_id else -1 end as after_id,
         (x.xid::text::bigint + 1)::text::xid8 as end_xid
  from span
  cross join lateral pg_snapshot_xip(span.since) x(xid)
  where x.xid >= span.after_xid and pg_visible_in_snapshot(x.xid, span.until)
  union all
  select greatest(span.after_xid, first.xid), case when span.after_xid >= first.xid then span.after_id else -1 end,
         pg_snapshot_xmax(span.until)
  from span
  cross join lateral pg_snapshot_xmax(span.since) first(xid)
),
next as materialized (
  select e.xid, e.id, e.created_at
  from span
  cross join range
  cross join lateral (
    select o.xid, o.id, o.created_at
    from posthaste.outbox o
    where (o.xid, o.id) > (range.after_xid, range.after_id) and o.xid < range.end_xid
      and pg_visible_in_snapshot(o.xid, span.until)
      and o.created_at >= $2::timestamptz
      and o.created_at < now() + interval '1 day'
      and (not span.has_ahead or not posthaste_internal.is_ahead(o.id))
    order by o.xid, o.id
    limit 1
  ) e
  order by e.xid, e.id
  limit 1
),
advanced as (
  insert into posthaste.routing
    (number, since, until, after_xid, after_id, floor_at, mark_xid, mark_at, events, deliveries,
     unmatched, routed_at, system_identifier, database_oid, span_number, relay_id)
  select span.number + 1, span.since, span.until, next.xid, next.id,
         case when mark.is_passed then span.mark_at else span.floor_at end,
         case when mark.is_passed then pg_snapshot_xmax(span.until) else span.mark_xid end,
         case when mark.is_passed then span.routed_at else span.mark_at end,
         1, 0, 0, clock_timestamp(), span.system_identifier, span.database_oid,
         case when span.taken_up then coalesce(span.span_number, span.number) end, $1::int
  from span
  cross join next
  cross join lateral (select pg_snapshot_xmin(span.until) >= span.mark_xid as is_passed) mark
  where next.id = $3::bigint
  on conflict (number) do nothing
  returning number, routed_at, floor_at
),
done as materialized (
  select a.*,
         case when $6::bool
              then posthaste_internal.route_by_endpoint(next.id, next.created_at, $4::text, $5::text, $7::bigint[])::text
              else posthaste_internal.set_aside(next.id, null, next.created_at, 'route', $4::text, $5::text)::text end as said
  from advanced a
  cross join next
)
select next.id as event_id, next.created_at, done.number, done.routed_at, done.floor_at,
       pg_snapshot_xmin(pg_current_snapshot())::text::bigint as xmin
from next
left join done on true
