-- Events in SQL: emit, and the relay's own posthaste.* events.
-- What is private says so in its comment.

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
