-- cancel_orphans: ends the deliveries of endpoints that are gone. Called by store::upkeep::cancel_orphans.
-- Index: deliveries_due, walked loosely. Locks: see the function.
select posthaste_internal.cancel_orphans()
