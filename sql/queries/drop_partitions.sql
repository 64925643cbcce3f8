-- drop_partitions: the days past their retention. Called by store::upkeep::drop_partitions. Locks: see the function.
--
-- $1 and $2 seconds that outbox and attempts are kept
select posthaste_internal.drop_partitions($1::float8 * interval '1 second', $2::float8 * interval '1 second')
