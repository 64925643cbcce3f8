-- What happens to an endpoint is told to those who subscribe to it by name, and to nobody else.

create function pg_temp.told() returns table (event_type text, whom bigint, about bigint, payload json) language sql as $$
  select o.event_type, o.endpoint_id, (o.payload ->> 'endpoint_id')::bigint, o.payload
    from posthaste.outbox o where o.event_type like 'posthaste.%' order by o.id;
$$;

begin;
select posthaste.add_endpoint('https://shop.example');                                                            -- 1
select posthaste.add_endpoint('https://alerts.example', '{posthaste.endpoint.*,posthaste.delivery.dead}');        -- 2
select posthaste.add_endpoint('https://others.example', '{posthaste.endpoint.*}', tenant => 'others');            -- 3
select posthaste.add_endpoint('https://all.example', '{*}');                                                      -- 4
commit;

-- disabling, however it is done, is told once, with the reason
do $$
begin
  update posthaste.endpoints set enabled = false, disabled_reason = 'rule gone: 410' where id = 1;
  assert (select array_agg((event_type, whom, about, payload ->> 'reason', payload ->> 'url')::text)
            = array['(posthaste.endpoint.disabled,2,1,"rule gone: 410",https://shop.example)'] from pg_temp.told()),
         (select array_agg(t::text) from pg_temp.told() t)::text;
  update posthaste.endpoints set description = 'still disabled' where id = 1;
  perform posthaste.enable_endpoint(1);
  assert (select count(*) = 1 from pg_temp.told());
end $$;

-- pauses: the first of an outage and its end, not every longer one; enabling by hand is no recovery
do $$
begin
  insert into posthaste.endpoint_health (endpoint_id, state, consecutive_failures, failing_since, paused_until) values (1, 'paused', 5, now(), now() + interval '1 min');
  update posthaste.endpoint_health set state = 'probing', paused_until = null where endpoint_id = 1;
  update posthaste.endpoint_health set state = 'paused', paused_until = now() + interval '2 min' where endpoint_id = 1;
  assert (select array_agg(event_type || ' ' || about order by event_type) filter (where event_type <> 'posthaste.endpoint.disabled')
            = array['posthaste.endpoint.paused 1'] from pg_temp.told());
  update posthaste.endpoint_health set state = 'flowing', paused_until = null, last_success_at = now() where endpoint_id = 1;
  assert (select count(*) = 1 from pg_temp.told() where event_type = 'posthaste.endpoint.recovered' and whom = 2);
  update posthaste.endpoint_health set state = 'paused', paused_until = now() where endpoint_id = 1;
  perform posthaste.enable_endpoint(1);
  assert (select count(*) = 1 from pg_temp.told() where event_type = 'posthaste.endpoint.recovered');
end $$;

-- who is told of others is not told of itself
do $$
declare
  before constant bigint := (select count(*) from pg_temp.told());
begin
  insert into posthaste.endpoint_health (endpoint_id, state, paused_until) values (2, 'paused', now());
  perform posthaste.disable_endpoint(2);
  assert (select count(*) = before from pg_temp.told());
  perform posthaste.enable_endpoint(2);
end $$;

-- a dead delivery is told; the death of a posthaste.* event is not
begin;
insert into posthaste.outbox (event_type, payload) values ('order.paid', '{}');
commit;
do $$
declare
  attempt constant text := 'insert into posthaste.attempts (event_id, endpoint_id, event_created_at, started_at, number, relay_id, duration_ms, outcome, status, verdict)
    select id, 1, created_at, now(), 10, 1, 5, null::text, 500, nullif(%L, ''delivered'') from posthaste.outbox where id = %s';
  paid constant bigint := (select id from posthaste.outbox where event_type = 'order.paid');
  test bigint;
begin
  execute format(attempt, 'delivered', paid);
  assert (select count(*) = 0 from pg_temp.told() where event_type = 'posthaste.delivery.dead');
  execute format(attempt, 'dead', paid);
  assert (select (whom, about, payload ->> 'event_id', payload ->> 'event_type', payload ->> 'reason', payload ->> 'attempts')
               = (2, 1, paid::text, 'order.paid', 'answered 500', '10')
            from pg_temp.told() where event_type = 'posthaste.delivery.dead');
  test := posthaste.send_test(1);
  execute format(attempt, 'dead', test);
  assert (select count(*) = 1 from pg_temp.told() where event_type = 'posthaste.delivery.dead'), 'it feeds on itself';
end $$;

-- a tenant is told neither metadata nor what an operator wrote, and cannot ask about them; operators are told both
begin;
select posthaste.add_endpoint('https://hooks.others.example/?token=hunter2', '{order.*}', tenant => 'others',
                              description => 'shop', metadata => '{"plan": "hunter2"}');                          -- 5
select posthaste.add_endpoint('https://asks.others.example', '{posthaste.*}', tenant => 'others',
                              filter => '$ ? (@.metadata.plan == "hunter2" || @.reason starts with "fraud")');    -- 6
commit;
create function pg_temp.told_of_5() returns table (whom bigint, payload json) language sql as $$
  select whom, payload from pg_temp.told() t
   where about = 5 and event_type = 'posthaste.endpoint.disabled'
     -- As routing asks it.
     and (select e.filter is null or posthaste_internal.filter_matches(t.payload, e.filter) from posthaste.endpoints e where e.id = t.whom)
   order by whom;
$$;
do $$
begin
  perform posthaste.disable_endpoint(5, 'fraud: hunter2');
  assert (select array_agg(whom) = '{2,3}' from pg_temp.told_of_5()), 'the tenant asked about what is not told';
  assert (select payload::jsonb - 'disabled_at'
               = '{"endpoint_id": 5, "url": "https://hooks.others.example/?…", "description": "shop"}'
            from pg_temp.told_of_5() where whom = 3), (select payload::text from pg_temp.told_of_5() where whom = 3);
  assert (select (payload ->> 'reason', payload -> 'metadata' ->> 'plan', payload ->> 'url')
               = ('fraud: hunter2', 'hunter2', 'https://hooks.others.example/?…') from pg_temp.told_of_5() where whom = 2);
  perform posthaste.enable_endpoint(5);
end $$;
-- the relay's own reason is told to both
execute apply_effect(5, false, 'rule ''gone'': answered 410');
do $$
begin
  assert (select array_agg((whom, payload ->> 'reason')::text order by whom) filter (where payload ->> 'reason' like 'rule%')
               = array['(2,"rule ''gone'': answered 410")', '(3,"rule ''gone'': answered 410")']
            from pg_temp.told_of_5()), (select array_agg(t::text) from pg_temp.told_of_5() t)::text;
end $$;

-- what is told is routed to whom it names, and * does not ask for it
execute route(1, 1, 500, null, now() - interval '1 day', '{}', '{}', 0, 0, 0);
do $$
begin
  assert (select array_agg(distinct d.endpoint_id) = '{2,3}' from posthaste.deliveries d join posthaste.outbox o on o.id = d.event_id
           where o.event_type like 'posthaste.%' and o.event_type <> 'posthaste.test');
end $$;
