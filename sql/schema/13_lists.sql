-- Lists of deliveries, as the view delivery_status shows them, by the time of the event.
--
-- The view cannot be asked for a span of events: attempts lie by the day of the attempt, and a bound on one column does
-- not prune by another. These functions add the bound that follows: no attempt is older than its event, give or take a
-- clock that was set. Each statement is planned for its bounds, over the days that have the rows. The bounds are
-- variables: what is added to a time in a statement is known only when it runs, and it would be planned for all days.

create function posthaste_internal.delivery(
  event bigint, endpoint bigint, event_created_at timestamptz, is_live boolean,
  first_attempt_at timestamptz, last_attempt_at timestamptz, earliest timestamptz
)
  returns table (event_type text, tenant text, url text, state text, attempt_count integer, next_attempt_at timestamptz,
                 last_outcome text, last_cause text, last_status integer, last_attempt_at timestamptz, reason text,
                 ended_at timestamptz)
  language sql stable
begin atomic
  select o.event_type, o.tenant, posthaste_internal.without_query(e.url),
         case when d.endpoint_id is not null then posthaste_internal.live_state(d.claimed_by, d.blocked_at, e.enabled, d.in_line)
              else a.verdict end,
         coalesce(d.attempt_count, a.number), d.next_attempt_at, a.outcome, a.cause, a.status, a.started_at,
         case when d.endpoint_id is not null
              then posthaste_internal.live_reason(
                     d.endpoint_id, d.ordering_key, d.blocked_at, d.in_line, e.enabled, e.disabled_reason, h.state,
                     h.paused_until, h.reason, o.deliver_at, a.verdict, a.reason, a.outcome, a.cause, a.status)
              else coalesce(a.reason, case when a.verdict <> 'delivered' then concat_ws(' ', a.outcome, a.cause, a.status) end) end,
         case when d.endpoint_id is null then a.started_at + a.duration_ms * interval '1 ms' end
    from (select) one
    left join lateral (
      select * from (
        select l.endpoint_id, l.attempt_count, l.next_attempt_at, l.claimed_by, l.ordering_key, l.in_line, l.blocked_at
          from posthaste.deliveries l where l.event_id = delivery.event and l.endpoint_id = delivery.endpoint
        union all
        select c.endpoint_id, 0, c.due_at, c.relay_id, null, null, null
          from posthaste_internal.claims_of_event(delivery.event) c where c.endpoint_id = delivery.endpoint) l
       where delivery.is_live limit 1) d on true
    left join lateral (
      select * from posthaste.delivery_attempts a
       where a.event_id = delivery.event and a.endpoint_id = delivery.endpoint
         and a.started_at between delivery.first_attempt_at and delivery.last_attempt_at
         and a.started_at >= delivery.earliest
       order by a.started_at desc limit 1) a on true
    left join posthaste.outbox o on o.id = delivery.event and o.created_at = delivery.event_created_at
         and o.created_at >= delivery.earliest
    left join posthaste.endpoints e on e.id = delivery.endpoint
    left join posthaste.endpoint_health h on h.endpoint_id = delivery.endpoint;
end;
comment on function posthaste_internal.delivery is
  'A delivery with its event, its endpoint and its last attempt, which began between these moments. Only days that end after earliest are planned for, if the caller knows that moment when its statement is planned.';

create function posthaste.deliveries_of(event bigint) returns setof posthaste.delivery_status
  language plpgsql stable security definer
  set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
  set enable_seqscan = off set jit = off as $$
declare
  o posthaste.outbox := posthaste_internal.known_event(event);
  earliest constant timestamptz := o.created_at - interval '1 hour';
begin
  return query
  with live as materialized (
    select d.endpoint_id, d.created_at from posthaste.deliveries d where d.event_id = event
    union all
    select c.endpoint_id, c.created_at from posthaste_internal.claims_of_event(event) c
  ), key as (
    select l.endpoint_id, true as is_live, l.created_at - interval '1 hour' as first_at, 'infinity'::timestamptz as last_at
      from live l
    union all
    select a.endpoint_id, false, max(a.started_at), max(a.started_at)
      from posthaste.attempts a
     where a.event_id = event and a.started_at >= earliest and coalesce(a.verdict, 'delivered') <> 'retry'
       and a.endpoint_id not in (select l.endpoint_id from live l)
     group by a.endpoint_id
  )
  select event, k.endpoint_id, posthaste.webhook_id(event, o.created_at), s.*, o.created_at
    from key k
    cross join lateral posthaste_internal.delivery(
      event, k.endpoint_id, o.created_at, k.is_live, k.first_at, k.last_at, earliest) s
   order by k.endpoint_id;
end $$;
comment on function posthaste.deliveries_of is
  'Every delivery of an event, live or ended, as the view delivery_status shows it: reads only the days since the event. explain also has those who did not get it, and why.';

create function posthaste_internal.check_list(
  since timestamptz, until timestamptz, state text, at_most integer, before_event bigint, before_endpoint bigint
) returns void
  language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if since is null or until is null or since >= until or not isfinite(since) then
    raise exception 'there is no time between since (%) and until (%)', since, until
      using errcode = 'invalid_parameter_value', hint = 'since is included, until is not; both are about event_created_at.';
  end if;
  if state <> all('{delivered,dead,cancelled,waiting,"in line",blocked,held,sending}') then
    raise exception 'there is no state %', state
      using errcode = 'invalid_parameter_value', hint = 'delivered, dead, cancelled, waiting, in line, blocked, held, sending.';
  end if;
  if coalesce(at_most, 0) < 1 or num_nulls(before_event, before_endpoint) = 1 then
    raise exception 'at_most is %, before_event %, before_endpoint %', at_most, before_event, before_endpoint
      using errcode = 'invalid_parameter_value',
            hint = 'A page goes on where the one before it ended: pass the event_id and the endpoint_id of its last row.';
  end if;
end $$;
comment on function posthaste_internal.check_list is 'An error if the arguments of deliveries_between make no sense.';

-- ── events are walked by their numbers, from the newest on, in parts that grow ─────────────────────

-- So a list that is full has read little more than it shows. An event's created_at is within an hour of the moment when
-- it got its number: a part that has one of two hours before the span is the last.
create function posthaste_internal.part_of_events(
  since timestamptz, until timestamptz, size bigint, inout last bigint, out first bigint, out is_last boolean
) language plpgsql stable
  set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set enable_seqscan = off set jit = off as $$
declare
  first_day constant timestamptz := date_trunc('day', since - interval '2 hours', 'UTC');
  oldest timestamptz;
  events bigint;
begin
  select min(o.id), max(o.id), min(o.created_at), count(*) into first, last, oldest, events
    from (select o.id, o.created_at from posthaste.outbox o
           where o.id <= last and o.created_at >= first_day and o.created_at < until
           order by o.id desc limit size) o;
  is_last := events < size or oldest < since - interval '2 hours';
end $$;
comment on function posthaste_internal.part_of_events is
  'The first and the last number of a part of the events that were inserted before until: size of them, the newest up to the last number that is handed over. And whether all that are left are older than since.';

create function posthaste.events_between(
  since timestamptz, until timestamptz default 'infinity', event_type text default '*', tenant text default null,
  at_most integer default 100, before_event bigint default null
) returns setof posthaste.events
  language plpgsql stable security definer
  set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
  set enable_seqscan = off set jit = off as $$
declare
  wanted text[];
  size bigint := 500;
  last bigint := coalesce(before_event - 1, 9223372036854775807);
  first bigint;
  is_last boolean := false;
  found_rows bigint;
  missing bigint := at_most;
begin
  perform posthaste_internal.check_list(since, until, null, at_most, before_event, before_event),
          posthaste_internal.check_event_type_pattern(event_type);
  wanted := posthaste_internal.like_patterns(array[event_type]);
  while missing > 0 and not is_last loop
    select p.first, p.last, p.is_last into first, last, is_last
      from posthaste_internal.part_of_events(since, until, size, last) p;
    return query
    select e.* from posthaste.events e
     where e.event_id between first and last and e.created_at >= since and e.created_at < until
       and (events_between.event_type = '*' or e.event_type like any(wanted))
       and (events_between.tenant is null or e.tenant = events_between.tenant)
     order by e.event_id desc limit missing;
    get diagnostics found_rows = row_count;
    missing := missing - found_rows;
    last := first - 1;
    size := size * 4;
  end loop;
end $$;
comment on function posthaste.events_between is
  'The events that were inserted from since until before until, newest first: all, or those of a pattern of types, of a tenant. No more than at_most; the next page is had with the same arguments and the last event_id as before_event. Reads until the page is full.';

create function posthaste.deliveries_between(
  since timestamptz, until timestamptz default 'infinity', endpoint bigint default null, state text default null,
  tenant text default null, at_most integer default 100,
  before_event bigint default null, before_endpoint bigint default null
) returns setof posthaste.delivery_status
  language plpgsql stable security definer
  set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
  set enable_seqscan = off set jit = off as $$
declare
  ends constant boolean := state = any('{delivered,dead,cancelled}');
  -- What failed has an index of its own, and is one part.
  fails constant boolean := coalesce(state = any('{dead,cancelled}'), false);
  earliest constant timestamptz := since - interval '1 hour';
  size bigint := 500;
  last bigint := coalesce(before_event, 9223372036854775807);
  first bigint := 0;
  is_last boolean := fails;
  of_tenant bigint[];
  found_rows bigint;
  missing bigint := at_most;
begin
  perform posthaste_internal.check_list(since, until, state, at_most, before_event, before_endpoint);
  loop
    if not fails then
      select p.first, p.last, p.is_last into first, last, is_last
        from posthaste_internal.part_of_events(since, until, size, last) p;
      if tenant is not null then
        of_tenant := array(select o.id from posthaste.outbox o
                            where o.id between first and last and o.created_at >= since and o.created_at < until
                              and o.tenant = deliveries_between.tenant);
      end if;
    end if;
    return query
    with key as materialized (
      (select d.event_id, d.endpoint_id, d.event_created_at, true as is_live, d.created_at - interval '1 hour' as first_at,
              'infinity'::timestamptz as last_at
         from posthaste.deliveries d
         left join posthaste.endpoints e on e.id = d.endpoint_id
        where ends is not true
          and (deliveries_between.state is null
               or posthaste_internal.live_state(d.claimed_by, d.blocked_at, e.enabled, d.in_line) = deliveries_between.state)
          and d.event_id between first and last and d.event_created_at >= since and d.event_created_at < until
          and (of_tenant is null or d.event_id = any(of_tenant))
          and (deliveries_between.endpoint is null or d.endpoint_id = deliveries_between.endpoint)
          and (before_event is null or (d.event_id, d.endpoint_id) < (before_event, before_endpoint))
        order by d.event_id desc, d.endpoint_id desc limit missing)
      union all
      (select h.event_id, h.endpoint_id, h.event_created_at, true, c.created_at - interval '1 hour', 'infinity'
         from posthaste.claims c
         cross join lateral posthaste_internal.claimed_in(c.event_ids, c.endpoint_ids, c.event_created_ats, c.recorded) h
        where (deliveries_between.state is null or deliveries_between.state = 'sending')
          and c.last_event >= first and c.first_event <= last
          and h.event_id between first and last and h.event_created_at >= since and h.event_created_at < until
          and (of_tenant is null or h.event_id = any(of_tenant))
          and (deliveries_between.endpoint is null or h.endpoint_id = deliveries_between.endpoint)
          and (before_event is null or (h.event_id, h.endpoint_id) < (before_event, before_endpoint)))
      union all
      (select a.event_id, a.endpoint_id, a.event_created_at, false, a.started_at, a.started_at
         from posthaste.attempts a
        where ends is not false
          and (deliveries_between.state is null and coalesce(a.verdict, 'delivered') <> 'retry'
               or coalesce(a.verdict, 'delivered') = deliveries_between.state)
          and a.event_id between first and last and a.event_created_at >= since and a.event_created_at < until
          and a.started_at >= earliest
          and (of_tenant is null or a.event_id = any(of_tenant))
          and (of_tenant is not null or deliveries_between.tenant is null or exists (
                select from posthaste.outbox o
                 where o.id = a.event_id and o.created_at = a.event_created_at and o.tenant = deliveries_between.tenant
                offset 0))
          and (deliveries_between.endpoint is null or a.endpoint_id = deliveries_between.endpoint)
          and (before_event is null or (a.event_id, a.endpoint_id) < (before_event, before_endpoint))
          and not exists (
                select from posthaste.deliveries d where d.event_id = a.event_id and d.endpoint_id = a.endpoint_id offset 0)
          and not exists (
                select from posthaste.attempts b
                 where b.event_id = a.event_id and b.endpoint_id = a.endpoint_id
                   and b.verdict is distinct from 'retry' and b.started_at > a.started_at and b.started_at >= earliest
                offset 0)
        order by a.event_id desc, a.endpoint_id desc limit missing)
      order by event_id desc, endpoint_id desc
      limit missing
    )
    select k.event_id, k.endpoint_id, posthaste.webhook_id(k.event_id, k.event_created_at), s.*, k.event_created_at
      from key k
      cross join lateral posthaste_internal.delivery(
        k.event_id, k.endpoint_id, k.event_created_at, k.is_live, k.first_at, k.last_at, earliest) s
     order by k.event_id desc, k.endpoint_id desc;
    get diagnostics found_rows = row_count;
    missing := missing - found_rows;
    exit when missing <= 0 or is_last;
    last := first - 1;
    size := size * 4;
  end loop;
end $$;
comment on function posthaste.deliveries_between is
  'The deliveries of the events that were inserted from since until before until, as the view delivery_status shows them, newest event first: all, or those to an endpoint, in a state, of a tenant. No more than at_most; the next page is had with the same arguments and the event_id and endpoint_id of the last row as before_event and before_endpoint. Reads until the page is full.';
