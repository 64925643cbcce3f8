-- make_partitions: the days ahead. Called by store::upkeep::make_partitions. Locks: see the function.
--
-- $1 days ahead
select posthaste_internal.make_partitions($1::int)
