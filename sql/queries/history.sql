-- history: the last step of routing, and the time that the ledger has for an earlier one. Called by
-- store::routing::history.
-- Index: routing_pkey. Takes no locks.
--
-- $1 number of the step
select last.number, last.routed_at, step.routed_at as of_step
from (select number, routed_at from posthaste.routing order by number desc limit 1) last
left join lateral (select routed_at from posthaste.routing where number = $1::bigint) step on true
