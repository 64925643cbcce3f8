-- set_aside_pairs: writes down that filters took too long, so that it is not known whether these events are owed.
-- Called by store::set_aside::set_aside_pairs. Locks: nothing that exists already.
--
-- $1 events with $2 their created_at and $3 the endpoint  $4 SQLSTATE  $5 message
insert into posthaste.set_aside (event_id, endpoint_id, event_created_at, during, sqlstate, message)
select p.event_id, p.endpoint_id, p.created_at, 'filter', $4::text, posthaste_internal.without_data($4::text, $5::text)
from unnest($1::bigint[], $2::timestamptz[], $3::bigint[]) p(event_id, created_at, endpoint_id)
on conflict do nothing
