-- pending: how many deliveries each endpoint is still owed
select endpoint.url, count(delivery.event_id) as pending
from posthaste.endpoints as endpoint
left join posthaste.live_deliveries as delivery on delivery.endpoint_id = endpoint.id
group by endpoint.url;
