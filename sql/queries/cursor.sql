-- cursor: the last step of routing, and the database that it was written in.
-- Called by store::routing::floor and store::adopt. Index: routing_pkey. Takes no locks.
select r.number, r.floor_at, r.system_identifier::text || '/' || r.database_oid as ledger, h.here,
       r.system_identifier::text || '/' || r.database_oid = h.here as is_here
from posthaste.routing r
cross join (select (select system_identifier from pg_control_system())::text || '/' ||
                   (select oid from pg_database where datname = current_database()) as here) h
order by r.number desc
limit 1
