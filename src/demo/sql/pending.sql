-- pending: how many deliveries each endpoint is still owed
select endpoint.url, coalesce(backlog.pending, 0)::bigint as pending
from posthaste.endpoints as endpoint
left join posthaste.backlog as backlog on backlog.endpoint_id = endpoint.id;
