-- doctor_schema: how the schema stands, one row for each check. Called by store::doctor::examine.
-- Reads the catalog alone, so that it can be asked without any privilege. Takes no locks.
--
-- $1 whether inserts are to ring the bell
with missing as (
  select string_agg(lacks, ', ' order by lacks) as privileges
  from (
    select 'usage on schema ' || n.nspname as lacks
    from pg_namespace n
    where n.nspname in ('posthaste', 'posthaste_internal') and not has_schema_privilege(n.oid, 'usage')
    union all
    select format('%s on %s', p.privilege, c.relname)
    from pg_class c
    cross join unnest(array['select', 'insert', 'update', 'delete']) p(privilege)
    where c.relnamespace = 'posthaste'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
      and not has_table_privilege(c.oid, p.privilege)
    union all
    select 'usage on ' || c.relname
    from pg_class c
    where c.relnamespace = 'posthaste'::regnamespace and case c.relkind when 'S' then not has_sequence_privilege(c.oid, 'usage') end
    union all
    select 'update on silence'
    from pg_class c
    where c.relnamespace = 'posthaste'::regnamespace and c.relname = 'silence'
      and case c.relkind when 'S' then not has_sequence_privilege(c.oid, 'update') end
    union all
    -- One function stands for all: they are granted together.
    select format('execute on %s function%s, such as %s', count(*), case when count(*) > 1 then 's' end, min(p.proname))
    from pg_proc p
    join pg_namespace n on n.oid = p.pronamespace
    where n.nspname in ('posthaste', 'posthaste_internal') and not has_function_privilege(p.oid, 'execute')
    having count(*) > 0
  ) l
),
silent as (
  select string_agg(t.tgname, ', ' order by t.tgname) as triggers,
         string_agg(format('alter table posthaste.%I enable trigger %I', c.relname, t.tgname), '; ' order by t.tgname) as fix
  from pg_trigger t
  join pg_class c on c.oid = t.tgrelid
  where c.relnamespace = 'posthaste'::regnamespace and not t.tgisinternal and t.tgenabled not in ('O', 'A')
    and t.tgname <> 'outbox_rings_the_bell'
    -- It goes with the bell.
    and not (t.tgname = 'endpoints_tell_of_their_changes' and not $1::bool)
    -- A partition's copy goes with its parent's trigger, and is told only where that one is on.
    and not exists (select from pg_trigger parent where parent.oid = t.tgparentid and parent.tgenabled not in ('O', 'A'))
),
bell as (
  select count(*) filter (where t.tgenabled in ('O', 'A')) > 0 as rings, count(*) > 0 as is_there
  from pg_trigger t
  join pg_class c on c.oid = t.tgrelid
  where c.relnamespace = 'posthaste'::regnamespace and c.relname = 'outbox'
    and t.tgname = 'outbox_rings_the_bell'
),
-- Tables whose rows a policy would hide: from the relay's role, or from the owner, as whom functions run.
hidden as (
  select string_agg(c.oid::regclass::text, ', ' order by c.relname) as tables,
         concat_ws('; ',
           case when bool_or(row_security_active(c.oid) and owner.rolname <> current_user) then format('alter role %I bypassrls', current_user) end,
           string_agg(format('alter table %s no force row level security', c.oid::regclass), '; ' order by c.relname)
             filter (where c.relforcerowsecurity and not (owner.rolsuper or owner.rolbypassrls))) as fix
  from pg_class c
  join pg_roles owner on owner.oid = c.relowner
  where c.relnamespace = 'posthaste'::regnamespace and c.relkind in ('r', 'p')
    and (row_security_active(c.oid)
         or (c.relrowsecurity and c.relforcerowsecurity and not (owner.rolsuper or owner.rolbypassrls)))
),
unmade as (
  select string_agg(day.partition, ', ' order by day.partition) as partitions
  from (
    select format('%s_%s', parent, to_char((clock_timestamp() at time zone 'UTC')::date + n, 'YYYYMMDD')) as partition
    from unnest(array['outbox', 'attempts']) parent, generate_series(0, 1) n
  ) day
  where not exists (
    select from pg_class c where c.relnamespace = 'posthaste'::regnamespace and c.relname = day.partition)
)
select 'privileges' as "check",
       case when privileges is null then 'ok' else 'failed' end as state,
       case when privileges is null then 'all that a relay needs' else format('%s lacks %s', current_user, privileges) end as detail,
       case when privileges is not null then
         case when to_regrole('posthaste_relay') is null
              then 'create role posthaste_relay nologin; select posthaste.grant_roles(); ' else '' end
         || format('grant posthaste_relay to %I', current_user)
       end as fix
from missing
union all
select 'triggers', case when triggers is null then 'ok' else 'failed' end,
       coalesce('disabled: ' || triggers, 'all enabled'), fix
from silent
union all
select 'bell', case when not is_there then 'failed' when rings = $1::bool then 'ok' else 'warning' end,
       case when not is_there then 'its trigger was dropped, and no relay starts'
            when rings then 'inserts ring it' else 'inserts do not ring it' end,
       case when not is_there then
              'create trigger outbox_rings_the_bell after insert on posthaste.outbox for each statement '
              || 'when (abs(coalesce(pg_sequence_last_value(''posthaste.silence''::regclass) / 4096, 0) '
              || '- date_part(''epoch'', clock_timestamp()) * 1000 - 2500) > 2500) '
              || 'execute function posthaste_internal.ring()'
            when rings <> $1::bool then format('select posthaste_internal.install_bell(%L); a relay does so when it starts', $1::bool) end
from bell
union all
select 'rows', case when tables is null then 'ok' else 'failed' end,
       coalesce('row-level security keeps the relay from reading: ' || tables, 'none is hidden by row-level security'),
       case when tables is not null
         then fix || '; or disable row level security there. A policy alone does not do: what it hides would be lost' end
from hidden
union all
select 'partitions', case when partitions is null then 'ok' else 'warning' end,
       coalesce('not made: ' || partitions, 'made for today and tomorrow'),
       case when partitions is not null then 'select posthaste_internal.make_partitions(7); a relay does so every minute' end
from unmade
