-- How people steer: every function is one call from psql, and says in what it returns what it did.
--
-- Private (so its comment begins) is what only the others or the relay call. All that change something run
-- with the owner's rights, so that whoever may call them need not see secrets or payloads.
-- Lock order: an endpoint's row, then its secrets and health, then deliveries.

-- ── events ──────────────────────────────────────────────────────────────────────────────────────

create function posthaste.emit(
  event_type text, payload json, tenant text default null, ordering_key text default null,
  idempotency_key text default null, endpoint_id bigint default null, headers jsonb default null,
  deliver_at timestamptz default null, expires_at timestamptz default null
) returns bigint
  language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  id bigint;
begin
  insert into posthaste.outbox (event_type, payload, tenant, ordering_key, idempotency_key, endpoint_id, headers, deliver_at, expires_at)
  values (event_type, payload, tenant, ordering_key, idempotency_key, endpoint_id, headers, deliver_at, expires_at)
  returning outbox.id into id;
  if id is null then
    id := posthaste.event_of_key(tenant, idempotency_key);
  end if;
  return id;
end $$;
comment on function posthaste.emit is
  'Inserts an event and returns its id; for an idempotency key that has been seen, the id of the first event that carried it.';

create function posthaste.event_of_key(tenant text, idempotency_key text) returns bigint
  language sql stable security definer set search_path = pg_catalog, pg_temp
  return (select event_id from posthaste.idempotency i
           where i.tenant = coalesce(event_of_key.tenant, '') and i.key = event_of_key.idempotency_key);
comment on function posthaste.event_of_key is 'The first event that carried an idempotency key.';

create function posthaste.event_of(webhook_id text) returns bigint
  language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp as $$
begin
  if webhook_id !~ '^evt_[0-9]{1,18}_[0-9a-f]{1,16}$' then
    raise exception 'this is not a webhook-id of Posthaste: %', left(webhook_id, 100)
      using errcode = 'invalid_parameter_value', hint = 'It reads like evt_12_64df3f3b1c000.';
  end if;
  return split_part(webhook_id, '_', 2)::bigint;
end $$;
comment on function posthaste.event_of is
  'The event of a webhook-id header, as a receiver quotes it: select * from posthaste.explain(posthaste.event_of(''evt_12_64df3f3b1c000'')).';

-- The relay's own events. They are inserted here and nowhere else: whoever can insert into the
-- outbox could otherwise make owners believe that their endpoints fail.

create function posthaste.refuse_foreign_announcement() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if current_setting('posthaste.announcing', true) is distinct from 'on'
     or current_user <> (select pg_get_userbyid(relowner) from pg_class where oid = 'posthaste.outbox'::regclass) then
    raise exception 'posthaste.outbox: % is a type of the relay''s own events', new.event_type
      using errcode = 'check_violation', constraint = 'posthaste_events_are_the_relays_own',
            hint = 'Choose a type that does not begin with posthaste. (a test event: select posthaste.send_test(endpoint)).';
  end if;
  return new;
end $$;
comment on function posthaste.refuse_foreign_announcement is
  'Refuses posthaste.* events that are not inserted by send_test or announce.';

create trigger outbox_keeps_posthaste_events_to_itself
  before insert on posthaste.outbox
  for each row
  when (new.event_type like 'posthaste.%')
  execute function posthaste.refuse_foreign_announcement();

-- Each announcement names the endpoint it goes to. So it costs routing nothing, it is not inserted
-- where nobody has asked for it, and the endpoint that it is about is never told of itself.
create function posthaste.announce(event_type text, endpoint bigint, details jsonb) returns integer
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  subject posthaste.endpoints;
  keys text[];
  payload json;
  announced integer;
begin
  select e.* into subject from posthaste.endpoints e where e.id = endpoint;
  keys := posthaste.route_keys_of_event(subject.tenant, event_type);
  -- Mostly nobody has asked; then this is all it costs.
  if not exists (select from posthaste.endpoints owner
                  where posthaste.route_keys(owner.tenant, owner.subscriptions) && keys and owner.enabled) then
    return 0;
  end if;
  payload := jsonb_build_object('endpoint_id', subject.id, 'url', subject.url, 'description', subject.description,
                                'metadata', subject.metadata) || details;
  perform set_config('posthaste.announcing', 'on', true);
  insert into posthaste.outbox (event_type, payload, tenant, endpoint_id)
  select announce.event_type, payload, subject.tenant, owner.id
    from posthaste.endpoints owner
   where posthaste.route_keys(owner.tenant, owner.subscriptions) && keys
     and owner.enabled
     and owner.id <> subject.id
     and (owner.filter is null or posthaste.filter_matches(payload, owner.filter));
  get diagnostics announced = row_count;
  perform set_config('posthaste.announcing', 'off', true);
  return announced;
end $$;
comment on function posthaste.announce is
  'Private. Tells every other endpoint that subscribes to this posthaste.* type by name what has happened to an endpoint; returns how many there are.';

create function posthaste.announce_endpoint_disabled() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform posthaste.announce('posthaste.endpoint.disabled', new.id,
    jsonb_build_object('reason', new.disabled_reason, 'disabled_at', new.disabled_at));
  return null;
end $$;
comment on function posthaste.announce_endpoint_disabled is 'posthaste.endpoint.disabled: whoever disabled it, and why.';

create trigger endpoints_announce_that_they_are_disabled
  after update on posthaste.endpoints
  for each row when (old.enabled and not new.enabled)
  execute function posthaste.announce_endpoint_disabled();

-- Several relays note the same endpoint's health; what they agree on is a transition only once.
create function posthaste.announce_health() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if new.state = 'flowing' then
    perform posthaste.announce('posthaste.endpoint.recovered', new.endpoint_id,
      jsonb_build_object('recovered_at', new.last_success_at, 'failing_since', old.failing_since));
  else
    perform posthaste.announce('posthaste.endpoint.paused', new.endpoint_id,
      jsonb_build_object('reason', format('%s failures since %s', new.consecutive_failures, new.failing_since),
                         'consecutive_failures', new.consecutive_failures,
                         'failing_since', new.failing_since, 'paused_until', new.paused_until));
  end if;
  return null;
end $$;
comment on function posthaste.announce_health is
  'posthaste.endpoint.paused when an endpoint stops flowing (not for each longer pause after it), posthaste.endpoint.recovered when a success makes it flow again.';

create trigger health_announces_a_first_pause
  after insert on posthaste.endpoint_health
  for each row when (new.state <> 'flowing')
  execute function posthaste.announce_health();

create trigger health_announces_a_pause
  after update on posthaste.endpoint_health
  for each row when (old.state = 'flowing' and new.state <> 'flowing')
  execute function posthaste.announce_health();

create trigger health_announces_a_recovery
  after update on posthaste.endpoint_health
  for each row when (old.state <> 'flowing' and new.state = 'flowing'
                     and new.last_success_at is distinct from old.last_success_at)
  execute function posthaste.announce_health();

create function posthaste.announce_dead_delivery() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  event record;
begin
  -- An announcement that dies is not announced: it would feed on itself.
  select o.event_type, o.tenant into event from posthaste.outbox o
   where o.id = new.event_id and o.created_at = new.event_created_at and o.event_type not like 'posthaste.%';
  if found then
    perform posthaste.announce('posthaste.delivery.dead', new.endpoint_id,
      jsonb_build_object('event_id', new.event_id, 'event_type', event.event_type, 'event_tenant', event.tenant,
                         'webhook_id', posthaste.webhook_id(new.event_id, new.event_created_at),
                         'attempts', new.number, 'outcome', new.outcome, 'cause', new.cause, 'status', new.status,
                         'reason', coalesce(new.reason, concat_ws(' ', new.outcome, new.cause, new.status))));
  end if;
  return null;
end $$;
comment on function posthaste.announce_dead_delivery is
  'posthaste.delivery.dead: which event an endpoint did not get, and why.';

create trigger attempts_announce_the_dead
  after insert on posthaste.attempts
  for each row when (new.verdict = 'dead')
  execute function posthaste.announce_dead_delivery();

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

create function posthaste.wake() returns void
  language sql set search_path = pg_catalog, pg_temp
  return pg_notify('posthaste', '');
comment on function posthaste.wake is 'Private. Wakes sleeping relays when the transaction commits.';

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
