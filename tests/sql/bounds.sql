-- What is written is bounded, and each refusal says what would be right.

create function pg_temp.fails(statement text, says text) returns void language plpgsql as $$
declare
  said text;
begin
  begin
    execute statement;
  exception when others then
    said := sqlerrm;
  end;
  if said is null then
    raise exception 'taken: %', left(statement, 200) using errcode = 'assert_failure';
  elsif strpos(said, says) = 0 then
    raise exception '%: %', left(statement, 200), left(said, 200) using errcode = 'assert_failure';
  end if;
end $$;

-- ── events ──────────────────────────────────────────────────────────────────────────────────────

create function pg_temp.event_fails(with_what text, says text) returns void language sql as $$
  select pg_temp.fails(format('insert into posthaste.outbox (event_type, payload, %s) values (''a'', ''{}'', %s)',
                              split_part(with_what, ' = ', 1), split_part(with_what, ' = ', 2)), says);
$$;
select pg_temp.event_fails($$headers = (select jsonb_object_agg('x-h' || g, 'v') from generate_series(1, 65) g)$$, 'headers_are_at_most_64_texts_of_4_kib');
select pg_temp.event_fails($$headers = (select jsonb_object_agg('x-h' || g, 'v') from generate_series(1, 25000) g)$$, 'headers_are_at_most_64_texts_of_4_kib');
select pg_temp.event_fails($$headers = jsonb_build_object('x', repeat('v', 4097))$$, 'headers_are_at_most_64_texts_of_4_kib');
select pg_temp.event_fails($$headers = (select jsonb_object_agg('x' || g, repeat('v', 4000)) from generate_series(1, 5) g)$$, 'headers_are_at_most_64_texts_of_4_kib');
select pg_temp.event_fails($$headers = '{"x": ["a", "b"]}'$$, 'headers_are_at_most_64_texts_of_4_kib');
select pg_temp.event_fails($$headers = '{"x": ["a"]}'$$, 'headers_are_at_most_64_texts_of_4_kib');
select pg_temp.event_fails($$headers = '{"x": null}'$$, 'headers_are_at_most_64_texts_of_4_kib');
select pg_temp.event_fails($$tenant = repeat('t', 257)$$, 'event_type_tenant_and_keys_have_1_to_256_characters');
select pg_temp.event_fails($$tenant = repeat('t', 20000000)$$, 'event_type_tenant_and_keys_have_1_to_256_characters');
select pg_temp.event_fails($$tenant = ''$$, 'event_type_tenant_and_keys_have_1_to_256_characters');
select pg_temp.event_fails($$deliver_at = 'infinity'$$, 'deliver_at_and_expires_at_are_finite');
select pg_temp.event_fails($$deliver_at = '-infinity'$$, 'deliver_at_and_expires_at_are_finite');
select pg_temp.event_fails($$expires_at = 'infinity'$$, 'deliver_at_and_expires_at_are_finite');
select pg_temp.event_fails($$headers = '{"bad name": "x"}'$$, 'headers_are_at_most_64_texts_of_4_kib');
select pg_temp.event_fails($$headers = '{"x": "a\nb"}'$$, 'headers_are_at_most_64_texts_of_4_kib');
select pg_temp.event_fails($$headers = '{"": "x"}'$$, 'headers_are_at_most_64_texts_of_4_kib');
select pg_temp.event_fails($$headers = '{"X-A": "1", "x-a": "2"}'$$, 'headers_are_at_most_64_texts_of_4_kib');
select pg_temp.event_fails($$headers = '{"Webhook_Signature": "1"}'$$, 'the header Webhook_Signature is webhook-signature to receivers that read every sign as a hyphen, and that one is the relay''s: choose another name');
select pg_temp.event_fails($$headers = '{"x": "1", "Content_Length": "1"}'$$, 'the header Content_Length is content-length to receivers');
select pg_temp.event_fails($$headers = '{"content.type": "1"}'$$, 'the header content.type is content-type to receivers');
insert into posthaste.outbox (event_type, payload, headers)
values ('a', '{}', '{"webhook-id": "1", "content-type": "text/plain", "X_Mine": "1", "webhooks": "2", "traceparent": "3"}');
insert into posthaste.outbox (event_type, payload, tenant, headers, deliver_at, expires_at)
values ('a', '{}', repeat('t', 256), (select jsonb_object_agg('x-h' || g, repeat('v', 200)) from generate_series(1, 64) g),
        '12000-12-31', '12000-12-31');

-- the payload, whatever form it comes in
select pg_temp.fails($$insert into posthaste.outbox (event_type, payload) select 'a', ('[' || repeat('0,', 8388608) || '0]')::json$$,
                     'payload_is_at_most_16777216_bytes');
insert into posthaste.outbox (event_type, payload) select 'a', ('[' || repeat('0,', 8388606) || '0]')::json;
create temporary table compressed (payload json);
insert into compressed select ('[' || repeat('0,', 16800000) || '0]')::json;
do $$
begin
  assert (select pg_column_size(payload) from compressed) < 1000000;
end $$;
select pg_temp.fails('insert into posthaste.outbox (event_type, payload) select ''a'', payload from compressed', 'payload_is_at_most_16777216_bytes');
select posthaste.set_payload_limit(1024);
select pg_temp.fails($$insert into posthaste.outbox (event_type, payload) values ('a', to_json(repeat('x', 1023)))$$, 'payload_is_at_most_1024_bytes');
insert into posthaste.outbox (event_type, payload) values ('a', to_json(repeat('x', 1022)));
select posthaste.set_payload_limit(268435456);
insert into posthaste.outbox (event_type, payload) select 'a', payload from compressed;
select pg_temp.fails('select posthaste.set_payload_limit(0)', 'a payload limit of 0 bytes is out of bounds');
select posthaste_internal.make_partitions(8);
do $$
begin
  assert (select count(*) from pg_constraint where conname ~ '^payload_is_at_most' and conname <> 'payload_is_at_most_268435456_bytes') = 0;
  assert (select count(*) from pg_constraint where conname = 'payload_is_at_most_268435456_bytes') = 11, 'the parent, nine days, the safety net';
end $$;

-- ids are the database's alone
select pg_temp.fails($$insert into posthaste.outbox (id, event_type, payload) overriding system value values (1, 'a', '{}')$$, 'id, created_at and xid are set by the database');
select pg_temp.fails($$insert into posthaste.outbox (id, event_type, payload) overriding system value values (100000, 'a', '{}')$$, 'id, created_at and xid are set by the database');
set posthaste.numbering = 'on';
set role posthaste_producer;
select pg_temp.fails($$insert into posthaste.outbox (id, event_type, payload) overriding system value values (1, 'a', '{}')$$, 'id, created_at and xid are set by the database');
reset role;
reset posthaste.numbering;
-- … and an insert of many rows, or a COPY without them, draws one for each
insert into posthaste.outbox (event_type, payload) values ('a', '1'), ('a', '2'), ('a', '3');
insert into posthaste.outbox (event_type, payload) select 'a', '{}' from generate_series(1, 1000) g order by random();
copy posthaste.outbox (event_type, payload) from program $$printf 'a\t1\na\t2\na\t3\n'$$;

-- a payload in whatever form emit is handed
select posthaste.emit('emitted', '{"b":  1}'), posthaste.emit('emitted', '{"b":  1}'::json),
       posthaste.emit('emitted', jsonb_build_object('b', 1)), posthaste.emit('emitted', jsonb_build_object('b', 1), tenant => 't');
do $$
begin
  assert (select array_agg(coalesce(tenant, '') || payload::text order by id) from posthaste.outbox where event_type = 'emitted')
         = array['{"b":  1}', '{"b":  1}', '{"b": 1}', 't{"b": 1}'];
end $$;

-- ── endpoints ───────────────────────────────────────────────────────────────────────────────────

create function pg_temp.endpoint_fails(with_what text, says text) returns void language sql as $$
  select pg_temp.fails(format('select posthaste.add_endpoint(''https://a.example/'', %s)', with_what), says);
$$;
select pg_temp.fails($$select posthaste.add_endpoint('https://exa mple.com/')$$, 'the url ''https://exa mple.com/'' has white space in it: write %20 for a space');
select pg_temp.fails($$insert into posthaste.endpoints (url) values ('example.com')$$, 'the url ''example.com'' is neither http:// nor https://');
select pg_temp.fails($$select posthaste.add_endpoint('https://a.example:65536/')$$, 'the url''s port 65536 is no number of 1 to 65535');
select pg_temp.fails($$select posthaste.add_endpoint('https://2001:db8::1/')$$, 'write it like hooks.example.com:8443 or [2001:db8::1]:8443');
select pg_temp.fails($$select posthaste.add_endpoint('https://[2001:db8::g]/')$$, 'the host [2001:db8::g] is no IPv6 address: write one like [2001:db8::1]');
select pg_temp.fails($$select posthaste.add_endpoint('https://%zz/')$$, 'the host %zz has a character in it that no host name has');
select pg_temp.fails($$select posthaste.add_endpoint('https://10.0.0.256/')$$, 'the host 10.0.0.256 ends in a number and is no IPv4 address');
select pg_temp.endpoint_fails($$headers => '{"X-A": "1", "x-a": "2"}'$$, 'headers_are_at_most_64_texts');
select pg_temp.endpoint_fails($$headers => '{"Webhook_Signature": "1"}'$$, 'the header Webhook_Signature is webhook-signature to receivers');
select pg_temp.endpoint_fails($$headers => '{"Content_Length": "1"}'$$, 'the header Content_Length is content-length to receivers');
select pg_temp.fails($$update posthaste.endpoints set headers = '{"user.agent": "1"}'$$, 'the header user.agent is user-agent to receivers')
  from posthaste.add_endpoint('https://b.example/', enabled => false);
select pg_temp.endpoint_fails($$headers => '{"Content-Length": "1"}'$$, 'headers_are_at_most_64_texts');
select posthaste.add_endpoint('https://b.example/', headers => '{"X_Mine": "1", "webhooks": "2", "x.content-length": "3"}', enabled => false);
select pg_temp.endpoint_fails($$headers => '{"x": ["a"]}'$$, 'headers_are_at_most_64_texts');
select pg_temp.endpoint_fails($$headers => (select jsonb_object_agg('x' || g, 'v') from generate_series(1, 65) g)$$, 'headers_are_at_most_64_texts');
select pg_temp.endpoint_fails($$tenant => repeat('t', 257)$$, 'tenant_is_1_to_256_characters');
select pg_temp.endpoint_fails($$subscriptions => array[repeat('a', 259)]$$, 'subscriptions_are_at_most_1000');
select pg_temp.endpoint_fails($$subscriptions => (select array_agg('a' || g) from generate_series(1, 1001) g)$$, 'subscriptions_are_at_most_1000');
select pg_temp.endpoint_fails($$schedule => '{0s}'$$, 'schedule_is_1_to_100_delays_of_1_second_to_30_days');
select pg_temp.endpoint_fails($$schedule => '{1s,999ms}'$$, 'schedule_is_1_to_100_delays_of_1_second_to_30_days');
select pg_temp.endpoint_fails($$description => repeat('x', 4097)$$, 'description_is_at_most_4096_characters');
select pg_temp.endpoint_fails($$metadata => to_jsonb(repeat('x', 65536))$$, 'metadata_is_at_most_64_kib');

-- filters: what is a predicate, has a variable, or takes time out of proportion
select pg_temp.endpoint_fails($$filter => '$.total_cents > 100000'$$, 'write it as $ ? (…), like $ ? (@.total_cents > 100000)');
select pg_temp.endpoint_fails($$filter => '$.status == "paid" && exists($.total)'$$, 'is true or false');
select pg_temp.endpoint_fails($$filter => '$.name starts with "a"'$$, 'is true or false');
select pg_temp.endpoint_fails($$filter => '!($.a == 1)'$$, 'is true or false');
select pg_temp.endpoint_fails($$filter => 'exists($.a)'$$, 'is true or false');
select pg_temp.endpoint_fails($$filter => 'true'$$, 'is true or false');
select pg_temp.endpoint_fails($$filter => '$'$$, 'does not ask about the payload');
select pg_temp.endpoint_fails($$filter => 'strict $'$$, 'does not ask about the payload');
select pg_temp.endpoint_fails($$filter => '1'$$, 'does not ask about the payload');
select pg_temp.endpoint_fails($$filter => '"x"'$$, 'does not ask about the payload');
select pg_temp.endpoint_fails($$filter => '$.type()'$$, 'does not ask about the payload');
select pg_temp.endpoint_fails($$filter => '$.**'$$, 'does not ask about the payload');
select pg_temp.endpoint_fails($$filter => '1 ? (@ == 2)'$$, 'does not ask about the payload');
select pg_temp.endpoint_fails($$filter => 'strict $ ? (1 == 1)'$$, 'does not ask about the payload');
select pg_temp.endpoint_fails($$filter => '$ ? (@.total > $min)'$$, 'has a variable in it');
select pg_temp.endpoint_fails($$filter => '$.**.a.**.b'$$, 'more than one **');
select pg_temp.endpoint_fails(format('filter => %L', '$' || repeat('.**', 200)), 'more than one **');
select pg_temp.endpoint_fails(format('filter => %L', '$ ? (' || repeat('@.aaaaaaaaaaaa == 1 || ', 100) || '@.b == 1)'), 'characters; 2048 are the most');
select pg_temp.fails($$update posthaste.endpoints set filter = '$.a > 1'$$, 'is true or false') from posthaste.add_endpoint('https://b.example/', enabled => false);
do $$
declare
  good jsonpath;
begin
  foreach good in array array['$ ? (@.total_cents > 100000)', '$.a', 'strict $.a ? (@ > 1)', '$.items[*] ? (@.price > 10)',
                              '$.** ? (@ == "**")', '$ ? (!exists(@.test))', '$ ? ($.a == 1)', '$.a ? (1 == 1)', '$.type() ? (@ == "array")', '$ ? (@.name == "$min")', '$.a * $.b', '$.flag',
                              '$ ? (@.at.datetime() > "2024-01-01".datetime())']::jsonpath[] loop
    perform posthaste.add_endpoint('https://c.example/', filter => good, enabled => false);
  end loop;
end $$;

-- what a filter raises is no match, and said
do $$
begin
  assert posthaste_internal.filter_matches('{"at": "2025-01-01T00:00:00+00:00"}', '$ ? (@.at.datetime() > "2024-01-01".datetime())');
  assert not posthaste_internal.filter_matches('{"a": 1}', '$ ? (@.a > $min)');
  assert posthaste_internal.filter_failure('{"a": 1}', '$ ? (@.a > $min)') like '%could not find jsonpath variable%';
  assert posthaste_internal.filter_failure('{"a": "\u0000"}', '$.a') is not null;
  assert posthaste_internal.filter_failure('{"a": 1}', '$.a') is null;
  -- what fails in silence is no match either, and says why
  assert posthaste_internal.filter_matches('{"a": 1}', 'strict $.a.b.c') = false;
  assert posthaste_internal.filter_failure('{"a": 1}', 'strict $.a.b.c') is not null;
  assert posthaste_internal.filter_matches('{"a": 1}', '$.a / 0') = false;
  assert posthaste_internal.filter_failure('{"a": 1}', '$.a / 0') = 'division by zero';
end $$;

select pg_temp.fails($$select posthaste.rotate_secret(min(id), keep_old_for => '10000 years') from posthaste.endpoints$$, 'keep_old_for is 0 to 1 year');
select pg_temp.fails($$update posthaste.endpoint_secrets set expires_at = 'infinity'$$, 'expires_at_is_a_date_before_2200');
select posthaste.rotate_secret(min(id), keep_old_for => '1 year'), posthaste.rotate_secret(min(id), keep_old_for => '365 days')
  from posthaste.endpoints;

-- ── rules ───────────────────────────────────────────────────────────────────────────────────────

create function pg_temp.rule_fails(with_what text, says text) returns void language sql as $$
  select pg_temp.fails(format('insert into posthaste.rules (name, %s, action) values (''r'', %s, ''dead'')',
                              split_part(with_what, ' = ', 1), split_part(with_what, ' = ', 2)), says);
$$;
select pg_temp.rule_fails($$cause = 'tls_expried'$$, 'rule r: cause tls_expried is not known: write one of resolve, connect, tls, headers, dns, ');
select pg_temp.rule_fails($$outcome = 'answred'$$, 'rule r: outcome answred is not known: write answered, timed_out, unreachable or refused');
select pg_temp.fails($$insert into posthaste.rules (name, cause, action) values ('r', 'dns', 'forget')$$, 'rule r: action forget is not known: write retry, dead, disable_endpoint, delete_endpoint or delivered');
set role posthaste_operator;
insert into posthaste.rules (name, cause, action) values ('every failure of TLS', 'tls', 'dead');
select posthaste.add_endpoint('https://bücher.example:8443/', filter => '$ ? (@.a == 1)', enabled => false);
insert into posthaste.endpoints (url, enabled) values ('https://[2001:db8::1]/', false);
reset role;

-- ── what cannot be announced ────────────────────────────────────────────────────────────────────

select posthaste.add_endpoint('https://owner.example/', '{posthaste.endpoint.disabled}');
select posthaste.add_endpoint('https://d.example/', description => 'about');
alter table posthaste.outbox add constraint not_ours check (event_type not like 'posthaste.%');
set client_min_messages = error;
select posthaste.disable_endpoint(max(id)) from posthaste.endpoints;
reset client_min_messages;
do $$
begin
  assert (select not enabled from posthaste.endpoints order by id desc limit 1), 'it is disabled all the same';
  assert (select is_called and last_value = 1 from posthaste.announcements_dropped), 'and the announcement is counted';
end $$;
alter table posthaste.outbox drop constraint not_ours;
select posthaste.enable_endpoint(max(id)), posthaste.disable_endpoint(max(id)) from posthaste.endpoints;
do $$
begin
  assert exists (select from posthaste.outbox where event_type = 'posthaste.endpoint.disabled');
end $$;

-- ── what doctor says ────────────────────────────────────────────────────────────────────────────

create temporary table said as execute doctor_work(15);
do $$
begin
  assert (select state = 'warning' and said.detail = '1 dropped since the schema was made' from said where "check" = 'announcements');
  assert (select state = 'ok' from said where "check" = 'filters');
end $$;
drop table said;
alter table posthaste.endpoints disable trigger endpoints_are_checked;
insert into posthaste.endpoints (url, subscriptions, filter) values ('https://e.example/', '{emitted}', '$ ? (@.b > $min)');
create temporary table said as execute doctor_work(15);
do $$
begin
  assert (select state = 'warning' and said.detail like 'failing, so these events are not owed: endpoint %, event %: could not find jsonpath variable "min"'
            from said where "check" = 'filters');
end $$;
