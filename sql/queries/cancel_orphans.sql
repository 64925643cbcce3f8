-- cancel_orphans: ends what deleted endpoints are still owed. Called by store::upkeep::cancel_orphans.
-- Index: deliveries_due, walked loosely. Locks: see the function.
select posthaste_internal.cancel_orphans()
