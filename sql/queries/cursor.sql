-- cursor: where routing stands. Called by store::routing::floor. Index: routing_pkey. Takes no locks.
select number, floor_at,
       system_identifier = (select system_identifier from pg_control_system())
         and database_oid = (select oid from pg_database where datname = current_database()) as is_here
from posthaste.routing
order by number desc
limit 1
