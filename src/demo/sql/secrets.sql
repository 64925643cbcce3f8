-- secrets: one key for all of them, so that the demo's receiver can check every signature
insert into posthaste.endpoint_secrets (endpoint_id, secret)
select id, '<secret>' from posthaste.endpoints;
