-- The database of the simulation stands on a clock of its own: a sequence of microseconds, so that it
-- moves for every session at once and rolls back with none. Whoever looks at it takes a microsecond.
-- It is put in place of the server's before the migrations run, so that all of them are bound to it.
set allow_system_table_mods = on;

create schema simulation;
create sequence simulation.clock minvalue 0;

alter function pg_catalog.clock_timestamp() rename to clock_timestamp_of_the_server;
alter function pg_catalog.now() rename to now_of_the_server;
create function pg_catalog.clock_timestamp() returns timestamptz language sql volatile
  return 'epoch'::timestamptz + nextval('simulation.clock') * interval '1 microsecond';
-- In a transaction, when it began: whoever begins one says so.
create function pg_catalog.now() returns timestamptz language sql stable
  return coalesce(nullif(current_setting('simulation.began', true), '')::timestamptz,
                  'epoch'::timestamptz + (select last_value from simulation.clock) * interval '1 microsecond');
