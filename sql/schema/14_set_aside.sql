-- Set aside: what the database refused to route or to record, so that everything else goes on.
--
-- Routing, recording and filters serve everybody in one statement. Where one row makes such a statement fail again and
-- again, the relay finds it by halves and sets that one aside: a row here says what, why and since when.

create table posthaste.set_aside (
  event_id         bigint      not null,
  endpoint_id      bigint,
  event_created_at timestamptz not null,
  during           text        not null,
  sqlstate         text,
  message          text        not null,
  result           text,
  set_aside_at     timestamptz not null default clock_timestamp(),
  tries            integer     not null default 1,
  tried_at         timestamptz not null default clock_timestamp(),
  constraint during_is_known check (during in ('route', 'filter', 'record')),
  constraint a_result_is_of_an_endpoint check (during <> 'record' or endpoint_id is not null)
);
comment on table posthaste.set_aside is
  'What the database refused to route or to record: the others went on without it. Whatever is here has ended nowhere; posthaste.route_again takes it up once the cause is gone, and the relay tries so now and then.';
comment on column posthaste.set_aside.event_id is 'The event.';
comment on column posthaste.set_aside.endpoint_id is
  'The endpoint whose delivery it is. Null: the whole event; it may be owed to several endpoints.';
comment on column posthaste.set_aside.event_created_at is 'The event''s created_at, which names its partition.';
comment on column posthaste.set_aside.during is
  'The work that failed: route (no delivery was made), filter (the endpoint''s filter took too long, so it is not known whether the event is owed), record (the attempt was made, see result, and could not be recorded).';
comment on column posthaste.set_aside.sqlstate is 'The database''s code. Null: the relay itself failed.';
comment on column posthaste.set_aside.message is 'Its message, without what it quotes of the data.';
comment on column posthaste.set_aside.result is 'What the attempt that is not recorded came to.';
comment on column posthaste.set_aside.set_aside_at is 'Since when.';
comment on column posthaste.set_aside.tries is 'How often it has failed, the first time included.';
comment on column posthaste.set_aside.tried_at is 'When it failed last.';

create unique index set_aside_by_delivery on posthaste.set_aside (event_id, coalesce(endpoint_id, 0));
create index set_aside_by_endpoint on posthaste.set_aside (endpoint_id, set_aside_at);

-- Errors in the data quote them; errors of constraints quote names.
create function posthaste_internal.without_data(state text, said text) returns text
  language sql immutable parallel safe
  return left(case when state like '22%' then regexp_replace(said, '".*"', '"…"') else said end, 1000);
comment on function posthaste_internal.without_data is 'A message of the database without what it quotes of the data.';

create function posthaste_internal.set_aside(
  event bigint, endpoint bigint, created timestamptz, during text, state text, said text, result text default null
) returns void
  language sql set search_path = pg_catalog, pg_temp
begin atomic
  insert into posthaste.set_aside (event_id, endpoint_id, event_created_at, during, sqlstate, message, result)
  values (event, endpoint, created, set_aside.during, state, posthaste_internal.without_data(state, said), set_aside.result)
  on conflict (event_id, (coalesce(endpoint_id, 0))) do update
     set during = excluded.during, sqlstate = excluded.sqlstate, message = excluded.message, result = excluded.result,
         tries = set_aside.tries + 1, tried_at = clock_timestamp();
end;
comment on function posthaste_internal.set_aside is 'Writes down what is set aside, and why.';

create function posthaste_internal.owners_of(event_type text, tenant text, only_to bigint)
  returns table (endpoint_id bigint, ordered boolean, filter jsonpath)
  language sql stable
begin atomic
  select e.id, e.ordered, e.filter
    from posthaste.endpoints e
   where only_to is null and (e.enabled or e.hold)
     and posthaste_internal.route_keys(e.tenant, e.subscriptions)
         && posthaste_internal.route_keys_of_event(owners_of.tenant, owners_of.event_type)
  union all
  select e.id, e.ordered,
         case when posthaste_internal.is_announcement(owners_of.event_type) then e.filter end
    from posthaste.endpoints e
   where e.id = only_to;
end;
comment on function posthaste_internal.owners_of is 'The endpoints that are owed events like this one, if their filters say so.';

-- Reads the payload whole, as the relay that sends it will: an event that cannot be read is not made a delivery of.
create function posthaste_internal.owe(
  event bigint, created timestamptz, endpoint bigint, line text, filter jsonpath, anew boolean default false
) returns boolean
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  o record;
begin
  select e.payload, e.headers, e.deliver_at, length(e.payload::text) + coalesce(length(e.headers::text), 0) as bytes
    into o
    from posthaste.outbox e where e.id = event and e.created_at = created;
  if not found or filter is not null and not posthaste_internal.filter_matches(o.payload, filter)
     -- It is live, or has ended.
     or exists (select from posthaste_internal.claims_of_event(event) c where c.endpoint_id = endpoint)
     or not anew and exists (select from posthaste.attempts a where a.event_id = event and a.endpoint_id = endpoint
                   and a.started_at >= created - interval '1 hour') then
    return false;
  end if;
  insert into posthaste.deliveries
    (event_id, endpoint_id, event_created_at, next_attempt_at, ordering_key, place, in_line)
  values (event, endpoint, created, greatest(o.deliver_at, clock_timestamp()),
          line, case when line is not null then posthaste_internal.last_place() end, case when line is not null then true end)
  on conflict do nothing;
  return true;
end $$;
comment on function posthaste_internal.owe is
  'Makes one delivery, unless the filter says otherwise, one is live or, if this is not to begin anew, one was there before. Where it has an ordering key it joins the end of its line.';

create function posthaste_internal.route_by_endpoint(
  event bigint, created timestamptz, state text, said text, without bigint[]
) returns void
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  o record;
  owner record;
  made integer := 0;
  unasked integer := 0;
  failed bigint[] := '{}';
  states text[] := '{}';
  messages text[] := '{}';
begin
  select e.event_type, e.tenant, e.endpoint_id, e.ordering_key, length(e.payload::text) as bytes into o
    from posthaste.outbox e where e.id = event and e.created_at = created;
  for owner in select * from posthaste_internal.owners_of(o.event_type, o.tenant, o.endpoint_id) loop
    if owner.endpoint_id = any(without) then
      perform posthaste_internal.set_aside(event, owner.endpoint_id, created, 'filter', '57014', 'the filter took too long');
      unasked := unasked + 1;
      continue;
    end if;
    begin
      made := made + posthaste_internal.owe(
        event, created, owner.endpoint_id, case when owner.ordered then o.ordering_key end, owner.filter)::integer;
    exception when others then
      failed := failed || owner.endpoint_id;
      states := states || sqlstate::text;
      messages := messages || sqlerrm;
    end;
  end loop;
  if made = 0 and unasked = 0 and cardinality(failed) <> 1 then
    -- It fails for all of them, or for none by itself: it is the event's affair.
    perform posthaste_internal.set_aside(event, null, created, 'route', state, said);
    return;
  end if;
  for n in 1 .. cardinality(failed) loop
    perform posthaste_internal.set_aside(event, failed[n], created, 'route', states[n], messages[n]);
    if made > 0 then
      perform posthaste_internal.disable_unroutable(failed[n], messages[n]);
    end if;
  end loop;
  perform posthaste_internal.wake();
exception when others then
  perform posthaste_internal.set_aside(event, null, created, 'route', sqlstate, sqlerrm);
end $$;
comment on function posthaste_internal.route_by_endpoint is
  'Routes one event to one endpoint after the other, and sets aside what fails: the delivery, or the whole event where it cannot be read or fails for every endpoint.';

-- Each of its events would cost all others a search by halves.
create function posthaste_internal.disable_unroutable(endpoint bigint, said text) returns void
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if (select count(*) from posthaste.set_aside s
       where s.endpoint_id = endpoint and s.during = 'route' and s.set_aside_at > clock_timestamp() - interval '10 minutes') >= 10 then
    perform set_config('posthaste.disabling', 'on', true);
    update posthaste.endpoints e
       set enabled = false, hold = false,
           disabled_reason = format('no delivery can be made for it, again and again: %s; see posthaste.set_aside', said)
     where e.id = endpoint and (e.enabled or e.hold);
  end if;
exception when others then
  raise warning 'posthaste: endpoint % cannot be disabled: %', endpoint, sqlerrm;
end $$;
comment on function posthaste_internal.disable_unroutable is
  'Disables an endpoint for which ten events were set aside within ten minutes while other endpoints got them.';

create function posthaste_internal.take_up(s_event bigint, s_endpoint bigint) returns bigint
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  s posthaste.set_aside;
  o record;
  owner record;
  made bigint := 0;
begin
  select a.* into s from posthaste.set_aside a
   where a.event_id = s_event and a.endpoint_id is not distinct from s_endpoint for update;
  select e.event_type, e.tenant, e.endpoint_id, e.ordering_key into o
    from posthaste.outbox e where e.id = s.event_id and e.created_at = s.event_created_at;
  if found then
    for owner in select * from posthaste_internal.owners_of(o.event_type, o.tenant, o.endpoint_id) w
                  where s.endpoint_id is null or w.endpoint_id = s.endpoint_id loop
      made := made + posthaste_internal.owe(s.event_id, s.event_created_at, owner.endpoint_id,
        case when owner.ordered then o.ordering_key end, case when s.during <> 'record' then owner.filter end,
        anew => s.during = 'record')::integer;
    end loop;
  end if;
  delete from posthaste.set_aside a where a.event_id = s_event and a.endpoint_id is not distinct from s_endpoint;
  return made;
end $$;
comment on function posthaste_internal.take_up is 'Takes up one thing that was set aside; returns how many deliveries that makes.';

create function posthaste.route_again(event bigint default null, endpoint bigint default null) returns bigint
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  s record;
  made bigint := 0;
  state text;
  said text;
begin
  for s in select a.event_id, a.endpoint_id from posthaste.set_aside a
            where (route_again.event is null or a.event_id = route_again.event)
              and (route_again.endpoint is null or a.endpoint_id = route_again.endpoint)
              -- What was delivered is sent once more only if it is asked for by name.
              and (route_again.event is not null or a.result is null or a.result not like 'delivered%')
            order by a.event_id, a.endpoint_id loop
    begin
      made := made + posthaste_internal.take_up(s.event_id, s.endpoint_id);
    exception when others then
      if route_again.event is not null then
        raise;
      end if;
      state := sqlstate;
      said := posthaste_internal.without_data(state, sqlerrm);
      update posthaste.set_aside a
         set tries = a.tries + 1, tried_at = clock_timestamp(), sqlstate = state, message = said
       where a.event_id = s.event_id and a.endpoint_id is not distinct from s.endpoint_id;
    end;
  end loop;
  perform posthaste_internal.wake();
  return made;
end $$;
comment on function posthaste.route_again is
  'Takes up what was set aside (of one event, of one endpoint, or all), and returns how many deliveries that makes: to the endpoints that are owed the event by now. What fails again stays set aside, with the new reason; where one event is named, the error is raised. An attempt that delivered, but could not be recorded, is made once more only where its event is named. An event that is no longer in the outbox is forgotten.';

-- The relay's upkeep: the cause may have been a trigger that is mended by now, or a bad minute of the server. What
-- took too long is left to an operator, since it would hold up the rest.
create function posthaste_internal.take_up_again() returns bigint
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  s record;
  made bigint := 0;
begin
  for s in select a.event_id, a.endpoint_id from posthaste.set_aside a
            where a.sqlstate is distinct from '57014' and a.tries < 12
              and (a.result is null or a.result not like 'delivered%')
              and a.tried_at < clock_timestamp() - interval '1 minute' * 2 ^ least(a.tries - 1, 10)
            order by a.tried_at
            limit 100
            for update skip locked loop
    begin
      made := made + posthaste_internal.take_up(s.event_id, s.endpoint_id);
    exception when others then
      update posthaste.set_aside a
         set tries = a.tries + 1, tried_at = clock_timestamp()
       where a.event_id = s.event_id and a.endpoint_id is not distinct from s.endpoint_id;
    end;
  end loop;
  if made > 0 then
    perform posthaste_internal.wake();
  end if;
  return made;
end $$;
comment on function posthaste_internal.take_up_again is
  'The relay''s upkeep. Takes up what was set aside: after a minute, then after twice as long each time, twelve times in all; returns how many deliveries that made.';
