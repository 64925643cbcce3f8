-- read_ahead: the next events behind the cursor that are of other tenants than the one whose backlog is routed.
-- Writes nothing. Called by store::ahead::read_ahead.
-- Looks at each event once: a look goes on where the last ended, and in the end takes in what has committed since.
-- Index: outbox_by_xid, in the partitions from $2 to tomorrow. Payloads are read of what is returned alone.
-- Takes no locks.
-- Without an endpoint of a tenant it returns nothing, and looks at nothing. Events in a line are left to the cursor.
--
-- $1 events to look at  $2 no event to be routed is older
-- $3 since and $4 until of the look (null: from the cursor on, or until now)
-- $5 transaction and $6 event after which it goes on (null: it is at its beginning)
-- $7 the tenant whose backlog it is (null: the one of most of the events looked at)
-- $8 most events of one tenant  $9 most events
-- $10 bytes of payloads and headers, of which each event that is found may have its part: of one that has more, both
-- are left out. A single one may have more.
-- $11 now (null: the database's clock)
with last as materialized (
  select * from posthaste.routing order by number desc limit 1
),
span as materialized (
  select coalesce($3::text::pg_snapshot, case when last.after_id is null then last.until else last.since end) as since,
         coalesce($4::text::pg_snapshot, pg_current_snapshot()) as until,
         coalesce(case when $3::text is null then last.after_xid else $5::bigint::text::xid8 end, '0'::xid8) as after_xid,
         coalesce(case when $3::text is null then last.after_id else $6::bigint end, -1) as after_id,
         coalesce($11::timestamptz, clock_timestamp()) as now
  from last
  where (select e.id from posthaste.endpoints e where e.tenant is not null order by e.id limit 1) is not null
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
looked_at as materialized (
  select o.*
  from span
  cross join range
  cross join lateral (
    select o.xid, o.id, coalesce(o.tenant, '') as tenant, o.created_at, o.ordering_key is not null as is_in_line
    from posthaste.outbox o
    where (o.xid, o.id) > (range.after_xid, range.after_id) and o.xid < range.end_xid
      and pg_visible_in_snapshot(o.xid, span.until)
      and o.created_at >= $2::timestamptz
      and o.created_at < now() + interval '24 hours'
    order by o.xid, o.id
    limit $1::bigint
  ) o
  order by o.xid, o.id
  limit $1::bigint
),
looked as materialized (
  select count(*) = $1::bigint as is_full from looked_at
),
-- A full look says anew whose backlog it is, by some of the events.
backlog as materialized (
  select looked.is_full,
         case when looked.is_full or $7::text is null
              then (select l.tenant from looked_at l where l.id % 16 = 0 or not looked.is_full
                     group by l.tenant order by count(*) desc limit 1)
              else $7::text end as tenant
  from looked
),
others as materialized (
  select * from looked_at l where l.tenant <> (select tenant from backlog) and not l.is_in_line offset 0
),
picked as materialized (
  select n.xid, n.id, n.created_at
  from (
    select o.*, row_number() over (partition by o.tenant order by o.xid, o.id) as nth
    from others o
    cross join last
    -- The cursor may have come further than this look.
    where not posthaste_internal.is_routed(o.xid, o.id, last.since, last.until, last.after_xid, last.after_id)
      and not posthaste_internal.is_ahead(o.id)
  ) n
  where n.nth <= $8::bigint
  -- Tenants take turns.
  order by n.nth, n.xid, n.id
  limit $9::bigint
)
-- First where routing stands, and how far the look has come …
select last.number, span.since::text, span.until::text, ended.xid as after_xid, ended.id as after_id,
       backlog.is_full, last.floor_at, last.routed_at,
       pg_snapshot_xmin(pg_current_snapshot())::text::bigint as xmin, backlog.tenant as behind, span.now,
       null::bigint as id, null::xid8 as xid, null as event_type, null as tenant, null::bigint as endpoint_id,
       null as ordering_key, null::timestamptz as created_at, null as due_at, null::timestamptz as fell_due_at,
       null::boolean as expired, null::integer as bytes, null::json as payload, null::jsonb as headers
from last
cross join span
cross join backlog
left join (
  select l.xid::text::bigint as xid, l.id from looked_at l order by l.xid desc, l.id desc limit 1
) ended on true
union all
-- … and then each event, as in read_events.
select null, null, null, null, null, null, null, null, null, null, null,
       e.id, e.xid, e.event_type, e.tenant, e.endpoint_id, e.ordering_key, e.created_at,
       case when e.deliver_at > e.now then e.deliver_at::text end,
       case when e.deliver_at > e.created_at and e.deliver_at <= e.now then e.deliver_at end,
       coalesce(e.expires_at <= e.now, false),
       e.bytes, case when e.bytes <= e.most_bytes then e.payload end, case when e.bytes <= e.most_bytes then e.headers end
from (
  select o.*, posthaste_internal.event_bytes(o.payload, o.headers) as bytes, span.now, part.most_bytes
  from span
  cross join (
    select case when count(*) > 1 then $10::bigint / count(*) else 9223372036854775807 end as most_bytes from picked
  ) part
  cross join picked p
  cross join lateral (
    select o.* from posthaste.outbox o where o.id = p.id and o.created_at = p.created_at offset 0
  ) o
  offset 0
) e
