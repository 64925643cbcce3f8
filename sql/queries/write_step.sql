-- write_step: writes a step of routing: a row of the ledger, a batch of what is claimed for the caller, and the
-- deliveries that wait. Called by store::steps::write_step.
-- Index: routing_pkey, endpoint_changes_pkey, claims_pkey. Locks: nothing that exists already.
-- The ledger's primary key admits one router: a second one writes nothing. Nor does one that goes by endpoints which
-- have changed since $11.
--
-- $1 relay  $2 claim token  $3 number of the last step  $4 since and $5 until of the span
-- $6 transaction and $7 event that this step ends with (null: the span is routed to its end)
-- $8 events  $9 deliveries  $10 unmatched events  $11 the snapshot that the endpoints were read in
-- $12 now (null: the database's clock)
-- What is claimed: $13 events with $14 the endpoints, $15 their created_at, and $16 the lowest and $17 the highest of
-- the events. What waits: $18 events with $19 the endpoints, $20 their created_at, and $21 when due (null: now)
with known as materialized (
  select pg_current_snapshot() as now,
         -- Older changes than the first may have been trimmed.
         first.changed_in < pg_snapshot_xmin($11::text::pg_snapshot)
         and not exists (
           select from posthaste.endpoint_changes c
            where c.changed_in >= pg_snapshot_xmin($11::text::pg_snapshot)
              and not pg_visible_in_snapshot(c.changed_in, $11::text::pg_snapshot)) as is_current
  from (select c.changed_in from posthaste.endpoint_changes c order by c.changed_in limit 1) first
),
advanced as (
  insert into posthaste.routing
    (number, since, until, after_xid, after_id, floor_at, mark_xid, mark_at, events, deliveries,
     unmatched, routed_at, system_identifier, database_oid, span_number, relay_id)
  select last.number + 1, $4::text::pg_snapshot, $5::text::pg_snapshot, $6::bigint::text::xid8, $7::bigint,
         case when mark.is_passed then last.mark_at else last.floor_at end,
         case when mark.is_passed then pg_snapshot_xmax($5::text::pg_snapshot) else last.mark_xid end,
         case when mark.is_passed then last.routed_at else last.mark_at end,
         $8::int, $9::int, $10::int,
         clock_timestamp(), last.system_identifier, last.database_oid,
         case when last.after_id is not null then coalesce(last.span_number, last.number) end, $1::int
  from known
  cross join lateral (select * from posthaste.routing r where r.number = $3::bigint offset 0) last
  cross join lateral (select pg_snapshot_xmin($5::text::pg_snapshot) >= last.mark_xid as is_passed) mark
  where known.is_current
  on conflict (number) do nothing
  returning number, floor_at, routed_at
),
claimed as (
  insert into posthaste.claims
    (relay_id, token, pending, recorded, due_at, first_event, last_event, event_ids, endpoint_ids, event_created_ats)
  select $1::int, $2::bigint, n, repeat('0', n)::varbit, coalesce($12::timestamptz, clock_timestamp()),
         $16::bigint, $17::bigint, $13::bigint[], $14::bigint[], $15::timestamptz[]
  from advanced
  cross join lateral (select cardinality($13::bigint[])) claimed(n)
  where n > 0
),
waiting as (
  insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at)
  select w.event_id, w.endpoint_id, w.created_at,
         greatest(w.due_at::timestamptz, coalesce($12::timestamptz, clock_timestamp()))
  from unnest($18::bigint[], $19::bigint[], $20::timestamptz[], $21::text[])
       w(event_id, endpoint_id, created_at, due_at)
  where exists (select from advanced)
)
select known.is_current, known.now::text as snapshot, a.number, a.floor_at, a.routed_at
from known
left join advanced a on true
