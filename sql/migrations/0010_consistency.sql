-- check_consistency costs what its window and what is live cost, whatever the statistics say; and
-- rebase_routing runs on PostgreSQL 14.

-- ── what a check reads ──────────────────────────────────────────────────────────────────────────
-- Two kinds of reading, and none that is quadratic. What is asked about every event of the window is
-- hashed: check_consistency turns the other joins off, because statistics of `deliveries` are stale by
-- nature, and a nested loop over a queue that was empty when it was last looked at never ends. What
-- is asked about live deliveries and failures alone is looked up one by one in an index, in the one
-- day where it must be: `offset 0` keeps the planner from making a join of it, which would read every
-- day of the outbox.

create or replace function posthaste.lost_events(since timestamptz)
  returns table (problem text, event_id bigint, endpoint_id bigint, detail text)
  language sql stable
begin atomic
  with last as materialized (
    select r as ledger from posthaste.routing r order by r.number desc limit 1
  ), event as not materialized (
    select o.* from posthaste.outbox o cross join last
     where o.created_at >= lost_events.since and posthaste.is_routed(o.xid, o.id, last.ledger)
  ), kind as materialized (
    select e.event_type, coalesce(e.tenant, '') as tenant from event e where e.endpoint_id is null group by 1, 2
  ), subscriber as materialized (
    select k.event_type, k.tenant, s.id, s.filter, s.updated_at, s.xmin as version
      from kind k
      join posthaste.endpoints s
        on posthaste.route_keys(s.tenant, s.subscriptions)
           && posthaste.route_keys_of_event(nullif(k.tenant, ''), k.event_type)
     where s.enabled
  ), owed as (
    select e.id, e.xid, e.created_at, s.id as owed_to, s.updated_at as unchanged_since, s.version,
           s.filter, case when s.filter is not null then e.payload end as payload
      from event e
      join subscriber s on s.event_type = e.event_type and s.tenant = coalesce(e.tenant, '')
     where e.endpoint_id is null and s.updated_at <= e.created_at
    union all
    select e.id, e.xid, e.created_at, n.id, n.created_at, n.xmin, null, null
      from event e
      join posthaste.endpoints n on n.id = e.endpoint_id
     where n.created_at <= e.created_at
  ), missing as (
    select *
      from owed w
     where not exists (select from posthaste.deliveries d where d.event_id = w.id and d.endpoint_id = w.owed_to)
       and not exists (
         select from posthaste.attempts a
          where a.event_id = w.id and a.endpoint_id = w.owed_to and a.started_at >= lost_events.since - interval '1 hour')
    -- A fence: filters and the ledger are asked about these few, not about every event.
    offset 0
  )
  select 'an event was routed, but neither delivered nor ended', w.id, w.owed_to,
         'there is neither a delivery nor an attempt; posthaste.replay with states ''{never}'' sends it'
    from missing w
   where (w.filter is null or posthaste.filter_matches(w.payload, w.filter))
     and (w.unchanged_since < w.created_at - interval '1 hour'
          or (select pg_visible_in_snapshot(posthaste.full_xid(w.version)::text::xid8, r.until)
                from posthaste.routing r
               where posthaste.is_routed(w.xid, w.id, r)
                 and r.number > (select min(f.number) from posthaste.routing f)
               order by r.number limit 1));
end;

create or replace function posthaste.stranded_deliveries(since timestamptz, patience interval)
  returns table (problem text, event_id bigint, endpoint_id bigint, detail text)
  language sql stable
begin atomic
  select 'a retry is due that nobody is owed', a.event_id, a.endpoint_id,
         format('attempt %s was to be followed by another at %s', a.number, a.next_attempt_at)
    from posthaste.attempts a
   where a.verdict = 'retry' and a.started_at >= stranded_deliveries.since
     and not exists (select from posthaste.deliveries d where d.event_id = a.event_id and d.endpoint_id = a.endpoint_id)
     and not exists (
       select from posthaste.attempts b
        where b.event_id = a.event_id and b.endpoint_id = a.endpoint_id
          and b.started_at >= a.started_at and (b.verdict <> 'retry' or b.started_at > a.started_at)
       offset 0)
  union all
  select 'a delivery''s event is gone', d.event_id, d.endpoint_id,
         format('no event of %s is in the outbox', d.event_created_at)
    from posthaste.deliveries d
   where not exists (
           select from posthaste.outbox o where o.id = d.event_id and o.created_at = d.event_created_at
           offset 0)
  union all
  select 'a delivery''s endpoint is gone', d.event_id, d.endpoint_id, 'a running relay cancels it'
    from posthaste.deliveries d
   where not exists (select from posthaste.endpoints e where e.id = d.endpoint_id)
  union all
  select 'a delivery is claimed by a relay that is gone', d.event_id, d.endpoint_id,
         case when r.id is null then format('there is no relay %s', d.claimed_by)
              else format('relay %s was last heard of at %s; a running relay releases its claims', r.id, r.heartbeat_at) end
    from posthaste.deliveries d
    left join posthaste.relays r on r.id = d.claimed_by
   where d.claimed_by is not null
     and (r.id is null or r.heartbeat_at < clock_timestamp() - stranded_deliveries.patience);
end;

create or replace function posthaste.stalled_routing(since timestamptz, patience interval)
  returns table (problem text, event_id bigint, endpoint_id bigint, detail text)
  language sql stable
begin atomic
  with last as materialized (
    select r as ledger from posthaste.routing r order by r.number desc limit 1
  )
  -- One whose transaction committed a moment ago may be old and is not late: that it was visible
  -- to the last routing, or that there has been none for so long, says that it is.
  select 'an event is not routed', o.id, null::bigint,
         format('inserted at %s; the last routing was at %s', o.created_at, (last.ledger).routed_at)
    from last
    join posthaste.outbox o
      -- Whatever is older has been routed: the index on xid passes it over.
      on o.xid >= pg_snapshot_xmin(case when (last.ledger).after_id is null then (last.ledger).until
                                        else (last.ledger).since end)
     and not posthaste.is_routed(o.xid, o.id, last.ledger)
   where o.created_at >= stalled_routing.since
     and o.created_at < clock_timestamp() - stalled_routing.patience
     and ((last.ledger).routed_at < clock_timestamp() - stalled_routing.patience
          or pg_visible_in_snapshot(o.xid, (last.ledger).until))
  union all
  select 'the routing ledger belongs to another database', null, null,
         'its transaction numbers mean nothing here: this is a restored dump or a copy'
    from last
   where (last.ledger).system_identifier <> (select c.system_identifier from pg_control_system() c)
      or (last.ledger).database_oid <> (select d.oid from pg_database d where d.datname = current_database());
end;

create or replace function posthaste.check_consistency(
  since timestamptz default now() - interval '1 day', patience interval default '5 minutes', at_most integer default 1000
) returns table (problem text, event_id bigint, endpoint_id bigint, detail text)
  language plpgsql stable security definer
  set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
  set enable_nestloop = off set enable_mergejoin = off set enable_sort = off set jit = off as $$
begin
  return query
  select * from (
    select * from posthaste.missing_days()
    union all
    select * from posthaste.stalled_routing(since, patience)
    union all
    select * from posthaste.stranded_deliveries(since, patience)
    union all
    select * from posthaste.stalled_lines(patience)
    union all
    select * from posthaste.lost_events(since)) p
  limit at_most;
end $$;
comment on function posthaste.check_consistency is
  'Proves that every committed event has reached, or will reach, an end at each endpoint: one row for each thing that says otherwise, at_most so many, none when all is well. Looks at events and attempts from since on and at all that is live; what is younger than patience may still be under way. Reads the days of the window a few times: seconds for a million events.';

-- ── restored dumps ──────────────────────────────────────────────────────────────────────────────

create or replace function posthaste.rebase_routing(out events bigint, out floor_at timestamptz)
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  here posthaste.routing;
begin
  -- Another relay may do it at the same time: one after the other, and the second finds it done.
  perform pg_advisory_xact_lock(1886352244, 2);
  select * into here from posthaste.routing order by number desc limit 1;
  if here.system_identifier = (select system_identifier from pg_control_system())
     and here.database_oid = (select oid from pg_database where datname = current_database()) then
    events := 0;
    floor_at := here.floor_at;
    return;
  end if;
  -- Nobody has inserted without committing while we hold this lock. The only time that rows of the
  -- outbox are changed: what was neither delivered nor tried becomes this transaction's, and
  lock table posthaste.outbox in share row exclusive mode;
  -- the rest becomes that of a transaction before all others: the old numbers will come again.
  update posthaste.outbox o
     set xid = case when exists (select from posthaste.deliveries d where d.event_id = o.id)
                      or exists (select from posthaste.attempts a where a.event_id = o.id)
                    then '3'::xid8 else pg_current_xact_id() end;
  select count(*) into events from posthaste.outbox where xid = pg_current_xact_id();
  -- What is not routed: this transaction, all that come after it, and those that are open now and
  -- may still insert.
  floor_at := coalesce((select min(created_at) from posthaste.outbox where xid = pg_current_xact_id()), clock_timestamp());
  insert into posthaste.routing
    (number, since, until, floor_at, mark_xid, mark_at, events, deliveries, unmatched, system_identifier, database_oid)
  select here.number + 1, s, s, rebase_routing.floor_at, x, clock_timestamp(), 0, 0, 0,
         (select system_identifier from pg_control_system()),
         (select oid from pg_database where datname = current_database())
    from pg_current_xact_id() x
    cross join lateral (
      -- Not min(open), which PostgreSQL 14 does not have.
      select string_agg(open::text, ',' order by open), (array_agg(open order by open))[1]
        from pg_snapshot_xip(pg_current_snapshot()) open where open < x) o(open, first)
    cross join lateral (
      select (coalesce(o.first, x) || ':' || x || ':' || coalesce(o.open, ''))::pg_snapshot) l(s);
end $$;
