-- route: reads the next events committed since the last routing and inserts the deliveries they owe,
-- claimed for the caller as far as there is room. Called by store::routing::route.
-- Index: outbox_by_xid, in the partitions from $5 to tomorrow (the outbox takes no event that is dated an
-- hour ahead); endpoints_by_route.
-- Nested loops are off for it (ROUTER_PLANS): `offset 0` keeps a lookup by index from becoming a join.
-- Passes over what was routed ahead of it (read_ahead).
-- Locks: posthaste.routers, for the statement; nothing else that exists already.
-- The new cursor's primary key admits one router: a second one inserts nothing and returns nothing.
--
-- $1 relay  $2 claim token  $3 most events  $4 now (null: the database's clock)
-- $5 no event to be routed is older  $6 endpoints with $7 their room, $8 room of all others
-- $9 room in all  $10 room in bytes of payload and headers
with router as materialized (
  select posthaste_internal.may_route() as held
),
-- Routes what is visible in until and not in since. An unfinished span goes on where the last step ended.
span as materialized (
  select case when last.after_id is null then last.until else last.since end as since,
         case when last.after_id is null then pg_current_snapshot() else last.until end as until,
         coalesce(last.after_xid, '0'::xid8) as after_xid,
         coalesce(last.after_id, -1) as after_id,
         last.after_id is not null as taken_up,
         case when last.after_id is null then last.number + 1 else coalesce(last.span_number, last.number) end as number,
         last.number as last_number, last.floor_at, last.mark_xid, last.mark_at, last.routed_at,
         last.system_identifier, last.database_oid,
         exists (select from posthaste.routed_ahead) as has_ahead,
         coalesce($4::timestamptz, clock_timestamp()) as now
  from router
  cross join lateral (select * from posthaste.routing order by number desc limit 1) last
  where router.held
),
range as materialized (
  -- Transactions that were open at since and have committed by until …
  select x.xid as after_xid, case when x.xid = span.after_xid then span.after_id else -1 end as after_id,
         (x.xid::text::bigint + 1)::text::xid8 as end_xid
  from span
  cross join lateral pg_snapshot_xip(span.since) x(xid)
  where x.xid >= span.after_xid and pg_visible_in_snapshot(x.xid, span.until)
  union all
  -- … and those that began after it.
  select greatest(span.after_xid, first.xid), case when span.after_xid >= first.xid then span.after_id else -1 end,
         pg_snapshot_xmax(span.until)
  from span
  cross join lateral pg_snapshot_xmax(span.since) first(xid)
),
event as materialized (
  select e.*,
         posthaste_internal.event_bytes(e.payload, e.headers) as bytes
  from span
  cross join range
  cross join lateral (
    select o.xid, o.id, o.event_type, o.payload, o.tenant, o.ordering_key, o.endpoint_id, o.headers,
           o.deliver_at, o.expires_at, o.created_at
    from posthaste.outbox o
    where (o.xid, o.id) > (range.after_xid, range.after_id) and o.xid < range.end_xid
      and pg_visible_in_snapshot(o.xid, span.until)
      and o.created_at >= $5::timestamptz
      and o.created_at < now() + interval '1 day'
      and (not span.has_ahead or not posthaste_internal.is_ahead(o.id))
    order by o.xid, o.id
    limit $3::bigint
  ) e
  order by e.xid, e.id
  limit $3::bigint
),
chunk as materialized (
  select count(*) as events, count(*) = $3::bigint as more from event
),
kind as materialized (
  select event_type, coalesce(tenant, '') as tenant
  from event
  where endpoint_id is null
  group by 1, 2
),
subscriber as materialized (
  select k.event_type, k.tenant, e.id as endpoint_id, e.filter, e.revision, e.ordered,
         e.enabled and coalesce(h.state = 'flowing', true) as flowing
  from kind k
  cross join lateral (
    select e.* from posthaste.endpoints e
    where (e.enabled or e.hold)
      and posthaste_internal.route_keys(e.tenant, e.subscriptions)
          && posthaste_internal.route_keys_of_event(nullif(k.tenant, ''), k.event_type)
    offset 0
  ) e
  left join lateral (select h.state from posthaste.endpoint_health h where h.endpoint_id = e.id offset 0) h on true
),
-- Without the payload: what follows sorts and copies these rows many times.
owed as materialized (
  select e.id, e.created_at, e.deliver_at, e.bytes, s.endpoint_id as owed_to, s.revision, s.flowing,
         case when s.ordered then e.ordering_key end as line
  from event e
  join subscriber s on s.event_type = e.event_type and s.tenant = coalesce(e.tenant, '')
  where e.endpoint_id is null
    and (s.filter is null or posthaste_internal.filter_matches(e.payload, s.filter))
  union all
  select e.id, e.created_at, e.deliver_at, e.bytes, n.id, n.revision,
         n.enabled and coalesce(h.state = 'flowing', true),
         case when n.ordered then e.ordering_key end
  from event e
  cross join lateral (select n.* from posthaste.endpoints n where n.id = e.endpoint_id offset 0) n
  left join lateral (select h.state from posthaste.endpoint_health h where h.endpoint_id = n.id offset 0) h on true
  where e.endpoint_id is not null
    and (n.filter is null or not posthaste_internal.is_announcement(e.event_type)
         or posthaste_internal.filter_matches(e.payload, n.filter))
),
-- Where a line has a live delivery already, all new ones wait behind it; else all but the first. While the span has
-- more to come, the first is not known.
line as materialized (
  select o.*, head.endpoint_id is not null or next.endpoint_id is not null as is_live
  from (select owed_to, line, min(id) as first from owed where line is not null group by owed_to, line) o
  -- See give_turns for the bound.
  left join lateral (
    select d.endpoint_id, d.ordering_key from posthaste.deliveries d
    where d.ordering_key is not null and d.in_line is null
      and (d.endpoint_id, d.ordering_key) >= (o.owed_to, o.line)
    order by d.endpoint_id, d.ordering_key
    limit 1
  ) head on head.endpoint_id = o.owed_to and head.ordering_key = o.line
  left join lateral (
    select d.endpoint_id, d.ordering_key from posthaste.deliveries d
    where d.in_line and (d.endpoint_id, d.ordering_key) >= (o.owed_to, o.line)
    order by d.endpoint_id, d.ordering_key
    limit 1
  ) next on next.endpoint_id = o.owed_to and next.ordering_key = o.line
),
ranked as materialized (
  select o.*, span.number as place, turn.in_line, due.is_due,
         o.flowing
         and turn.in_line is null
         and due.is_due
         and row_number() over (partition by o.owed_to order by o.id) <= coalesce(r.room, $8::int)
         and sum(o.bytes) over (order by o.id, o.owed_to) <= $10::bigint
         and row_number() over (order by o.id, o.owed_to) <= $9::int as claimed
  from owed o
  cross join span
  cross join chunk
  left join unnest($6::bigint[], $7::int[]) r(endpoint_id, room) on r.endpoint_id = o.owed_to
  left join line l on l.owed_to = o.owed_to and l.line = o.line
  cross join lateral (
    select case when o.line is not null and (chunk.more or l.is_live or o.id > l.first) then true end as in_line
  ) turn
  cross join lateral (select coalesce(o.deliver_at <= span.now, true) as is_due) due
),
-- This statement does not see what ends beside it: the caller looks at these lines once more (give_turns).
behind as materialized (
  select array_agg(owed_to order by owed_to, line) as endpoints, array_agg(line order by owed_to, line) as keys
  from line, chunk
  where is_live and not chunk.more
),
advanced as (
  insert into posthaste.routing
    (number, since, until, after_xid, after_id, floor_at, mark_xid, mark_at, events, deliveries,
     unmatched, routed_at, system_identifier, database_oid, span_number, relay_id)
  select span.last_number + 1, span.since, span.until, rest.after_xid, rest.after_id,
         case when mark.is_passed then span.mark_at else span.floor_at end,
         case when mark.is_passed then pg_snapshot_xmax(span.until) else span.mark_xid end,
         case when mark.is_passed then span.routed_at else span.mark_at end,
         chunk.events, found.deliveries, chunk.events - found.events,
         clock_timestamp(), span.system_identifier, span.database_oid,
         case when span.number <= span.last_number then span.number end, $1::int
  from span
  cross join chunk
  cross join lateral (select pg_snapshot_xmin(span.until) >= span.mark_xid as is_passed) mark
  cross join (select count(*) as deliveries, count(distinct id) as events from owed) found
  left join lateral (
    select e.xid as after_xid, e.id as after_id from event e order by e.xid desc, e.id desc limit 1
  ) rest on chunk.more
  -- An idle look leaves no row, but now and then the cursor moves on.
  where chunk.events > 0 or span.taken_up or span.routed_at < clock_timestamp() - interval '1 minute'
  on conflict (number) do nothing
  returning number, floor_at, events, deliveries, unmatched, routed_at
),
inserted as (
  insert into posthaste.deliveries
    (event_id, endpoint_id, event_created_at, next_attempt_at, claimed_by, claim_token, ordering_key,
     place, in_line)
  select o.id, o.owed_to, o.created_at,
         greatest(o.deliver_at, span.now),
         case when o.claimed then $1::int end,
         case when o.claimed then $2::bigint end,
         o.line, case when o.line is not null then o.place end, o.in_line
  from ranked o cross join span
  where exists (select from advanced)
)
-- First the step itself …
select coalesce(a.floor_at, span.floor_at) as floor_at,
       coalesce(a.events, 0) as events,
       coalesce(a.deliveries, 0) as deliveries,
       coalesce(a.unmatched, 0) as unmatched,
       chunk.more and a.number is not null as more,
       pg_snapshot_xmin(pg_current_snapshot())::text::bigint as xmin,
       (select array_agg(distinct r.owed_to) from ranked r
         where r.is_due and not r.claimed and r.in_line is null) as waiting,
       behind.endpoints as line_endpoints,
       behind.keys as line_keys,
       span.taken_up and not chunk.more and a.number is not null as closes_span,
       coalesce(a.number, span.last_number) as step_number,
       coalesce(a.routed_at, span.routed_at) as step_at,
       null::bigint as event_id, null::bigint as endpoint_id, null::bigint as revision,
       null as event_type, null::timestamptz as created_at, null::json as payload, null::jsonb as headers,
       null as ordering_key, null::float8 as age_ms, null::boolean as expired
from span
cross join chunk
cross join behind
left join advanced a on true
union all
-- … and each delivery that it has claimed.
select null, null, null, null, null, null, null, null, null, null, null, null,
       r.id, r.owed_to, r.revision, e.event_type, e.created_at, e.payload, e.headers, r.line,
       date_part('epoch', span.now - least(greatest(e.created_at, e.deliver_at), span.now)) * 1000,
       coalesce(e.expires_at <= span.now, false)
from ranked r
join event e on e.id = r.id
cross join span
where r.claimed and exists (select from advanced)
