-- disown: gives back the claims of statements whose answer was lost. Called by store::deliveries::disown.
-- Index: none, on purpose, as for reap. Locks: the rows released, which are the caller's.
--
-- $1 relay  $2 claim tokens
update posthaste.deliveries set claimed_by = null, claim_token = null
 where claimed_by = $1::int and claim_token = any($2::bigint[])
