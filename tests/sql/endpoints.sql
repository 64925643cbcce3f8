-- Endpoints are added, disabled, enabled and given other secrets by one call each.

-- Calls fail with this SQLSTATE, in words that name what is wrong and not the secret.
create function pg_temp.fails(statement text, state text, says text default '') returns void language plpgsql as $$
declare
  message text;
  detail text;
  hint text;
begin
  execute statement;
  raise 'did not fail: %', statement using errcode = 'assert_failure';
exception when others then
  if sqlstate = 'P0004' then raise; end if;
  get stacked diagnostics message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
  assert sqlstate = state, format('%s: %s instead of %s: %s', statement, sqlstate, state, message);
  assert message like '%' || says || '%', format('%s: %s', statement, message);
  assert message || detail || hint not like '%c2VjcmV0%', 'the error shows the secret';
end $$;

-- an added endpoint is shown with its secret, generated or one's own
do $$
declare
  a record;
  b record;
  own constant text := 'whsec_' || encode('a secret of more than 24 bytes', 'base64');
begin
  select * into a from posthaste.add_endpoint('https://a.example/hook');
  assert a.endpoint_id is not null and a.secret ~ '^whsec_.{44}$', a::text;
  select * into b from posthaste.add_endpoint('https://b.example/hook', '{order.*}', tenant => 'acme',
    filter => '$ ? (@.total > 100)', secret => own, headers => '{"x-shop": "1"}', body_format => 'raw', timeout => '5 s');
  assert b.secret = own;
  assert (select array_agg(secret) from posthaste.endpoint_secrets where endpoint_id = b.endpoint_id) = array[own];
  assert (select (subscriptions, tenant, filter::text, headers, body_format, timeout)
               = ('{order.*}'::text[], 'acme', '$?(@."total" > 100)', '{"x-shop": "1"}'::jsonb, 'raw', interval '5 s')
            from posthaste.endpoints where id = b.endpoint_id);
end $$;

-- what cannot be an endpoint or a secret is refused in words, and the words are not the secret
select pg_temp.fails($$select posthaste.add_endpoint('ftp://a.example')$$, '23514', 'the url ''ftp://a.example'' is neither');
select pg_temp.fails($$select posthaste.add_endpoint('https://a.example', secret => 'whsec_c2VjcmV0')$$, '22023', 'not a signing secret');
select pg_temp.fails($$select posthaste.add_endpoint('https://a.example', secret => 'whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0A')$$, '22023', 'not a signing secret');
select pg_temp.fails($$select posthaste.rotate_secret(1, new_secret => 'c2VjcmV0')$$, '22023', 'not a signing secret');
select pg_temp.fails($$select posthaste.rotate_secret(1, '-1 s')$$, '22023', 'keep_old_for');

select pg_temp.fails($$select posthaste.add_endpoint('https://a.example', headers => '{"x": "a\r\nb: c"}')$$, '23514', 'headers_are_at_most_64_texts');
select pg_temp.fails($$select posthaste.add_endpoint('https://a.example', headers => '{"Webhook-Id": "1"}')$$, '23514', 'headers_are_at_most_64_texts');

-- an unknown endpoint is an error everywhere
select pg_temp.fails(format('select posthaste.%s', call), 'P0002', 'there is no endpoint') from unnest(array[
  'enable_endpoint(99)', 'disable_endpoint(99)', 'rotate_secret(99)', 'send_test(99)', 'retry(1, 99)',
  'cancel_endpoint(99)', $$replay(99, now() - interval '1 h')$$, 'enable_endpoint(null)']) call;

-- an old secret signs until its time is over, and no longer
do $$
declare
  first constant text := (select secret from posthaste.endpoint_secrets where endpoint_id = 1);
  before constant bigint := (select revision from posthaste.endpoints where id = 1);
  second text;
  third text;
begin
  second := posthaste.rotate_secret(1);
  assert second <> first;
  assert (select expires_at - clock_timestamp() between '23:59' and '24:00' from posthaste.endpoint_secrets where secret = first);
  assert (select expires_at is null from posthaste.endpoint_secrets where secret = second);
  assert (select revision > before from posthaste.endpoints where id = 1), 'relays do not notice';
  -- a longer time for the next one does not lengthen the first one's
  perform posthaste.rotate_secret(1, '48 hours');
  assert (select expires_at < clock_timestamp() + interval '25 hours' from posthaste.endpoint_secrets where secret = first);
  third := posthaste.rotate_secret(1, '0');
  assert (select array_agg(secret) from posthaste.endpoint_secrets where endpoint_id = 1
             and coalesce(expires_at > clock_timestamp(), true)) = array[third], 'an old secret still signs';
  -- the same again: one secret, not two
  assert posthaste.rotate_secret(1, new_secret => third) = third;
  assert (select count(*) = 1 from posthaste.endpoint_secrets where endpoint_id = 1 and secret = third and expires_at is null);
end $$;

-- secrets that still sign are bounded
select posthaste.rotate_secret(1) from generate_series(1, 9);
select pg_temp.fails('select posthaste.rotate_secret(1) from generate_series(1, 3)', '54000', 'secrets that still sign');

-- disabling keeps the first reason, enabling forgets failures and wakes
do $$
begin
  assert posthaste.disable_endpoint(2, 'the owner asked for it');
  assert not posthaste.disable_endpoint(2, 'again');
  assert (select (enabled, disabled_reason) = (false, 'the owner asked for it') and disabled_at is not null from posthaste.endpoints where id = 2);
  assert posthaste.disable_endpoint(1);
  assert (select disabled_reason = 'disabled by ' || session_user from posthaste.endpoints where id = 1);
  insert into posthaste.endpoint_health (endpoint_id, state, consecutive_failures, failing_since, pauses, paused_until, recent_failures)
  values (2, 'paused', 9, now(), 3, now() + interval '1 h', 4);
  assert (select (was, waiting, missed, advice) is not distinct from ('disabled', 0::bigint, 0::bigint, null::text)
            from posthaste.enable_endpoint(2));
  assert (select (enabled, disabled_reason, disabled_at) is not distinct from (true, null::text, null::timestamptz) from posthaste.endpoints where id = 2);
  assert (select (state, consecutive_failures, failing_since, pauses, paused_until, recent_failures)
            is not distinct from ('flowing', 0, null::timestamptz, 0, null::timestamptz, 4::float8)
            from posthaste.endpoint_health where endpoint_id = 2);
  assert (select was = 'flowing' from posthaste.enable_endpoint(2));
end $$;

-- enabling one that is only paused ends the pause and changes its revision
do $$
declare
  before constant bigint := (select revision from posthaste.endpoints where id = 2);
begin
  update posthaste.endpoint_health set state = 'paused', paused_until = now() + interval '1 h' where endpoint_id = 2;
  assert (select was = 'paused' from posthaste.enable_endpoint(2));
  assert (select revision > before from posthaste.endpoints where id = 2);
end $$;
