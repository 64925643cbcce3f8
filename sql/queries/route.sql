-- route: reads the next events committed since the last routing and inserts the deliveries they owe,
-- claimed for the caller as far as there is room. Called by store::routing::route.
-- Index: outbox_by_xid, in the partitions from $5 to tomorrow (the outbox takes no event that is dated an
-- hour ahead); endpoints_by_route.
-- Locks: the router's advisory lock for the statement; nothing else that exists already.
-- The new cursor's primary key lets one router in: a second one inserts nothing and returns nothing.
--
-- $1 relay  $2 claim token  $3 most events  $4 now (null: the database's clock)
-- $5 no event to be routed is older  $6 endpoints with $7 their room, $8 room of all others
-- $9 room in all  $10 room in bytes of payload
with router as materialized (
  select pg_try_advisory_xact_lock(1886352244, 2) as held
),
clock as materialized (
  select coalesce($4::timestamptz, clock_timestamp()) as now
),
last as materialized (
  select r.* from router, lateral (
    select * from posthaste.routing order by number desc limit 1) r
  where router.held
),
-- What is visible in until and not in since. An unfinished span is taken up where it was left.
span as materialized (
  select case when after_id is null then until else since end as since,
         case when after_id is null then pg_current_snapshot() else until end as until,
         coalesce(after_xid, '0'::xid8) as after_xid,
         coalesce(after_id, -1) as after_id,
         after_id is not null as taken_up,
         case when after_id is null then number + 1 else coalesce(span_number, number) end as number
  from last
),
-- Transactions that were open at since and have committed by until …
straggler as (
  select e.*
  from span
  cross join lateral pg_snapshot_xip(span.since) x(xid)
  cross join lateral (
    select o.xid, o.id, o.event_type, o.payload, o.tenant, o.ordering_key, o.endpoint_id, o.headers,
           o.deliver_at, o.expires_at, o.created_at
    from posthaste.outbox o
    -- Not `=`, which would let the planner read the primary key in the order of ids.
    where o.xid >= x.xid and o.xid <= x.xid
      and (o.xid, o.id) > (span.after_xid, span.after_id)
      and o.created_at >= $5::timestamptz
      and o.created_at < now() + interval '1 day'
    order by o.xid, o.id
    limit $3::bigint
  ) e
  where pg_visible_in_snapshot(x.xid, span.until)
),
-- … and those that began after it.
fresh as (
  select e.*
  from span
  cross join lateral (
    select o.xid, o.id, o.event_type, o.payload, o.tenant, o.ordering_key, o.endpoint_id, o.headers,
           o.deliver_at, o.expires_at, o.created_at
    from posthaste.outbox o
    where (o.xid, o.id) > (greatest(span.after_xid, pg_snapshot_xmax(span.since)),
                           case when span.after_xid >= pg_snapshot_xmax(span.since) then span.after_id else -1 end)
      and o.xid < pg_snapshot_xmax(span.until)
      and pg_visible_in_snapshot(o.xid, span.until)
      and o.created_at >= $5::timestamptz
      and o.created_at < now() + interval '1 day'
    order by o.xid, o.id
    limit $3::bigint
  ) e
),
event as materialized (
  select * from (select * from straggler union all select * from fresh) e
  order by xid, id
  limit $3::bigint
),
chunk as materialized (
  -- Not max(xid), which PostgreSQL 14 does not have.
  select count(*) as events, count(*) = $3::bigint as more,
         (select e.xid from event e order by e.xid desc limit 1) as xid
  from event
),
kind as materialized (
  select event_type, coalesce(tenant, '') as tenant
  from event
  where endpoint_id is null
  group by 1, 2
),
subscriber as materialized (
  select k.event_type, k.tenant, e.id as endpoint_id, e.filter, e.revision, e.ordered,
         coalesce(h.state = 'flowing', true) as flowing
  from kind k
  join posthaste.endpoints e
    on posthaste.route_keys(e.tenant, e.subscriptions)
       && posthaste.route_keys_of_event(nullif(k.tenant, ''), k.event_type)
  left join posthaste.endpoint_health h on h.endpoint_id = e.id
  where e.enabled
),
owed as materialized (
  select e.*, s.endpoint_id as owed_to, s.revision, s.flowing,
         case when s.ordered then e.ordering_key end as line
  from event e
  join subscriber s on s.event_type = e.event_type and s.tenant = coalesce(e.tenant, '')
  where e.endpoint_id is null
    and (s.filter is null or posthaste.filter_matches(e.payload, s.filter))
  union all
  select e.*, n.id, n.revision, n.enabled and coalesce(h.state = 'flowing', true),
         case when n.ordered then e.ordering_key end
  from event e
  join posthaste.endpoints n on n.id = e.endpoint_id
  left join posthaste.endpoint_health h on h.endpoint_id = n.id
  where e.endpoint_id is not null
),
-- Where somebody is live already, all are in line; else all but the first. While the span has more to
-- come, nobody knows who is first.
line as materialized (
  select o.*, head.is_there is not null or next.is_there is not null as is_live
  from (select owed_to, line, min(id) as first from owed where line is not null group by owed_to, line) o
  -- See give_turns for the bounds.
  left join lateral (
    select true as is_there from posthaste.deliveries d
    where d.ordering_key is not null and d.in_line is null
      and (d.endpoint_id, d.ordering_key) >= (o.owed_to, o.line)
      and (d.endpoint_id, d.ordering_key) <= (o.owed_to, o.line)
    order by d.endpoint_id, d.ordering_key
    limit 1
  ) head on true
  left join lateral (
    select true as is_there from posthaste.deliveries d
    where d.in_line
      and (d.endpoint_id, d.ordering_key) >= (o.owed_to, o.line)
      and (d.endpoint_id, d.ordering_key) <= (o.owed_to, o.line)
    order by d.endpoint_id, d.ordering_key
    limit 1
  ) next on true
),
ranked as materialized (
  select o.*, span.number as place, turn.in_line,
         o.flowing
         and turn.in_line is null
         and coalesce(o.deliver_at <= clock.now, true)
         and row_number() over (partition by o.owed_to order by o.id) <= coalesce(r.room, $8::int)
         and sum(octet_length(o.payload::text)) over (order by o.id, o.owed_to) <= $10::bigint
         and row_number() over (order by o.id, o.owed_to) <= $9::int as claimed
  from owed o
  cross join clock
  cross join span
  cross join chunk
  left join unnest($6::bigint[], $7::int[]) r(endpoint_id, room) on r.endpoint_id = o.owed_to
  left join line l on l.owed_to = o.owed_to and l.line = o.line
  cross join lateral (
    select case when o.line is not null and (chunk.more or l.is_live or o.id > l.first) then true end as in_line
  ) turn
),
waiting as materialized (
  select array_agg(distinct o.owed_to) as endpoints
  from ranked o cross join clock
  where not o.claimed and o.in_line is null and coalesce(o.deliver_at <= clock.now, true)
),
-- What was ended beside us is not seen here: the caller looks at these lines once more (give_turns).
behind as materialized (
  select array_agg(owed_to order by owed_to, line) as endpoints, array_agg(line order by owed_to, line) as keys
  from line, chunk
  where is_live and not chunk.more
),
advanced as (
  insert into posthaste.routing
    (number, since, until, after_xid, after_id, floor_at, mark_xid, mark_at, events, deliveries,
     unmatched, routed_at, system_identifier, database_oid, span_number)
  select last.number + 1, span.since, span.until,
         case when chunk.more then chunk.xid end,
         case when chunk.more then (select max(e.id) from event e where e.xid = chunk.xid) end,
         case when pg_snapshot_xmin(span.until) >= last.mark_xid then last.mark_at else last.floor_at end,
         case when pg_snapshot_xmin(span.until) >= last.mark_xid then pg_snapshot_xmax(span.until) else last.mark_xid end,
         case when pg_snapshot_xmin(span.until) >= last.mark_xid then last.routed_at else last.mark_at end,
         chunk.events,
         (select count(*) from owed),
         chunk.events - (select count(distinct o.id) from owed o),
         clock_timestamp(), last.system_identifier, last.database_oid,
         case when span.number <= last.number then span.number end
  from last, span, chunk
  -- An idle look leaves no row, but now and then the cursor moves on.
  where chunk.events > 0 or last.after_id is not null or last.routed_at < clock_timestamp() - interval '1 minute'
  on conflict (number) do nothing
  returning number, floor_at, events, deliveries, unmatched
),
inserted as (
  insert into posthaste.deliveries
    (event_id, endpoint_id, event_created_at, next_attempt_at, claimed_by, claim_token, ordering_key,
     place, in_line)
  select o.id, o.owed_to, o.created_at,
         case when o.deliver_at > clock.now then o.deliver_at else clock.now end,
         case when o.claimed then $1::int end,
         case when o.claimed then $2::bigint end,
         o.line, case when o.line is not null then o.place end, o.in_line
  from ranked o cross join clock
  where exists (select from advanced)
  order by o.id
)
select coalesce(a.floor_at, last.floor_at) as floor_at,
       coalesce(a.events, 0) as events,
       coalesce(a.deliveries, 0) as deliveries,
       coalesce(a.unmatched, 0) as unmatched,
       chunk.more and a.number is not null as more,
       pg_snapshot_xmin(pg_current_snapshot())::text::bigint as xmin,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint as xmax,
       case when row_number() over (order by d.id) = 1 then waiting.endpoints end as waiting,
       case when row_number() over (order by d.id) = 1 then behind.endpoints end as line_endpoints,
       case when row_number() over (order by d.id) = 1 then behind.keys end as line_keys,
       span.taken_up and not chunk.more and a.number is not null as closes_span,
       d.id as event_id, d.owed_to as endpoint_id, d.revision, d.event_type, d.created_at, d.payload,
       d.headers, d.line as ordering_key,
       (extract(epoch from clock.now - greatest(d.created_at, d.deliver_at)) * 1000)::float8 as age_ms,
       coalesce(d.expires_at <= clock.now, false) as expired
from last
cross join chunk
cross join clock
cross join waiting
cross join behind
cross join span
left join advanced a on true
left join ranked d on d.claimed and a.number is not null
order by d.id
