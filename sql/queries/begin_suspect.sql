-- begin_suspect: says that the relay begins the attempt of a delivery that two relays in a row have ended with (see
-- posthaste_internal.interrupt). Called by store::deliveries::begin_suspect.
-- Index: deliveries_pkey (see record for the `any`). Locks: the delivery, whose claim is the caller's.
--
-- $1 relay  $2 event  $3 endpoint  $4 claim token
update posthaste.deliveries d set is_begun = true
 where d.event_id = any(array[$2::bigint]) and d.endpoint_id = $3::bigint
   and d.claimed_by = $1::int and d.claim_token = $4::bigint
