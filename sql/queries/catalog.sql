-- catalog: the objects of this version's schema that the one beside it lacks or has otherwise.
-- Called by store::refill::run, which makes the one to compare with. Reads the catalog alone. Takes no locks.
--
-- Of a function whose body was bound when it was created (`return …`, `begin atomic`) only the head
-- is compared: a dump invents names where the source has none.
--
-- Days, which come and go, are left out; so are whether a trigger is on and how long a payload may
-- be, which are settings.
--
-- $1 the suffix of the names of the schemas that are compared
with thing as (
  select n.nspname,
         case c.relkind when 'v' then 'view' when 'S' then 'sequence'
                        when 'i' then 'index' when 'I' then 'index' else 'table' end
           || ' ' || c.relname as name,
         case c.relkind when 'v' then pg_get_viewdef(c.oid) when 'i' then pg_get_indexdef(c.oid)
                        when 'I' then pg_get_indexdef(c.oid) end as definition
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p', 'v', 'S', 'i', 'I') and not c.relispartition
  union all
  select n.nspname, format('column %s of %s', a.attname, c.relname),
         concat_ws(' ', format_type(a.atttypid, a.atttypmod),
                   case when a.attnotnull then 'not null' end, nullif(a.attidentity, ''),
                   nullif(a.attgenerated, ''), pg_get_expr(d.adbin, d.adrelid))
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
  where c.relkind in ('r', 'p') and not c.relispartition
  union all
  select n.nspname, format('constraint %s of %s', k.conname, c.relname), pg_get_constraintdef(k.oid)
  from pg_constraint k
  join pg_class c on c.oid = k.conrelid
  join pg_namespace n on n.oid = c.relnamespace
  where k.contype <> 'n' and not c.relispartition and k.conname !~ '^payload_is_at_most_'
  union all
  select n.nspname, format('trigger %s of %s', t.tgname, c.relname), pg_get_triggerdef(t.oid)
  from pg_trigger t
  join pg_class c on c.oid = t.tgrelid
  join pg_namespace n on n.oid = c.relnamespace
  where not t.tgisinternal and not c.relispartition
  union all
  select n.nspname, format('function %s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)),
         concat_ws(' ', pg_get_function_arguments(p.oid), pg_get_function_result(p.oid),
                   p.provolatile, p.prosecdef, p.proconfig, p.prosrc)
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  where p.prokind in ('f', 'p')
),
plain as (
  select nspname ~ ('^posthaste(_internal)?' || $1::text || '$') as is_found,
         replace(nspname, $1::text, '') as schema, replace(name, $1::text, '') as name,
         replace(definition, $1::text, '') as definition
  from thing
  where nspname ~ ('^posthaste(_internal)?(' || $1::text || ')?$')
)
select format('%s in %s', made.name, made.schema) as difference
from plain made
where not made.is_found
  and not exists (
    select from plain found
    where found.is_found and (found.schema, found.name) = (made.schema, made.name)
      and found.definition is not distinct from made.definition)
order by 1
