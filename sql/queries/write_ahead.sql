-- write_ahead: writes a step of routing ahead of the cursor, which stays where it is: a row of the ledger, the events
-- for the cursor to pass over, a batch of what is claimed for the caller, and the deliveries that wait.
-- Called by store::ahead::write_ahead.
-- Index: routing_pkey, endpoint_changes_pkey, claims_pkey, routed_ahead_pkey. Locks: nothing that exists already.
-- As with write_step, the ledger's primary key admits one router, and one that goes by endpoints which have changed
-- since $8 writes nothing. So no event that is in the ledger's past by now is routed a second time.
--
-- $1 relay  $2 claim token  $3 number of the last step  $4 events with $5 their transactions
-- $6 deliveries  $7 unmatched events  $8 the snapshot that the endpoints were read in
-- $9 now (null: the database's clock)
-- What is claimed: $10 events with $11 the endpoints, $12 their created_at, and $13 the lowest and $14 the highest of
-- the events. What waits: $15 events with $16 the endpoints, $17 their created_at, and $18 when due (null: now)
with known as materialized (
  select pg_current_snapshot() as now,
         -- Older changes than the first may have been trimmed.
         first.changed_in < pg_snapshot_xmin($8::text::pg_snapshot)
         and not exists (
           select from posthaste.endpoint_changes c
            where c.changed_in >= pg_snapshot_xmin($8::text::pg_snapshot)
              and not pg_visible_in_snapshot(c.changed_in, $8::text::pg_snapshot)) as is_current
  from (select c.changed_in from posthaste.endpoint_changes c order by c.changed_in limit 1) first
),
advanced as (
  insert into posthaste.routing
    (number, since, until, after_xid, after_id, floor_at, mark_xid, mark_at, events, deliveries,
     unmatched, routed_at, system_identifier, database_oid, span_number, relay_id)
  select last.number + 1, last.since, last.until, last.after_xid, last.after_id,
         last.floor_at, last.mark_xid, last.mark_at, cardinality($4::bigint[]), $6::int, $7::int,
         clock_timestamp(), last.system_identifier, last.database_oid,
         case when last.after_id is not null then coalesce(last.span_number, last.number) end, $1::int
  from known
  cross join lateral (select * from posthaste.routing r where r.number = $3::bigint offset 0) last
  where known.is_current
  on conflict (number) do nothing
  returning number, floor_at, routed_at
),
ahead as (
  insert into posthaste.routed_ahead (event_id, xid)
  select e.id, e.xid::text::xid8
  from unnest($4::bigint[], $5::bigint[]) e(id, xid)
  where exists (select from advanced)
),
claimed as (
  insert into posthaste.claims
    (relay_id, token, pending, recorded, due_at, first_event, last_event, event_ids, endpoint_ids, event_created_ats)
  select $1::int, $2::bigint, n, repeat('0', n)::varbit, coalesce($9::timestamptz, clock_timestamp()),
         $13::bigint, $14::bigint, $10::bigint[], $11::bigint[], $12::timestamptz[]
  from advanced
  cross join lateral (select cardinality($10::bigint[])) claimed(n)
  where n > 0
),
waiting as (
  insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at)
  select w.event_id, w.endpoint_id, w.created_at,
         greatest(w.due_at::timestamptz, coalesce($9::timestamptz, clock_timestamp()))
  from unnest($15::bigint[], $16::bigint[], $17::timestamptz[], $18::text[])
       w(event_id, endpoint_id, created_at, due_at)
  where exists (select from advanced)
)
select known.is_current, known.now::text as snapshot, a.number, a.floor_at, a.routed_at
from known
left join advanced a on true
