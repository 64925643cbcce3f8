-- journey: every attempt of one event that had a hard time
select event_id, number, to_char(started_at, 'HH24:MI:SS.MS') as started,
       outcome, cause, status, verdict, reason, to_char(next_attempt_at, 'HH24:MI:SS.MS') as next
from posthaste.delivery_attempts
where (event_id, endpoint_id) = (
    select event_id, endpoint_id from posthaste.delivery_attempts
    where verdict = 'delivered' order by number desc, event_id limit 1)
order by number;
