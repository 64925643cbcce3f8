-- Ordering keys: to an ordered endpoint, one delivery of a key at a time, in the order of commits.
--
-- The deliveries of an endpoint and a key are a line. Its head alone can be due; the others are in
-- line until the head has ended. A line forms when its events are routed, moves on when its head is
-- recorded, and what those two may miss of each other is seen by whoever looks at the line after
-- both have committed (sql/queries/give_turns.sql). An index lets no two of a line have their turn.

alter table posthaste.endpoints
  add column on_dead_head text not null default 'block',
  add constraint on_dead_head_is_block_or_skip check (on_dead_head in ('block', 'skip'));
comment on column posthaste.endpoints.on_dead_head is
  'Where the endpoint is ordered and a delivery of a key is dead: block (the key waits until somebody calls retry, cancel or unblock) or skip (the next one follows).';
comment on column posthaste.endpoints.ordered is
  'Whether events with an ordering key are delivered one after the other, in the order in which they were committed. Counts for events routed from then on.';
comment on column posthaste.outbox.ordering_key is
  'To endpoints that are ordered, events with the same key are delivered one after the other.';

alter table posthaste.routing add column span_number bigint;
comment on column posthaste.routing.span_number is
  'The step that began this span of since to until, where it takes several. Null: this one.';

-- What was routed so far has no place, and so no order.
update posthaste.deliveries set ordering_key = null where ordering_key is not null;
alter table posthaste.deliveries
  add column place bigint,
  add column in_line boolean,
  add column blocked_at timestamptz,
  add constraint place_iff_ordering_key check ((place is null) = (ordering_key is null)),
  add constraint in_line_has_a_key_and_no_claim
    check (in_line is null or (in_line and ordering_key is not null and claimed_by is null));
comment on column posthaste.deliveries.ordering_key is
  'The event''s ordering key, if the endpoint was ordered when it was routed: its line.';
comment on column posthaste.deliveries.place is
  'Its place in line, before that of its event: the routing span that it came with.';
comment on column posthaste.deliveries.in_line is 'True: it waits behind another of its line. Null: it does not.';
comment on column posthaste.deliveries.blocked_at is
  'Since when it blocks its line: it is dead, and the endpoint''s on_dead_head is block. Null: it does not.';

drop index posthaste.deliveries_due;
create index deliveries_due on posthaste.deliveries (endpoint_id, next_attempt_at, event_id)
  where claimed_by is null and in_line is null;
create index deliveries_in_line on posthaste.deliveries (endpoint_id, ordering_key, place, event_id)
  where in_line;
create unique index one_delivery_of_a_line_has_its_turn on posthaste.deliveries (endpoint_id, ordering_key)
  where ordering_key is not null and in_line is null;
create index deliveries_blocked on posthaste.deliveries (endpoint_id, ordering_key)
  where blocked_at is not null;

-- ── lines ───────────────────────────────────────────────────────────────────────────────────────

-- A span that is not routed to its end may still bring an event that belongs in front.
create function posthaste.open_span() returns bigint
  language sql stable parallel safe
  return (select case when l.after_id is not null then coalesce(l.span_number, l.number) end
            from (select * from posthaste.routing r order by r.number desc limit 1) l);
comment on function posthaste.open_span is
  'Private. The place of what is being routed in several steps, if that is so: it has no order yet.';

-- ── steering ────────────────────────────────────────────────────────────────────────────────────

drop function posthaste.add_endpoint(text, text[], text, jsonpath, text, text, jsonb, text, interval, integer,
                                     interval[], integer, double precision, boolean, jsonb, boolean);
create function posthaste.add_endpoint(
  out endpoint_id bigint,
  url text, subscriptions text[] default '{*}', tenant text default null, filter jsonpath default null,
  inout secret text default null, description text default null, headers jsonb default '{}',
  body_format text default 'standard', timeout interval default null, max_attempts integer default null,
  schedule interval[] default null, max_concurrency integer default null, rate_limit double precision default null,
  ordered boolean default false, metadata jsonb default '{}', enabled boolean default true,
  on_dead_head text default 'block'
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
begin
  if secret is not null then
    perform posthaste.check_secret(secret);
  end if;
  insert into posthaste.endpoints
    (url, subscriptions, tenant, filter, description, headers, body_format, timeout, max_attempts,
     schedule, max_concurrency, rate_limit, ordered, metadata, enabled, on_dead_head)
  values (url, subscriptions, tenant, filter, description, headers, body_format, timeout, max_attempts,
          schedule, max_concurrency, rate_limit, ordered, metadata, enabled, on_dead_head)
  returning id into endpoint_id;
  -- The insert has given it a generated one.
  update posthaste.endpoint_secrets s set secret = add_endpoint.secret
   where s.endpoint_id = add_endpoint.endpoint_id and add_endpoint.secret is not null;
  select s.secret into secret from posthaste.endpoint_secrets s where s.endpoint_id = add_endpoint.endpoint_id;
end $$;
comment on function posthaste.add_endpoint is
  'Adds an endpoint: select * from posthaste.add_endpoint(''https://example.com/hook'', ''{order.*}''). Returns endpoint_id and the secret, generated unless one is given: it is shown this once, to be handed to the receiver. The other arguments are the columns of posthaste.endpoints.';

-- What is put back joins the end of its line; a relay gives it its turn.
create or replace function posthaste.retry(event bigint, endpoint bigint) returns text
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  target posthaste.endpoints := posthaste.known_endpoint(endpoint);
  o posthaste.outbox := posthaste.known_event(event);
  line text := case when target.ordered then o.ordering_key end;
  clock constant timestamptz := clock_timestamp();
  live posthaste.deliveries;
begin
  if o.expires_at <= clock then
    raise exception 'event % expired at %', event, o.expires_at
      using errcode = 'object_not_in_prerequisite_state', hint = 'It would be cancelled, not sent. Emit a new event.';
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
  perform posthaste.notice_if_held(target);
  perform posthaste.wake();
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
          line, case when line is not null then posthaste.last_place() end, case when line is not null then true end)
  on conflict do nothing;
  return 'put back';
end $$;
comment on function posthaste.retry is
  'Sends a delivery now. Returns what it did: due (it was waiting and is due now, its attempts still count), in line (the same, but another of its ordering key comes first), put back (it had ended, or blocked its key, and begins anew with all its attempts), sending (a relay is sending it just now; nothing was changed).';

create function posthaste.last_place() returns bigint
  language sql stable parallel safe
  return (select max(r.number) from posthaste.routing r);
comment on function posthaste.last_place is 'Private. The place behind all that has been routed.';

create or replace function posthaste.replay(
  endpoint bigint, since timestamptz, until timestamptz default now(), event_type text default '*',
  states text[] default '{dead}', at_most bigint default null
) returns bigint
  language plpgsql security definer
  set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  target posthaste.endpoints := posthaste.known_endpoint(endpoint);
  ended constant text[] := array(select s from unnest(states) s where s <> 'never');
  wanted text[];
  subscribed constant text[] := posthaste.like_patterns(target.subscriptions);
  clock constant timestamptz := clock_timestamp();
  last_place constant bigint := posthaste.last_place();
  put_back bigint;
begin
  perform posthaste.check_event_type_pattern(event_type), posthaste.check_replay(since, until, states, at_most);
  wanted := posthaste.like_patterns(array[event_type]);
  insert into posthaste.deliveries as d
    (event_id, endpoint_id, event_created_at, next_attempt_at, created_at, ordering_key, place, in_line)
  select o.id, endpoint, o.created_at, greatest(clock, o.deliver_at), clock,
         line.key, case when line.key is not null then last_place end, case when line.key is not null then true end
    from (select * from posthaste.ended_deliveries(endpoint, since, until, ended) where cardinality(ended) > 0
          union all
          select * from posthaste.deliveries_never_owed(target, since, until) where 'never' = any(states)) r
    join posthaste.outbox o on o.id = r.event_id and o.created_at = r.event_created_at
    cross join lateral (select case when target.ordered then o.ordering_key end as key) line
   where o.created_at >= since and o.created_at < until
     and o.event_type like any(wanted)
     and coalesce(o.expires_at > clock, true)
     -- What it no longer subscribes to would only be cancelled.
     and (o.endpoint_id = endpoint
          or (o.endpoint_id is null and o.event_type like any(subscribed)
              and (target.tenant is null or o.tenant = target.tenant)))
   order by o.id
   limit at_most
  -- What is live stays as it is, but for the dead that block their line.
  on conflict (event_id, endpoint_id) do update
     set blocked_at = null, attempt_count = 0, next_attempt_at = excluded.next_attempt_at
   where d.blocked_at is not null;
  get diagnostics put_back = row_count;
  if put_back > 0 then
    perform posthaste.notice_if_held(target), posthaste.wake();
  end if;
  return put_back;
end $$;
comment on function posthaste.replay is
  'Sends an endpoint again what was inserted from since until before until, oldest first, and returns how many deliveries that makes. states says which: dead (the default: only what was given up, so nothing arrives twice), cancelled, delivered, never (matches now, but was never owed, for instance because the endpoint was added later). Live deliveries stay as they are, but for the dead that block their ordering key; webhook-ids stay the same; events that are no longer in the outbox, have expired or are no longer subscribed to are left out. One statement: all of it or none.';

create function posthaste.unblock(endpoint bigint, ordering_key text default null, skip boolean default false) returns bigint
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  target posthaste.endpoints := posthaste.known_endpoint(endpoint);
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
    perform posthaste.notice_if_held(target), posthaste.wake();
  end if;
  return unblocked;
end $$;
comment on function posthaste.unblock is
  'Lets the ordering keys of an endpoint (or one of them) go on that a dead delivery blocks: tries the dead one again with all its attempts, or with skip => true cancels it, so that the next one follows. Returns how many keys that were.';

create or replace function posthaste.cancel_endpoint(
  endpoint bigint, event_type text default '*', reason text default null,
  out cancelled bigint, out in_flight bigint
) language plpgsql security definer
  set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  wanted text[];
begin
  perform posthaste.check_event_type_pattern(event_type);
  wanted := posthaste.like_patterns(array[event_type]);
  -- A second call waits for the first here, not for its rows in an order of its own.
  perform from posthaste.endpoints e where e.id = endpoint for no key update;
  perform posthaste.known_endpoint(endpoint);
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
  select count(*) into cancelled from ended;
  -- No index is kept for this; it is one scan of what is live.
  select count(*) into in_flight from posthaste.deliveries d
   where d.endpoint_id = cancel_endpoint.endpoint and d.claimed_by is not null;
  perform posthaste.wake();
end $$;

create or replace function posthaste.cancel_orphans() returns bigint
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

-- ── looking ─────────────────────────────────────────────────────────────────────────────────────

create or replace view posthaste.delivery_status as
select d.event_id, d.endpoint_id, posthaste.webhook_id(d.event_id, d.event_created_at) as webhook_id,
       o.event_type, o.tenant, e.url,
       case when d.claimed_by is not null then 'sending'
            when d.blocked_at is not null then 'blocked'
            when not e.enabled then 'held'
            when d.in_line then 'in line'
            else 'waiting' end as state,
       d.attempt_count, d.next_attempt_at, a.outcome as last_outcome, a.cause as last_cause,
       a.status as last_status, a.started_at as last_attempt_at,
       case when d.blocked_at is not null
            then format('dead since %s, and ordering key %s waits behind it: posthaste.unblock(%s, %L)',
                        d.blocked_at, d.ordering_key, d.endpoint_id, d.ordering_key)
            when not e.enabled then 'endpoint disabled: ' || e.disabled_reason
            when h.state = 'paused' then 'endpoint paused until ' || h.paused_until
            when d.in_line then 'behind another of ordering key ' || d.ordering_key
            when a.verdict = 'retry' then coalesce(a.reason, concat_ws(' ', a.outcome, a.cause, a.status))
            when o.deliver_at > clock_timestamp() then 'not to be sent before ' || o.deliver_at
       end as reason,
       null::timestamptz as ended_at, d.event_created_at
  from posthaste.deliveries d
  left join posthaste.outbox o on o.id = d.event_id and o.created_at = d.event_created_at
  left join posthaste.endpoints e on e.id = d.endpoint_id
  left join posthaste.endpoint_health h on h.endpoint_id = d.endpoint_id
  left join lateral (
    select * from posthaste.attempts a
     where a.event_id = d.event_id and a.endpoint_id = d.endpoint_id
       and a.started_at >= d.created_at - interval '1 hour'
     order by a.started_at desc limit 1) a on true
union all
select a.event_id, a.endpoint_id, posthaste.webhook_id(a.event_id, a.event_created_at),
       o.event_type, o.tenant, e.url,
       a.verdict, a.number, null, a.outcome, a.cause, a.status, a.started_at,
       coalesce(a.reason, case when a.verdict <> 'delivered' then concat_ws(' ', a.outcome, a.cause, a.status) end),
       a.started_at + a.duration_ms * interval '1 ms', a.event_created_at
  from posthaste.attempts a
  left join posthaste.outbox o on o.id = a.event_id and o.created_at = a.event_created_at
  left join posthaste.endpoints e on e.id = a.endpoint_id
 where a.verdict <> 'retry'
   and not exists (select from posthaste.deliveries d
                    where d.event_id = a.event_id and d.endpoint_id = a.endpoint_id)
   and not exists (select from posthaste.attempts b
                    where b.event_id = a.event_id and b.endpoint_id = a.endpoint_id
                      and b.verdict <> 'retry' and b.started_at > a.started_at);
comment on column posthaste.delivery_status.state is
  'waiting, in line (behind another of its ordering key), blocked (dead, and its ordering key waits), held (endpoint disabled), sending, delivered, dead, cancelled.';

create or replace view posthaste.endpoint_status as
select e.id as endpoint_id, e.url, e.tenant, e.description,
       case when not e.enabled then 'disabled' else coalesce(h.state, 'flowing') end as health,
       coalesce(e.disabled_reason,
                case when h.state <> 'flowing'
                     then h.consecutive_failures || ' failures since ' || h.failing_since end) as reason,
       h.paused_until, p.pending, p.pending = 10000 as pending_is_more, f.oldest_pending_at,
       coalesce(h.consecutive_failures, 0) as consecutive_failures, h.failing_since,
       h.last_success_at, h.last_failure_at,
       round((h.recent_successes / nullif(h.recent_successes + h.recent_failures, 0))::numeric, 4) as success_rate,
       round((h.recent_duration_ms / nullif(h.recent_successes + h.recent_failures, 0))::numeric, 1) as mean_duration_ms,
       b.blocked_keys
  from posthaste.endpoints e
  left join posthaste.endpoint_health h on h.endpoint_id = e.id
  cross join lateral (
    select count(*) as pending from (
      (select from posthaste.deliveries d where d.endpoint_id = e.id and d.claimed_by is null and d.in_line is null limit 10000)
      union all
      (select from posthaste.deliveries d where d.endpoint_id = e.id and d.in_line limit 10000)
      limit 10000) d) p
  cross join lateral (
    select count(*) as blocked_keys from (
      select from posthaste.deliveries d where d.endpoint_id = e.id and d.blocked_at is not null limit 10000) d) b
  left join lateral (
    select d.created_at as oldest_pending_at from posthaste.deliveries d
     where d.endpoint_id = e.id and d.claimed_by is null and d.in_line is null
     order by d.next_attempt_at, d.event_id limit 1) f on true;
comment on column posthaste.endpoint_status.blocked_keys is
  'Ordering keys that wait behind a dead delivery, counted up to 10,000; posthaste.unblock(endpoint_id) lets them go on.';

create or replace view posthaste.backlog as
with recursive endpoint as (
  (select endpoint_id from posthaste.deliveries where claimed_by is null and in_line is null
    order by endpoint_id, next_attempt_at, event_id limit 1)
  union all
  select n.endpoint_id from endpoint e cross join lateral (
    select d.endpoint_id from posthaste.deliveries d
     where d.claimed_by is null and d.in_line is null and d.endpoint_id > e.endpoint_id
     order by d.endpoint_id, d.next_attempt_at, d.event_id limit 1) n
)
select b.endpoint_id, e.url, p.pending, p.pending = 10000 as pending_is_more, due.due,
       f.next_attempt_at as first_due_at,
       clock_timestamp() - least(f.next_attempt_at, clock_timestamp()) as overdue_by
  from endpoint b
  left join posthaste.endpoints e on e.id = b.endpoint_id
  cross join lateral (
    select count(*) as pending from (
      (select from posthaste.deliveries d where d.endpoint_id = b.endpoint_id and d.claimed_by is null and d.in_line is null limit 10000)
      union all
      (select from posthaste.deliveries d where d.endpoint_id = b.endpoint_id and d.in_line limit 10000)
      limit 10000) d) p
  cross join lateral (
    select count(*) as due from (
      select from posthaste.deliveries d
       where d.endpoint_id = b.endpoint_id and d.claimed_by is null and d.in_line is null
         and d.next_attempt_at <= clock_timestamp() limit 10000) d) due
  cross join lateral (
    select d.next_attempt_at from posthaste.deliveries d
     where d.endpoint_id = b.endpoint_id and d.claimed_by is null and d.in_line is null
     order by d.next_attempt_at, d.event_id limit 1) f;
comment on view posthaste.backlog is
  'What waits, by endpoint: how many deliveries (counted up to 10,000), how many of them are due, and for how long the first has been. An endpoint whose only due deliveries are being sent is left out, with what is in line behind them.';

create or replace function posthaste.why_owed(
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
      case when (d).blocked_at is not null
           then format('dead since %s, and ordering key %s waits behind it: posthaste.unblock(%s, %L)',
                       (d).blocked_at, (d).ordering_key, (d).endpoint_id, (d).ordering_key)
           when (d).in_line
           then format('in line behind event %s of ordering key %s',
                       (select h.event_id from posthaste.deliveries h
                         where h.endpoint_id = (d).endpoint_id and h.ordering_key = (d).ordering_key and h.in_line is null), (d).ordering_key)
           when (d).next_attempt_at > clock_timestamp()
           then format('attempt %s is due at %s', (d).attempt_count + 1, (d).next_attempt_at)
           else format('attempt %s is due since %s', (d).attempt_count + 1, (d).next_attempt_at) end,
      case when (d).attempt_count > 0 and (a).verdict in ('retry', 'dead')
           then 'the last one: ' || coalesce((a).reason, concat_ws(' ', (a).outcome, (a).cause, (a).status)) end)
    when (a).verdict = 'retry' then 'to be retried, but no longer owed: see posthaste.check_consistency()'
    else format('%s at %s', (a).verdict, (a).started_at + (a).duration_ms * interval '1 ms')
         || case when (a).number > 0 then ' by attempt ' || (a).number else '' end
         || coalesce(': ' || coalesce((a).reason, case when (a).verdict <> 'delivered'
                                                       then concat_ws(' ', (a).outcome, (a).cause, (a).status) end), '')
  end;

create or replace function posthaste.explain(event bigint, at_most integer default 1000)
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
              when d.blocked_at is not null then 'blocked'
              when d.event_id is not null and not e.enabled then 'held'
              when d.event_id is not null then case when d.in_line then 'in line' else 'waiting' end
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
  'Why an event was or was not sent, to whom, and what is next: a row for each endpoint, those that are owed it first, then those that subscribe, then all others, at_most so many. state is waiting, in line (behind another of its ordering key), blocked (dead, and its ordering key waits), held (endpoint disabled), sending, delivered, dead, cancelled, not routed, not owed, or lost.';

-- A line without a head goes on when a relay looks at it: after recording at once, after a crash
-- when the dead relay's claims are released, in any case with its upkeep.
create function posthaste.stalled_lines(patience interval)
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
     and f.place < coalesce((select posthaste.open_span()), 9223372036854775807)
     and not exists (
       select from posthaste.deliveries h
        where h.endpoint_id = line.endpoint_id and h.ordering_key = line.ordering_key and h.in_line is null);
end;
comment on function posthaste.stalled_lines is 'Private. Lines in which nobody has the turn.';

create or replace function posthaste.check_consistency(
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
    select * from posthaste.stalled_lines(patience)
    union all
    select * from posthaste.lost_events(since)) p
  limit at_most;
end $$;

-- ── roles ───────────────────────────────────────────────────────────────────────────────────────

create or replace function posthaste.grant_roles() returns void
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  g record;
  looks constant text[] := array[
    'usage on schema posthaste',
    'select on posthaste.delivery_status, posthaste.delivery_attempts, posthaste.endpoint_status, posthaste.backlog,
       posthaste.recent_failures, posthaste.relay_status, posthaste.unrouted_events, posthaste.rules',
    -- Not the headers: people put tokens there.
    'select (id, url, subscriptions, tenant, filter, enabled, disabled_at, disabled_reason, body_format, timeout,
       max_attempts, schedule, max_concurrency, rate_limit, ordered, on_dead_head, description, metadata, revision, created_at, updated_at)
       on posthaste.endpoints',
    'execute on function posthaste.webhook_id, posthaste.event_of, posthaste.explain, posthaste.check_consistency'];
  steers constant text[] := array[
    'select, insert, update, delete on posthaste.endpoints, posthaste.rules',
    'usage on sequence posthaste.revision',
    'execute on function posthaste.are_subscriptions, posthaste.are_endpoint_headers, posthaste.are_delays, posthaste.route_keys',
    'execute on function posthaste.add_endpoint, posthaste.enable_endpoint, posthaste.disable_endpoint,
       posthaste.rotate_secret, posthaste.generate_secret, posthaste.send_test, posthaste.retry, posthaste.replay,
       posthaste.cancel, posthaste.cancel_endpoint, posthaste.unblock, posthaste.load_rules, posthaste.unload_rules'];
begin
  -- A function may be executed by everybody until this is said, also one of a later migration.
  revoke all on all tables in schema posthaste from public;
  revoke all on all sequences in schema posthaste from public;
  revoke execute on all functions in schema posthaste from public;
  for g in
    select r.rolname, p.privilege from (
      select 'posthaste_producer', unnest(array[
        'usage on schema posthaste',
        'insert (event_type, payload, tenant, ordering_key, idempotency_key, endpoint_id, headers, deliver_at, expires_at)
           on posthaste.outbox',
        'select (id) on posthaste.outbox',
        'execute on function posthaste.emit, posthaste.event_of_key'])
      union all select 'posthaste_viewer', unnest(looks)
      union all select 'posthaste_operator', unnest(looks || steers)
      union all select 'posthaste_relay', unnest(array[
        'usage on schema posthaste',
        'select, insert, update, delete on all tables in schema posthaste',
        'usage, select on all sequences in schema posthaste',
        'execute on all functions in schema posthaste'])) p(role, privilege)
      join pg_roles r on r.rolname = p.role
  loop
    execute format('grant %s to %I', g.privilege, g.rolname);
  end loop;
end $$;

do $$
begin
  perform posthaste.grant_roles();
end $$;
