-- The rules that come with Posthaste, in presets that one call loads or removes. They are rows:
-- change, disable or delete them as you like.

-- A rule may belong to several presets; it is in the table once.
create function posthaste.rules_of_presets()
  returns table (preset text, name text, priority integer, host text, status int4range, outcome text,
                 cause text, body_pattern text, action text, description text)
  language sql immutable
begin atomic
  select p.preset, d.domain || ': ' || t.name, t.priority, '*.' || d.domain, t.status, 'answered', null::text,
         t.body_pattern, t.action, t.description
    from (values ('shipped'), ('keygen')) p(preset)
    cross join (values ('ngrok.io'), ('ngrok.app'), ('ngrok.dev'), ('ngrok-free.app'), ('ngrok-free.dev')) d(domain)
    cross join (values
      -- "Tunnel x.ngrok.io not found" is the old page, the others are on today's. A developer's own
      -- 404 behind a living tunnel says neither.
      ('no tunnel', 20, '[404,405)'::int4range, '(?i)tunnel .+ not found|endpoint .+ is offline|ERR_NGROK_3200',
       'delete_endpoint', 'A development tunnel that no longer exists.'),
      ('nobody behind the tunnel', 30, '[502,503)', null,
       'retry', 'The tunnel stands, the developer''s server does not run: it may come back.'),
      ('timed out', 30, '[504,505)', null, 'disable_endpoint', 'The tunnel is dead.')
    ) t(name, priority, status, body_pattern, action, description)
  union all
  values
    ('shipped', 'gone', 10, null, '[410,411)'::int4range, 'answered', null, null, 'disable_endpoint',
     '410 Gone: the receiver says that it wants no more (Standard Webhooks).'),
    ('keygen', 'keygen: timed out', 40, null, null, 'timed_out', null, null, 'dead',
     'A receiver that is too slow is not asked again.')
  union all
  select 'keygen', 'keygen: TLS: ' || cause, 40, null, null, 'unreachable', cause, null, 'retry',
         'A certificate that has expired may be renewed while it is retried.'
    from unnest(array['tls_expired', 'tls_wrong_name', 'tls_unknown_issuer', 'tls']) cause
  union all
  select 'keygen', 'keygen: connection: ' || cause, 40, null, null, 'unreachable', cause, null, 'disable_endpoint',
         'No connection can be had, most often because the name does not resolve: nothing more is spent on it.'
    from unnest(array['dns', 'connection_refused', 'no_route', 'reset', 'closed', 'io']) cause;
end;
comment on function posthaste.rules_of_presets is
  'Private. The rules of each preset: shipped (410 Gone, dead ngrok tunnels), keygen (the same tunnels; timeouts are final, connection errors disable the endpoint, TLS errors are retried).';

create function posthaste.check_preset(preset text) returns void
  language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if preset is null or preset not in (select p.preset from posthaste.rules_of_presets() p) then
    raise exception 'there is no preset %', coalesce(preset, 'null')
      using errcode = 'invalid_parameter_value', hint = 'The presets are shipped and keygen.';
  end if;
end $$;
comment on function posthaste.check_preset is 'Private. An error if there is no such preset.';

create function posthaste.load_rules(preset text) returns integer
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  loaded integer;
begin
  perform posthaste.check_preset(preset);
  insert into posthaste.rules (name, priority, preset, host, status, outcome, cause, body_pattern, action, description)
  select p.name, p.priority, p.preset, p.host, p.status, p.outcome, p.cause, p.body_pattern, p.action, p.description
    from posthaste.rules_of_presets() p where p.preset = load_rules.preset
  on conflict (name) do nothing;
  get diagnostics loaded = row_count;
  return loaded;
end $$;
comment on function posthaste.load_rules is
  'Loads a preset of rules, shipped or keygen, and returns how many rules that added. Rules of the same name stay as they are, so loading twice is harmless and keeps what you have changed.';

create function posthaste.unload_rules(preset text) returns integer
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  removed integer;
begin
  perform posthaste.check_preset(preset);
  -- What another loaded preset has as well is that one's from now on.
  update posthaste.rules r set preset = p.preset
    from posthaste.rules_of_presets() p
   where r.preset = unload_rules.preset and p.name = r.name and p.preset <> unload_rules.preset
     and exists (select from posthaste.rules other where other.preset = p.preset);
  delete from posthaste.rules r where r.preset = unload_rules.preset;
  get diagnostics removed = row_count;
  return removed;
end $$;
comment on function posthaste.unload_rules is
  'Removes the rules of a preset, also those of it that you have changed, except what another loaded preset has as well; returns how many it removed. Rules of your own (preset custom) are never touched.';

do $$
begin
  perform posthaste.load_rules('shipped');
end $$;
