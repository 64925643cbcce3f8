-- accounts: what became of the deliveries of each endpoint
select endpoint.url,
       count(delivery.event_id) filter (where delivery.state = 'delivered') as delivered,
       count(delivery.event_id) filter (where delivery.state in ('waiting', 'sending')) as waiting,
       count(delivery.event_id) as owed
from posthaste.endpoints as endpoint
left join posthaste.delivery_status as delivery on delivery.endpoint_id = endpoint.id
group by endpoint.url;
