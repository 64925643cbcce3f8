-- waiting: why something has not arrived, and when it will be tried again
select event_id, event_type, state, attempt_count,
       to_char(next_attempt_at, 'HH24:MI:SS') as next_attempt, reason
from posthaste.delivery_status
where state = 'waiting'
order by attempt_count desc, event_id
limit 3;
