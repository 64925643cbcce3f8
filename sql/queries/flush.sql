-- flush: returns when all that was committed before it is on the disk, and wherever else commits have to wait for.
-- Called by store::attempts::flush. Such is every commit that has written something; this one changes nothing.
-- Index: relays_pkey. Locks: the relay's own row.
--
-- $1 relay
update posthaste.relays set claim_count = claim_count where id = $1::int
