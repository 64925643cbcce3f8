-- Endpoints: the places that are owed events, their secrets, and how they have been doing.

create sequence posthaste.revision;
comment on sequence posthaste.revision is
  'Numbers every change of an endpoint, a secret or a rule, so that a relay can tell that its cached copy is old.';

create function posthaste_internal.are_subscriptions(patterns text[]) returns boolean
  language sql immutable strict parallel safe
  return (select bool_and(coalesce(p ~ '^(\*|[^\s.*]+(\.[^\s.*]+)*(\.\*)?)$' and length(p) <= 258, false))
                 and count(*) <= 1000
            from unnest(patterns) p);
comment on function posthaste_internal.are_subscriptions is
  'Whether these are at most 1,000 subscriptions: *, order.* or order.paid.';

-- Refuses headers that the relay would never send.
create function posthaste_internal.are_endpoint_headers(headers jsonb) returns boolean
  language sql immutable strict parallel safe
  return jsonb_typeof(headers) = 'object' and (
    select coalesce(bool_and(
             jsonb_typeof(value) = 'string'
             and key ~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]{1,128}$'
             and (value #>> '{}') ~ '^[\x20-\x7e\x80-\U0010FFFF\t]*$'
             and octet_length(value #>> '{}') <= 4096
             and not posthaste_internal.is_header_of_the_relay(key)), true)
           and count(*) <= 64
           and count(*) = count(distinct regexp_replace(lower(key), '[^a-z0-9]', '-', 'g'))
           and coalesce(sum(octet_length(key) + octet_length(value #>> '{}')), 0) <= 16384
      from jsonb_each(case when jsonb_typeof(headers) = 'object' then headers else '{}' end));
comment on function posthaste_internal.are_endpoint_headers is
  'Whether this is {"name": "value"} with at most 64 names, each once in whatever case and with whatever signs, and values of at most 4 KiB, 16 KiB in all, that HTTP allows (no CR, LF or control characters) and none of the names that the relay sets itself or that belong to one hop.';

create function posthaste_internal.are_delays(delays interval[]) returns boolean
  language sql immutable strict parallel safe
  return cardinality(delays) between 1 and 100 and array_position(delays, null) is null
     and (select bool_and(d between interval '1 s' and interval '30 days') from unnest(delays) d);
comment on function posthaste_internal.are_delays is 'Whether these are 1 to 100 delays of 1 second to 30 days.';

-- As the relay reads a host (src/outbound/target.rs, WHATWG's rules), but for what only the tables of IDNA tell.
create function posthaste_internal.host_problem(host text) returns text
  language plpgsql immutable parallel safe
  set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
declare
  name text;
  part text;
  base integer;
  digits text;
  value numeric;
  parts text[];
begin
  if host like '[%' then
    begin
      if host ~ '^\[[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*\]$' then
        perform substr(host, 2, length(host) - 2)::inet;
        return null;
      end if;
    exception when invalid_text_representation then
      null;
    end;
    return format('the host %s is no IPv6 address: write one like [2001:db8::1]', host);
  end if;
  begin
    select convert_from(decode(string_agg(case when m[1] ~ '^%.' then substr(m[1], 2) else encode(convert_to(m[1], 'UTF8'), 'hex') end,
                                          '' order by n), 'hex'), 'UTF8')
      into name
      from regexp_matches(host, '%[0-9A-Fa-f]{2}|.', 'g') with ordinality r(m, n);
  exception when character_not_in_repertoire or untranslatable_character then
    return format('the host %s is not UTF-8 once %% and two digits are read as a byte', host);
  end;
  -- A full stop of East Asia parts labels too; a soft hyphen and its like are passed over.
  name := translate(lower(normalize(name, NFKC)), chr(12290) || chr(173) || chr(8203) || chr(8288) || chr(65279), '.');
  if coalesce(name, '') = '' then
    return 'the url names no host: write one like https://hooks.example.com/';
  elsif name ~ '[\x01-\x20"#%/:<>?@[\\\]^`{|}\x7f-\x9f\ufffd]' then
    return format('the host %s has a character in it that no host name has', host);
  elsif name ~ '(^|\.)xn--(\.|$)' then
    return format('the host %s has a label in it that is Punycode of nothing', host);
  elsif name ~ '(^|\.)([0-9]+|0x[0-9a-f]*)\.?$' then
    -- A host that ends in a number is an IPv4 address, in any of its old spellings, or nothing.
    parts := string_to_array(regexp_replace(name, '\.$', ''), '.');
    for n in 1 .. cardinality(parts) loop
      part := parts[n];
      base := case when part like '0x%' then 16 when part like '0_%' then 8 else 10 end;
      digits := ltrim(case base when 16 then substr(part, 3) else part end, '0');
      select coalesce(sum((strpos('0123456789abcdef', d) - 1) * base::numeric ^ (length(digits) - place)), 0) into value
        from regexp_split_to_table(left(digits, 12), '') with ordinality r(d, place);
      if part = '' or length(digits) > 11 or cardinality(parts) > 4
         or digits !~ (case base when 16 then '^[0-9a-f]*$' when 8 then '^[0-7]*$' else '^[0-9]*$' end)
         or value >= (case when n < cardinality(parts) then 256 else 256::numeric ^ (5 - n) end) then
        return format('the host %s ends in a number and is no IPv4 address', host);
      end if;
    end loop;
  end if;
  return null;
end $$;
comment on function posthaste_internal.host_problem is 'The fault of a URL''s host, in a sentence. Null: none.';

create function posthaste_internal.without_query(url text) returns text
  language sql immutable parallel safe
  return regexp_replace(url, '([?#]).*', '\1…');
comment on function posthaste_internal.without_query is
  'A URL up to its query, where receivers have tokens: https://a.example/hook?… says that there is one.';

-- A constraint can only be named; check_endpoint and add_endpoint answer with these sentences.
create function posthaste_internal.url_problem(url text) returns text
  language plpgsql immutable parallel safe
  set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
declare
  authority constant text := substring(url from '^[^:]*://([^/?#]*)');
  place constant text[] := regexp_match(authority, '^(\[[^]]*\]|[^]:[]*)(?::([^:]*))?$');
  port constant text := ltrim(place[2], '0');
  target constant text := substring(url from '^[^:]*://[^/?#]*([^#]*)');
  -- What is raised stands in the server's log: no query, no password.
  shown constant text := regexp_replace(posthaste_internal.without_query(url), '//[^/]*@', '//…@');
begin
  return case
    when url is null or url = '' then 'an endpoint needs a url: http or https, a host, and what follows'
    when octet_length(url) > 4096 then format('the url has %s bytes; 4096 are the most', octet_length(url))
    when url ~ '\s' then format('the url %L has white space in it: write %%20 for a space', shown)
    when url !~* '^https?://' then format('the url %L is neither http:// nor https://', shown)
    when authority = '' then format('the url %L names no host', shown)
    when authority ~ '@' then 'the url has a user or a password in it: put an Authorization header into headers'
    when url ~ '[\\[:cntrl:]]' then 'the url has a backslash or a control character in it'
    when place is null then
      format('the url''s %s is no host with a port: write it like hooks.example.com:8443 or [2001:db8::1]:8443', authority)
    when place[2] <> '' and (place[2] !~ '^[0-9]+$' or port = '' or length(port) > 5 or port > '65535' and length(port) = 5) then
      format('the url''s port %s is no number of 1 to 65535', place[2])
    when octet_length(target) * 3 - 2 * length(regexp_replace(target, '[^\x01-\x7f]', '', 'g')) > 4096 then
      'the url has more than 4096 bytes once it is percent-encoded, and 4096 are the most'
    else posthaste_internal.host_problem(place[1])
  end;
end $$;
comment on function posthaste_internal.url_problem is 'The fault of an endpoint''s URL, in a sentence. Null: none.';

-- A predicate ($.total > 1) always yields one truth value, and $, $.type() or 1 always yield something: they would
-- match every event. A path with several ** takes time that grows with a power of the payload. A variable has no
-- value here.
create function posthaste_internal.filter_problem(filter jsonpath) returns text
  language plpgsql immutable parallel safe
  set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
declare
  bare constant text := regexp_replace(filter::text, '"(\\.|[^"\\])*"', '""', 'g');
begin
  if length(filter::text) > 2048 then
    return format('the filter has %s characters; 2048 are the most', length(filter::text));
  elsif bare ~ '\$""' then
    return 'the filter has a variable in it, which nothing gives a value';
  elsif length(bare) - length(replace(bare, '**', '')) > 2 then
    return 'the filter has more than one ** in it';
  elsif (select bool_and(count = 1 and kind in ('boolean', 'null'))
           from unnest(array['null', '1', '{}', '[]']::jsonb[]) sample
           cross join lateral (select count(*), min(jsonb_typeof(item)) as kind
                                 from jsonb_path_query_tz(sample, filter, silent => true) item) found) then
    return format('the filter %s is true or false, so it always yields something: write it as $ ? (…), like $ ? (@.total_cents > 100000)', filter);
  -- Only paths without a condition on the payload: $ ? (!exists(@.test)) yields something for all of these samples,
  -- and is right.
  elsif bare !~ '\$'
        or (bare !~ '\?' or bare !~ '@' and bare !~ '\$.*\$')
           and (select bool_and(jsonb_path_exists_tz(sample, filter, silent => true) is true)
                  from unnest(array['null', 'true', '1', '"x"', '{}', '[]']::jsonb[]) sample) then
    return format('the filter %s does not ask about the payload, so it matches every event or none: write it as $ ? (…), like $ ? (@.total_cents > 100000), or leave it out', filter);
  end if;
  return null;
exception when others then
  return format('the filter %s fails: %s', filter, sqlerrm);
end $$;
comment on function posthaste_internal.filter_problem is 'The fault of an endpoint''s filter, in a sentence. Null: none.';

create table posthaste.endpoints (
  id              bigint      generated always as identity primary key,
  url             text        not null,
  subscriptions   text[]      not null default '{*}',
  tenant          text,
  filter          jsonpath,
  enabled         boolean     not null default true,
  hold            boolean     not null default false,
  disabled_at     timestamptz,
  disabled_reason text,
  body_format     text        not null default 'standard',
  headers         jsonb       not null default '{}',
  timeout         interval,
  max_attempts    integer,
  schedule        interval[],
  max_concurrency integer,
  rate_limit      double precision,
  ordered         boolean     not null default false,
  on_dead         text        not null default 'block',
  description     text,
  metadata        jsonb       not null default '{}',
  revision        bigint      not null default nextval('posthaste.revision'),
  created_at      timestamptz not null default now(),
  updated_at      timestamptz not null default now(),
  changed_in      xid8,
  constraint url_is_http_or_https check (url ~* '^https?://[^\s/?#]+[^\s]*$'),
  constraint url_has_no_user_or_password check (url !~ '^[^/]*//[^/?#]*@'),
  constraint url_has_no_backslash_or_control_character check (url !~ '[\\[:cntrl:]]'),
  constraint url_is_at_most_4096_bytes check (octet_length(url) <= 4096),
  constraint filter_is_at_most_2048_characters check (length(filter::text) <= 2048),
  constraint at_least_one_subscription check (cardinality(subscriptions) >= 1),
  constraint subscriptions_are_at_most_1000_of_star_prefix_or_exact check (posthaste_internal.are_subscriptions(subscriptions)),
  constraint tenant_is_1_to_256_characters check (length(tenant) between 1 and 256),
  constraint body_format_is_standard_event_payload_raw_or_cloudevents
    check (body_format in ('standard', 'event_payload', 'raw', 'cloudevents')),
  constraint headers_are_at_most_64_texts_that_replace_none_of_ours check (posthaste_internal.are_endpoint_headers(headers)),
  constraint timeout_is_100_ms_to_10_minutes check (timeout between '100 ms' and '10 minutes'),
  constraint max_attempts_is_1_to_1000 check (max_attempts between 1 and 1000),
  constraint schedule_is_1_to_100_delays_of_1_second_to_30_days check (posthaste_internal.are_delays(schedule)),
  constraint max_concurrency_is_1_to_10000 check (max_concurrency between 1 and 10000),
  constraint rate_limit_is_more_than_0_a_second check (rate_limit > 0 and rate_limit <= 1000000),
  constraint on_dead_is_block_or_skip check (on_dead in ('block', 'skip')),
  constraint description_is_at_most_4096_characters check (length(description) <= 4096),
  constraint metadata_is_at_most_64_kib check (pg_column_size(metadata) <= 256 or octet_length(metadata::text) <= 65536),
  constraint disabled_iff_disabled_at check (enabled = (disabled_at is null))
);
comment on table posthaste.endpoints is 'Places that are owed events. Only url must be given.';
comment on column posthaste.endpoints.id is 'Number of the endpoint, given by the database.';
comment on column posthaste.endpoints.url is
  'Where to POST: https, unless the relay''s addresses.allow_http opens the host; no user or password in it.';
comment on column posthaste.endpoints.subscriptions is
  'Event-type patterns, at least one: * (everything), order.* (order.paid, order.paid.eu), order.paid.';
comment on column posthaste.endpoints.tenant is 'Gets this tenant''s events only. Null: every tenant''s.';
comment on column posthaste.endpoints.filter is
  'SQL/JSON path on the payload, at most 2,048 characters; the event is owed if it yields anything: $ ? (@.total > 100). A predicate ($.total > 100) is refused, since it always yields true or false; so is a path that asks nothing ($), since it matches every event. Where it fails on a payload, the event is not owed, and explain says so.';
comment on column posthaste.endpoints.enabled is
  'Whether the relay sends to it. While false, pending deliveries wait, and hold says what becomes of new events.';
comment on column posthaste.endpoints.hold is
  'Decides about events that come while it is disabled. True: they wait for it. False: they are not owed to it; replay with states ''{never}'' brings them.';
comment on column posthaste.endpoints.disabled_at is 'Since when it has been disabled.';
comment on column posthaste.endpoints.disabled_reason is 'Why it has been disabled, and by which role.';
comment on column posthaste.endpoints.body_format is
  'standard {"type","timestamp","data"}, event_payload {"event","payload"}, raw (the payload alone; one that is a text, under the content-type that the event''s headers name) or cloudevents (structured mode).';
comment on column posthaste.endpoints.headers is
  'Extra request headers as {"name": "value"}: at most 64, of at most 4 KiB each and 16 KiB in all. They can replace none of the relay''s.';
comment on column posthaste.endpoints.timeout is 'For one attempt in total. Null: delivery.timeout.';
comment on column posthaste.endpoints.max_attempts is 'Attempts before a delivery is dead. Null: retry.max_attempts.';
comment on column posthaste.endpoints.schedule is
  'Fixed delays between attempts in place of the formula, of 1 second to 30 days each; the last one repeats.';
comment on column posthaste.endpoints.max_concurrency is
  'At most this many requests at once. Null: delivery.max_concurrency.';
comment on column posthaste.endpoints.rate_limit is 'At most this many attempts a second, over all relays. Null: no limit.';
comment on column posthaste.endpoints.ordered is
  'Whether events with an ordering key are delivered one after the other, in the order in which they were committed. Counts for events routed from then on.';
comment on column posthaste.endpoints.description is 'For people; at most 4,096 characters.';
comment on column posthaste.endpoints.metadata is 'The operator''s own facts, at most 64 KiB. Not read by the relay.';
comment on column posthaste.endpoints.revision is 'Changes with every change of the endpoint or its secrets.';
comment on column posthaste.endpoints.created_at is 'When it was added.';
comment on column posthaste.endpoints.updated_at is 'When it was last changed.';
comment on column posthaste.endpoints.on_dead is
  'Where the endpoint is ordered and a delivery of a key is dead: block (the key waits for a call of retry, cancel or unblock) or skip (the next one follows).';
comment on column posthaste.endpoints.changed_in is
  'The transaction that changed it last, whatever savepoints it had. Not yours to set.';

-- ── found by ───────────────────────────────────────────────────────────────────────────────────────

create function posthaste_internal.route_keys(tenant text, subscriptions text[]) returns text[]
  language sql immutable parallel safe
  return (select array_agg(coalesce(route_keys.tenant, '') || ' ' || p) from unnest(subscriptions) p);
comment on function posthaste_internal.route_keys is
  'The keys by which routing finds an endpoint: its tenant (empty for every tenant) and each of its subscriptions.';

-- The keys of an event, by a function that keeps its plan.
--
-- PostgreSQL parses and plans a function in SQL anew in every statement that calls it. Routing calls
-- this one once for each type of event that a look finds, and so most often once: 130 µs of a look
-- that takes 500.
create function posthaste_internal.route_keys_of_event(tenant text, event_type text) returns text[]
  language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  words text[] := string_to_array(event_type, '.');
  beginning text := '';
  patterns text[] := array[event_type];
  keys text[];
  pattern text;
begin
  for n in 1 .. cardinality(words) - 1 loop
    beginning := beginning || words[n] || '.';
    patterns := patterns || (beginning || '*');
  end loop;
  if event_type not like 'posthaste.%' then
    patterns := patterns || '*'::text;
  end if;
  foreach pattern in array patterns loop
    keys := keys || (' ' || pattern);
    if tenant <> '' then
      keys := keys || (tenant || ' ' || pattern);
    end if;
  end loop;
  return keys;
end $$;
comment on function posthaste_internal.route_keys_of_event is
  'The route keys that match an event: for order.paid.eu its own name, order.paid.*, order.* and *, each for its tenant and for every tenant. The relay''s own posthaste.* events are not matched by *.';

create index endpoints_by_route on posthaste.endpoints
  using gin (posthaste_internal.route_keys(tenant, subscriptions)) with (fastupdate = off);

-- An error of a filter concerns its endpoint alone: routing serves all endpoints in one statement.
-- (A statement that is cancelled or times out is not caught.)
create function posthaste_internal.filter_matches(payload json, filter jsonpath) returns boolean
  language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
begin
  -- Null: the filter failed, silently.
  return coalesce(jsonb_path_exists_tz(payload::jsonb, filter, silent => true), false);
exception when others then
  return false;
end $$;
comment on function posthaste_internal.filter_matches is
  'Whether the path yields anything for the payload. It yields nothing where it fails (see filter_failure), or where jsonb cannot hold the payload (\u0000, a number without end). Times without a zone are read as UTC.';

create function posthaste_internal.filter_failure(payload json, filter jsonpath) returns text
  language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
begin
  perform jsonb_path_exists_tz(payload::jsonb, filter);
  return null;
exception when others then
  -- Some errors quote the payload, others the filter.
  return case when strpos(filter::text, substring(sqlerrm from '".*"')) > 0 then sqlerrm
              else regexp_replace(sqlerrm, '".*"', '"…"') end;
end $$;
comment on function posthaste_internal.filter_failure is
  'Why a filter cannot be asked about a payload, without a word of the payload. Null: it can.';

-- ── changes ────────────────────────────────────────────────────────────────────────────────────────

create function posthaste_internal.touch_endpoint() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  new.revision := nextval('posthaste.revision');
  new.updated_at := clock_timestamp();
  new.changed_in := pg_current_xact_id();
  if new.enabled then
    new.disabled_at := null;
    new.disabled_reason := null;
  else
    new.disabled_at := coalesce(new.disabled_at, clock_timestamp());
    new.disabled_reason := coalesce(new.disabled_reason, 'disabled by ' || session_user);
  end if;
  return new;
end $$;
comment on function posthaste_internal.touch_endpoint is 'Gives a changed endpoint its revision, and a disabled one its time and reason.';

create function posthaste_internal.check_endpoint() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  url_problem constant text := posthaste_internal.url_problem(new.url);
  filter_problem constant text := posthaste_internal.filter_problem(new.filter);
  header_problem constant text := posthaste_internal.header_problem(new.headers);
begin
  if url_problem is not null then
    raise exception '%', url_problem using errcode = 'check_violation', constraint = 'url_can_be_posted_to';
  elsif filter_problem is not null then
    raise exception '%', filter_problem using errcode = 'check_violation', constraint = 'filter_can_be_asked';
  elsif header_problem is not null then
    raise exception '%', header_problem
      using errcode = 'check_violation', constraint = 'headers_are_at_most_64_texts_that_replace_none_of_ours';
  end if;
  return new;
end $$;
comment on function posthaste_internal.check_endpoint is 'Refuses an endpoint whose URL, filter or headers cannot work, in a sentence.';

create trigger endpoints_are_checked
  before insert or update of url, filter, headers on posthaste.endpoints
  for each row execute function posthaste_internal.check_endpoint();

create trigger endpoints_are_touched
  before insert or update on posthaste.endpoints
  for each row execute function posthaste_internal.touch_endpoint();

-- PostgreSQL puts a row that a constraint refuses into the error (DETAIL: Failing row contains …), and so into the
-- server's log. Headers and secrets are no business of the log. So this trigger, the last before PostgreSQL looks,
-- refuses in the same words without the row. It reads the constraints where they are declared, and so knows each of
-- them. (*Measured*: 0.3 ms a row.)
create function posthaste_internal.refuse_without_the_row() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  cases text;
  missing name;
  broken name;
begin
  select format('case %s end, case %s end',
    (select string_agg(format('when %I is null then %L', a.attname, a.attname), ' ' order by a.attnum)
       from pg_attribute a where a.attrelid = tg_relid and a.attnum > 0 and a.attnotnull),
    (select string_agg(format('when (%s) is false then %L', pg_get_expr(c.conbin, c.conrelid), c.conname), ' ' order by c.conname)
       from pg_constraint c where c.conrelid = tg_relid and c.contype = 'c')) into cases;
  execute format('select %s from (select ($1).*) r', cases) into missing, broken using new;
  if missing is not null then
    raise exception 'null value in column "%" of relation "%" violates not-null constraint', missing, tg_table_name
      using errcode = 'not_null_violation', schema = tg_table_schema, table = tg_table_name, column = missing;
  elsif broken is not null then
    raise exception 'new row for relation "%" violates check constraint "%"', tg_table_name, broken
      using errcode = 'check_violation', schema = tg_table_schema, table = tg_table_name, constraint = broken;
  end if;
  return new;
end $$;
comment on function posthaste_internal.refuse_without_the_row is
  'Refuses what the constraints of its table refuse, without showing the row: it holds secrets.';

create trigger endpoints_refuse_without_the_row
  before insert or update on posthaste.endpoints
  for each row execute function posthaste_internal.refuse_without_the_row();

-- A relay may have claimed much for the endpoint already, and heeds the change before it sends the next of it.
create function posthaste_internal.tell_of_change() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_notify('posthaste', 'endpoint ' || old.id);
  return null;
end $$;
comment on function posthaste_internal.tell_of_change is
  'Tells the relays when the transaction commits that an endpoint or its secrets have changed, or that it is gone.';

create trigger endpoints_tell_of_their_changes
  after update or delete on posthaste.endpoints
  for each row execute function posthaste_internal.tell_of_change();

-- ── secrets ────────────────────────────────────────────────────────────────────────────────────────

create table posthaste.endpoint_secrets (
  id          bigint      generated always as identity primary key,
  endpoint_id bigint      not null references posthaste.endpoints on delete cascade,
  secret      text        not null,
  created_at  timestamptz not null default now(),
  expires_at  timestamptz,
  constraint expires_at_is_a_date_before_2200
    check (expires_at > '-infinity' and expires_at < timestamptz '2200-01-01 00:00:00+00'),
  constraint secret_is_whsec_of_24_to_75_bytes_or_whsk_of_32_or_64
    check (secret ~ '^whsec_([A-Za-z0-9+/]{4}){7,24}([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)$'
           and length(rtrim(secret, '=')) >= 38
           or secret ~ '^whsk_([A-Za-z0-9+/]{43}=|[A-Za-z0-9+/]{86}==)$')
);
comment on table posthaste.endpoint_secrets is
  'Signing secrets, several per endpoint while one replaces another: all that have not expired sign. Only the owner and the relay''s role read them.';
comment on column posthaste.endpoint_secrets.id is 'Number of the secret.';
comment on column posthaste.endpoint_secrets.endpoint_id is 'The endpoint whose requests it signs.';
comment on column posthaste.endpoint_secrets.secret is
  'whsec_ and base64 of 24 to 75 bytes (HMAC-SHA256, v1), or whsk_ and base64 of an ed25519 seed, with or without its public key (v1a).';
comment on column posthaste.endpoint_secrets.created_at is 'When it was added.';
comment on column posthaste.endpoint_secrets.expires_at is 'From then on it no longer signs. Null: it does not expire.';

create index endpoint_secrets_by_endpoint on posthaste.endpoint_secrets (endpoint_id);

create trigger secrets_are_refused_without_the_row
  before insert or update on posthaste.endpoint_secrets
  for each row execute function posthaste_internal.refuse_without_the_row();

-- Says more than the constraint does, and before anything is written.
create function posthaste_internal.check_secret(secret text) returns void
  language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  bytes integer;
begin
  begin
    bytes := length(decode(substr(secret, strpos(secret, '_') + 1), 'base64'));
  exception when invalid_parameter_value then
    bytes := 0;
  end;
  if not coalesce((secret ~ '^whsec_[A-Za-z0-9+/]{32,100}={0,2}$' and bytes between 24 and 75)
                  or (secret ~ '^whsk_[A-Za-z0-9+/]{43,86}={1,2}$' and bytes in (32, 64)), false) then
    raise exception 'this is not a signing secret' using errcode = 'invalid_parameter_value',
      hint = 'whsec_ and base64 of 24 to 75 bytes, or whsk_ and base64 of an ed25519 seed (32 bytes) or key pair (64).';
  end if;
end $$;
comment on function posthaste_internal.check_secret is 'An error, without the text, if this is not a signing secret.';

create function posthaste_internal.generate_secret() returns text
  language sql volatile parallel safe set search_path = pg_catalog, pg_temp
  return 'whsec_' || encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
                                   || uuid_send(gen_random_uuid())), 'base64');
comment on function posthaste_internal.generate_secret is
  'A new HMAC secret of 32 bytes. gen_random_uuid draws 122 bits from the server''s strong random source; three are hashed to 256.';

create function posthaste_internal.give_secret() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into posthaste.endpoint_secrets (endpoint_id, secret) values (new.id, posthaste_internal.generate_secret());
  return null;
end $$;
comment on function posthaste_internal.give_secret is 'Every endpoint has a secret from its first moment.';

create trigger endpoints_have_a_secret
  after insert on posthaste.endpoints
  for each row execute function posthaste_internal.give_secret();

create function posthaste_internal.touch_endpoint_of_secret() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  update posthaste.endpoints set updated_at = clock_timestamp()
   where id in (new.endpoint_id, old.endpoint_id);
  return null;
end $$;
comment on function posthaste_internal.touch_endpoint_of_secret is 'A changed secret is a changed endpoint.';

create trigger secrets_touch_their_endpoint
  after insert or update or delete on posthaste.endpoint_secrets
  for each row execute function posthaste_internal.touch_endpoint_of_secret();

-- ── health ─────────────────────────────────────────────────────────────────────────────────────────

create table posthaste.endpoint_health (
  endpoint_id          bigint      primary key references posthaste.endpoints on delete cascade,
  state                text        not null default 'flowing',
  consecutive_failures integer     not null default 0,
  failing_since        timestamptz,
  pauses               integer     not null default 0,
  paused_until         timestamptz,
  last_success_at      timestamptz,
  last_failure_at      timestamptz,
  recent_successes     double precision not null default 0,
  recent_failures      double precision not null default 0,
  recent_duration_ms   double precision not null default 0,
  updated_at           timestamptz not null default now(),
  consecutive_rejections integer   not null default 0,
  trouble              text,
  reason               text,
  window_at            timestamptz,
  window_size          smallint,
  normal_duration_ms   real,
  constraint trouble_is_failing_rejecting_or_refused check (trouble in ('failing', 'rejecting', 'refused')),
  constraint state_is_flowing_paused_or_probing check (state in ('flowing', 'paused', 'probing')),
  constraint paused_iff_paused_until check ((state = 'paused') = (paused_until is not null)),
  constraint window_is_whole_of_1_to_10000_and_a_normal_time_above_0
    check (num_nulls(window_at, window_size, normal_duration_ms) in (0, 3) and window_size between 1 and 10000
           and normal_duration_ms > 0 and normal_duration_ms < 'Infinity')
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
comment on table posthaste.endpoint_health is
  'How each endpoint has been doing. Written on transitions, and at most about once a second per endpoint.';
comment on column posthaste.endpoint_health.endpoint_id is 'The endpoint.';
comment on column posthaste.endpoint_health.state is
  'flowing; paused (nothing is sent until paused_until); probing (one request is out to see).';
comment on column posthaste.endpoint_health.consecutive_failures is
  'Failed attempts since the last success, without those that were answered with 4xx.';
comment on column posthaste.endpoint_health.failing_since is
  'The first failure since the last success, or the beginning of what pauses it now.';
comment on column posthaste.endpoint_health.pauses is 'Pauses since the last success; each is longer.';
comment on column posthaste.endpoint_health.paused_until is 'When a single probe is sent.';
comment on column posthaste.endpoint_health.last_success_at is 'The last delivered attempt.';
comment on column posthaste.endpoint_health.last_failure_at is 'The last failed attempt.';
comment on column posthaste.endpoint_health.recent_successes is
  'Delivered attempts, each weighing e^(-age/1 h): a moving count of the last hour that needs no history.';
comment on column posthaste.endpoint_health.recent_failures is 'Failed attempts, weighed likewise.';
comment on column posthaste.endpoint_health.recent_duration_ms is
  'Sum of the attempts'' durations in milliseconds, weighed likewise.';
comment on column posthaste.endpoint_health.updated_at is 'When the row was last written: ages refer to this moment.';
comment on column posthaste.endpoint_health.consecutive_rejections is
  'Attempts since the last success that were answered with 4xx (but 408, 410, 425 and 429, which are failures).';
comment on column posthaste.endpoint_health.trouble is
  'The reason for its pause: failing; rejecting (it answers 4xx to every request); refused (by the relay''s own settings). Null while it flows.';
comment on column posthaste.endpoint_health.reason is
  'Why it is paused, in words: the last answer or error, or the setting that would open it.';
comment on column posthaste.endpoint_health.window_at is
  'When a relay last knew its window. Null: no relay has learnt it. A relay begins with half of it for 25 hours.';
comment on column posthaste.endpoint_health.window_size is 'Requests at once that it bore, over all relays.';
comment on column posthaste.endpoint_health.normal_duration_ms is
  'How long an answer takes, in milliseconds, when few requests are in flight.';
