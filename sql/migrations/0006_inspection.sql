-- Why something was sent or not, and whether all is well.
-- What is private says so in its comment.

-- ── why ─────────────────────────────────────────────────────────────────────────────────────────

create function posthaste.why_owed(
  d posthaste.deliveries, a posthaste.attempts, e posthaste.endpoints, paused_until timestamptz
) returns text
  language sql stable parallel safe
  return case
    when (d).claimed_by is not null then
      format('relay %s is making attempt %s', (d).claimed_by, (d).attempt_count + 1)
    when (d).event_id is not null then concat_ws('; ',
      case when (e).id is null then 'the endpoint is gone' end,
      'endpoint disabled: ' || (e).disabled_reason,
      'endpoint paused until ' || paused_until,
      case when (d).next_attempt_at > clock_timestamp()
           then format('attempt %s is due at %s', (d).attempt_count + 1, (d).next_attempt_at)
           else format('attempt %s is due since %s', (d).attempt_count + 1, (d).next_attempt_at) end,
      case when (d).attempt_count > 0 and (a).verdict = 'retry'
           then 'the last one: ' || coalesce((a).reason, concat_ws(' ', (a).outcome, (a).cause, (a).status)) end)
    when (a).verdict = 'retry' then 'to be retried, but no longer owed: see posthaste.check_consistency()'
    else format('%s at %s', (a).verdict, (a).started_at + (a).duration_ms * interval '1 ms')
         || case when (a).number > 0 then ' by attempt ' || (a).number else '' end
         || coalesce(': ' || coalesce((a).reason, case when (a).verdict <> 'delivered'
                                                       then concat_ws(' ', (a).outcome, (a).cause, (a).status) end), '')
  end;
comment on function posthaste.why_owed is 'Private. What has become of a delivery, in words.';

create function posthaste.why_not_owed(o posthaste.outbox, e posthaste.endpoints, routed boolean) returns text
  language sql stable parallel safe
  return coalesce(
    nullif(case
      when (o).endpoint_id <> (e).id then format('the event names endpoint %s alone', (o).endpoint_id)
      when (o).endpoint_id is null then concat_ws('; ',
        case when (e).tenant is distinct from (o).tenant and (e).tenant is not null
             then format('the endpoint gets the events of tenant %s, this is of %s',
                         (e).tenant, coalesce('tenant ' || (o).tenant, 'no tenant')) end,
        case when not posthaste.route_keys(null, (e).subscriptions)
                  && posthaste.route_keys_of_event(null, (o).event_type)
             then format('not subscribed: %s does not match %s', array_to_string((e).subscriptions, ', '), (o).event_type) end,
        case when (e).filter is not null and not posthaste.filter_matches((o).payload, (e).filter)
             then 'the filter does not match the payload' end,
        case when not (e).enabled
             then format('the endpoint is disabled since %s: %s', (e).disabled_at, (e).disabled_reason) end,
        case when routed and (e).created_at > (o).created_at
             then format('the endpoint was added after the event, at %s', (e).created_at) end)
      else '' end, ''),
    case when not routed then 'owed, but not routed yet: a running relay does that at once'
         when (e).updated_at > (o).created_at
         then format('it matches now, but the endpoint was changed after the event, at %s', (e).updated_at)
         else 'it matches, but there is neither delivery nor attempt: see posthaste.check_consistency()' end);
comment on function posthaste.why_not_owed is 'Private. Every reason for which an endpoint is not owed an event, in words.';

create function posthaste.explain(event bigint, at_most integer default 1000)
  returns table (endpoint_id bigint, url text, state text, why text, attempt_count integer,
                 last_outcome text, last_attempt_at timestamptz, next_attempt_at timestamptz)
  language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  o posthaste.outbox := posthaste.known_event(event);
  routed boolean := (select posthaste.is_routed(o.xid, o.id, r) from posthaste.routing r order by r.number desc limit 1);
begin
  return query
  with last as materialized (
    select distinct on (a.endpoint_id) a as attempt, a.endpoint_id
      from posthaste.attempts a
     where a.event_id = event and a.started_at >= o.created_at - interval '1 hour'
     order by a.endpoint_id, a.started_at desc
  ), chosen as materialized (
    select c.endpoint_id, min(c.rank) as rank
      from (select d.endpoint_id, 1 from posthaste.deliveries d where d.event_id = event
            union all select l.endpoint_id, 1 from last l
            union all select o.endpoint_id, 2 where o.endpoint_id is not null
            union all select e.id, 2 from posthaste.endpoints e
                       where o.endpoint_id is null
                         and posthaste.route_keys(e.tenant, e.subscriptions)
                             && posthaste.route_keys_of_event(o.tenant, o.event_type)
            union all select e.id, 3 from posthaste.endpoints e) c(endpoint_id, rank)
     group by c.endpoint_id
     order by 2, 1
     limit at_most
  )
  select c.endpoint_id, e.url,
         case when d.claimed_by is not null then 'sending'
              when d.event_id is not null then case when e.enabled then 'waiting' else 'held' end
              when l.endpoint_id is not null then case (l.attempt).verdict when 'retry' then 'lost' else (l.attempt).verdict end
              when e.id is null then 'not owed'
              when not routed then 'not routed'
              else 'not owed' end,
         case when d.event_id is not null or l.endpoint_id is not null
              then posthaste.why_owed(d, l.attempt, e, h.paused_until)
              when e.id is null then 'the endpoint that the event names does not exist'
              else posthaste.why_not_owed(o, e, routed) end,
         coalesce(d.attempt_count, (l.attempt).number, 0),
         concat_ws(' ', (l.attempt).outcome, (l.attempt).cause, (l.attempt).status), (l.attempt).started_at,
         d.next_attempt_at
    from chosen c
    left join posthaste.endpoints e on e.id = c.endpoint_id
    left join posthaste.endpoint_health h on h.endpoint_id = c.endpoint_id
    left join posthaste.deliveries d on d.event_id = event and d.endpoint_id = c.endpoint_id
    left join last l on l.endpoint_id = c.endpoint_id
   order by c.rank, c.endpoint_id;
end $$;
comment on function posthaste.explain is
  'Why an event was or was not sent, to whom, and what is next: a row for each endpoint, those that are owed it first, then those that subscribe, then all others, at_most so many. state is waiting, held (endpoint disabled), sending, delivered, dead, cancelled, not routed, not owed, or lost.';

-- ── whether all is well ─────────────────────────────────────────────────────────────────────────
-- Each check is one statement, so it sees one moment: what is being routed or recorded beside it
-- is seen whole or not at all.

create function posthaste.full_xid(xid xid) returns bigint
  language sql stable
  return (select n - mod(n - xid::text::bigint + 4294967296, 4294967296)
            from (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint) x(n));
comment on function posthaste.full_xid is
  'Private. The transaction of a row''s xmin, with its epoch; of a row older than 4 billion transactions a later one.';

-- No list is kept of what each event owed when it was routed: that would cost a row per delivery.
-- So only what can be proven is said: an endpoint that is enabled and unchanged since before the
-- event, and whose present version the routing statement must have seen. That is known from the
-- ledger's snapshots; where they have been trimmed, an hour is taken as the longest that a
-- transaction which changed an endpoint stayed open.
create function posthaste.lost_events(since timestamptz)
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
    select e.id, e.xid, e.created_at, s.id as owed_to, s.updated_at as unchanged_since, s.version
      from event e
      join subscriber s on s.event_type = e.event_type and s.tenant = coalesce(e.tenant, '')
     where e.endpoint_id is null and s.updated_at <= e.created_at
       and (s.filter is null or posthaste.filter_matches(e.payload, s.filter))
    union all
    select e.id, e.xid, e.created_at, n.id, n.created_at, n.xmin
      from event e
      join posthaste.endpoints n on n.id = e.endpoint_id
     where n.created_at <= e.created_at
  )
  select 'an event was routed, but neither delivered nor ended', w.id, w.owed_to,
         'there is neither a delivery nor an attempt; posthaste.replay with states ''{never}'' sends it'
    from owed w
   where not exists (select from posthaste.deliveries d where d.event_id = w.id and d.endpoint_id = w.owed_to)
     and not exists (
       select from posthaste.attempts a
        where a.event_id = w.id and a.endpoint_id = w.owed_to and a.started_at >= lost_events.since - interval '1 hour')
     and (w.unchanged_since < w.created_at - interval '1 hour'
          or (select pg_visible_in_snapshot(posthaste.full_xid(w.version)::text::xid8, r.until)
                from posthaste.routing r
               where posthaste.is_routed(w.xid, w.id, r)
                 and r.number > (select min(f.number) from posthaste.routing f)
               order by r.number limit 1));
end;
comment on function posthaste.lost_events is
  'Private. Routed events and the endpoints that they provably owed, without delivery or attempt.';

create function posthaste.stranded_deliveries(since timestamptz, patience interval)
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
          and b.started_at >= a.started_at and (b.verdict <> 'retry' or b.started_at > a.started_at))
  union all
  select 'a delivery''s event is gone', d.event_id, d.endpoint_id,
         format('no event of %s is in the outbox', d.event_created_at)
    from posthaste.deliveries d
   where not exists (select from posthaste.outbox o where o.id = d.event_id and o.created_at = d.event_created_at)
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
comment on function posthaste.stranded_deliveries is 'Private. Deliveries that no relay will make.';

create function posthaste.stalled_routing(since timestamptz, patience interval)
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
    join posthaste.outbox o on not posthaste.is_routed(o.xid, o.id, last.ledger)
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
comment on function posthaste.stalled_routing is 'Private. Events that should have been routed by now.';

create function posthaste.missing_days() returns table (problem text, event_id bigint, endpoint_id bigint, detail text)
  language sql stable
begin atomic
  select 'a day has no partition', null::bigint, null::bigint,
         format('posthaste.%s_%s; a running relay makes it: see its log, or call posthaste.make_partitions(7)', t, to_char(d.day, 'YYYYMMDD'))
    from unnest(array['outbox', 'attempts']) t
    cross join lateral (select (clock_timestamp() at time zone 'UTC')::date + n from generate_series(0, 1) n) d(day)
   where to_regclass(format('posthaste.%s_%s', t, to_char(d.day, 'YYYYMMDD'))) is null
  union all
  select 'the safety net has caught rows', null, null,
         'posthaste.' || c.name || ' is not empty: posthaste.make_partitions moves its rows when it makes their day'
    from (select 'outbox_default' where exists (select from posthaste.outbox_default)
          union all
          select 'attempts_default' where exists (select from posthaste.attempts_default)) c(name);
end;
comment on function posthaste.missing_days is 'Private. Partitions that are missing today or tomorrow, and rows that had none.';

create function posthaste.check_consistency(
  since timestamptz default now() - interval '1 day', patience interval default '5 minutes', at_most integer default 1000
) returns table (problem text, event_id bigint, endpoint_id bigint, detail text)
  language plpgsql stable security definer
  set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
begin
  return query
  select * from (
    select * from posthaste.missing_days()
    union all
    select * from posthaste.stalled_routing(since, patience)
    union all
    select * from posthaste.stranded_deliveries(since, patience)
    union all
    select * from posthaste.lost_events(since)) p
  limit at_most;
end $$;
comment on function posthaste.check_consistency is
  'Proves that every committed event has reached, or will reach, an end at each endpoint: one row for each thing that says otherwise, at_most so many, none when all is well. Looks at events and attempts from since on and at all that is live; what is younger than patience may still be under way. Reads a day''s events and attempts: minutes at hundreds of millions.';
