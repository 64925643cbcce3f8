-- Consistency: whether all is well. Each check is one statement, so it sees one moment: it sees a step of routing or
-- recording whole or not at all.
--
-- There are two kinds of reading, and none is quadratic. Questions about every event of the window are hashed:
-- check_consistency turns the other joins off, because statistics of `deliveries` are stale by nature, and a nested
-- loop over a queue that was empty when it was last analyzed never ends. Questions about live deliveries and failures
-- alone are looked up in an index, in the one day where the row must be: `offset 0` keeps the planner from making a
-- join of it, which would read every day of the outbox.

create function posthaste_internal.missing_days() returns table (problem text, event_id bigint, endpoint_id bigint, detail text)
  language sql stable
begin atomic
  select 'a day has no partition', null::bigint, null::bigint,
         format('posthaste.%s_%s; a running relay makes it: see its log, or call posthaste_internal.make_partitions(7)', t, to_char(d.day, 'YYYYMMDD'))
    from unnest(array['outbox', 'attempts']) t
    cross join lateral (select (clock_timestamp() at time zone 'UTC')::date + n from generate_series(0, 1) n) d(day)
   where to_regclass(format('posthaste.%s_%s', t, to_char(d.day, 'YYYYMMDD'))) is null
  union all
  select 'the safety net has caught rows', null, null,
         'posthaste.' || c.name || ' is not empty: posthaste_internal.make_partitions moves its rows when it makes their day'
    from (select 'outbox_default' where exists (select from posthaste.outbox_default)
          union all
          select 'attempts_default' where exists (select from posthaste.attempts_default)) c(name);
end;
comment on function posthaste_internal.missing_days is 'Partitions that are missing today or tomorrow, and rows that had none.';

create function posthaste_internal.stalled_routing(since timestamptz, patience interval)
  returns table (problem text, event_id bigint, endpoint_id bigint, detail text)
  language sql stable
begin atomic
  with last as materialized (
    select * from posthaste.routing r order by r.number desc limit 1
  )
  -- An event whose transaction committed a moment ago may be old without being late. It is late if it was visible to
  -- the last routing, or if there has been no routing for as long.
  select 'an event is not routed', o.id, null::bigint,
         format('inserted at %s; the last routing was at %s', o.created_at, last.routed_at)
    from last
    join posthaste.outbox o
      -- Older events have been routed: the index on xid passes them over.
      on o.xid >= pg_snapshot_xmin(case when last.after_id is null then last.until else last.since end)
     and not posthaste_internal.is_routed(o.xid, o.id, last.since, last.until, last.after_xid, last.after_id)
     and not exists (select from posthaste.routed_ahead a where a.event_id = o.id)
   where o.created_at >= stalled_routing.since
     and o.created_at < clock_timestamp() - stalled_routing.patience
     and (last.routed_at < clock_timestamp() - stalled_routing.patience
          or pg_visible_in_snapshot(o.xid, last.until))
  union all
  select 'the routing ledger belongs to another database', null, null,
         'its transaction numbers mean nothing here: this is a restored dump or a copy'
    from last
   where last.system_identifier <> (select c.system_identifier from pg_control_system() c)
      or last.database_oid <> (select d.oid from pg_database d where d.datname = current_database());
end;
comment on function posthaste_internal.stalled_routing is 'Events that should have been routed by now.';

create function posthaste_internal.stranded_deliveries(since timestamptz, patience interval)
  returns table (problem text, event_id bigint, endpoint_id bigint, detail text)
  language sql stable
begin atomic
  select 'a retry is due without a delivery', a.event_id, a.endpoint_id,
         format('attempt %s was to be followed by another at %s', a.number, a.next_attempt_at)
    from posthaste.attempts a
   where coalesce(a.verdict, 'delivered') = 'retry' and a.started_at >= stranded_deliveries.since
     and not exists (select from posthaste.deliveries d where d.event_id = a.event_id and d.endpoint_id = a.endpoint_id)
     and not exists (select from posthaste.set_aside s where s.event_id = a.event_id and s.endpoint_id = a.endpoint_id)
     and not exists (
       select from posthaste.attempts b
        where b.event_id = a.event_id and b.endpoint_id = a.endpoint_id
          and b.started_at >= a.started_at and (b.verdict is distinct from 'retry' or b.started_at > a.started_at)
       offset 0)
  union all
  select 'a delivery''s event is gone', d.event_id, d.endpoint_id,
         format('no event of %s is in the outbox', d.event_created_at)
    from posthaste.live_deliveries d
   where not exists (
           select from posthaste.outbox o where o.id = d.event_id and o.created_at = d.event_created_at
           offset 0)
  union all
  select 'a delivery''s endpoint is gone', d.event_id, d.endpoint_id, 'a running relay cancels it'
    from posthaste.deliveries d
   where not exists (select from posthaste.endpoints e where e.id = d.endpoint_id)
  union all
  select 'a delivery is claimed by a relay that is gone', d.event_id, d.endpoint_id,
         case when r.id is null then format('there is no relay %s; a running relay releases its claims', d.claimed_by)
              else format('relay %s was last heard of at %s; a running relay releases its claims', r.id, r.heartbeat_at) end
    from posthaste.live_deliveries d
    left join posthaste.relays r on r.id = d.claimed_by
   where d.claimed_by is not null
     and (r.id is null or r.heartbeat_at < clock_timestamp() - stranded_deliveries.patience);
end;
comment on function posthaste_internal.stranded_deliveries is 'Deliveries that no relay will make.';

-- A line without a head goes on when a relay looks at it: at once after recording, after a crash when the dead relay's
-- claims are released, in any case with its upkeep.
create function posthaste_internal.stalled_lines(patience interval)
  returns table (problem text, event_id bigint, endpoint_id bigint, detail text)
  language sql stable
begin atomic
  -- Walked loosely: two descents a line, however long it is.
  with recursive line as (
    (select d.endpoint_id, d.ordering_key from posthaste.deliveries d where d.in_line
      order by d.endpoint_id, d.ordering_key limit 1)
    union all
    select n.endpoint_id, n.ordering_key from line cross join lateral (
      select d.endpoint_id, d.ordering_key from posthaste.deliveries d
       where d.in_line and (d.endpoint_id, d.ordering_key) > (line.endpoint_id, line.ordering_key)
       order by d.endpoint_id, d.ordering_key limit 1) n
  )
  select 'a line has no head', f.event_id, f.endpoint_id,
         format('ordering key %s: event %s is next and does not have its turn; a running relay gives it', line.ordering_key, f.event_id)
    from line
    cross join lateral (
      select d.event_id, d.endpoint_id, d.place, d.created_at from posthaste.deliveries d
       where d.endpoint_id = line.endpoint_id and d.ordering_key = line.ordering_key and d.in_line
       order by d.place, d.event_id limit 1) f
   where f.created_at < clock_timestamp() - stalled_lines.patience
     and f.place < coalesce((select posthaste_internal.open_span()), 9223372036854775807)
     and not exists (
       select from posthaste.deliveries h
        where h.endpoint_id = line.endpoint_id and h.ordering_key = line.ordering_key and h.in_line is null);
end;
comment on function posthaste_internal.stalled_lines is 'Lines in which no delivery has the turn.';

-- No list is kept of the endpoints that each event was owed when it was routed: that would cost a row per delivery.
-- So this reports only what it can prove: an endpoint that is enabled and unchanged since before the event, and whose
-- present version the routing statement must have seen. The ledger's snapshots tell that; where they have been trimmed,
-- an hour is taken as the longest that a transaction which changed an endpoint stayed open.
create function posthaste_internal.lost_events(since timestamptz)
  returns table (problem text, event_id bigint, endpoint_id bigint, detail text)
  language sql stable
begin atomic
  with last as materialized (
    select * from posthaste.routing r order by r.number desc limit 1
  ), event as not materialized (
    select o.* from posthaste.outbox o cross join last
     where o.created_at >= lost_events.since and posthaste_internal.is_routed(o.xid, o.id, last.since, last.until, last.after_xid, last.after_id)
  ), kind as materialized (
    select e.event_type, coalesce(e.tenant, '') as tenant from event e where e.endpoint_id is null group by 1, 2
  ), subscriber as materialized (
    select k.event_type, k.tenant, s.id, s.filter, s.updated_at, s.changed_in
      from kind k
      join posthaste.endpoints s
        on posthaste_internal.route_keys(s.tenant, s.subscriptions)
           && posthaste_internal.route_keys_of_event(nullif(k.tenant, ''), k.event_type)
     where s.enabled or s.hold
  ), owed as (
    select e.id, e.xid, e.created_at, s.id as owed_to, s.updated_at as unchanged_since, s.changed_in,
           s.filter, case when s.filter is not null then e.payload end as payload
      from event e
      join subscriber s on s.event_type = e.event_type and s.tenant = coalesce(e.tenant, '')
     where e.endpoint_id is null and s.updated_at <= e.created_at
    union all
    select e.id, e.xid, e.created_at, n.id, n.created_at, n.changed_in,
           case when posthaste_internal.is_announcement(e.event_type) then n.filter end,
           case when n.filter is not null then e.payload end
      from event e
      join posthaste.endpoints n on n.id = e.endpoint_id
     where n.created_at <= e.created_at
       and (n.filter is null or not posthaste_internal.is_announcement(e.event_type) or n.updated_at <= e.created_at)
  ), missing as (
    select *
      from owed w
     where not exists (select from posthaste.live_deliveries d where d.event_id = w.id and d.endpoint_id = w.owed_to)
       and not exists (
         select from posthaste.attempts a
          where a.event_id = w.id and a.endpoint_id = w.owed_to and a.started_at >= lost_events.since - interval '1 hour')
       and not exists (
         select from posthaste.set_aside s
          where s.event_id = w.id and (s.endpoint_id is null or s.endpoint_id = w.owed_to))
    -- A fence: filters and the ledger are consulted for these few, not for every event.
    offset 0
  )
  select 'an event was routed, but neither delivered nor ended', w.id, w.owed_to,
         'there is neither a delivery nor an attempt; posthaste.replay with states ''{never}'' sends it'
    from missing w
   where (w.filter is null or posthaste_internal.filter_matches(w.payload, w.filter))
     and (w.unchanged_since < w.created_at - interval '1 hour'
          -- What the first row of the ledger has routed may have been routed long before it.
          or (select pg_visible_in_snapshot(w.changed_in, r.until)
                     and r.number > (select min(f.number) from posthaste.routing f)
                from posthaste.routing r
               where posthaste_internal.is_routed(w.xid, w.id, r.since, r.until, r.after_xid, r.after_id)
               order by r.number limit 1));
end;
comment on function posthaste_internal.lost_events is
  'Routed events and the endpoints that they provably owed, without delivery or attempt.';

create function posthaste.check_consistency(
  since timestamptz default now() - interval '1 day', patience interval default '5 minutes', at_most integer default 1000
) returns table (problem text, event_id bigint, endpoint_id bigint, detail text)
  language plpgsql stable security definer
  set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
  set enable_nestloop = off set enable_mergejoin = off set enable_sort = off set jit = off as $$
begin
  return query
  select * from (
    select * from posthaste_internal.missing_days()
    union all
    select * from posthaste_internal.stalled_routing(since, patience)
    union all
    select * from posthaste_internal.stranded_deliveries(since, patience)
    union all
    select * from posthaste_internal.stalled_lines(patience)
    union all
    select * from posthaste_internal.lost_events(since)
    union all
    select 'set aside', s.event_id, s.endpoint_id,
           format('%s failed, last at %s: %s%s; posthaste.route_again(%s) takes it up', s.during, s.tried_at, s.message,
                  coalesce(' (' || s.sqlstate || ')', ''), s.event_id)
      from posthaste.set_aside s) p
  limit at_most;
end $$;
comment on function posthaste.check_consistency is
  'Proves that every committed event has reached, or will reach, an end at each endpoint: one row for each thing that says otherwise, no more than at_most, none when all is well. Looks at events and attempts from since on and at all live deliveries; those younger than patience may still be under way. Reads the days of the window a few times: seconds for a million events.';
