-- roles: whether each of the four roles exists and has the grants of grant_roles. Called by store::roles::lacking and
-- store::doctor::examine. Reads the catalog alone, so that it needs no privilege. Takes no locks.
--
-- One privilege stands for all: they are granted together.
select r.name, p.oid is not null as is_there,
       coalesce(has_schema_privilege(p.oid, n.oid, 'usage') and has_any_column_privilege(p.oid, c.oid, r.privilege), false) as is_granted
from (values ('posthaste_producer', 'outbox', 'insert'),
             ('posthaste_viewer', 'endpoint_status', 'select'),
             ('posthaste_operator', 'endpoints', 'update'),
             ('posthaste_relay', 'deliveries', 'update')) r(name, relation, privilege)
left join pg_roles p on p.rolname = r.name
left join pg_namespace n on n.nspname = 'posthaste'
left join pg_class c on c.relnamespace = n.oid and c.relname = r.relation
order by r.name
