-- waiting: why something has not arrived, and when it will be tried again
select event_id, event_type, state, attempt_count, next_attempt_at, reason
from posthaste.delivery_status
where state = 'waiting'
order by attempt_count desc, event_id
limit 3;
