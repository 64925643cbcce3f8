-- Deliveries are retried, replayed and cancelled by one call each.

-- What a relay does with a delivery that it claimed, in short.
create function pg_temp.ends(event bigint, endpoint bigint, verdict text) returns void language sql as $$
  delete from posthaste.deliveries where (event_id, endpoint_id) = (event, endpoint);
  insert into posthaste.attempts (event_id, endpoint_id, event_created_at, started_at, number, relay_id, duration_ms, outcome, status, verdict)
  select id, endpoint, created_at, clock_timestamp(), 1, 1, 5, null, case verdict when 'delivered' then 204 else 500 end, nullif(verdict, 'delivered')
    from posthaste.outbox where id = event;
$$;
create function pg_temp.pending(endpoint bigint) returns bigint[] language sql as $$
  select coalesce(array_agg(event_id order by event_id), '{}') from posthaste.deliveries where endpoint_id = endpoint;
$$;
create function pg_temp.fails(statement text, state text, says text) returns void language plpgsql as $$
begin
  execute statement;
  raise 'did not fail: %', statement using errcode = 'assert_failure';
exception when others then
  if sqlstate = 'P0004' then raise; end if;
  assert sqlstate = state and sqlerrm like '%' || says || '%', format('%s: %s %s', statement, sqlstate, sqlerrm);
end $$;

begin;
insert into posthaste.relays (name, version) values ('one', '0');
select posthaste.add_endpoint('https://a.example', '{order.*}');            -- 1
select posthaste.add_endpoint('https://b.example', '{other_thing}');        -- 2
-- events 1 to 6: for endpoint 1, one of them with a key, one that names endpoint 1
insert into posthaste.outbox (event_type, payload, ordering_key, endpoint_id) values
  ('order.paid', '{"n": 1}', 'k', null), ('order.paid', '{"n": 2}', null, null), ('order.sent', '{"n": 3}', null, null),
  ('order.sent', '{"n": 4}', null, null), ('order.paid', '{"n": 5}', null, null), ('named', '{"n": 6}', null, 1);
commit;
-- an event that no relay has routed yet cannot be steered
select pg_temp.fails('select posthaste.cancel(1)', '55000', 'not routed yet');
select pg_temp.fails('select posthaste.retry(1, 1)', '55000', 'was not owed');
execute route(1, 1, 500, null, now() - interval '1 day', '{}', '{}', 0, 0, 0);

do $$
begin
  assert pg_temp.pending(1) = '{1,2,3,4,5,6}', pg_temp.pending(1)::text;
  assert pg_temp.pending(2) = '{}';
end $$;
select pg_temp.fails('select posthaste.retry(1, 2)', '55000', 'was not owed');
select pg_temp.fails('select posthaste.retry(99, 1)', 'P0002', 'there is no event 99');
select pg_temp.fails('select posthaste.cancel(99)', 'P0002', 'there is no event 99');
select pg_temp.fails($$select posthaste.replay(1, now(), now() - interval '1 h')$$, '22023', 'no time between');
select pg_temp.fails($$select posthaste.replay(1, now() - interval '1 h', states => '{lost}')$$, '22023', 'not states to replay');
select pg_temp.fails($$select posthaste.replay(1, now() - interval '1 h', states => '{}')$$, '22023', 'not states to replay');
select pg_temp.fails($$select posthaste.replay(1, now() - interval '1 h', event_type => 'order*')$$, '22023', 'not a pattern');

-- a delivery that waits is due now and keeps its attempts; one that is being sent is left alone
do $$
begin
  update posthaste.deliveries set next_attempt_at = now() + interval '1 h', attempt_count = 3 where event_id = 1;
  assert posthaste.retry(1, 1) = 'due';
  assert (select next_attempt_at <= clock_timestamp() and attempt_count = 3 from posthaste.deliveries where event_id = 1);
  update posthaste.deliveries set claimed_by = 1, claim_token = 1 where event_id = 2;
  assert posthaste.retry(2, 1) = 'sending';
  assert (select claimed_by = 1 from posthaste.deliveries where event_id = 2);
end $$;

-- one that has ended is put back with all its attempts and its webhook-id, as often as one likes
do $$
begin
  perform pg_temp.ends(1, 1, 'dead');
  assert posthaste.retry(1, 1) = 'put back';
  assert (select attempt_count = 0 and ordering_key is null and event_created_at = (select created_at from posthaste.outbox where id = 1)
            from posthaste.deliveries where event_id = 1);
  perform pg_temp.ends(1, 1, 'delivered');
  assert posthaste.retry(1, 1) = 'put back';
  perform pg_temp.ends(1, 1, 'delivered');
end $$;

-- replay: by default what is dead, and only what is dead last
do $$
declare
  since constant timestamptz := now() - interval '1 hour';
  till constant timestamptz := now() + interval '1 hour';
begin
  perform pg_temp.ends(2, 1, 'dead'), pg_temp.ends(3, 1, 'dead'), pg_temp.ends(4, 1, 'delivered'), pg_temp.ends(6, 1, 'dead');
  assert posthaste.replay(2, since, till) = 0;
  assert posthaste.replay(1, since, till) = 3;                     -- 1 was dead and then delivered
  assert pg_temp.pending(1) = '{2,3,5,6}', pg_temp.pending(1)::text;
  assert posthaste.replay(1, since, till) = 0, 'what is live was put back again';
  perform pg_temp.ends(2, 1, 'dead'), pg_temp.ends(3, 1, 'delivered'), pg_temp.ends(6, 1, 'dead');
  assert posthaste.replay(1, since, till, event_type => 'order.*') = 1, 'a second replay';
  assert pg_temp.pending(1) = '{2,5}', pg_temp.pending(1)::text;
  assert posthaste.replay(1, since, till, event_type => 'order.sent', states => '{delivered}') = 2;
  assert posthaste.replay(1, since, till, states => '{dead,delivered,cancelled}', at_most => 1) = 1;
  assert pg_temp.pending(1) = '{1,2,3,4,5}', 'oldest first: ' || pg_temp.pending(1)::text;
  assert posthaste.replay(1, till, till + interval '1 h') = 0;
end $$;

-- cancel: what waits ends with the reason, what is in flight is counted and left
do $$
declare
  c record;
begin
  update posthaste.deliveries set claimed_by = 1, claim_token = 2 where event_id = 5;
  select * into c from posthaste.cancel(4, reason => 'a mistake');
  assert (c.cancelled, c.in_flight) = (1, 0), c::text;
  assert (select (number, outcome, verdict, reason) = (0, 'none', 'cancelled', 'a mistake')
            from posthaste.attempts where event_id = 4 order by started_at desc limit 1);
  select * into c from posthaste.cancel(4);
  assert (c.cancelled, c.in_flight) = (0, 0), c::text;
  select * into c from posthaste.cancel(5, 1);
  assert (c.cancelled, c.in_flight) = (0, 1), c::text;
  -- … and left to its relay, with who asked for it
  assert (select (event_id, endpoint_id, event_type, reason) = (5, 1, '*', 'cancelled by ' || session_user)
            from posthaste.withdrawals), (select string_agg(w::text, ' ') from posthaste.withdrawals w);
  select * into c from posthaste.cancel_endpoint(1, 'order.paid');
  assert (c.cancelled, c.in_flight) = (2, 1), c::text;
  assert (select (count(*), count(*) filter (where endpoint_id = 1 and event_type = 'order.paid' and event_id is null)) = (2, 1)
            from posthaste.withdrawals);
  update posthaste.withdrawals set created_at = now() - interval '2 h';
  assert pg_temp.pending(1) = '{3,5}';
  select * into c from posthaste.cancel_endpoint(1);
  assert (c.cancelled, c.in_flight) = (1, 1), c::text;
  assert (select count(*) = 1 from posthaste.withdrawals), 'those of an hour ago are not kept';
  assert (select reason = 'cancelled by ' || session_user from posthaste.attempts where event_id = 3 order by started_at desc limit 1);
  assert posthaste.replay(1, now() - interval '1 h', now() + interval '1 h', states => '{cancelled}') = 4;
  perform posthaste.cancel_endpoint(1);
end $$;

-- an endpoint that was added later gets what it missed, if asked to, and once
begin;
select posthaste.add_endpoint('https://late.example', '{order.*,other_thing}', filter => '$ ? (@.n > 1)');   -- 3
insert into posthaste.outbox (event_type, payload) values ('order.paid', '{"n": 7}');
commit;
do $$
begin
  -- event 7 is not routed: routing will see to it, and must not find it done
  assert posthaste.replay(3, now() - interval '1 h', now() + interval '1 h') = 0;
  assert posthaste.replay(3, now() - interval '1 h', now() + interval '1 h', states => '{never}') = 4;
  assert pg_temp.pending(3) = '{2,3,4,5}', pg_temp.pending(3)::text;
  assert posthaste.replay(3, now() - interval '1 h', now() + interval '1 h', states => '{never}') = 0;
end $$;
execute route(1, 1, 500, null, now() - interval '1 day', '{}', '{}', 0, 0, 0);
do $$
begin
  assert pg_temp.pending(3) = '{2,3,4,5,7}', pg_temp.pending(3)::text;
  perform pg_temp.ends(7, 3, 'delivered');
  assert posthaste.replay(3, now() - interval '1 h', now() + interval '1 h', states => '{never}') = 0, 'delivered is not never';
  -- an underscore in a subscription stands for itself
  assert 'otherXthing' not like all(posthaste_internal.like_patterns('{other_thing}')) and 'other_thing' like any(posthaste_internal.like_patterns('{other_thing}'));
  -- what is no longer subscribed to is left out, and so is what has expired
  perform pg_temp.ends(2, 3, 'dead');
  update posthaste.endpoints set subscriptions = '{nothing}' where id = 3;
  assert posthaste.replay(3, now() - interval '1 h', now() + interval '1 h') = 0;
end $$;

-- what was routed to an endpoint in the moment of its deletion is ended by upkeep
do $$
begin
  insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, next_attempt_at)
  select id, 77, created_at, now() from posthaste.outbox where id <= 3;
  assert posthaste_internal.cancel_orphans() = 3;
  assert posthaste_internal.cancel_orphans() = 0;
  assert (select count(*) = 3 from posthaste.attempts where endpoint_id = 77 and verdict = 'cancelled');
end $$;

-- a test goes to its endpoint alone; a disabled one is refused in words
begin;
select posthaste.send_test(2);
commit;
execute route(1, 1, 500, null, now() - interval '1 day', '{}', '{}', 0, 0, 0);
do $$
declare
  test posthaste.outbox;
begin
  select * into test from posthaste.outbox where event_type = 'posthaste.test';
  assert test.endpoint_id = 2 and test.expires_at > now();
  assert (select array_agg(endpoint_id) = '{2}' from posthaste.deliveries where event_id = test.id);
  perform posthaste.disable_endpoint(2);
  perform pg_temp.fails('select posthaste.send_test(2)', '55000', 'endpoint 2 is disabled');
end $$;

-- nobody else inserts an event of the relay's
select pg_temp.fails($$insert into posthaste.outbox (event_type, payload) values ('posthaste.test', '1')$$, '23514', 'the relay''s own');
select pg_temp.fails($$select posthaste.emit('posthaste.endpoint.disabled', '1')$$, '23514', 'the relay''s own');

-- a webhook-id leads to its event
do $$
declare
  e record;
begin
  select id, created_at into e from posthaste.outbox order by id desc limit 1;
  assert posthaste.event_of(posthaste.webhook_id(e.id, e.created_at)) = e.id;
  -- The same number at another moment, as after a recovery to an earlier point in time, is another event.
  assert posthaste.webhook_id(e.id, e.created_at) <> posthaste.webhook_id(e.id, e.created_at + interval '1 microsecond');
  perform pg_temp.fails($f$select posthaste.event_of('msg_1')$f$, '22023', 'not a webhook-id of Posthaste');
  perform pg_temp.fails($f$select posthaste.event_of('evt_1_64df3f3b1c000')$f$, '22023', 'not a webhook-id of Posthaste');
  perform pg_temp.fails(format('select posthaste.event_of(%L)', 'evt_' || repeat('0', 32)), '22023', 'not a webhook-id of this database');
end $$;
