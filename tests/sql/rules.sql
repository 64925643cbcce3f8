-- Presets of rules are loaded and removed by one call, and never take away what is not theirs.

do $$
declare
  shipped constant bigint := (select count(*) from posthaste.rules);
begin
  assert shipped = 16 and (select bool_and(preset = 'shipped') from posthaste.rules);
  assert posthaste.load_rules('shipped') = 0, 'loading twice adds rules';
  update posthaste.rules set action = 'dead' where name = 'gone';
  assert posthaste.load_rules('shipped') = 0;
  assert (select action = 'dead' from posthaste.rules where name = 'gone'), 'loading again undid a change';

  -- keygen: timeouts are final, connection errors disable, TLS errors are retried, tunnels as shipped
  assert posthaste.load_rules('keygen') = 11;
  assert posthaste.load_rules('keygen') = 0;
  assert (select action = 'dead' from posthaste.rules where preset = 'keygen' and outcome = 'timed_out' and cause is null);
  assert (select bool_and(action = 'retry') and count(*) = 4 from posthaste.rules where preset = 'keygen' and cause like 'tls%');
  assert (select action = 'disable_endpoint' from posthaste.rules where preset = 'keygen' and cause = 'dns');

  -- what both have stays for the one that is left
  insert into posthaste.rules (name, status, action) values ('mine', '[418,419)', 'dead');
  assert posthaste.unload_rules('shipped') = 1;
  assert (select count(*) = 26 and bool_and(preset = 'keygen') from posthaste.rules where preset <> 'custom');
  assert posthaste.unload_rules('keygen') = 26;
  assert (select array_agg(name) = '{mine}' from posthaste.rules), 'a rule of one''s own was removed';

  -- keygen alone brings the tunnels along
  assert posthaste.load_rules('keygen') = 26;
  assert posthaste.load_rules('shipped') = 1;
  assert posthaste.unload_rules('keygen') = 11;
  assert (select count(*) = 16 from posthaste.rules where preset = 'shipped');
end $$;

-- a developer's own 404 behind a living tunnel does not delete the endpoint
do $$
declare
  pattern constant text := (select body_pattern from posthaste.rules where name = 'ngrok-free.app: no tunnel');
begin
  assert 'Tunnel abcd.ngrok.io not found' ~ pattern;
  assert 'The endpoint abcd.ngrok-free.app is offline.' ~ pattern;
  assert '<p>ERR_NGROK_3200</p>' ~ pattern;
  assert not 'Endpoint /hooks/1 not found' ~ pattern;
  assert not 'Cannot POST /hooks' ~ pattern;
end $$;

do $$
begin
  perform posthaste.load_rules('custom');
  raise 'an unknown preset was loaded' using errcode = 'assert_failure';
exception when invalid_parameter_value then null;
end $$;
