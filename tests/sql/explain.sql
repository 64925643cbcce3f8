-- explain says, for every endpoint, why an event was or was not sent and what is next.

create function pg_temp.why(event bigint, endpoint bigint) returns text language sql as $$
  select state || ': ' || why from posthaste.explain(event) where endpoint_id = endpoint;
$$;
create function pg_temp.is(event bigint, endpoint bigint, pattern text) returns void language plpgsql as $$
begin
  assert coalesce(pg_temp.why(event, endpoint) like pattern, false),
         format('event %s, endpoint %s: %s', event, endpoint, pg_temp.why(event, endpoint));
end $$;

begin;
select posthaste.add_endpoint('https://a.example');                                             -- 1
select posthaste.add_endpoint('https://b.example', '{order.*}', filter => '$ ? (@.n > 1)');     -- 2
select posthaste.add_endpoint('https://c.example', '{invoice.*,refund}');                       -- 3
select posthaste.add_endpoint('https://d.example', tenant => 'acme');                           -- 4
select posthaste.add_endpoint('https://e.example', '{invoice.*}', tenant => 'acme');            -- 5
select posthaste.add_endpoint('https://f.example');                                             -- 6
select posthaste.disable_endpoint(6, 'not paid');
insert into posthaste.outbox (event_type, payload, endpoint_id) values ('order.paid', '{"n": 1}', null), ('named', '{}', 4), ('named', '{}', 99);
commit;

select pg_temp.is(1, 1, 'not routed: owed, but not routed yet%');
execute route(1, 1, 500, null, now() - interval '1 day', '{}', '{}', 0, 0, 0);
select posthaste.add_endpoint('https://g.example');                                             -- 7

select pg_temp.is(1, 1, 'waiting: attempt 1 is due since %');
select pg_temp.is(1, 2, 'not owed: the filter does not match the payload');
select pg_temp.is(1, 3, 'not owed: not subscribed: invoice.*, refund does not match order.paid');
select pg_temp.is(1, 4, 'not owed: the endpoint gets the events of tenant acme, this is of no tenant');
select pg_temp.is(1, 5, 'not owed: the endpoint gets the events of tenant acme, this is of no tenant; not subscribed: %');
select pg_temp.is(1, 6, 'not owed: the endpoint is disabled since %: not paid');
select pg_temp.is(1, 7, 'not owed: the endpoint was added after the event, at %');
select pg_temp.is(2, 1, 'not owed: the event names endpoint 4 alone');
select pg_temp.is(2, 4, 'waiting: %');
select pg_temp.is(3, 99, 'not owed: the endpoint that the event names does not exist');

-- owed ones first, and no more rows than asked for
do $$
begin
  assert (select array_agg(endpoint_id) from (select endpoint_id from posthaste.explain(1)) e) = '{1,2,6,7,3,4,5}',
         (select array_agg(endpoint_id)::text from (select endpoint_id from posthaste.explain(1)) e);
  assert (select array_agg(endpoint_id) from (select endpoint_id from posthaste.explain(2, 1)) e) = '{4}';
end $$;

-- from attempt to attempt
insert into posthaste.attempts (event_id, endpoint_id, event_created_at, started_at, number, relay_id, duration_ms, outcome, cause, verdict, next_attempt_at)
  select id, 1, created_at, now(), 1, 1, 5, 'unreachable', 'dns', 'retry', now() + interval '1 h' from posthaste.outbox where id = 1;
update posthaste.deliveries set attempt_count = 1, next_attempt_at = now() + interval '1 h' where event_id = 1;
select pg_temp.is(1, 1, 'waiting: attempt 2 is due at %; the last one: unreachable dns');
do $$
begin
  assert (select (attempt_count, last_outcome) = (1, 'unreachable dns') and next_attempt_at > now() + interval '59 min'
            from posthaste.explain(1, 1));
end $$;
insert into posthaste.endpoint_health (endpoint_id, state, paused_until) values (1, 'paused', now() + interval '1 h');
select pg_temp.is(1, 1, 'waiting: endpoint paused until % (0 failures in a row): posthaste.retry_endpoint(1) sends now; attempt 2%');
select posthaste.disable_endpoint(1, 'too slow');
select pg_temp.is(1, 1, 'held: endpoint disabled: too slow: posthaste.enable_endpoint(1) lets it go on; attempt 2%');
select posthaste.enable_endpoint(1);
update posthaste.deliveries set claimed_by = 3, claim_token = 1 where event_id = 1;
select pg_temp.is(1, 1, 'sending: relay 3 is making attempt 2');
delete from posthaste.deliveries where event_id = 1;
select pg_temp.is(1, 1, 'lost: to be retried, but no longer owed%');
insert into posthaste.attempts (event_id, endpoint_id, event_created_at, started_at, number, relay_id, duration_ms, outcome, status, verdict, reason)
  select id, 1, created_at, clock_timestamp(), 2, 1, 5, null, 410, 'dead', 'rule gone' from posthaste.outbox where id = 1;
select pg_temp.is(1, 1, 'dead: dead at % by attempt 2: rule gone; posthaste.retry(1, 1) sends it again');
select posthaste.retry(1, 1);
select pg_temp.is(1, 1, 'waiting: attempt 1 is due since %');
select posthaste.cancel(1);
select pg_temp.is(1, 1, 'cancelled: cancelled at %: cancelled by ' || session_user);
update posthaste.endpoints set tenant = null where id = 4;
select pg_temp.is(1, 4, 'not owed: it matches now, but the endpoint was changed after the event, at %');

-- an event that is not there is an error in words
do $$
begin
  perform posthaste.explain(99);
  raise 'explained what is not there' using errcode = 'assert_failure';
exception when no_data_found then
  assert sqlerrm = 'there is no event 99 in the outbox';
end $$;
