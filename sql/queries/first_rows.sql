-- first_rows: the tables of the schema, with their columns as a list. Called by store::refill::run.
-- Reads the catalog alone. Takes no locks.
--
-- Identity columns are left out: the database numbers anew.
select quote_ident(c.relname) as table_name, string_agg(quote_ident(a.attname), ', ' order by a.attnum) as columns
from pg_class c
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attidentity = '' and a.attgenerated = ''
where c.relnamespace = 'posthaste'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
group by c.oid, c.relname
order by c.relname
