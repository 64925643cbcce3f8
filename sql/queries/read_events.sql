-- read_events: where routing stands, and the next events committed since. Writes nothing.
-- Called by store::steps::read_events.
-- Index: outbox_by_xid, in the partitions from $3 to tomorrow (the outbox takes no event that is dated an hour ahead).
-- Passes over what was routed ahead of it (read_ahead).
-- Takes no locks. While another relay takes one full step after the other, routing is left to it: it returns no event.
--
-- $1 relay  $2 most events  $3 no event to be routed is older  $4 now (null: the database's clock)
-- $5 bytes that an event may have: of one that has more, payload and headers are left out. (A bound on all events
-- together is a window over them, a quarter of what this statement costs.)
-- Routes what is visible in until and not in since. An unfinished span goes on where the last step ended.
-- Events come in the order of the ranges, and in each of those in the order of the index: sorting them would copy
-- each payload. The caller sees whether they did.
with span as materialized (
  select case when last.after_id is null then last.until else last.since end as since,
         case when last.after_id is null then pg_current_snapshot() else last.until end as until,
         coalesce(last.after_xid, '0'::xid8) as after_xid,
         coalesce(last.after_id, -1) as after_id,
         last.after_id is not null as taken_up,
         last.number, last.floor_at, last.routed_at,
         last.after_id is not null and coalesce(last.relay_id <> $1::int, false)
           and last.routed_at > clock_timestamp() - interval '20 ms' as is_others,
         exists (select from posthaste.routed_ahead) as has_ahead,
         coalesce($4::timestamptz, clock_timestamp()) as now
  from (select * from posthaste.routing order by number desc limit 1) last
),
range as materialized (
  select * from (
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
  ) r
  order by r.after_xid
)
-- First where routing stands …
select span.number, span.since::text, span.until::text, span.taken_up, span.floor_at, span.routed_at, span.is_others,
       span.routed_at < clock_timestamp() - interval '1 minute' as is_old,
       pg_snapshot_xmin(pg_current_snapshot())::text::bigint as xmin, pg_current_snapshot()::text as seen, span.now,
       null::bigint as id, null::xid8 as xid, null as event_type, null as tenant, null::bigint as endpoint_id,
       null as ordering_key, null::timestamptz as created_at, null as due_at, null::timestamptz as fell_due_at,
       null::boolean as expired, null::integer as bytes, null::json as payload, null::jsonb as headers
from span
union all
-- … and then each event.
select null, null, null, null, null, null, null, null, null, null, null,
       e.id, e.xid, e.event_type, e.tenant, e.endpoint_id, e.ordering_key, e.created_at,
       -- As text: Postgres has later years than the relay's clock can hold.
       case when e.deliver_at > e.now then e.deliver_at::text end,
       case when e.deliver_at > e.created_at and e.deliver_at <= e.now then e.deliver_at end,
       coalesce(e.expires_at <= e.now, false),
       e.bytes, case when e.bytes <= $5::bigint then e.payload end, case when e.bytes <= $5::bigint then e.headers end
from (
  select e.*, posthaste_internal.event_bytes(e.payload, e.headers) as bytes, span.now
  from span
  cross join range
  cross join lateral (
    select o.xid, o.id, o.event_type, o.payload, o.tenant, o.ordering_key, o.endpoint_id, o.headers,
           o.deliver_at, o.expires_at, o.created_at
    from posthaste.outbox o
    where (o.xid, o.id) > (range.after_xid, range.after_id) and o.xid < range.end_xid
      and pg_visible_in_snapshot(o.xid, span.until)
      and o.created_at >= $3::timestamptz
      -- Not a day, which the calendar of the session's time zone would be asked about for each event.
      and o.created_at < now() + interval '24 hours'
      and (not span.has_ahead or not posthaste_internal.is_ahead(o.id))
    order by o.xid, o.id
    limit $2::bigint
  ) e
  where not span.is_others
  limit $2::bigint
) e
