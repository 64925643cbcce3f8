-- Everything as after the migrations, by deletes: of a few rows they are faster than new tables.
set session_replication_role = replica;
delete from posthaste.deliveries;
delete from posthaste.claims;
delete from posthaste.attempts;
delete from posthaste.withdrawals;
delete from posthaste.outbox;
delete from posthaste.idempotency;
delete from posthaste.routing;
delete from posthaste.relays;
delete from posthaste.endpoint_health;
delete from posthaste.endpoint_secrets;
delete from posthaste.endpoints;
set session_replication_role = origin;
-- Not by `alter … restart`, after which every session would plan everything anew.
select setval('posthaste.revision', 1, false);
select setval(pg_get_serial_sequence('posthaste.' || of, 'id'), 1, false)
  from unnest(array['outbox', 'endpoints', 'endpoint_secrets', 'relays']) of;
select posthaste_internal.make_partitions(7);
-- Ten minutes before midnight, so that days change under way; and the last day stays out of reach.
select setval('simulation.clock', (extract(epoch from current_date + time '23:50') * 1000000)::bigint);
insert into posthaste.routing
  (number, since, until, floor_at, mark_xid, mark_at, events, deliveries, unmatched, system_identifier, database_oid)
select 0, s, s, now(), pg_snapshot_xmax(s), now(), 0, 0, 0,
       (select system_identifier from pg_control_system()),
       (select oid from pg_database where datname = current_database())
  from pg_current_snapshot() s;
