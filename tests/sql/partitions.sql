-- Days are made and dropped whatever else the database is used for.

-- As Debezium has it: a table without a replica identity then takes no DELETE.
create publication everything for all tables;
create function pg_temp.day(n integer) returns text language sql as $$
  select to_char((now() at time zone 'UTC')::date + n, 'YYYYMMDD')
$$;
do $$
begin
  execute 'drop table posthaste.attempts_' || pg_temp.day(0);
  execute 'drop table posthaste.outbox_' || pg_temp.day(0);
end $$;
insert into posthaste.attempts (event_id, endpoint_id, event_created_at, started_at, number, relay_id, duration_ms, outcome, verdict)
values (1, 1, now(), now(), 1, 1, 1, 'none', 'cancelled');
select posthaste.emit('a', '{}');
do $$
begin
  assert (select tableoid = 'posthaste.attempts_default'::regclass from posthaste.attempts), 'caught';
  assert posthaste_internal.make_partitions(9) = 2 + 4, 'today, and two days more than there were';
  assert (select tableoid::regclass::text = 'posthaste.attempts_' || pg_temp.day(0) from posthaste.attempts);
  assert (select tableoid::regclass::text = 'posthaste.outbox_' || pg_temp.day(0) from posthaste.outbox);
  assert posthaste_internal.make_partitions(9) = 0;
end $$;

-- rows are never changed: the first vacuum freezes them
do $$
begin
  assert (select bool_and('autovacuum_freeze_min_age=0' = any(c.reloptions)) and count(*) = 20
            from pg_inherits i join pg_class c on c.oid = i.inhrelid
           where i.inhparent in ('posthaste.outbox'::regclass, 'posthaste.attempts'::regclass)
             and c.relname ~ '[0-9]$');
end $$;

-- a day that something of the operator's stands on does not keep the others
do $$
begin
  execute 'create view public.stands_on_it as select * from posthaste.outbox_' || pg_temp.day(2);
  set local client_min_messages = error;
  perform posthaste_internal.drop_partitions('-30 days', '-30 days');
  assert (select array_agg(c.relname::text order by c.relname::text) from pg_inherits i join pg_class c on c.oid = i.inhrelid
           where i.inhparent = 'posthaste.outbox'::regclass and c.relname ~ '[0-9]$')
         = array['outbox_' || pg_temp.day(0), 'outbox_' || pg_temp.day(2)], 'today has an event that is not routed';
end $$;
