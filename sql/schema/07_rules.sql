-- Rules: how an operator wants outcomes handled.

-- As in src/model/outcome.rs: the phases that may time out, the causes of a failure, the refusals.
create function posthaste_internal.causes() returns text[]
  language sql immutable parallel safe
  return array['resolve', 'connect', 'tls', 'headers',
               'dns', 'connection_refused', 'reset', 'closed', 'no_route', 'tls_expired', 'tls_wrong_name', 'tls_unknown_issuer',
               'protocol', 'proxy', 'io',
               'forbidden_address', 'not_https', 'bad_endpoint', 'bad_event', 'fault'];
comment on function posthaste_internal.causes is 'Every cause that an attempt may have.';

create function posthaste_internal.is_cause(words text) returns boolean
  language sql immutable strict parallel safe
  return (select bool_or(cause = words or starts_with(cause, words || '_')) from unnest(posthaste_internal.causes()) cause);
comment on function posthaste_internal.is_cause is 'Whether this is a cause, or the first words of several.';

create table posthaste.rules (
  id           bigint  generated always as identity primary key,
  name         text    not null unique,
  priority     integer not null default 100,
  enabled      boolean not null default true,
  preset       text    not null default 'custom',
  host         text,
  status       int4range,
  outcome      text,
  cause        text,
  body_pattern text,
  event_type   text,
  action       text    not null,
  description  text,
  constraint name_is_not_empty check (name <> ''),
  constraint action_is_known
    check (action in ('retry', 'dead', 'disable_endpoint', 'delete_endpoint', 'delivered')),
  constraint outcome_is_known
    check (outcome in ('answered', 'timed_out', 'unreachable', 'refused')),
  constraint cause_is_known check (posthaste_internal.is_cause(cause)),
  constraint status_is_within_100_to_999 check (status <@ int4range(100, 1000) and not isempty(status)),
  constraint status_is_not_of_2xx_alone check (not status <@ int4range(200, 300)),
  constraint status_goes_with_outcome_answered check (status is null or coalesce(outcome, 'answered') = 'answered'),
  constraint host_is_a_name_or_star_dot_suffix check (host ~ '^(\*\.)?[^\s*/:@.,][^\s*/:@,]*(,(\*\.)?[^\s*/:@.,][^\s*/:@,]*)*$'),
  constraint event_type_is_a_subscription check (event_type is null or posthaste_internal.are_subscriptions(array[event_type])),
  constraint body_pattern_is_at_most_1024_characters check (length(body_pattern) between 1 and 1024),
  constraint at_least_one_condition
    check (num_nonnulls(host, status, outcome, cause, body_pattern, event_type) > 0)
);
comment on table posthaste.rules is
  'Exceptions from the default verdict. Of the enabled rules whose every condition holds, the one with the lowest priority number decides; a 2xx is delivered before any rule is asked.';
comment on column posthaste.rules.id is 'Number of the rule; breaks ties of priority.';
comment on column posthaste.rules.name is 'Shown in attempts.reason when the rule decided.';
comment on column posthaste.rules.priority is 'Lower comes first.';
comment on column posthaste.rules.enabled is 'Whether the relay asks it.';
comment on column posthaste.rules.preset is 'The set it was loaded with: shipped, keygen, or custom.';
comment on column posthaste.rules.host is 'The endpoint''s host: a name, or *.suffix for every name under it; several with commas between.';
comment on column posthaste.rules.status is 'The response status, as a range: [500,600).';
comment on column posthaste.rules.outcome is 'answered, timed_out, unreachable or refused.';
comment on column posthaste.rules.cause is 'The outcome''s cause, as in attempts: dns, headers, tls_expired, …; or the first words of several: tls stands for tls_expired too.';
comment on column posthaste.rules.body_pattern is
  'Regular expression that the kept part of the response body must contain; (?i) for any case. A dot matches a line break too.';
comment on column posthaste.rules.event_type is 'A subscription that the event''s type must match.';
comment on column posthaste.rules.action is
  'retry (by the schedule), dead, disable_endpoint (and dead), delete_endpoint (and dead), delivered.';
comment on column posthaste.rules.description is 'For people.';

create function posthaste_internal.check_rule() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
declare
  -- The relay matches with Rust's regex, which no body can make run for ever. These patterns leave out what PostgreSQL
  -- reads otherwise (\b, \x41, \<, (?m), [[:<:]], a brace that is no bound) and what regex does not know (look-around,
  -- back-references).
  escape constant text := '\\[dDwWsSntrfv]|\\[!-/:;=?@[-`{-~]';
  class  constant text := '\[\^?([^][\\&~-]|-(?!-)|&(?!&)|~(?!~)|' || escape
    || '|\[:(alnum|alpha|blank|cntrl|digit|graph|lower|print|punct|space|upper|xdigit):\])+\]';
  common constant text := '^(?!\*)(\(\?[is]{1,2}\))?([^[\\({]|\(\?:|\((?!\?)|\{[0-9]{1,3}(,([0-9]{1,3})?)?\}|'
    || escape || '|' || class || ')*$';
  repeats numeric;
  wrong text;
begin
  if new.outcome not in ('answered', 'timed_out', 'unreachable', 'refused') then
    raise exception 'rule %: outcome % is not known: write answered, timed_out, unreachable or refused', new.name, new.outcome
      using errcode = 'check_violation', constraint = 'outcome_is_known';
  elsif not posthaste_internal.is_cause(new.cause) then
    raise exception 'rule %: cause % is not known: write one of %', new.name, new.cause,
                    array_to_string(posthaste_internal.causes(), ', ')
      using errcode = 'check_violation', constraint = 'cause_is_known';
  elsif new.action not in ('retry', 'dead', 'disable_endpoint', 'delete_endpoint', 'delivered') then
    raise exception 'rule %: action % is not known: write retry, dead, disable_endpoint, delete_endpoint or delivered',
                    new.name, new.action
      using errcode = 'check_violation', constraint = 'action_is_known';
  end if;
  begin
    perform '' ~ new.body_pattern;
  exception when invalid_regular_expression then
    wrong := 'is not a regular expression: ' || sqlerrm;
  end;
  if wrong is null and new.body_pattern !~ common then
    wrong := case
      when new.body_pattern ~ '\(\?<?[=!]' then 'has look-around'
      when new.body_pattern ~ '\\[1-9]' then 'has a back-reference'
      else 'has something that the relay''s engine does not know or reads otherwise' end;
  end if;
  if wrong is null then
    -- A repetition is compiled as often as its bound says, a nested one as often as the product of both.
    select exp(sum(ln(greatest(coalesce(nullif(b[2], ''), b[1])::numeric, 1)))) into repeats
      from regexp_matches(regexp_replace(new.body_pattern, '\\.', '', 'g'), '\{([0-9]+)(?:,([0-9]*))?\}', 'g') b;
    if length(new.body_pattern) * coalesce(repeats, 1) > 2000 then
      wrong := 'is too large: its length times its repetitions may be 2000';
    end if;
  end if;
  if wrong is not null then
    raise exception 'rule %: body_pattern %', new.name, wrong
      using errcode = 'check_violation', constraint = 'body_pattern_is_a_regular_expression',
            hint = 'Known are . [a-z] [^a-z] [[:alpha:]] ( ) (?: ) | * + ? {2} {2,} {2,9} ^ $ \d \w \s \D \W \S \n \t \r \f \v, '
                || 'a backslash before punctuation other than < and >, and (?i) at the beginning.';
  end if;
  return new;
end $$;
comment on function posthaste_internal.check_rule is
  'Refuses a rule that the relay could not read, or would read otherwise than PostgreSQL, by its name and in a sentence.';

create trigger rules_are_checked
  before insert or update on posthaste.rules
  for each row execute function posthaste_internal.check_rule();

create sequence posthaste.rules_revision;
comment on sequence posthaste.rules_revision is 'Moves with every change of posthaste.rules; relays read it with each heartbeat.';

create function posthaste_internal.touch_rules() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform nextval('posthaste.rules_revision');
  return null;
end $$;
comment on function posthaste_internal.touch_rules is 'Tells the relays that the rules have changed.';

create trigger rules_touch_their_revision
  after insert or update or delete or truncate on posthaste.rules
  for each statement execute function posthaste_internal.touch_rules();

-- ── presets ────────────────────────────────────────────────────────────────────────────────────────

-- Posthaste's own rules come in presets that one call loads or removes. They are rows: operators may change, disable
-- or delete them.

-- A rule may belong to several presets; it is in the table once.
create function posthaste_internal.rules_of_presets()
  returns table (preset text, name text, priority integer, host text, status int4range, outcome text,
                 cause text, body_pattern text, action text, description text)
  language sql immutable
begin atomic
  select p.preset, d.domain || ': ' || t.name, t.priority, '*.' || d.domain, t.status, 'answered', null::text,
         t.body_pattern, t.action, t.description
    from (values ('shipped'), ('keygen')) p(preset)
    cross join (values ('ngrok.io'), ('ngrok.app'), ('ngrok.dev'), ('ngrok-free.app'), ('ngrok-free.dev')) d(domain)
    cross join (values
      -- "Tunnel x.ngrok.io not found" is the old page, the others are on today's. A developer's own 404 behind a living
      -- tunnel says neither.
      ('no tunnel', 20, '[404,405)'::int4range, '(?i)tunnel .+ not found|endpoint .+ is offline|ERR_NGROK_3200',
       'delete_endpoint', 'A development tunnel that no longer exists.'),
      ('no server behind the tunnel', 30, '[502,503)', null,
       'retry', 'The tunnel stands, and the developer''s server does not run: it may come back.'),
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
comment on function posthaste_internal.rules_of_presets is
  'The rules of each preset: shipped (410 Gone, dead ngrok tunnels), keygen (the same tunnels; timeouts are final, connection errors disable the endpoint, TLS errors are retried).';

create function posthaste_internal.check_preset(preset text) returns void
  language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if preset is null or preset not in (select p.preset from posthaste_internal.rules_of_presets() p) then
    raise exception 'there is no preset %', coalesce(preset, 'null')
      using errcode = 'invalid_parameter_value', hint = 'The presets are shipped and keygen.';
  end if;
end $$;
comment on function posthaste_internal.check_preset is 'An error if there is no such preset.';

create function posthaste.load_rules(preset text) returns integer
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  loaded integer;
begin
  perform posthaste_internal.check_preset(preset);
  insert into posthaste.rules (name, priority, preset, host, status, outcome, cause, body_pattern, action, description)
  select p.name, p.priority, p.preset, p.host, p.status, p.outcome, p.cause, p.body_pattern, p.action, p.description
    from posthaste_internal.rules_of_presets() p where p.preset = load_rules.preset
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
  perform posthaste_internal.check_preset(preset);
  -- A rule that another loaded preset has as well belongs to that one from now on.
  update posthaste.rules r set preset = p.preset
    from posthaste_internal.rules_of_presets() p
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
