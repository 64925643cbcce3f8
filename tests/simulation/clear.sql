-- Everything as after the migrations, by deletes: of a few rows they are faster than new tables.
set session_replication_role = replica;
delete from posthaste.deliveries;
delete from posthaste.attempts;
delete from posthaste.outbox;
delete from posthaste.idempotency;
delete from posthaste.routing;
delete from posthaste.relays;
delete from posthaste.endpoint_health;
delete from posthaste.endpoint_secrets;
delete from posthaste.endpoints;
set session_replication_role = origin;
alter sequence posthaste.revision restart;
alter table posthaste.outbox alter column id restart;
alter table posthaste.endpoints alter column id restart;
alter table posthaste.endpoint_secrets alter column id restart;
alter table posthaste.relays alter column id restart;
select posthaste.make_partitions(7);
-- Ten minutes before midnight, so that days change under way; and the last day stays out of reach.
select setval('simulation.clock', (extract(epoch from current_date + time '23:50') * 1000000)::bigint);
insert into posthaste.routing
  (number, since, until, floor_at, mark_xid, mark_at, events, deliveries, unmatched, system_identifier, database_oid)
select 0, s, s, now(), pg_snapshot_xmax(s), now(), 0, 0, 0,
       (select system_identifier from pg_control_system()),
       (select oid from pg_database where datname = current_database())
  from pg_current_snapshot() s;
