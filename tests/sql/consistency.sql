-- check_consistency has a row for each thing that breaks the promise, and none when all is well.

create function pg_temp.problems() returns text[] language sql as $$
  select coalesce(array_agg(concat_ws(' ', problem, event_id, endpoint_id) order by problem, event_id, endpoint_id), '{}')
    from posthaste.check_consistency(patience => '0');
$$;
create function pg_temp.is(expected text[]) returns void language plpgsql as $$
begin
  assert pg_temp.problems() = expected, pg_temp.problems()::text;
end $$;

select pg_temp.is('{}');
begin;
insert into posthaste.relays (name, version, heartbeat_at) values ('one', '0', now() + interval '1 h');
select posthaste.add_endpoint('https://a.example', '{order.*}');                             -- 1
select posthaste.add_endpoint('https://b.example', '{*}', filter => '$ ? (@.n > 1)');        -- 2
insert into posthaste.outbox (event_type, payload, endpoint_id) values
  ('order.paid', '{"n": 1}', null), ('order.paid', '{"n": 2}', null), ('named', '{"n": 0}', 1), ('nobody', '{"n": 0}', null);
commit;

-- events that are not routed; none of them once they are, also those that nobody is owed
select pg_temp.is('{"an event is not routed 1","an event is not routed 2","an event is not routed 3","an event is not routed 4"}');
do $$
begin
  assert (select count(*) = 0 from posthaste.check_consistency()), 'impatient';
end $$;
execute route(1, 1, 500, null, now() - interval '1 day', '{}', '{}', 9, 1000, 100000);
select pg_temp.is('{}');

-- a delivery that vanished without an end, to a subscriber and to whom the event names
begin;
delete from posthaste.deliveries where (event_id, endpoint_id) in ((2, 2), (3, 1));
select pg_temp.is('{"an event was routed, but neither delivered nor ended 2 2","an event was routed, but neither delivered nor ended 3 1"}');
-- nothing can be proven of an endpoint that was changed since; what a name owes does not change
update posthaste.endpoints set description = 'changed' where id = 2;
select pg_temp.is('{"an event was routed, but neither delivered nor ended 3 1"}');
rollback;
-- nor of one that was changed before the event, but committed after its routing: routing saw the old one
begin;
insert into posthaste.attempts (event_id, endpoint_id, event_created_at, started_at, number, relay_id, duration_ms, outcome, verdict)
  select event_id, endpoint_id, event_created_at, now(), 1, 1, 1, null, null from posthaste.deliveries;
delete from posthaste.deliveries;
select pg_temp.is('{}');
select posthaste.add_endpoint('https://late.example');                                       -- 3
-- its trigger would set updated_at
set local session_replication_role = replica;
update posthaste.endpoints set updated_at = now() - interval '10 min', created_at = now() - interval '10 min' where id = 3;
select pg_temp.is('{}');
-- … even when the row of the ledger that routed it has been trimmed, and those that are left see the change
insert into posthaste.routing
  (number, since, until, floor_at, mark_xid, mark_at, events, deliveries, unmatched, system_identifier, database_oid)
select last.number + n, s, s, last.floor_at, last.mark_xid, last.mark_at, 0, 0, 0, last.system_identifier, last.database_oid
  from (select * from posthaste.routing order by number desc limit 1) last
  cross join generate_series(1, 3) n
  cross join lateral (select format('%1$s:%1$s:', pg_current_xact_id()::text::bigint + 1)::pg_snapshot) l(s);
delete from posthaste.routing where number < (select max(number) - 1 from posthaste.routing);
select pg_temp.is('{}');
rollback;

-- claims of relays that do not exist or are silent
begin;
update posthaste.deliveries set claimed_by = 42 where event_id = 1;
select pg_temp.is('{"a delivery is claimed by a relay that is gone 1 1"}');
update posthaste.deliveries set claimed_by = 1 where event_id = 1;
update posthaste.relays set heartbeat_at = now() - interval '1 min';
update posthaste.deliveries set claimed_by = null, claim_token = null where event_id <> 1;
select pg_temp.is('{"a delivery is claimed by a relay that is gone 1 1"}');
rollback;

-- a retry that nobody will make
begin;
insert into posthaste.attempts (event_id, endpoint_id, event_created_at, started_at, number, relay_id, duration_ms, outcome, verdict, next_attempt_at)
  select event_id, endpoint_id, event_created_at, now(), 1, 1, 1, null, 'retry', now() from posthaste.deliveries where event_id = 1;
select pg_temp.is('{}');
delete from posthaste.deliveries where event_id = 1;
select pg_temp.is('{"a retry is due without a delivery 1 1"}');
insert into posthaste.attempts (event_id, endpoint_id, event_created_at, started_at, number, relay_id, duration_ms, outcome, verdict)
  select event_id, endpoint_id, event_created_at, clock_timestamp(), 2, 1, 1, null, 'dead' from posthaste.attempts;
select pg_temp.is('{}');
rollback;

-- deliveries whose event or endpoint is gone
begin;
insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at) values (99, 1, now(), now());
insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at) select 1, 77, created_at, now() from posthaste.outbox where id = 1;
select pg_temp.is('{"a delivery''s endpoint is gone 1 77","a delivery''s event is gone 99 1"}');
rollback;

-- days
begin;
do $$
begin
  execute format('drop table posthaste.attempts_%s', to_char((now() at time zone 'UTC')::date + 1, 'YYYYMMDD'));
  perform pg_temp.is('{"a day has no partition"}');
  insert into posthaste.attempts (event_id, endpoint_id, event_created_at, started_at, number, relay_id, duration_ms, outcome, verdict)
  select id, 2, created_at, now() + interval '1 day', 1, 1, 1, null, null from posthaste.outbox where id = 1;
  perform pg_temp.is('{"a day has no partition","the safety net has caught rows"}');
  perform posthaste_internal.make_partitions(7);
  perform pg_temp.is('{}');
end $$;
rollback;

-- a restored dump
begin;
update posthaste.routing set system_identifier = 1;
select pg_temp.is('{"the routing ledger belongs to another database"}');
rollback;

-- an answer has a bound
begin;
delete from posthaste.deliveries;
do $$
begin
  assert (select count(*) = 2 from posthaste.check_consistency(at_most => 2));
end $$;
rollback;
select pg_temp.is('{}');
