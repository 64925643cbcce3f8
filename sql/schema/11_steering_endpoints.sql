-- Steering endpoints: every function is one call from psql, and says in what it returns what it did.
--
-- All that change something run with the owner's rights, so that an operator need not see secrets or
-- payloads. Lock order: an endpoint's row, then its secrets and health, then deliveries.

-- The key-share lock keeps the endpoint from being deleted while deliveries are inserted for it.
create function posthaste_internal.known_endpoint(endpoint bigint) returns posthaste.endpoints
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
comment on function posthaste_internal.known_endpoint is 'The endpoint, kept from being deleted until the transaction ends; an error if there is none.';

create function posthaste_internal.check_event_type_pattern(pattern text) returns void
  language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if not coalesce(posthaste_internal.are_subscriptions(array[pattern]), false) then
    raise exception 'this is not a pattern of event types: %', coalesce(left(pattern, 100), 'null')
      using errcode = 'invalid_parameter_value', hint = 'Patterns are * (all), order.* and order.paid.';
  end if;
end $$;
comment on function posthaste_internal.check_event_type_pattern is 'An error if this is not *, order.* or order.paid.';

create function posthaste_internal.like_patterns(subscriptions text[]) returns text[]
  language sql immutable parallel safe
  return (
    select array_agg(case when p = '*' then '%'
                          when right(p, 2) = '.*' then left(escaped, -1) || '%'
                          else escaped end)
      from unnest(subscriptions) p
      cross join lateral (select replace(replace(replace(p, '\', '\\'), '%', '\%'), '_', '\_')) e(escaped));
comment on function posthaste_internal.like_patterns is
  'Subscriptions as patterns for LIKE ANY: one comparison an event, for statements on a million of them.';

-- The bell says '', this says more: a relay that hears the bell looks for events alone, since asking
-- for everything that is due would cost too much for each of them.
create function posthaste_internal.wake() returns void
  language sql set search_path = pg_catalog, pg_temp
  return pg_notify('posthaste', 'deliveries');
comment on function posthaste_internal.wake is 'Makes relays ask at once what is due, when the transaction commits.';

create function posthaste_internal.notice_if_held(endpoint bigint) returns void
  language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  target record;
begin
  select e.enabled, e.disabled_reason, h.paused_until into target
    from posthaste.endpoints e
    left join posthaste.endpoint_health h on h.endpoint_id = e.id
   where e.id = endpoint;
  if not target.enabled then
    raise notice 'endpoint % is disabled (%): nothing is sent before posthaste.enable_endpoint(%)',
      endpoint, target.disabled_reason, endpoint;
  elsif target.paused_until is not null then
    raise notice 'endpoint % is paused until %; posthaste.retry_endpoint(%) ends the pause',
      endpoint, target.paused_until, endpoint;
  end if;
end $$;
comment on function posthaste_internal.notice_if_held is 'Tells the caller why an endpoint is not sent to just now.';

create function posthaste.add_endpoint(
  out endpoint_id bigint,
  url text, subscriptions text[] default '{*}', tenant text default null, filter jsonpath default null,
  inout secret text default null, description text default null, headers jsonb default '{}',
  body_format text default 'standard', timeout interval default null, max_attempts integer default null,
  schedule interval[] default null, max_concurrency integer default null, rate_limit double precision default null,
  ordered boolean default false, metadata jsonb default '{}', enabled boolean default true,
  on_dead text default 'block', hold boolean default false
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  problem constant text := coalesce(posthaste_internal.url_problem(url), posthaste_internal.filter_problem(filter),
                                    posthaste_internal.header_problem(headers));
begin
  -- The trigger would say the same, behind the whole text of the insert below.
  if problem is not null then
    raise exception '%', problem using errcode = 'check_violation';
  end if;
  if secret is not null then
    perform posthaste_internal.check_secret(secret);
  end if;
  insert into posthaste.endpoints
    (url, subscriptions, tenant, filter, description, headers, body_format, timeout, max_attempts,
     schedule, max_concurrency, rate_limit, ordered, metadata, enabled, on_dead, hold)
  values (url, subscriptions, tenant, filter, description, headers, body_format, timeout, max_attempts,
          schedule, max_concurrency, rate_limit, ordered, metadata, enabled, on_dead, hold)
  returning id into endpoint_id;
  -- The insert has given the endpoint a generated secret.
  update posthaste.endpoint_secrets s set secret = add_endpoint.secret
   where s.endpoint_id = add_endpoint.endpoint_id and add_endpoint.secret is not null;
  select s.secret into secret from posthaste.endpoint_secrets s where s.endpoint_id = add_endpoint.endpoint_id;
end $$;
comment on function posthaste.add_endpoint is
  'Adds an endpoint: select * from posthaste.add_endpoint(''https://example.com/hook'', ''{order.*}''). Returns endpoint_id and the secret, generated unless one is given: it is shown this once, to be handed to the receiver. The other arguments are the columns of posthaste.endpoints.';

create function posthaste_internal.forget_failures(endpoint bigint) returns text
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  was text := (select h.state from posthaste.endpoint_health h where h.endpoint_id = endpoint);
begin
  -- The new revision makes relays read the endpoint again.
  update posthaste.endpoints e set enabled = true where e.id = endpoint;
  update posthaste.endpoint_health h
     set state = 'flowing', consecutive_failures = 0, consecutive_rejections = 0, failing_since = null, pauses = 0,
         paused_until = null, trouble = null, reason = null
   where h.endpoint_id = endpoint
     and (h.state <> 'flowing' or h.consecutive_failures > 0 or h.consecutive_rejections > 0 or h.pauses > 0);
  perform posthaste_internal.wake();
  return coalesce(was, 'flowing');
end $$;
comment on function posthaste_internal.forget_failures is
  'Enables an endpoint and ends its pause, if it has one. Returns its health before: flowing, paused or probing.';

-- Bounded: it reads 200,000 events and counts 10,000. Each of the relay's own events names its endpoint, so none is
-- counted.
create function posthaste_internal.missed_events(endpoint bigint, since timestamptz, out missed bigint, out is_more boolean)
  language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  target posthaste.endpoints;
  seen bigint;
begin
  select e.* into target from posthaste.endpoints e where e.id = endpoint;
  with candidate as (
    select o.event_type, o.tenant, o.endpoint_id, o.id, o.created_at, o.payload
      from posthaste.outbox o where o.created_at >= since limit 200000
  )
  select count(*), (select count(*) from candidate) into missed, seen from (
    select from candidate c
     where c.endpoint_id is null
       and c.event_type like any(posthaste_internal.like_patterns(target.subscriptions))
       and (target.tenant is null or c.tenant = target.tenant)
       and not exists (select from posthaste.deliveries d where d.event_id = c.id and d.endpoint_id = endpoint)
       and not exists (select from posthaste.attempts a where a.event_id = c.id and a.endpoint_id = endpoint
                         and a.started_at >= since - interval '1 hour')
       and (target.filter is null or posthaste_internal.filter_matches(c.payload, target.filter))
     limit 10000) m;
  is_more := missed = 10000 or seen = 200000;
end $$;
comment on function posthaste_internal.missed_events is
  'How many events since a moment match an endpoint and were never owed to it, counted up to 10,000, and whether there may be more.';

create function posthaste.enable_endpoint(
  endpoint bigint, out was text, out waiting bigint, out missed bigint, out advice text
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  target posthaste.endpoints := posthaste_internal.known_endpoint(endpoint);
  is_more boolean;
begin
  was := posthaste_internal.forget_failures(endpoint);
  select count(*) into waiting from (
    (select from posthaste.deliveries d where d.endpoint_id = endpoint and d.claimed_by is null and d.in_line is null
      limit posthaste_internal.most_counted())
    union all
    (select from posthaste.deliveries d where d.endpoint_id = endpoint and d.in_line
      limit posthaste_internal.most_counted())
    limit posthaste_internal.most_counted()) d;
  missed := 0;
  if not target.enabled then
    was := 'disabled';
    if not target.hold then
      select m.missed, m.is_more into enable_endpoint.missed, is_more
        from posthaste_internal.missed_events(endpoint, target.disabled_at) m;
    end if;
  end if;
  advice := concat_ws('; ',
    case when waiting > 0 then format(
      'what waits goes on by its schedule: select posthaste.retry_endpoint(%s) makes all of it due now', endpoint) end,
    case when missed > 0 or is_more then format(
      '%s%s events came while it was disabled and were not kept for it: select posthaste.replay(%s, since => %L, states => ''{never}'') brings them',
      case when is_more then 'at least ' end, missed, endpoint, target.disabled_at) end);
  advice := nullif(advice, '');
end $$;
comment on function posthaste.enable_endpoint is
  'Enables an endpoint, or ends its pause, and forgets its failures. Returns its health before (disabled, paused, probing or flowing), how many deliveries wait for it (counted up to 1,000) and how many events it missed while it was disabled without hold (counted up to 10,000), and what to call for these.';

create function posthaste.disable_endpoint(endpoint bigint, reason text default null, hold boolean default false)
  returns boolean
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  was_enabled constant boolean := (posthaste_internal.known_endpoint(endpoint)).enabled;
begin
  update posthaste.endpoints e
     set enabled = false, hold = disable_endpoint.hold,
         disabled_reason = case when e.enabled then reason else e.disabled_reason end
   where e.id = endpoint and (e.enabled or e.hold is distinct from disable_endpoint.hold);
  return was_enabled;
end $$;
comment on function posthaste.disable_endpoint is
  'Disables an endpoint: nothing is sent, and pending deliveries wait (cancel_endpoint ends them). With hold => true, events that come meanwhile wait as well; else they are not owed to it: enable_endpoint says how many there were, and replay brings them. A request that is out already is not called back. Returns false if it was disabled before: then the first reason stays, and only hold is changed.';

create function posthaste.rotate_secret(
  endpoint bigint, keep_old_for interval default '24 hours', new_secret text default null
) returns text
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  -- Each secret adds a signature to every request; receivers refuse a longer header.
  most constant integer := 10;
  clock constant timestamptz := clock_timestamp();
  fresh text := coalesce(new_secret, posthaste_internal.generate_secret());
begin
  perform posthaste_internal.check_secret(fresh);
  if keep_old_for is null or keep_old_for < interval '0' or clock + keep_old_for > clock + interval '1 year' then
    raise exception 'keep_old_for is 0 to 1 year, not %', keep_old_for using errcode = 'invalid_parameter_value',
      hint = 'interval ''0'' makes the old secrets stop at once.';
  end if;
  perform from posthaste.endpoints e where e.id = endpoint for no key update;
  perform posthaste_internal.known_endpoint(endpoint);
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
  'Gives an endpoint another secret and returns it. The old ones sign beside it for keep_old_for (0 to 1 year; 0: they stop at once), so that the receiver can change over without a gap. Secrets that have expired are removed.';

create function posthaste.send_test(endpoint bigint, payload json default null) returns bigint
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  target posthaste.endpoints := posthaste_internal.known_endpoint(endpoint);
  event bigint;
begin
  if not target.enabled then
    raise exception 'endpoint % is disabled (%)', endpoint, target.disabled_reason
      using errcode = 'object_not_in_prerequisite_state', hint = format('select posthaste.enable_endpoint(%s)', endpoint);
  end if;
  perform posthaste_internal.notice_if_held(endpoint), set_config('posthaste.announcing', 'on', true);
  insert into posthaste.outbox (event_type, payload, tenant, endpoint_id, expires_at)
  values ('posthaste.test',
          coalesce(payload, json_build_object('message', 'This is a test from Posthaste.', 'endpoint_id', endpoint)),
          -- A test that arrives a day late proves nothing.
          target.tenant, endpoint, clock_timestamp() + interval '1 hour')
  returning id into event;
  perform set_config('posthaste.announcing', 'off', true);
  return event;
end $$;
comment on function posthaste.send_test is
  'Sends a posthaste.test event to this endpoint alone, whatever it subscribes to, and returns its id: select * from posthaste.explain(id) says what came of it. A test that has not arrived within an hour is cancelled.';
