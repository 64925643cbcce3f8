-- A line: who has its turn, what the views say of those behind, and what steering does to it.

create function pg_temp.states() returns text language sql as $$
  select string_agg(event_id || ' ' || state, ', ' order by event_id) from posthaste.delivery_status where ended_at is null;
$$;
create function pg_temp.give_turns() returns void language plpgsql as $$
begin
  execute format('execute give_turns(%L, %L, null)', '{1,1}', '{a,b}');
end $$;

begin;
insert into posthaste.relays (name, version) values ('one', '0');
select posthaste.add_endpoint('https://a.example', ordered => true);        -- 1
select posthaste.add_endpoint('https://b.example', '{other}');              -- 2
insert into posthaste.outbox (event_type, payload, ordering_key) values
  ('t', '1', 'a'), ('t', '2', 'a'), ('t', '3', 'b'), ('t', '4', 'a'), ('t', '5', null);
commit;
execute route(1, 1, 500, null, now() - interval '1 day', '{}', '{}', 0, 0, 0);

-- the first of each key has its turn, and what has no key waits for nobody
do $$
begin
  assert pg_temp.states() = '1 waiting, 2 in line, 3 waiting, 4 in line, 5 waiting', pg_temp.states();
  assert (select (state, why) = ('in line', 'in line behind event 1 of ordering key a') from posthaste.explain(4) where endpoint_id = 1);
  assert (select pending = 5 and blocked_keys = 0 from posthaste.endpoint_status where endpoint_id = 1);
  assert (select pending = 5 and due = 3 from posthaste.backlog where endpoint_id = 1);
  assert not exists (select from posthaste.check_consistency(patience => '0') where problem like '%line%');
end $$;

-- in line, a retry changes nothing but the time
do $$
begin
  assert posthaste.retry(2, 1) = 'in line';
  assert posthaste.retry(1, 1) = 'due';
  assert pg_temp.states() = '1 waiting, 2 in line, 3 waiting, 4 in line, 5 waiting', pg_temp.states();
end $$;

-- a claim takes those that have their turn, and no other
execute claim(1, 2, null, '{1}', '{10}', 1000000, '{1000000}', '{null}', '{}', true);
do $$
begin
  assert pg_temp.states() = '1 sending, 2 in line, 3 sending, 4 in line, 5 sending', pg_temp.states();
end $$;

-- recording an end gives the next its turn; recording a death that blocks does not
select array_agg(created_at order by id) as created_at from posthaste.outbox where id in (1, 3) \gset
execute record(1, null, '{1,3}', '{1,1}', '{2,2}', '{-1,-1}', '{f,t}', '{1,1}', '{1,1}', '{200,500}',
  '{1,1}', '{1,1}', '{1,1}', '{0,1}', '{1}', '{1}', '{1}', '{f}', '{}', '{0}', '{}', '{0}', '{}', '{0}',
  '{}', '{0}', '{}', '{0}', '{dead}', '{1}', '{}', '{0}', '{-1,-1}', '{now,now}', '{}', '{}', false);
do $$
begin
  assert pg_temp.states() = '2 waiting, 3 blocked, 4 in line, 5 sending', pg_temp.states();
  assert (select blocked_keys = 1 and pending = 3 from posthaste.endpoint_status where endpoint_id = 1);
  assert (select reason like 'dead since % ordering key b waits behind it: posthaste.unblock(1, ''b'')'
            from posthaste.delivery_status where event_id = 3);
  assert (select next_attempt_at = 'infinity' from posthaste.deliveries where event_id = 3);
  assert (select count(*) = 1 from posthaste.backlog), 'it bears a time without end';
end $$;
execute due(null);

-- unblock: all or one key, again or not at all
do $$
begin
  assert posthaste.unblock(2) = 0;
  assert posthaste.unblock(1, 'a') = 0;
  assert posthaste.unblock(1) = 1;
  assert (select blocked_at is null and attempt_count = 0 and next_attempt_at <= clock_timestamp() from posthaste.deliveries where event_id = 3);
  update posthaste.deliveries set blocked_at = now(), next_attempt_at = 'infinity' where event_id = 3;
  assert posthaste.replay(1, now() - interval '1 h', now() + interval '1 h') = 1, 'replay of the dead does the same';
  assert pg_temp.states() = '2 waiting, 3 waiting, 4 in line, 5 sending', pg_temp.states();
  update posthaste.deliveries set blocked_at = now(), next_attempt_at = 'infinity' where event_id = 3;
  assert posthaste.unblock(1, 'b', skip => true) = 1;
  assert (select verdict = 'cancelled' and reason like 'skipped by %' from posthaste.attempts where event_id = 3 order by started_at desc limit 1);
end $$;

-- when the head is cancelled, the next has its turn as soon as a relay looks
do $$
begin
  perform posthaste.cancel(2);
  assert pg_temp.states() = '4 in line, 5 sending', pg_temp.states();
  assert (select detail like 'ordering key a: event 4 is next %' from posthaste.check_consistency(patience => '0') where problem = 'a line has no head');
  perform pg_temp.give_turns();
  assert pg_temp.states() = '4 waiting, 5 sending', pg_temp.states();
  perform pg_temp.give_turns();
end $$;

-- what is put back goes to the end; cancel_endpoint takes those in line as well
do $$
begin
  assert posthaste.retry(1, 1) = 'put back';
  perform pg_temp.give_turns();
  assert pg_temp.states() = '1 in line, 4 waiting, 5 sending', pg_temp.states();
  assert (select cancelled = 2 from posthaste.cancel_endpoint(1));
  assert pg_temp.states() = '5 sending', pg_temp.states();
end $$;
