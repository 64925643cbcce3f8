-- What comes while an endpoint is disabled, and what waits for one that is fixed.

select posthaste.add_endpoint('https://keeps.example/', '{order.*}');
select posthaste.add_endpoint('https://misses.example/', '{order.*}', filter => '$ ? (@.n > 1)');
do $$
begin
  assert posthaste.disable_endpoint(1, 'away', hold => true);
  assert posthaste.disable_endpoint(2, 'away');
end $$;
select posthaste.emit('order.paid', jsonb_build_object('n', n)) from generate_series(1, 3) n;
select posthaste.emit('invoice.paid', '{"n": 9}');
select posthaste.emit('order.paid', '{"n": 9}', tenant => 'acme', endpoint_id => 1);
execute route(1, 1, 500, null, now() - interval '1 day', '{}', '{}', 0, 1000, 1000000);
do $$
begin
  assert (select array_agg(endpoint_id || '/' || event_id order by event_id) = '{1/1,1/2,1/3,1/5}' from posthaste.deliveries);
  assert not exists (select from posthaste.deliveries where claimed_by is not null), 'what is held is not claimed';
  assert (select array_agg(state order by endpoint_id) = '{held,not owed}' from posthaste.explain(2));
  assert (select array_agg(reason order by endpoint_id) = '{away; what comes is kept,away; what comes is not kept}'
            from posthaste.endpoint_status);
end $$;

-- enabling says what waits, what was missed, and what brings it
do $$
declare
  told record;
begin
  select * into told from posthaste.enable_endpoint(1);
  assert (told.was, told.waiting, told.missed) = ('disabled', 4::bigint, 0::bigint), told::text;
  assert told.advice = 'what waits goes on by its schedule: select posthaste.retry_endpoint(1) makes all of it due now', told.advice;
  select * into told from posthaste.enable_endpoint(2);
  assert (told.was, told.waiting, told.missed) = ('disabled', 0::bigint, 2::bigint), told::text;
  assert told.advice like '2 events came while it was disabled and were not kept for it: select posthaste.replay(2, since => %, states => ''{never}'') brings them', told.advice;
  execute substring(told.advice from 'select .*\)');
  assert (select count(*) = 2 from posthaste.deliveries where endpoint_id = 2);
  assert posthaste.disable_endpoint(2, hold => true);
  assert (select hold from posthaste.endpoints where id = 2);
  assert not posthaste.disable_endpoint(2), 'disabled before, and now without hold';
  assert (select not hold from posthaste.endpoints where id = 2);
  perform posthaste.enable_endpoint(2);
end $$;

-- retry_endpoint makes due what waits for its next attempt, and nothing else
update posthaste.deliveries set attempt_count = 3, next_attempt_at = now() + interval '1 h' where endpoint_id = 1 and event_id < 3;
insert into posthaste.endpoint_health (endpoint_id, state, consecutive_failures, paused_until)
values (1, 'paused', 12, now() + interval '1 h');
select posthaste.emit('order.later', '{}', deliver_at => now() + interval '1 day');
execute route(1, 1, 500, null, now() - interval '1 day', '{}', '{}', 0, 1000, 1000000);
do $$
declare
  later constant bigint := (select id from posthaste.outbox where event_type = 'order.later');
begin
  assert posthaste.retry_endpoint(1, 'order.shipped') = 0;
  assert (select state = 'flowing' from posthaste.endpoint_health where endpoint_id = 1);
  assert posthaste.retry_endpoint(1) = 2;
  assert (select array_agg(event_id) = array[later] from posthaste.deliveries where endpoint_id = 1 and next_attempt_at > clock_timestamp());
  assert (select attempt_count = 3 from posthaste.deliveries where endpoint_id = 1 and event_id = 1), 'attempts still count';
  perform posthaste.disable_endpoint(1);
  begin
    perform posthaste.retry_endpoint(1);
    raise 'a disabled endpoint was retried' using errcode = 'assert_failure';
  exception when object_not_in_prerequisite_state then null;
  end;
end $$;
