-- rebase: begins routing anew in a restored database, where transaction numbers mean nothing.
-- Called by store::adopt::adopt. Reads the whole outbox, once. Locks: see the function.
select events, floor_at from posthaste_internal.rebase_routing()
