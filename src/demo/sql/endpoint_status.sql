-- endpoint_status: how every endpoint is doing
select url, description, health, reason, pending, success_rate, mean_duration_ms
from posthaste.endpoint_status
order by endpoint_id;
