-- Who may do what. Everything not listed here is refused.

create function pg_temp.may(statement text) returns boolean language plpgsql as $$
begin
  begin
    execute statement;
    raise exception using errcode = 'P9999';   -- take it back
  exception when sqlstate 'P9999' then return true;
  end;
exception when insufficient_privilege then return false;
end $$;

select posthaste.add_endpoint('https://a.example/hook?token=hunter2', headers => '{"authorization": "Bearer x"}');
select posthaste.add_endpoint('https://b.example/#hunter2', '{order.*}', filter => '$.at.datetime()');
select posthaste.add_endpoint('https://c.example/?hunter2', '{order.*}');
select posthaste.emit('order.paid', '{"at": "hunter2"}');
insert into posthaste.attempts (event_id, endpoint_id, event_created_at, started_at, number, relay_id, duration_ms,
                                status, verdict, response_headers, response_body, body_truncated)
select id, 1, created_at, clock_timestamp(), 1, 1, 5, 500, 'dead', '{"set-cookie": "hunter2"}', 'hunter2', false
  from posthaste.outbox where event_type = 'order.paid';
insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at)
select id, 3, created_at, now() from posthaste.outbox where event_type = 'order.paid';

-- the producer inserts, with every column that is its own, and reads nothing but ids
set role posthaste_producer;
do $$
begin
  assert pg_temp.may($q$insert into posthaste.outbox (event_type, payload) values ('a', '1')$q$);
  assert pg_temp.may($q$insert into posthaste.outbox (event_type, payload, tenant, ordering_key, idempotency_key, headers, deliver_at, expires_at)
                        values ('a', '1', 't', 'o', 'i', '{}', now(), now()) returning id$q$);
  assert pg_temp.may($q$select posthaste.emit('a', '1', idempotency_key => 'k')$q$);
  -- As an ORM has it: every column, DEFAULT for what the database sets, and those read back.
  assert pg_temp.may($q$insert into posthaste.outbox (id, event_type, payload, tenant, ordering_key, idempotency_key, endpoint_id,
                          headers, deliver_at, expires_at, created_at, xid)
                        values (default, 'a', '1', null, null, null, null, null, null, null, default, default)
                        returning id, created_at, xid$q$);
  assert pg_temp.may($q$select posthaste.emit('a', '1'::jsonb)$q$);
  assert not pg_temp.may($q$select event_type from posthaste.outbox$q$);
  assert not pg_temp.may($q$select payload from posthaste.outbox$q$);
  assert not pg_temp.may($q$delete from posthaste.outbox$q$);
  assert not pg_temp.may($q$select * from posthaste.delivery_status$q$);
  assert not pg_temp.may($q$select * from posthaste.idempotency$q$);
  assert not pg_temp.may($q$select posthaste.send_test(1)$q$);
  assert not pg_temp.may($q$select posthaste_internal.announce('posthaste.endpoint.paused', 1, '{}')$q$);
end $$;
-- it rings the bell, and can neither keep it silent nor take the right to route or to migrate
begin;
insert into posthaste.outbox (event_type, payload) values ('a', '1');
do $$
begin
  assert not pg_temp.may($q$select setval('posthaste.silence', 1)$q$);
  assert not pg_temp.may($q$select posthaste_internal.keep_silent()$q$);
  assert not pg_temp.may($q$lock table posthaste.routers in share update exclusive mode$q$);
  assert not pg_temp.may($q$lock table posthaste.migrations in access share mode$q$);
end $$;
rollback;
-- a second event with the same key is the first
begin;
do $$
begin
  assert posthaste.emit('a', '1', idempotency_key => 'twice') = posthaste.emit('a', '1', idempotency_key => 'twice');
end $$;
rollback;
-- and it cannot pretend to be the relay
set posthaste.announcing = 'on';
do $$
begin
  insert into posthaste.outbox (event_type, payload) values ('posthaste.endpoint.disabled', '{}');
  raise 'a producer announced' using errcode = 'assert_failure';
exception when check_violation then null;
end $$;
reset posthaste.announcing;
reset role;

-- the viewer sees the views and why, and no secret, payload, header, answer or query of a url
set role posthaste_viewer;
do $$
declare
  v text;
  given_away text;
begin
  foreach v in array array['delivery_status', 'delivery_attempts', 'endpoint_status', 'backlog', 'recent_failures',
                           'relay_status', 'unrouted_events', 'events', 'ingest_status', 'rules', 'explain(1)', 'deliveries_of(1)',
                           'deliveries_between(now() - interval ''1 h'')', 'events_between(now() - interval ''1 h'')', 'check_consistency()'] loop
    assert pg_temp.may('select * from posthaste.' || v), v;
    execute format('select string_agg(v::text, '' '') from posthaste.%s v', v) into given_away;
    assert coalesce(given_away, '') not like '%hunter2%', v || ': ' || given_away;
  end loop;
  assert (select array_agg(url order by endpoint_id) = '{https://a.example/hook?…,https://b.example/#…,https://c.example/?…}'
            from posthaste.endpoint_status);
  assert (select status = 500 and response_headers is null and response_body is null from posthaste.delivery_attempts);
  assert (select why like '%the filter fails on the payload: %"…"%' from posthaste.explain(1) where endpoint_id = 2),
         (select why from posthaste.explain(1) where endpoint_id = 2);
  assert pg_temp.may('select id, tenant from posthaste.endpoints');
  assert not pg_temp.may('select headers from posthaste.endpoints');
  assert not pg_temp.may('select url from posthaste.endpoints');
  assert not pg_temp.may('select response_body from posthaste.attempts');
  foreach v in array array['endpoint_secrets', 'outbox', 'attempts', 'deliveries', 'routing', 'received', 'webhook_id_key'] loop
    assert not pg_temp.may('select * from posthaste.' || v), v;
  end loop;
  foreach v in array array['add_endpoint(''https://x.example'')', 'enable_endpoint(1)', 'disable_endpoint(1)', 'rotate_secret(1)', 'send_test(1)',
    'retry(1, 1)', 'replay(1, now() - interval ''1 h'')', 'cancel(1)', 'cancel_endpoint(1)', 'load_rules(''keygen'')', 'emit(''a'', ''1'')',
    'retry_endpoint(1)', 'set_payload_limit(1024)'] loop
    assert not pg_temp.may('select posthaste.' || v), v;
  end loop;
  foreach v in array array['known_event(1)', 'generate_secret()', 'lost_events(now())', 'drop_partitions(''1 d'', ''1 d'')'] loop
    assert not pg_temp.may('select posthaste_internal.' || v), v;
  end loop;
  assert not pg_temp.may('update posthaste.endpoints set enabled = false');
end $$;
reset role;

-- the operator steers, sees urls and answers, and changes endpoints and rules by hand, but reads no secret or payload
set role posthaste_operator;
do $$
declare
  v text;
begin
  foreach v in array array['add_endpoint(''https://x.example'')', 'enable_endpoint(1)', 'disable_endpoint(1)', 'rotate_secret(1)', 'send_test(1)',
    'replay(1, now() - interval ''1 h'')', 'cancel_endpoint(1)', 'load_rules(''keygen'')', 'unload_rules(''shipped'')',
    'explain(1)', 'check_consistency()'] loop
    assert pg_temp.may('select posthaste.' || v), v;
  end loop;
  assert pg_temp.may($q$insert into posthaste.endpoints (url, headers) values ('https://x.example', '{"x": "y"}')$q$);
  assert pg_temp.may($q$update posthaste.endpoints set subscriptions = '{a.*}', enabled = false where id = 1$q$);
  assert pg_temp.may('delete from posthaste.endpoints where id = 1');
  assert pg_temp.may($q$insert into posthaste.rules (name, status, action) values ('mine', '[418,419)', 'dead')$q$);
  assert pg_temp.may('delete from posthaste.rules');
  assert pg_temp.may('select * from posthaste.endpoint_status');
  assert (select url = 'https://a.example/hook?token=hunter2' from posthaste.endpoints where id = 1);
  assert (select response_headers ->> 'set-cookie' = 'hunter2' and response_body = 'hunter2' from posthaste.delivery_attempts);
  assert (select response_body = 'hunter2' from posthaste.recent_failures);
  foreach v in array array['endpoint_secrets', 'outbox', 'attempts'] loop
    assert not pg_temp.may('select * from posthaste.' || v), v;
  end loop;
  assert not pg_temp.may('delete from posthaste.deliveries');
  assert not pg_temp.may('delete from posthaste.attempts');
  assert not pg_temp.may($q$select posthaste.emit('a', '1')$q$);
  assert not pg_temp.may('select posthaste_internal.known_event(1)');
  assert not pg_temp.may($q$insert into posthaste.endpoint_secrets (endpoint_id, secret) values (1, posthaste_internal.generate_secret())$q$);
end $$;
reset role;

-- the relay's role can run every statement of the relay's
delete from posthaste.endpoints where id > 1;
delete from posthaste.attempts;
begin;
set local role posthaste_relay;
insert into posthaste.relays (name, version) values ('one', '0');
execute route(1, 1, 500, null, now() - interval '1 day', '{}', '{}', 9, 1000, 100000);
execute release(1, '{1}', '{1}', '{1}', '{1}', '{0}');
execute claim(1, 2, null, '{1}', '{9}', 1000, '{1000}', '{null}', '{}', true);
execute release_orphans(1, '{}', 1);
execute retake(1, now());
execute endpoints('{1}', null);
execute due(null);
execute rules;
execute make_partitions(8);
execute trim(3600);
execute apply_effect(1, true, 'gone');
do $$
begin
  assert (select array_agg(verdict) = '{cancelled}' from posthaste.attempts);
  perform posthaste_internal.cancel_orphans();
end $$;
rollback;

-- and changes the definition of no table
set role posthaste_relay;
do $$
begin
  assert not pg_temp.may('alter table posthaste.outbox add column mine integer');
  assert not pg_temp.may('alter table posthaste.endpoint_secrets disable trigger all');
  assert not pg_temp.may('drop table posthaste.attempts');
  assert not pg_temp.may('create table posthaste.mine ()');
  assert not pg_temp.may('select posthaste.set_payload_limit(1024)');
end $$;
reset role;

-- everybody else: nothing
create role posthaste_test_nobody;
set role posthaste_test_nobody;
do $$
begin
  assert not pg_temp.may($q$select posthaste.emit('a', '1')$q$);
  assert not pg_temp.may('select * from posthaste.endpoint_status');
end $$;
reset role;
drop role posthaste_test_nobody;

-- what runs with the owner's rights finds no name in a schema that its caller has chosen
do $$
declare
  found integer;
  unpinned text;
begin
  select count(*), string_agg(p.oid::regprocedure::text, ', ')
           filter (where 'search_path=pg_catalog, pg_temp' <> all (coalesce(p.proconfig, '{}')))
    into found, unpinned
    from pg_proc p
   where p.pronamespace in ('posthaste'::regnamespace, 'posthaste_internal'::regnamespace) and p.prosecdef;
  assert unpinned is null, unpinned;
  assert found > 20, found;
end $$;

-- a function of a later migration is nobody's until it is granted
create function posthaste.later() returns integer language sql return 1;
select posthaste.grant_roles();
do $$
begin
  assert not has_function_privilege('posthaste_producer', 'posthaste.later()', 'execute');
  assert has_function_privilege('posthaste_relay', 'posthaste.later()', 'execute');
end $$;
drop function posthaste.later();
