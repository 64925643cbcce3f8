-- Rows that the safety net caught are moved to their day while nobody reads.
--
-- Whoever planned a statement before the day was attached, waited for the safety net's lock while the
-- rows moved, and took its snapshot after that, found them neither here nor there. Routing passed over
-- such events for good. The lock on the whole table is waited for before a statement looks which
-- partitions there are. It is taken only where there are rows to move, and gives way within 100 ms.

create or replace function posthaste.make_partitions(days_ahead integer) returns integer
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
      -- Made apart and attached: that takes a lock which inserts do not wait for. What the safety
      -- net caught of this day moves along.
      execute format('create table posthaste.%I (like posthaste.%I including defaults including constraints)', child, parent);
      execute format(
        'with moved as (delete from posthaste.%I where %I >= %L and %I < %L returning *)
         insert into posthaste.%I select * from moved',
        parent || '_default', key, day, key, day + 1, child);
      execute format('alter table posthaste.%I attach partition posthaste.%I for values from (%L) to (%L)',
                     parent, child, day, day + 1);
      execute format('comment on table posthaste.%I is %L', child,
                     format('The %s of %s (UTC).', case parent when 'outbox' then 'events' else parent end, day));
      made := made + 1;
    end loop;
  end loop;
  return made;
end $$;
