-- doctor_endpoints: where enabled endpoints are, the first of them. Called by store::doctor::endpoints.
-- Index: endpoints_pkey. Takes no locks.
--
-- $1 at most so many
select id, url from posthaste.endpoints where enabled order by id limit $1::bigint
