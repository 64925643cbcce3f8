-- revisions: which of these endpoints are there and enabled, and at which revision. Called by
-- store::endpoints::revisions, once for each notice that endpoints have changed and once a poll.
-- Index: endpoints_pkey. Takes no locks.
--
-- $1 endpoints
select e.id, e.revision from posthaste.endpoints e where e.id = any($1::bigint[]) and e.enabled
