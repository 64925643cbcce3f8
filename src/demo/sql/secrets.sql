-- secrets: what the owner of each endpoint is told, to check signatures with
select endpoint.url, secret.secret
from posthaste.endpoints as endpoint
join posthaste.endpoint_secrets as secret on secret.endpoint_id = endpoint.id;
