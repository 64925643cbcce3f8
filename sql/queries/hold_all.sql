-- hold_all: disables every endpoint, and holds its new events. Called by store::adopt::adopt, before a copy is routed.
-- Locks: the rows of endpoints, in the order of the scan; no relay runs on a copy that was not adopted.
--
-- $1 the reason
update posthaste.endpoints set enabled = false, hold = true, disabled_reason = $1::text where enabled
