-- Steering deliveries in SQL.

-- A number does not tell its day. Most that is asked about is young: so the newest days are looked through first, and
-- each statement is planned for its days alone.
create function posthaste_internal.known_event(event bigint) returns posthaste.outbox
  language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  known posthaste.outbox;
  days integer := 2;
  upper timestamptz := 'infinity';
  lower timestamptz;
begin
  loop
    lower := case when days > 1000 then '-infinity' else clock_timestamp() - days * interval '1 day' end;
    select o.* into known from posthaste.outbox o
     where o.id = event and o.created_at >= lower and o.created_at < upper limit 1;
    if found then
      return known;
    end if;
    exit when not isfinite(lower);
    upper := lower;
    days := days * 4;
  end loop;
  raise exception 'there is no event % in the outbox', coalesce(event::text, 'null')
    using errcode = 'no_data_found',
          hint = 'It was rolled back, skipped for its idempotency key, or is older than the outbox''s retention.';
end $$;
comment on function posthaste_internal.known_event is 'The event; an error if it is not in the outbox.';

-- ── cancelling what is claimed ─────────────────────────────────────────────────────────────────────

-- A notice alone would not do: any role may send one.
create table posthaste.withdrawals (
  id          bigint      generated always as identity primary key,
  event_id    bigint,
  endpoint_id bigint,
  event_type  text        not null,
  reason      text        not null,
  created_at  timestamptz not null default clock_timestamp(),
  constraint of_an_event_or_an_endpoint check (num_nonnulls(event_id, endpoint_id) > 0)
);
comment on table posthaste.withdrawals is
  'Cancellations of the last hour that found deliveries claimed by relays, which cancel those of them that they have not begun to send.';
comment on column posthaste.withdrawals.id is 'Number of the cancellation.';
comment on column posthaste.withdrawals.event_id is 'The event that is cancelled. Null: every event.';
comment on column posthaste.withdrawals.endpoint_id is 'The endpoint for which it is cancelled. Null: every endpoint.';
comment on column posthaste.withdrawals.event_type is 'The pattern of event types that are cancelled.';
comment on column posthaste.withdrawals.reason is 'The words for attempts.reason.';
comment on column posthaste.withdrawals.created_at is 'When the call was made.';

create function posthaste_internal.withdraw(event bigint, endpoint bigint, event_type text, reason text) returns void
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  delete from posthaste.withdrawals w
   where w.id = any(array(select old.id from posthaste.withdrawals old
                           where old.created_at < clock_timestamp() - interval '1 hour'
                             for update skip locked));
  insert into posthaste.withdrawals (event_id, endpoint_id, event_type, reason)
  values (event, endpoint, event_type, coalesce(reason, 'cancelled by ' || session_user));
  perform pg_notify('posthaste', 'withdrawals');
end $$;
comment on function posthaste_internal.withdraw is
  'Tells the relays when the transaction commits to cancel what they have claimed and not begun.';

-- ── by one call each ───────────────────────────────────────────────────────────────────────────────

-- A delivery that is put back joins the end of its line; a relay gives it its turn.
create function posthaste.retry(event bigint, endpoint bigint) returns text
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  target posthaste.endpoints := posthaste_internal.known_endpoint(endpoint);
  o posthaste.outbox := posthaste_internal.known_event(event);
  line text := case when target.ordered then o.ordering_key end;
  clock constant timestamptz := clock_timestamp();
  live posthaste.deliveries;
begin
  if o.expires_at <= clock then
    raise exception 'event % expired at %', event, o.expires_at
      using errcode = 'object_not_in_prerequisite_state', hint = 'It would be cancelled, not sent. Emit a new event.';
  end if;
  -- First the claims: what ends as one of them may be a delivery from then on, and never the other way round.
  if exists (select from posthaste_internal.claims_of_event(event) c where c.endpoint_id = retry.endpoint) then
    return 'sending';
  end if;
  select d.* into live from posthaste.deliveries d where d.event_id = event and d.endpoint_id = endpoint for update;
  if live.claimed_by is not null then
    return 'sending';
  end if;
  if live.event_id is null and not exists (
       select from posthaste.attempts a where a.event_id = event and a.endpoint_id = endpoint
          and a.started_at >= o.created_at - interval '1 hour') then
    raise exception 'event % was not owed to endpoint %', event, endpoint
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('select * from posthaste.explain(%s) says why; posthaste.replay with states ''{never}'' sends it all the same.', event);
  end if;
  perform posthaste_internal.notice_if_held(endpoint);
  perform posthaste_internal.wake();
  if live.blocked_at is not null then
    update posthaste.deliveries d set blocked_at = null, attempt_count = 0, next_attempt_at = clock
     where d.event_id = event and d.endpoint_id = endpoint;
    return 'put back';
  end if;
  if live.event_id is not null then
    update posthaste.deliveries d set next_attempt_at = clock
     where d.event_id = event and d.endpoint_id = endpoint and d.next_attempt_at > clock;
    return case when live.in_line then 'in line' else 'due' end;
  end if;
  insert into posthaste.deliveries
    (event_id, endpoint_id, event_created_at, next_attempt_at, created_at, ordering_key, place, in_line)
  values (event, endpoint, o.created_at, clock, clock,
          line, case when line is not null then posthaste_internal.last_place() end, case when line is not null then true end)
  on conflict do nothing;
  return 'put back';
end $$;
comment on function posthaste.retry is
  'Sends a delivery now. Returns what it did: due (it was waiting and is due now, its attempts still count), in line (the same, but another of its ordering key comes first), put back (it had ended, or blocked its key, and begins anew with all its attempts), sending (a relay is sending it just now; nothing was changed).';

create function posthaste.retry_endpoint(endpoint bigint, event_type text default '*') returns bigint
  language plpgsql security definer
  set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  target posthaste.endpoints := posthaste_internal.known_endpoint(endpoint);
  clock constant timestamptz := clock_timestamp();
  wanted text[];
  made_due bigint;
begin
  perform posthaste_internal.check_event_type_pattern(event_type);
  wanted := posthaste_internal.like_patterns(array[event_type]);
  if not target.enabled then
    raise exception 'endpoint % is disabled (%)', endpoint, target.disabled_reason
      using errcode = 'object_not_in_prerequisite_state', hint = format('select * from posthaste.enable_endpoint(%s)', endpoint);
  end if;
  perform posthaste_internal.forget_failures(endpoint);
  -- One scan, as in cancel_endpoint. An event's deliver_at still holds.
  update posthaste.deliveries d set next_attempt_at = clock
   where d.endpoint_id = endpoint and d.claimed_by is null and d.in_line is null and d.blocked_at is null
     and d.next_attempt_at > clock
     and (d.attempt_count > 0 and retry_endpoint.event_type = '*' or exists (
            select from posthaste.outbox o
             where o.id = d.event_id and o.created_at = d.event_created_at and o.event_type like any(wanted)
               and (d.attempt_count > 0 or coalesce(o.deliver_at <= clock, true))));
  get diagnostics made_due = row_count;
  return made_due;
end $$;
comment on function posthaste.retry_endpoint is
  'Sends all that waits for an endpoint, or the event types of a pattern, now: ends a pause, and makes waiting deliveries due. The endpoint''s limits spread the requests, and their attempts still count. Returns how many deliveries it made due, without those that were due already, are blocked or scheduled for later (deliver_at).';

create function posthaste_internal.check_replay(since timestamptz, until timestamptz, states text[], at_most bigint) returns void
  language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if since is null or until is null or since >= until then
    raise exception 'there is no time between since (%) and until (%)', since, until
      using errcode = 'invalid_parameter_value', hint = 'since is included, until is not.';
  end if;
  if coalesce(cardinality(states), 0) = 0 or not states <@ '{dead,cancelled,delivered,never}' then
    raise exception 'these are not states to replay: %', states
      using errcode = 'invalid_parameter_value', hint = 'dead, cancelled, delivered, never.';
  end if;
  if at_most < 1 then
    raise exception 'at_most is %', at_most using errcode = 'invalid_parameter_value', hint = 'Null for no limit.';
  end if;
end $$;
comment on function posthaste_internal.check_replay is 'An error if replay''s arguments make no sense.';

-- Bound when created, not when called, and without settings of their own: so the planner inlines them and chooses by
-- the size of the span.
create function posthaste_internal.ended_deliveries(endpoint bigint, since timestamptz, until timestamptz, verdicts text[])
  returns table (event_id bigint, event_created_at timestamptz)
  language sql stable
begin atomic
  select a.event_id, a.event_created_at
    from posthaste.attempts a
   where a.endpoint_id = ended_deliveries.endpoint
     and coalesce(a.verdict, 'delivered') = any(ended_deliveries.verdicts)
     and a.event_created_at >= ended_deliveries.since and a.event_created_at < ended_deliveries.until
     -- Prunes partitions: an attempt is no older than its event, give or take a clock that was set.
     and a.started_at >= ended_deliveries.since - interval '1 hour'
     and not exists (
       select from posthaste.attempts later
        where later.event_id = a.event_id and later.endpoint_id = a.endpoint_id
          and later.verdict is distinct from 'retry' and later.started_at > a.started_at
          and later.started_at >= ended_deliveries.since - interval '1 hour');
end;
comment on function posthaste_internal.ended_deliveries is
  'The deliveries of a span of events to an endpoint whose last end is one of these verdicts.';

create function posthaste_internal.deliveries_never_owed(
  endpoint bigint, filter jsonpath, since timestamptz, until timestamptz
)
  returns table (event_id bigint, event_created_at timestamptz)
  language sql stable
begin atomic
  select o.id, o.created_at
    from posthaste.outbox o
    cross join (select * from posthaste.routing r order by r.number desc limit 1) last
   where o.created_at >= deliveries_never_owed.since and o.created_at < deliveries_never_owed.until
     -- Routing will insert the deliveries of events that it has not reached, and expects to be the first.
     and posthaste_internal.is_routed(o.xid, o.id, last.since, last.until, last.after_xid, last.after_id)
     and o.id <> all(array(
           select h.event_id from posthaste.claims c
            cross join lateral posthaste_internal.claimed_in(c.event_ids, c.endpoint_ids, c.event_created_ats, c.recorded) h
            where h.endpoint_id = deliveries_never_owed.endpoint))
     and not exists (
       select from posthaste.attempts a
        where a.event_id = o.id and a.endpoint_id = deliveries_never_owed.endpoint
          and a.started_at >= deliveries_never_owed.since - interval '1 hour')
     and (deliveries_never_owed.filter is null
          or posthaste_internal.filter_matches(o.payload, deliveries_never_owed.filter));
end;
comment on function posthaste_internal.deliveries_never_owed is
  'Routed events of a span without an attempt for this endpoint, whose filter they match.';

create function posthaste.replay(
  endpoint bigint, since timestamptz, until timestamptz default now(), event_type text default '*',
  states text[] default '{dead}', at_most bigint default null
) returns bigint
  language plpgsql security definer
  set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  target posthaste.endpoints := posthaste_internal.known_endpoint(endpoint);
  ended constant text[] := array(select s from unnest(states) s where s <> 'never');
  wanted text[];
  subscribed constant text[] := posthaste_internal.like_patterns(target.subscriptions);
  clock constant timestamptz := clock_timestamp();
  last_place constant bigint := posthaste_internal.last_place();
  put_back bigint;
begin
  perform posthaste_internal.check_event_type_pattern(event_type), posthaste_internal.check_replay(since, until, states, at_most);
  wanted := posthaste_internal.like_patterns(array[event_type]);
  insert into posthaste.deliveries as d
    (event_id, endpoint_id, event_created_at, next_attempt_at, created_at, ordering_key, place, in_line)
  select o.id, endpoint, o.created_at, greatest(clock, o.deliver_at), clock,
         line.key, case when line.key is not null then last_place end, case when line.key is not null then true end
    from (select * from posthaste_internal.ended_deliveries(endpoint, since, until, ended) where cardinality(ended) > 0
          union all
          select * from posthaste_internal.deliveries_never_owed(endpoint, target.filter, since, until) where 'never' = any(states)) r
    join posthaste.outbox o on o.id = r.event_id and o.created_at = r.event_created_at
    cross join lateral (select case when target.ordered then o.ordering_key end as key) line
   where o.created_at >= since and o.created_at < until
     and o.event_type like any(wanted)
     and coalesce(o.expires_at > clock, true)
     -- A delivery that the endpoint no longer subscribes to would only be cancelled.
     and (o.endpoint_id = endpoint
          or (o.endpoint_id is null and o.event_type like any(subscribed)
              and (target.tenant is null or o.tenant = target.tenant)))
   order by o.id
   limit at_most
  -- A live delivery stays as it is, unless it is dead and blocks its line.
  on conflict (event_id, endpoint_id) do update
     set blocked_at = null, attempt_count = 0, next_attempt_at = excluded.next_attempt_at
   where d.blocked_at is not null;
  get diagnostics put_back = row_count;
  if put_back > 0 then
    perform posthaste_internal.notice_if_held(endpoint), posthaste_internal.wake();
  end if;
  return put_back;
end $$;
comment on function posthaste.replay is
  'Sends an endpoint again the events that were inserted from since until before until, oldest first, and returns how many deliveries that makes. states says which: dead (the default: only deliveries that were given up, so nothing arrives twice), cancelled, delivered, never (matches now, but was never owed, for instance because the endpoint was added later). Live deliveries stay as they are, but for the dead that block their ordering key; webhook-ids stay the same; events that are no longer in the outbox, have expired or are no longer subscribed to are left out. One statement: all of it or none.';

create function posthaste.cancel(
  event bigint, endpoint bigint default null, reason text default null,
  out cancelled bigint, out in_flight bigint
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  o posthaste.outbox;
begin
  if not exists (select from posthaste.deliveries d where d.event_id = event) then
    o := posthaste_internal.known_event(event);
    if not (select posthaste_internal.is_routed(o.xid, o.id, r.since, r.until, r.after_xid, r.after_id)
                   or exists (select from posthaste.routed_ahead a where a.event_id = o.id)
              from posthaste.routing r order by r.number desc limit 1) then
      raise exception 'event % is not routed yet', event
        using errcode = 'object_not_in_prerequisite_state', hint = 'Cancel it once a relay has routed it.';
    end if;
  end if;
  with ended as (
    delete from posthaste.deliveries d
     where d.event_id = event and (cancel.endpoint is null or d.endpoint_id = cancel.endpoint) and d.claimed_by is null
    returning d.event_id, d.endpoint_id, d.event_created_at
  ), logged as (
    insert into posthaste.attempts
      (event_id, endpoint_id, event_created_at, started_at, number, relay_id, duration_ms, outcome, verdict, reason)
    select e.event_id, e.endpoint_id, e.event_created_at, clock_timestamp(), 0, 0, 0, 'none', 'cancelled',
           coalesce(cancel.reason, 'cancelled by ' || session_user)
      from ended e
  )
  -- The batches in the same snapshot: what fails in one meanwhile would be in neither.
  select (select count(*) from ended),
         (select count(*) from posthaste_internal.claims_of_event(event) c
           where cancel.endpoint is null or c.endpoint_id = cancel.endpoint)
    into cancelled, in_flight;
  in_flight := in_flight + (
    select count(*) from posthaste.deliveries d
     where d.event_id = event and (cancel.endpoint is null or d.endpoint_id = cancel.endpoint) and d.claimed_by is not null);
  if in_flight > 0 then
    perform posthaste_internal.withdraw(event, endpoint, '*', reason);
  end if;
  perform posthaste_internal.wake();
end $$;
comment on function posthaste.cancel is
  'Ends the deliveries of an event (to one endpoint, or to all), with the reason in attempts. Returns how many deliveries it cancelled, and how many are in flight. Of these a relay cancels at once what it has claimed and not begun to send; a request that is out is not called back, and if it fails it is retried unless this is called again.';

create function posthaste.cancel_endpoint(
  endpoint bigint, event_type text default '*', reason text default null,
  out cancelled bigint, out in_flight bigint
) language plpgsql security definer
  set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  wanted text[];
begin
  perform posthaste_internal.check_event_type_pattern(event_type);
  wanted := posthaste_internal.like_patterns(array[event_type]);
  -- A second call waits for the first here, not for its rows in an order of its own.
  perform from posthaste.endpoints e where e.id = endpoint for no key update;
  perform posthaste_internal.known_endpoint(endpoint);
  -- One scan and no join with itself: the statistics of a queue are stale by nature, and a join
  -- planned for an empty table takes hours on a full one. Each arm has its index.
  with ended as (
    delete from posthaste.deliveries d
     where d.endpoint_id = cancel_endpoint.endpoint and d.claimed_by is null
       and (d.in_line is null or d.in_line)
       and (cancel_endpoint.event_type = '*' or exists (
              select from posthaste.outbox o
               where o.id = d.event_id and o.created_at = d.event_created_at and o.event_type like any(wanted)))
    returning d.event_id, d.endpoint_id, d.event_created_at
  ), logged as (
    insert into posthaste.attempts
      (event_id, endpoint_id, event_created_at, started_at, number, relay_id, duration_ms, outcome, verdict, reason)
    select e.event_id, e.endpoint_id, e.event_created_at, clock_timestamp(), 0, 0, 0, 'none', 'cancelled',
           coalesce(cancel_endpoint.reason, 'cancelled by ' || session_user)
      from ended e
  )
  -- See cancel.
  select (select count(*) from ended),
         (select count(*) from posthaste.claims c
           cross join lateral posthaste_internal.claimed_in(c.event_ids, c.endpoint_ids, c.event_created_ats, c.recorded) h
           where h.endpoint_id = cancel_endpoint.endpoint)
    into cancelled, in_flight;
  -- No index is kept for this; it is one scan of what is live.
  in_flight := in_flight + (
    select count(*) from posthaste.deliveries d
     where d.endpoint_id = cancel_endpoint.endpoint and d.claimed_by is not null);
  if in_flight > 0 then
    perform posthaste_internal.withdraw(null, endpoint, event_type, reason);
  end if;
  perform posthaste_internal.wake();
end $$;
comment on function posthaste.cancel_endpoint is
  'Ends all that an endpoint is still owed, or the event types of a pattern; replay with states ''{cancelled}'' brings it back. Returns how many deliveries it cancelled, and how many of the endpoint''s are in flight. Of these a relay cancels at once what is meant, and what it has not begun to send; a request that is out is not called back.';

create function posthaste_internal.cancel_orphans() returns bigint
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  cancelled bigint;
begin
  with recursive owed as (
    (select d.endpoint_id from posthaste.deliveries d where d.claimed_by is null and d.in_line is null
      order by d.endpoint_id, d.next_attempt_at, d.event_id limit 1)
    union all
    select n.endpoint_id from owed cross join lateral (
      select d.endpoint_id from posthaste.deliveries d
       where d.claimed_by is null and d.in_line is null and d.endpoint_id > owed.endpoint_id
       order by d.endpoint_id, d.next_attempt_at, d.event_id limit 1) n
  ), orphan as materialized (
    select o.endpoint_id from owed o
     where not exists (select from posthaste.endpoints e where e.id = o.endpoint_id)
  ), ended as (
    delete from posthaste.deliveries d using orphan
     where d.endpoint_id = orphan.endpoint_id and d.claimed_by is null
       and (d.in_line is null or d.in_line)
    returning d.event_id, d.endpoint_id, d.event_created_at
  ), logged as (
    insert into posthaste.attempts
      (event_id, endpoint_id, event_created_at, started_at, number, relay_id, duration_ms, outcome, verdict, reason)
    select e.event_id, e.endpoint_id, e.event_created_at, clock_timestamp(), 0, 0, 0, 'none', 'cancelled', 'endpoint deleted'
      from ended e
  )
  select count(*) into cancelled from ended;
  return cancelled;
end $$;
comment on function posthaste_internal.cancel_orphans is
  'The relay''s upkeep. Cancels deliveries that were routed to an endpoint while it was being deleted, which its own trigger could not see yet.';

create function posthaste.unblock(endpoint bigint, ordering_key text default null, skip boolean default false) returns bigint
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  target posthaste.endpoints := posthaste_internal.known_endpoint(endpoint);
  clock constant timestamptz := clock_timestamp();
  unblocked bigint;
begin
  if skip then
    with ended as (
      delete from posthaste.deliveries d
       where d.endpoint_id = endpoint and d.blocked_at is not null
         and (unblock.ordering_key is null or d.ordering_key = unblock.ordering_key)
      returning d.event_id, d.endpoint_id, d.event_created_at
    ), logged as (
      insert into posthaste.attempts
        (event_id, endpoint_id, event_created_at, started_at, number, relay_id, duration_ms, outcome, verdict, reason)
      select e.event_id, e.endpoint_id, e.event_created_at, clock, 0, 0, 0, 'none', 'cancelled', 'skipped by ' || session_user
        from ended e
    )
    select count(*) into unblocked from ended;
  else
    update posthaste.deliveries d set blocked_at = null, attempt_count = 0, next_attempt_at = clock
     where d.endpoint_id = endpoint and d.blocked_at is not null
       and (unblock.ordering_key is null or d.ordering_key = unblock.ordering_key);
    get diagnostics unblocked = row_count;
  end if;
  if unblocked > 0 then
    perform posthaste_internal.notice_if_held(endpoint), posthaste_internal.wake();
  end if;
  return unblocked;
end $$;
comment on function posthaste.unblock is
  'Lets the ordering keys of an endpoint (or one of them) go on that a dead delivery blocks: tries the dead one again with all its attempts, or with skip => true cancels it, so that the next one follows. Returns how many keys that were.';
