-- trim_ahead: forgets events that were routed ahead of the cursor, once it has passed them, and tells whether any are
-- left. Called by store::ahead::trim_ahead.
-- Reads all of the table, which is small: it holds what was routed ahead in one backlog. Locks: the rows deleted.
with ahead as materialized (
  select a.event_id,
         posthaste_internal.is_routed(a.xid, a.event_id, l.since, l.until, l.after_xid, l.after_id) as is_passed
  from posthaste.routed_ahead a
  cross join (select * from posthaste.routing r order by r.number desc limit 1) l
),
passed as (
  delete from posthaste.routed_ahead where event_id = any(array(select event_id from ahead where is_passed))
)
select coalesce(bool_or(not is_passed), false) as are_left from ahead
