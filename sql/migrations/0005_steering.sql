-- How people steer: every function is one call from psql, and says in what it returns what it did.
--
-- Private (so its comment begins) is what only the others or the relay call. All that change something
-- run with the owner's rights, so that whoever may call them need not see secrets or payloads.
-- Lock order: an endpoint's row, then its secrets and health, then deliveries.

-- ── what steering has in common ─────────────────────────────────────────────────────────────────

-- The key-share lock keeps the endpoint from being deleted while deliveries are inserted for it.
create function posthaste.known_endpoint(endpoint bigint) returns posthaste.endpoints
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  known posthaste.endpoints;
begin
  select e.* into known from posthaste.endpoints e where e.id = endpoint for key share;
  if not found then
    raise exception 'there is no endpoint %', coalesce(endpoint::text, 'null')
      using errcode = 'no_data_found', hint = 'select endpoint_id, url from posthaste.endpoint_status lists them.';
  end if;
  return known;
end $$;
comment on function posthaste.known_endpoint is 'Private. The endpoint, kept from being deleted until the transaction ends; an error if there is none.';

create function posthaste.known_event(event bigint) returns posthaste.outbox
  language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  known posthaste.outbox;
begin
  select o.* into known from posthaste.outbox o where o.id = event limit 1;
  if not found then
    raise exception 'there is no event % in the outbox', coalesce(event::text, 'null')
      using errcode = 'no_data_found',
            hint = 'It was rolled back, skipped for its idempotency key, or is older than the outbox''s retention.';
  end if;
  return known;
end $$;
comment on function posthaste.known_event is 'Private. The event; an error if it is not in the outbox.';

create function posthaste.is_routed(xid xid8, event bigint, ledger posthaste.routing) returns boolean
  language sql immutable parallel safe
  return case when (ledger).after_id is null then pg_visible_in_snapshot(xid, (ledger).until)
              else pg_visible_in_snapshot(xid, (ledger).since)
                   or (pg_visible_in_snapshot(xid, (ledger).until)
                       and (xid, event) <= ((ledger).after_xid, (ledger).after_id)) end;
comment on function posthaste.is_routed is
  'Private. Whether an event had been routed when this row of the ledger was written.';

create function posthaste.like_patterns(subscriptions text[]) returns text[]
  language sql immutable parallel safe
  return (
    select array_agg(case when p = '*' then '%'
                          when right(p, 2) = '.*' then left(escaped, -1) || '%'
                          else escaped end)
      from unnest(subscriptions) p
      cross join lateral (select replace(replace(replace(p, '\', '\\'), '%', '\%'), '_', '\_')) e(escaped));
comment on function posthaste.like_patterns is
  'Private. Subscriptions as patterns for LIKE ANY: one comparison an event, for statements on a million of them.';

create function posthaste.check_event_type_pattern(pattern text) returns void
  language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if not coalesce(posthaste.are_subscriptions(array[pattern]), false) then
    raise exception 'this is not a pattern of event types: %', coalesce(left(pattern, 100), 'null')
      using errcode = 'invalid_parameter_value', hint = 'Patterns are * (all), order.* and order.paid.';
  end if;
end $$;
comment on function posthaste.check_event_type_pattern is 'Private. An error if this is not *, order.* or order.paid.';

-- The bell says '', this says more: a relay that hears the bell looks for events alone, since asking
-- for everything that is due would cost too much for each of them.
create function posthaste.wake() returns void
  language sql set search_path = pg_catalog, pg_temp
  return pg_notify('posthaste', 'deliveries');
comment on function posthaste.wake is 'Private. Makes relays ask at once what is due, when the transaction commits.';

create function posthaste.notice_if_held(target posthaste.endpoints) returns void
  language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  until timestamptz := (select h.paused_until from posthaste.endpoint_health h where h.endpoint_id = target.id);
begin
  if not target.enabled then
    raise notice 'endpoint % is disabled (%): nothing is sent before posthaste.enable_endpoint(%)',
      target.id, target.disabled_reason, target.id;
  elsif until is not null then
    raise notice 'endpoint % is paused until %; posthaste.enable_endpoint(%) ends the pause', target.id, until, target.id;
  end if;
end $$;
comment on function posthaste.notice_if_held is 'Private. Tells the caller why an endpoint is not sent to just now.';

-- ── endpoints ───────────────────────────────────────────────────────────────────────────────────

-- A constraint would put the secret into its error, and so into the log.
create function posthaste.check_secret(secret text) returns void
  language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  bytes integer;
begin
  begin
    bytes := length(decode(substr(secret, strpos(secret, '_') + 1), 'base64'));
  exception when invalid_parameter_value then
    bytes := 0;
  end;
  if not coalesce((secret ~ '^whsec_[A-Za-z0-9+/]{32,100}={0,2}$' and bytes between 24 and 75)
                  or (secret ~ '^whsk_[A-Za-z0-9+/]{43,86}={1,2}$' and bytes in (32, 64)), false) then
    raise exception 'this is not a signing secret' using errcode = 'invalid_parameter_value',
      hint = 'whsec_ and base64 of 24 to 75 bytes, or whsk_ and base64 of an ed25519 seed (32 bytes) or key pair (64).';
  end if;
end $$;
comment on function posthaste.check_secret is 'Private. An error, without the text, if this is not a signing secret.';

create function posthaste.add_endpoint(
  out endpoint_id bigint,
  url text, subscriptions text[] default '{*}', tenant text default null, filter jsonpath default null,
  inout secret text default null, description text default null, headers jsonb default '{}',
  body_format text default 'standard', timeout interval default null, max_attempts integer default null,
  schedule interval[] default null, max_concurrency integer default null, rate_limit double precision default null,
  ordered boolean default false, metadata jsonb default '{}', enabled boolean default true
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
begin
  if secret is not null then
    perform posthaste.check_secret(secret);
  end if;
  insert into posthaste.endpoints
    (url, subscriptions, tenant, filter, description, headers, body_format, timeout, max_attempts,
     schedule, max_concurrency, rate_limit, ordered, metadata, enabled)
  values (url, subscriptions, tenant, filter, description, headers, body_format, timeout, max_attempts,
          schedule, max_concurrency, rate_limit, ordered, metadata, enabled)
  returning id into endpoint_id;
  -- The insert has given it a generated one.
  update posthaste.endpoint_secrets s set secret = add_endpoint.secret
   where s.endpoint_id = add_endpoint.endpoint_id and add_endpoint.secret is not null;
  select s.secret into secret from posthaste.endpoint_secrets s where s.endpoint_id = add_endpoint.endpoint_id;
end $$;
comment on function posthaste.add_endpoint is
  'Adds an endpoint: select * from posthaste.add_endpoint(''https://example.com/hook'', ''{order.*}''). Returns endpoint_id and the secret, generated unless one is given: it is shown this once, to be handed to the receiver. The other arguments are the columns of posthaste.endpoints.';

create function posthaste.enable_endpoint(endpoint bigint) returns boolean
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  was_enabled boolean := (posthaste.known_endpoint(endpoint)).enabled;
  was_paused boolean;
begin
  -- Also where it only ends a pause: the new revision makes relays read it again.
  update posthaste.endpoints e set enabled = true where e.id = endpoint;
  update posthaste.endpoint_health h
     set state = 'flowing', consecutive_failures = 0, failing_since = null, pauses = 0, paused_until = null
   where h.endpoint_id = endpoint
     and (h.state <> 'flowing' or h.consecutive_failures > 0 or h.pauses > 0);
  was_paused := found;
  perform posthaste.wake();
  return not was_enabled or was_paused;
end $$;
comment on function posthaste.enable_endpoint is
  'Enables an endpoint and forgets its failures, so that what was held or paused goes on at once. Returns whether that changed anything.';

create function posthaste.disable_endpoint(endpoint bigint, reason text default null) returns boolean
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform posthaste.known_endpoint(endpoint);
  update posthaste.endpoints e set enabled = false, disabled_reason = reason where e.id = endpoint and e.enabled;
  return found;
end $$;
comment on function posthaste.disable_endpoint is
  'Disables an endpoint: no new event is owed to it, and what is pending is held (cancel_endpoint ends it). A request that is out already is not called back. Returns false if it was disabled before, and leaves the first reason.';

create function posthaste.rotate_secret(
  endpoint bigint, keep_old_for interval default '24 hours', new_secret text default null
) returns text
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  -- Each of them adds a signature to every request; a header of more is refused by receivers.
  most constant integer := 10;
  clock constant timestamptz := clock_timestamp();
  fresh text := coalesce(new_secret, posthaste.generate_secret());
begin
  perform posthaste.check_secret(fresh);
  if keep_old_for is null or keep_old_for < interval '0' then
    raise exception 'keep_old_for is less than nothing' using errcode = 'invalid_parameter_value',
      hint = 'interval ''0'' makes the old secrets stop at once.';
  end if;
  perform from posthaste.endpoints e where e.id = endpoint for no key update;
  perform posthaste.known_endpoint(endpoint);
  delete from posthaste.endpoint_secrets s
   where s.endpoint_id = endpoint and (s.expires_at <= clock or s.secret = fresh);
  update posthaste.endpoint_secrets s set expires_at = clock + keep_old_for
   where s.endpoint_id = endpoint and (s.expires_at is null or s.expires_at > clock + keep_old_for);
  if (select count(*) from posthaste.endpoint_secrets s where s.endpoint_id = endpoint and s.expires_at > clock) >= most then
    raise exception 'endpoint % has % secrets that still sign', endpoint, most
      using errcode = 'program_limit_exceeded', hint = 'Let some of them end first: give a shorter keep_old_for.';
  end if;
  insert into posthaste.endpoint_secrets (endpoint_id, secret) values (endpoint, fresh);
  return fresh;
end $$;
comment on function posthaste.rotate_secret is
  'Gives an endpoint another secret and returns it. The old ones sign beside it for keep_old_for (0: they stop at once), so that the receiver can change over without a gap. Secrets that have expired are removed.';

-- ── deliveries ──────────────────────────────────────────────────────────────────────────────────

create function posthaste.retry(event bigint, endpoint bigint) returns text
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  target posthaste.endpoints := posthaste.known_endpoint(endpoint);
  o posthaste.outbox := posthaste.known_event(event);
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
  if live.event_id is not null then
    update posthaste.deliveries d set next_attempt_at = clock
     where d.event_id = event and d.endpoint_id = endpoint and d.next_attempt_at > clock;
    return 'due';
  end if;
  insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at, ordering_key, created_at)
  values (event, endpoint, o.created_at, clock, o.ordering_key, clock)
  on conflict do nothing;
  return 'put back';
end $$;
comment on function posthaste.retry is
  'Sends a delivery now. Returns what it did: due (it was waiting and is due now, its attempts still count), put back (it had ended and begins anew with all its attempts), sending (a relay is sending it just now; nothing was changed).';

create function posthaste.replay(
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
  put_back bigint;
begin
  perform posthaste.check_event_type_pattern(event_type), posthaste.check_replay(since, until, states, at_most);
  wanted := posthaste.like_patterns(array[event_type]);
  insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at, ordering_key, created_at)
  select o.id, endpoint, o.created_at, greatest(clock, o.deliver_at), o.ordering_key, clock
    from (select * from posthaste.ended_deliveries(endpoint, since, until, ended) where cardinality(ended) > 0
          union all
          select * from posthaste.deliveries_never_owed(target, since, until) where 'never' = any(states)) r
    join posthaste.outbox o on o.id = r.event_id and o.created_at = r.event_created_at
   where o.created_at >= since and o.created_at < until
     and o.event_type like any(wanted)
     and coalesce(o.expires_at > clock, true)
     -- What it no longer subscribes to would only be cancelled.
     and (o.endpoint_id = endpoint
          or (o.endpoint_id is null and o.event_type like any(subscribed)
              and (target.tenant is null or o.tenant = target.tenant)))
   order by o.id
   limit at_most
  on conflict do nothing;
  get diagnostics put_back = row_count;
  if put_back > 0 then
    perform posthaste.notice_if_held(target), posthaste.wake();
  end if;
  return put_back;
end $$;
comment on function posthaste.replay is
  'Sends an endpoint again what was inserted from since until before until, oldest first, and returns how many deliveries that makes. states says which: dead (the default: only what was given up, so nothing arrives twice), cancelled, delivered, never (matches now, but was never owed, for instance because the endpoint was added later). Live deliveries stay as they are, webhook-ids stay the same, and events that are no longer in the outbox, have expired or are no longer subscribed to are left out. One statement: all of it or none.';

create function posthaste.check_replay(since timestamptz, until timestamptz, states text[], at_most bigint) returns void
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
comment on function posthaste.check_replay is 'Private. An error if replay''s arguments make no sense.';

-- Bound when created, not when called, and without settings of their own: so the planner sees
-- through them and chooses by the size of the span.
create function posthaste.ended_deliveries(endpoint bigint, since timestamptz, until timestamptz, verdicts text[])
  returns table (event_id bigint, event_created_at timestamptz)
  language sql stable
begin atomic
  select a.event_id, a.event_created_at
    from posthaste.attempts a
   where a.endpoint_id = ended_deliveries.endpoint
     and a.verdict = any(ended_deliveries.verdicts)
     and a.event_created_at >= ended_deliveries.since and a.event_created_at < ended_deliveries.until
     -- Prunes partitions: an attempt is no older than its event, give or take a clock that was set.
     and a.started_at >= ended_deliveries.since - interval '1 hour'
     and not exists (
       select from posthaste.attempts later
        where later.event_id = a.event_id and later.endpoint_id = a.endpoint_id
          and later.verdict <> 'retry' and later.started_at > a.started_at
          and later.started_at >= ended_deliveries.since - interval '1 hour');
end;
comment on function posthaste.ended_deliveries is
  'Private. The deliveries of a span of events to an endpoint whose last end is one of these verdicts.';

create function posthaste.deliveries_never_owed(target posthaste.endpoints, since timestamptz, until timestamptz)
  returns table (event_id bigint, event_created_at timestamptz)
  language sql stable
begin atomic
  select o.id, o.created_at
    from posthaste.outbox o
    cross join (select r as ledger from posthaste.routing r order by r.number desc limit 1) last
   where o.created_at >= deliveries_never_owed.since and o.created_at < deliveries_never_owed.until
     -- What is still to be routed will be owed by routing, which expects to be the first.
     and posthaste.is_routed(o.xid, o.id, last.ledger)
     and not exists (
       select from posthaste.attempts a
        where a.event_id = o.id and a.endpoint_id = (deliveries_never_owed.target).id
          and a.started_at >= deliveries_never_owed.since - interval '1 hour')
     and ((deliveries_never_owed.target).filter is null
          or posthaste.filter_matches(o.payload, (deliveries_never_owed.target).filter));
end;
comment on function posthaste.deliveries_never_owed is
  'Private. Routed events of a span without an attempt for this endpoint, whose filter they match.';

create function posthaste.cancel(
  event bigint, endpoint bigint default null, reason text default null,
  out cancelled bigint, out in_flight bigint
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  o posthaste.outbox;
begin
  if not exists (select from posthaste.deliveries d where d.event_id = event) then
    o := posthaste.known_event(event);
    if not (select posthaste.is_routed(o.xid, o.id, r) from posthaste.routing r order by r.number desc limit 1) then
      raise exception 'event % is not routed yet', event
        using errcode = 'object_not_in_prerequisite_state', hint = 'Cancel it once a relay has worked out whom it is owed to.';
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
  select count(*) into cancelled from ended;
  select count(*) into in_flight from posthaste.deliveries d
   where d.event_id = event and (cancel.endpoint is null or d.endpoint_id = cancel.endpoint) and d.claimed_by is not null;
  perform posthaste.wake();
end $$;
comment on function posthaste.cancel is
  'Ends what an event is still owed (to one endpoint, or to all), with the reason in attempts. Returns how many deliveries it cancelled, and how many are in flight: a request that is out is not called back, and if it fails it is retried unless this is called again.';

create function posthaste.cancel_endpoint(
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
  -- planned for an empty table takes hours on a full one.
  with ended as (
    delete from posthaste.deliveries d
     where d.endpoint_id = cancel_endpoint.endpoint and d.claimed_by is null
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
comment on function posthaste.cancel_endpoint is
  'Ends all that an endpoint is still owed, or the event types of a pattern; replay with states ''{cancelled}'' brings it back. Returns how many deliveries it cancelled, and how many of the endpoint''s are in flight: a request that is out is not called back.';

create function posthaste.cancel_orphans() returns bigint
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  cancelled bigint;
begin
  with recursive owed as (
    (select d.endpoint_id from posthaste.deliveries d where d.claimed_by is null
      order by d.endpoint_id, d.next_attempt_at, d.event_id limit 1)
    union all
    select n.endpoint_id from owed cross join lateral (
      select d.endpoint_id from posthaste.deliveries d where d.claimed_by is null and d.endpoint_id > owed.endpoint_id
       order by d.endpoint_id, d.next_attempt_at, d.event_id limit 1) n
  ), orphan as materialized (
    select o.endpoint_id from owed o
     where not exists (select from posthaste.endpoints e where e.id = o.endpoint_id)
  ), ended as (
    delete from posthaste.deliveries d using orphan
     where d.endpoint_id = orphan.endpoint_id and d.claimed_by is null
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
comment on function posthaste.cancel_orphans is
  'Private: the relay''s upkeep. Cancels what was routed to an endpoint in the moment in which it was deleted, which its own trigger could not see yet.';

create function posthaste.send_test(endpoint bigint, payload json default null) returns bigint
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  target posthaste.endpoints := posthaste.known_endpoint(endpoint);
  event bigint;
begin
  if not target.enabled then
    raise exception 'endpoint % is disabled (%)', endpoint, target.disabled_reason
      using errcode = 'object_not_in_prerequisite_state', hint = format('select posthaste.enable_endpoint(%s)', endpoint);
  end if;
  perform posthaste.notice_if_held(target), set_config('posthaste.announcing', 'on', true);
  insert into posthaste.outbox (event_type, payload, tenant, endpoint_id, expires_at)
  values ('posthaste.test',
          coalesce(payload, json_build_object('message', 'This is a test from Posthaste.', 'endpoint_id', endpoint)),
          -- A test that arrives the day after says nothing.
          target.tenant, endpoint, clock_timestamp() + interval '1 hour')
  returning id into event;
  perform set_config('posthaste.announcing', 'off', true);
  return event;
end $$;
comment on function posthaste.send_test is
  'Sends a posthaste.test event to this endpoint alone, whatever it subscribes to, and returns its id: select * from posthaste.explain(id) says what came of it. What has not arrived within an hour is cancelled.';
