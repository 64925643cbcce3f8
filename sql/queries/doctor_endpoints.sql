-- doctor_endpoints: the URLs of the first enabled endpoints. Called by store::doctor::endpoints.
-- Index: endpoints_pkey. Takes no locks.
--
-- $1 most rows
select id, url from posthaste.endpoints where enabled order by id limit $1::bigint
