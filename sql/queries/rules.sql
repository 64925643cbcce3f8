-- rules: the enabled rules. Called by store::rules::rules. Reads the whole (small) table; takes no locks.
select id, name, priority, host, lower(status) as status_from, upper(status) - 1 as status_to,
       outcome, cause, body_pattern, event_type, action
from posthaste.rules
where enabled
order by priority, id
