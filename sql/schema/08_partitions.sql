-- Days: partitions are made ahead and dropped after the retention.

create table posthaste.outbox_default partition of posthaste.outbox default;
comment on table posthaste.outbox_default is
  'Safety net: takes events of a day that has no partition, so that an insert never fails for want of one.';

create table posthaste.attempts_default partition of posthaste.attempts default;
comment on table posthaste.attempts_default is 'Safety net, likewise.';
-- make_partitions moves rows out of it, which a publication FOR ALL TABLES allows only with a replica identity.
alter table posthaste.attempts_default replica identity full;

-- Moves rows that the safety net caught to their day while no statement reads.
--
-- A statement that was planned before the day was attached, waited for the safety net's lock while the rows moved, and
-- took its snapshot after that, would find them neither here nor there. Routing would pass over such events for good.
-- A statement waits for the lock on the whole table before it looks for partitions. The lock is taken only where there
-- are rows to move, and gives up within 100 ms.
create function posthaste_internal.make_partitions(days_ahead integer) returns integer
  language plpgsql security definer
  set search_path = pg_catalog, pg_temp set timezone = 'UTC' set lock_timeout = '100ms' as $$
declare
  parent text;
  key text;
  day date;
  child text;
  made integer := 0;
  caught boolean;
begin
  foreach parent in array array['outbox', 'attempts'] loop
    key := case parent when 'outbox' then 'created_at' else 'started_at' end;
    for day in select current_date + n from generate_series(0, days_ahead) n loop
      child := format('%s_%s', parent, to_char(day, 'YYYYMMDD'));
      continue when to_regclass('posthaste.' || child) is not null;
      execute format('select exists (select from posthaste.%I where %I >= %L and %I < %L)',
                     parent || '_default', key, day, key, day + 1) into caught;
      if caught then
        execute format('lock table posthaste.%I in access exclusive mode', parent);
      end if;
      -- Made apart and attached: that takes a lock which inserts do not wait for. Rows of this day that the safety net
      -- caught move along. Rows are never changed, so the first vacuum freezes them, and no vacuum has to write the day
      -- again for the age of its transactions.
      execute format('create table posthaste.%I (like posthaste.%I including defaults including constraints)
                        with (autovacuum_freeze_min_age = 0)', child, parent);
      if caught then
        execute format(
          'with moved as (delete from posthaste.%I where %I >= %L and %I < %L returning *)
           insert into posthaste.%I select * from moved',
          parent || '_default', key, day, key, day + 1, child);
      end if;
      execute format('alter table posthaste.%I attach partition posthaste.%I for values from (%L) to (%L)',
                     parent, child, day, day + 1);
      execute format('comment on table posthaste.%I is %L', child,
                     format('The %s of %s (UTC).', case parent when 'outbox' then 'events' else parent end, day));
      made := made + 1;
    end loop;
  end loop;
  return made;
end $$;
comment on function posthaste_internal.make_partitions is
  'Makes the daily partitions of outbox and attempts from today to days_ahead days from now (UTC); returns how many were missing.';

create function posthaste_internal.drop_partitions(outbox_retention interval, attempts_retention interval) returns text[]
  language plpgsql security definer
  set search_path = pg_catalog, pg_temp set timezone = 'UTC' set lock_timeout = '100ms' as $$
declare
  child record;
  needed boolean;
  dropped text[] := '{}';
begin
  for child in
    select c.relname, p.relname as parent, to_date(right(c.relname, 8), 'YYYYMMDD') + 1 as upper_bound
      from pg_inherits i
      join pg_class c on c.oid = i.inhrelid
      join pg_class p on p.oid = i.inhparent
     where p.oid in ('posthaste.outbox'::regclass, 'posthaste.attempts'::regclass)
       and c.relname ~ '_[0-9]{8}$'
     order by c.relname
  loop
    continue when child.upper_bound > now() - case child.parent
      when 'outbox' then outbox_retention else attempts_retention end;
    if child.parent = 'outbox' then
      -- Kept while a live delivery needs one of its events, or an event is not routed yet or is set aside.
      execute format(
        'select exists (select from posthaste.deliveries d
                         where d.event_id between (select min(id) from posthaste.%1$I) and (select max(id) from posthaste.%1$I)
                           and d.event_created_at < %2$L)
             or exists (select from posthaste.claims c
                         where %2$L > any(c.event_created_ats)
                           and c.first_event <= (select max(id) from posthaste.%1$I)
                           and c.last_event >= (select min(id) from posthaste.%1$I))
             or exists (select from posthaste.set_aside s
                         where s.event_id between (select min(id) from posthaste.%1$I) and (select max(id) from posthaste.%1$I)
                           and s.event_created_at < %2$L and s.result is null)
             or exists (select from posthaste.%1$I o
                         where o.xid >= (select pg_snapshot_xmin(since) from posthaste.routing order by number desc limit 1)
                           and not pg_visible_in_snapshot(o.xid, (select since from posthaste.routing order by number desc limit 1)))',
        child.relname, child.upper_bound) into needed;
      continue when needed;
    end if;
    begin
      execute format('drop table posthaste.%I', child.relname);
      dropped := dropped || child.relname::text;
    exception
      -- A statement reads or writes it for long; an insert must not queue behind this lock. The next call tries again.
      when lock_not_available then null;
      -- For instance, a view of the operator's needs it. The other days are dropped all the same.
      when others then raise warning 'posthaste.% cannot be dropped: %', child.relname, sqlerrm;
    end;
  end loop;
  return dropped;
end $$;
comment on function posthaste_internal.drop_partitions is
  'Drops whole days that are past their retention, except days of the outbox that are still needed; returns their names.';

select posthaste_internal.make_partitions(7);
