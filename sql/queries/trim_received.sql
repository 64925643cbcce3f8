-- trim_received: forgets old ids of senders. Called by store::received::trim.
-- Index: received_by_source, a descent for each source. Locks: the rows deleted, at most 10,000 a call.
--
-- $1 seconds that it is remembered
with recursive found as (
  (select r.source from posthaste.received r order by r.source limit 1)
  union all
  select n.source from found cross join lateral (
    select r.source from posthaste.received r where r.source > found.source order by r.source limit 1) n
)
delete from posthaste.received
 where (source, sender_id) in (
   select old.source, old.sender_id
   from found
   cross join lateral (
     select r.source, r.sender_id from posthaste.received r
      where r.source = found.source and r.received_at < clock_timestamp() - $1::float8 * interval '1 second'
      order by r.received_at limit 10000) old
   limit 10000)
