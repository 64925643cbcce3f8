-- doctor_sessions: sessions that are in the way of relays and migrations, one row for each check. Called by
-- store::doctor::examine. Takes no locks.
-- When another role's transaction began is told to members of pg_read_all_stats alone; how many transactions have begun
-- since is told to all.
--
-- $1 seconds that a wait for a table of ours takes before it is told  $2 seconds after which a transaction is old
-- $3 transactions after which it is
with session as materialized (
  select a.pid, a.usesysid, a.datid = (select oid from pg_database where datname = current_database()) as is_here,
         format('process %s (role %s, application %s)', a.pid, coalesce(a.usename::text, 'unknown'),
                coalesce(nullif(a.application_name, ''), 'without a name')) as name,
         a.xact_start, age(a.backend_xmin) as behind
  from pg_stat_activity a
  where a.pid <> pg_backend_pid()
),
lock as materialized (
  select l.pid, l.relation::regclass::text as relation, l.mode, l.granted, l.waitstart
  from pg_locks l
  join pg_class c on c.oid = l.relation
  where l.database = (select oid from pg_database where datname = current_database())
    and c.relnamespace in ('posthaste'::regnamespace, 'posthaste_internal'::regnamespace)
    and l.pid <> pg_backend_pid()
),
hindrance as (
  select distinct s.pid, format('%s holds up process %s, which waits for %s', s.name, w.pid, w.relation) as told
  from lock w
  cross join unnest(pg_blocking_pids(w.pid)) b(pid)
  join session s on s.pid = b.pid
  where not w.granted and w.waitstart < clock_timestamp() - $1::float8 * interval '1 second'
  union all
  -- No role needs a right to see a view's definition, and who looks at it holds its tables against those that change
  -- them, until the transaction ends.
  select s.pid, format('%s has no right in the schema, and holds %s', s.name, min(l.relation))
  from lock l
  join session s on s.pid = l.pid
  where l.granted and not has_schema_privilege(s.usesysid, 'posthaste'::regnamespace, 'usage')
  group by s.pid, s.name
),
locks as (
  select (array_agg(told order by told))[1:20] as told, min(pid) as pid from hindrance
),
old as (
  select s.pid, format('%s %s', s.name,
           coalesce('since ' || date_trunc('second', s.xact_start)::text, format('for %s transactions', s.behind))) as told
  from session s
  where s.is_here
    and coalesce(s.xact_start < clock_timestamp() - $2::float8 * interval '1 second', s.behind > $3::int)
    -- Walsenders and workers have an xmin without a role.
    and s.usesysid is not null and (s.behind is not null or s.xact_start is not null)
  union all
  select null, format('prepared transaction %L of %s since %s', p.gid, p.owner, date_trunc('second', p.prepared))
  from pg_prepared_xacts p
  where p.database = current_database() and p.prepared < clock_timestamp() - $2::float8 * interval '1 second'
),
transactions as (
  select (array_agg(told order by told))[1:20] as told, min(pid) as pid from old
)
select 'locks' as "check", case when told is null then 'ok' else 'warning' end as state,
       coalesce(array_to_string(told, '; '), 'no session is in the way') as detail,
       case when told is not null then
         format('end that transaction, or the session: select pg_terminate_backend(%s), by its own role or an administrator', pid) end as fix
from locks
union all
select 'transactions', case when told is null then 'ok' else 'warning' end,
       coalesce('open for long, so vacuum removes nothing that is newer: ' || array_to_string(told, '; '), 'none is open for long'),
       case when told is not null then
         coalesce(format('end it: select pg_terminate_backend(%s), by its own role or an administrator', pid), 'rollback prepared, by its owner')
         || '; idle_in_transaction_session_timeout ends such by itself' end
from transactions
