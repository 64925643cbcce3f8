-- endpoint_status: how every endpoint is doing
select url, health, pending, round(success_rate::numeric, 2) as success_rate
from posthaste.endpoint_status
order by endpoint_id;
