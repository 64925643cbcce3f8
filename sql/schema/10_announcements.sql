-- Announcements: the relay's own events. Only these functions insert them: an application that can insert into the
-- outbox could otherwise make owners believe that their endpoints fail.

create function posthaste_internal.refuse_foreign_announcement() returns trigger
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
comment on function posthaste_internal.refuse_foreign_announcement is
  'Refuses posthaste.* events that are not inserted by send_test or announce.';

create trigger outbox_keeps_posthaste_events_to_itself
  before insert on posthaste.outbox
  for each row
  when (new.event_type like 'posthaste.%')
  execute function posthaste_internal.refuse_foreign_announcement();

-- Each announcement names the endpoint it goes to. So it costs routing nothing, it is not inserted where no endpoint
-- subscribes to it, and an endpoint never gets an announcement about itself.
--
-- The transaction that records the attempt makes the announcement, which must not fail it: a CHECK or a trigger of the
-- application's on the outbox may refuse it, or a right may be missing. Then it is dropped.
create sequence posthaste.announcements_dropped;
comment on sequence posthaste.announcements_dropped is
  'Counts announcements that could not be inserted; the server''s log has each with its reason.';

-- Filters are not asked here: a slow one would hold up what everybody's attempts are recorded by.
create function posthaste_internal.is_announcement(event_type text) returns boolean
  language sql immutable parallel safe
  return event_type = 'posthaste.delivery.dead' or event_type like 'posthaste.endpoint.%';
comment on function posthaste_internal.is_announcement is
  'Whether these events name the one endpoint that they are for, and are owed to it only if its filter says so.';

-- An endpoint of a tenant is told what concerns the tenant. What operators note for themselves goes to endpoints
-- without a tenant alone, which are the operators' own: the metadata, and the reason where an operator gave it. Tokens
-- stand in the query of a URL: none is told it.
create function posthaste_internal.announce(
  event_type text, endpoint bigint, details jsonb, for_operators jsonb default '{}'
) returns integer
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  subject posthaste.endpoints;
  keys text[];
  told jsonb;
  told_operators jsonb;
  announced integer;
begin
  select e.* into subject from posthaste.endpoints e where e.id = endpoint;
  keys := posthaste_internal.route_keys_of_event(subject.tenant, event_type);
  -- Mostly no endpoint subscribes to it; then this is all it costs.
  if not exists (select from posthaste.endpoints owner
                  where posthaste_internal.route_keys(owner.tenant, owner.subscriptions) && keys
                    and (owner.enabled or owner.hold)) then
    return 0;
  end if;
  told := jsonb_build_object('endpoint_id', subject.id, 'url', posthaste_internal.without_query(subject.url),
                             'description', subject.description) || details;
  told_operators := told || jsonb_build_object('metadata', subject.metadata) || for_operators;
  perform set_config('posthaste.announcing', 'on', true);
  insert into posthaste.outbox (event_type, payload, tenant, endpoint_id)
  select announce.event_type, say.payload, subject.tenant, owner.id
    from posthaste.endpoints owner
    cross join lateral (select (case when owner.tenant is null then told_operators else told end)::json) say(payload)
   where posthaste_internal.route_keys(owner.tenant, owner.subscriptions) && keys
     and (owner.enabled or owner.hold)
     and owner.id <> subject.id;
  get diagnostics announced = row_count;
  perform set_config('posthaste.announcing', 'off', true);
  return announced;
exception when others then
  perform nextval('posthaste.announcements_dropped');
  raise warning 'posthaste: the announcement % about endpoint % is dropped: %', event_type, endpoint, sqlerrm;
  return 0;
end $$;
comment on function posthaste_internal.announce is
  'Tells every other endpoint that subscribes to this posthaste.* type by name about an endpoint; returns how many there are. Endpoints of a tenant are not told for_operators or the metadata. An announcement that cannot be inserted is dropped, counted and warned of.';

create function posthaste_internal.announce_endpoint_disabled() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  why constant jsonb := jsonb_build_object('reason', new.disabled_reason);
begin
  -- sql/queries/apply_effect.sql sets it: then the reason is the relay's, else an operator's.
  if current_setting('posthaste.disabling', true) = 'on' then
    perform posthaste_internal.announce('posthaste.endpoint.disabled', new.id,
      jsonb_build_object('disabled_at', new.disabled_at) || why);
  else
    perform posthaste_internal.announce('posthaste.endpoint.disabled', new.id,
      jsonb_build_object('disabled_at', new.disabled_at), for_operators => why);
  end if;
  return null;
end $$;
comment on function posthaste_internal.announce_endpoint_disabled is
  'posthaste.endpoint.disabled: the time and the reason. Endpoints of a tenant are told the reason where it is the relay''s, not where it is an operator''s.';

create trigger endpoints_announce_that_they_are_disabled
  after update on posthaste.endpoints
  for each row when (old.enabled and not new.enabled)
  execute function posthaste_internal.announce_endpoint_disabled();

-- Several relays note the same endpoint's health; only the first to note a transition changes the row.
create function posthaste_internal.announce_health() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if new.state = 'flowing' then
    perform posthaste_internal.announce('posthaste.endpoint.recovered', new.endpoint_id,
      jsonb_build_object('recovered_at', new.last_success_at, 'failing_since', old.failing_since));
  else
    perform posthaste_internal.announce('posthaste.endpoint.paused', new.endpoint_id,
      jsonb_build_object('reason', coalesce(nullif(new.reason, ''),
                                            format('%s failures since %s', new.consecutive_failures, new.failing_since)),
                         'trouble', new.trouble,
                         'consecutive_failures', new.consecutive_failures,
                         'consecutive_rejections', new.consecutive_rejections,
                         'failing_since', new.failing_since, 'paused_until', new.paused_until));
  end if;
  return null;
end $$;
comment on function posthaste_internal.announce_health is
  'posthaste.endpoint.paused when an endpoint stops flowing (not for each longer pause after it), posthaste.endpoint.recovered when a success makes it flow again.';

create trigger health_announces_a_first_pause
  after insert on posthaste.endpoint_health
  for each row when (new.state <> 'flowing')
  execute function posthaste_internal.announce_health();

create trigger health_announces_a_pause
  after update on posthaste.endpoint_health
  for each row when (old.state = 'flowing' and new.state <> 'flowing')
  execute function posthaste_internal.announce_health();

create trigger health_announces_a_recovery
  after update on posthaste.endpoint_health
  for each row when (old.state <> 'flowing' and new.state = 'flowing'
                     and new.last_success_at is distinct from old.last_success_at)
  execute function posthaste_internal.announce_health();

create function posthaste_internal.announce_dead_delivery() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  event record;
begin
  -- An announcement that dies is not announced: it would feed on itself.
  select o.event_type, o.tenant into event from posthaste.outbox o
   where o.id = new.event_id and o.created_at = new.event_created_at and o.event_type not like 'posthaste.%';
  if found then
    perform posthaste_internal.announce('posthaste.delivery.dead', new.endpoint_id,
      jsonb_build_object('event_id', new.event_id, 'event_type', event.event_type, 'event_tenant', event.tenant,
                         'webhook_id', posthaste.webhook_id(new.event_id, new.event_created_at),
                         'attempts', new.number, 'outcome', coalesce(new.outcome, 'answered'), 'cause', new.cause, 'status', new.status,
                         'reason', coalesce(new.reason, concat_ws(' ', coalesce(new.outcome, 'answered'), new.cause, new.status))));
  end if;
  return null;
end $$;
comment on function posthaste_internal.announce_dead_delivery is
  'posthaste.delivery.dead: which event an endpoint did not get, and why.';

create trigger attempts_announce_the_dead
  after insert on posthaste.attempts
  for each row when (new.verdict = 'dead')
  execute function posthaste_internal.announce_dead_delivery();
