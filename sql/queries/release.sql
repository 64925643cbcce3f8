-- release: gives claims back without spending an attempt. Called by store::deliveries::release.
-- Index: deliveries_pkey (see record for the `any`). Locks: the rows released, which are the caller's.
--
-- $1 relay  $2 events, $3 endpoints and $4 claim tokens of the claims
update posthaste.deliveries d
   set claimed_by = null, claim_token = null
  from unnest($2::bigint[], $3::bigint[], $4::bigint[]) r(event_id, endpoint_id, claim_token)
 where d.event_id = any(array[r.event_id]) and d.endpoint_id = r.endpoint_id
   and d.claimed_by = $1::int and d.claim_token = r.claim_token
