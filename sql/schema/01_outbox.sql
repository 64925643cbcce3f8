-- Events: what the application writes in its own transaction. Rows are inserted, never changed, and
-- dropped by whole days.

-- The relay leaves out the same names, and the door keeps none that are spelled otherwise (src/model/header.rs).
-- Receivers that speak CGI read every sign as a hyphen, so Content_Length is content-length to them.
create function posthaste_internal.is_header_of_the_relay(name text) returns boolean
  language sql immutable strict parallel safe
  return regexp_replace(lower(name), '[^a-z0-9]', '-', 'g') ~ ('^(webhook-.*|host|content-length|content-type|content-encoding'
           || '|transfer-encoding|connection|keep-alive|proxy-connection|proxy-authenticate|proxy-authorization|te|trailer'
           || '|upgrade|expect|user-agent)$');
comment on function posthaste_internal.is_header_of_the_relay is
  'Whether a receiver may take this header for one that the relay sets itself or that belongs to one hop, in whatever case and with whatever signs.';

create function posthaste_internal.header_problem(headers jsonb) returns text
  language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp as $$
begin
  return (select format('the header %s is %s to receivers that read every sign as a hyphen, and that one is the relay''s: '
                        || 'choose another name',
                        left(name, 100), left(regexp_replace(lower(name), '[^a-z0-9]', '-', 'g'), 100))
            from jsonb_object_keys(case when jsonb_typeof(headers) = 'object' then headers else '{}' end) name
           where name ~ '[^A-Za-z0-9-]' and posthaste_internal.is_header_of_the_relay(name)
           order by name limit 1);
end $$;
comment on function posthaste_internal.header_problem is
  'The first header that is spelled otherwise than one of the relay''s and may be taken for it, in a sentence. Null: none.';

-- The check calls it only for an event that has headers. In SQL each insert would parse its body anew, to see
-- whether it can be put into the check, also for an event without headers (*measured*: 60 µs).
create function posthaste_internal.are_event_headers(headers jsonb) returns boolean
  language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  problem text := posthaste_internal.header_problem(headers);
begin
  if problem is null and not (jsonb_typeof(headers) = 'object' and (
    select coalesce(bool_and(jsonb_typeof(value) = 'string'
                             and octet_length(value #>> '{}') <= 4096
                             and key ~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]{1,128}$'
                             and value #>> '{}' !~ '[[:cntrl:]]'), true)
           and count(*) <= 64
           and count(*) = count(distinct lower(key))
           and coalesce(sum(octet_length(key) + octet_length(value #>> '{}')), 0) <= 16384
      from jsonb_each(case when jsonb_typeof(headers) = 'object' then headers else '{}' end))) then
    problem := 'new row for relation "outbox" violates check constraint "headers_are_at_most_64_texts_of_4_kib_and_16_kib_in_all"';
  end if;
  if problem is not null then
    -- By itself: PostgreSQL would put the row into the error, and so into the server's log, with the first 64 bytes
    -- of headers and payload (DETAIL: Failing row contains …).
    raise exception 'posthaste.outbox: %', problem using errcode = 'check_violation', schema = 'posthaste', table = 'outbox',
      constraint = 'headers_are_at_most_64_texts_of_4_kib_and_16_kib_in_all';
  end if;
  return true;
end $$;
comment on function posthaste_internal.are_event_headers is
  'Whether this is {"name": "value"} with at most 64 texts of at most 4 KiB, 16 KiB in all, with names and values that HTTP allows, each name once in whatever case, and none that is spelled otherwise than one of the relay''s and may be taken for it. An error if not, which does not show the event.';

create table posthaste.outbox (
  id              bigint      generated always as identity (sequence name posthaste.ids_are_given_by_the_database),
  event_type      text        not null,
  payload         json        not null,
  tenant          text,
  ordering_key    text,
  idempotency_key text,
  endpoint_id     bigint,
  headers         jsonb,
  deliver_at      timestamptz,
  expires_at      timestamptz,
  created_at      timestamptz not null default clock_timestamp(),
  xid             xid8        not null default pg_current_xact_id(),
  primary key (id, created_at),
  -- Each insert reads its checks anew and pays for each part of one: 12,000 to 45,000 of the 424,000
  -- instructions of an insert (counted, see docs/decisions/0020). So similar checks are one.
  constraint event_type_is_dotted_words check (event_type ~ '^[^\s.*]+(\.[^\s.*]+)*$'),
  constraint event_type_tenant_and_keys_have_1_to_256_characters
    check (greatest(length(event_type), length(tenant), length(ordering_key), length(idempotency_key)) <= 256
           and least(length(tenant), length(ordering_key), length(idempotency_key)) > 0),
  constraint headers_are_at_most_64_texts_of_4_kib_and_16_kib_in_all
    check (headers is null or posthaste_internal.are_event_headers(headers)),
  constraint deliver_at_and_expires_at_are_finite check (isfinite(deliver_at) and isfinite(expires_at))
) partition by range (created_at);
comment on table posthaste.outbox is
  'Events. Insert a row here in your own transaction; if it commits, every endpoint that is owed the event gets it. Rows are never changed; old days are dropped after the retention.';
comment on column posthaste.outbox.id is
  'Number of the event, given by the database. Not the application''s to set.';
comment on column posthaste.outbox.event_type is
  'The kind of event, in dotted words: order.paid. Endpoints subscribe to it by pattern. posthaste.* is kept for the relay''s own events.';
comment on column posthaste.outbox.payload is
  'The facts, kept and sent byte for byte as inserted (json, not jsonb). At most 16 MiB, unless posthaste.set_payload_limit said otherwise.';
comment on column posthaste.outbox.tenant is
  'The tenant that the event belongs to, in at most 256 characters: endpoints of another tenant do not get it; endpoints without a tenant get every tenant''s.';
comment on column posthaste.outbox.ordering_key is
  'To endpoints that are ordered, events with the same key are delivered one after the other.';
comment on column posthaste.outbox.idempotency_key is
  'A second event with the same key (and tenant) is skipped silently while the first is remembered: RETURNING then gives no row, which some ORMs take for an error. posthaste.emit returns the first one''s id instead.';
comment on column posthaste.outbox.endpoint_id is
  'Send to this endpoint alone, whatever it subscribes to. Null: to all that are subscribed.';
comment on column posthaste.outbox.headers is
  'Extra request headers as {"name": "value"}, for instance traceparent: at most 64, of at most 4 KiB each and 16 KiB in all. They can replace none of the relay''s, and a name that may be taken for one (Content_Length) is refused; except to an endpoint with body_format raw: there content-type, where the payload is a text that is not JSON; and webhook-id, webhook-timestamp and webhook-signature, all three together.';
comment on column posthaste.outbox.deliver_at is 'Not to be sent before this moment. Null: at once.';
comment on column posthaste.outbox.expires_at is
  'Not worth sending after this moment: what is still pending then is cancelled. Null: never.';
comment on column posthaste.outbox.created_at is
  'When the row was inserted, by the database''s clock. Not the application''s to set: its own time belongs into the payload.';
comment on column posthaste.outbox.xid is
  'The inserting transaction: routing reads what has committed since it last looked by it. Not the application''s to set.';

comment on sequence posthaste.ids_are_given_by_the_database is
  'Numbers events. Leave its cache at 1: events of one ordering key that commit one after the other are told apart by their numbers.';

create index outbox_by_xid on posthaste.outbox (xid, id);

-- ── the bell ───────────────────────────────────────────────────────────────────────────────────────

-- A relay that is awake says so, and no insert rings. NOTIFY takes one lock of the whole cluster at commit; a bell that
-- rings only while every relay sleeps does not pay for it under load.
-- It says until when, and again while it is awake: after a crash inserts ring again within a second. A sequence, since
-- it is read at once, whatever the transaction, and since a relay alone may set it. (A lock that each insert tries is
-- cheaper by some microseconds, and any role that may log in can take it: then no insert rings.)
create sequence posthaste.silence;
comment on sequence posthaste.silence is
  'Until when inserts do not ring: milliseconds since 1970, times 4096, plus a number that tells the relays apart which set it. Not called: they ring.';

create function posthaste_internal.ring() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_notify('posthaste', '');
  return null;
end $$;
comment on function posthaste_internal.ring is 'Wakes sleeping relays when the transaction commits.';

-- Silent is what lies in the next 5 s: a time that is further ahead is of a clock that was set back since. The clock is
-- read once, as this is asked with each insert.
create trigger outbox_rings_the_bell
  after insert on posthaste.outbox
  for each statement
  when (abs(coalesce(pg_sequence_last_value('posthaste.silence'::regclass) / 4096, 0)
            - date_part('epoch', clock_timestamp()) * 1000 - 2500) > 2500)
  execute function posthaste_internal.ring();

create function posthaste_internal.keep_silent() returns void
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform setval('posthaste.silence',
                 (date_part('epoch', clock_timestamp()) * 1000)::bigint * 4096 + 4096000 + pg_backend_pid() % 4096);
end $$;
comment on function posthaste_internal.keep_silent is 'No insert rings for a second.';

create function posthaste_internal.end_silence() returns void
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform setval('posthaste.silence', 1, false)
     from posthaste.silence s where s.is_called and s.last_value % 4096 = pg_backend_pid() % 4096;
end $$;
comment on function posthaste_internal.end_silence is
  'Every insert rings from now on, unless another session is keeping them silent.';

create function posthaste_internal.install_bell(rings boolean) returns boolean
  language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '1s' as $$
begin
  if rings = (select tgenabled <> 'D' from pg_trigger
               where tgrelid = 'posthaste.outbox'::regclass and tgname = 'outbox_rings_the_bell') then
    return false;
  end if;
  if rings then
    alter table posthaste.outbox enable trigger outbox_rings_the_bell;
    alter table posthaste.endpoints enable trigger endpoints_tell_of_their_changes;
  else
    alter table posthaste.outbox disable trigger outbox_rings_the_bell;
    alter table posthaste.endpoints disable trigger endpoints_tell_of_their_changes;
  end if;
  return true;
end $$;
comment on function posthaste_internal.install_bell is
  'Turns the bell on or off, and with it the notices of changed endpoints; returns whether that changed anything. Without it relays poll: for applications that use two-phase commit (PREPARE TRANSACTION refuses NOTIFY) and engines without LISTEN.';

-- ── what the database alone sets ───────────────────────────────────────────────────────────────────

-- Routing trusts id, created_at and xid. A row that sets them would be lost in silence, or stop the others: two
-- events of one id cannot both be owed. So this trigger refuses it. Its WHEN costs some comparisons; ordinary rows
-- never call the function. (COPY and OVERRIDING SYSTEM VALUE pass an identity column; where a session has not drawn an
-- id yet, currval refuses the row in the sequence's name.)
create function posthaste_internal.refuse_foreign_values() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- A relay that takes in webhooks draws the numbers of a batch at once (sql/queries/receive.sql).
  if current_setting('posthaste.numbering', true) = 'on' and has_table_privilege('posthaste.received', 'insert')
     and new.xid = pg_current_xact_id() and abs(extract(epoch from new.created_at - clock_timestamp())) < 3600 then
    return null;
  end if;
  raise exception 'posthaste.outbox: id, created_at and xid are set by the database; leave them out of the INSERT'
    using errcode = 'check_violation', constraint = 'id_created_at_and_xid_are_left_to_the_database',
          detail = format('id is %s, created_at is %s, the database''s clock says %s.',
                          new.id, new.created_at, clock_timestamp()),
          hint = 'Put the application''s own number and time into the payload.';
end $$;
comment on function posthaste_internal.refuse_foreign_values is
  'Refuses an event whose id, created_at or xid was set by hand.';

create trigger outbox_keeps_ids_and_clock_to_the_database
  after insert on posthaste.outbox
  for each row
  when (new.xid <> pg_current_xact_id()
        or new.created_at < clock_timestamp() - interval '1 hour'
        or new.created_at > clock_timestamp() + interval '1 hour'
        or new.id <> currval('posthaste.ids_are_given_by_the_database'))
  execute function posthaste_internal.refuse_foreign_values();

-- ── the size of a payload ───────────────────────────────────────────────────────────────────────
-- The limit is a constraint, so no session can raise its own and no relay is needed to hold it.

create function posthaste.set_payload_limit(bytes bigint) returns void
  language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
declare
  former name;
begin
  if bytes is null or bytes not between 1024 and 268435456 then
    raise exception 'a payload limit of % bytes is out of bounds', bytes
      using errcode = 'invalid_parameter_value', hint = 'It is 1,024 bytes to 256 MiB (268435456); 16 MiB is 16777216.';
  end if;
  for former in
    select conname from pg_constraint where conrelid = 'posthaste.outbox'::regclass and conname ~ '^payload_is_at_most_'
  loop
    execute format('alter table posthaste.outbox drop constraint %I', former);
  end loop;
  -- A value is at most 255 times as long as its compressed form, so a short one is not unpacked to be measured.
  -- Not valid: rows that exist already are not read.
  execute format('alter table posthaste.outbox add constraint payload_is_at_most_%s_bytes
                    check (pg_column_size(payload) <= %s or octet_length(payload::text) <= %s) not valid',
                 bytes, bytes / 256, bytes);
end $$;
comment on function posthaste.set_payload_limit is
  'Sets how long a payload may be, in bytes: 1,024 to 268435456 (256 MiB); 16777216 (16 MiB) from the start. Holds for events that are inserted from then on. Only the owner of the outbox may call it. A relay keeps the payloads of what it is sending in memory, within relay.max_in_flight_bytes.';

do $$
begin
  perform posthaste.set_payload_limit(16777216);
end $$;

-- How many bytes an event counts for, against a relay's bounds. A payload that is stored compressed and is large
-- there is not read for it: it counts for what its compression could have made of as many bytes (pglz 87.4, lz4 255
-- times). Others count exactly. In SQL, stable and without settings of its own, so that PostgreSQL puts the body into
-- the statement that asks.
create function posthaste_internal.event_bytes(payload json, headers jsonb) returns integer
  language sql stable parallel safe
  return least(coalesce(
           case when pg_column_compression(payload) is null then pg_column_size(payload)
                when pg_column_size(payload) <= 8192 then octet_length(payload::text)
                else pg_column_size(payload) * case pg_column_compression(payload) when 'pglz' then 88 else 256 end::bigint end
           + coalesce(pg_column_size(headers)
                      * case pg_column_compression(headers) when 'pglz' then 88 when 'lz4' then 256 else 1 end::bigint, 0),
           0), 2147483647)::int;
comment on function posthaste_internal.event_bytes is
  'How many bytes payload and headers count for, against the bounds in bytes of a relay: never fewer than they have.';

-- ── idempotency ────────────────────────────────────────────────────────────────────────────────────

create table posthaste.idempotency (
  tenant     text        not null,
  key        text        not null,
  event_id   bigint      not null,
  created_at timestamptz not null default now(),
  primary key (tenant, key)
);
comment on table posthaste.idempotency is 'Idempotency keys seen, for as long as the outbox is kept.';
comment on column posthaste.idempotency.tenant is 'The event''s tenant; empty where it has none.';
comment on column posthaste.idempotency.key is 'The event''s idempotency key.';
comment on column posthaste.idempotency.event_id is 'The first event that carried it.';
comment on column posthaste.idempotency.created_at is 'When it was first seen.';

create index idempotency_by_age on posthaste.idempotency (created_at);

create function posthaste_internal.skip_duplicate() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  missing constant text := case when new.event_type is null then 'event_type' when new.payload is null then 'payload' end;
begin
  if missing is not null then
    raise exception 'null value in column "%" of relation "outbox" violates not-null constraint', missing
      using errcode = 'not_null_violation', schema = 'posthaste', table = 'outbox', column = missing;
  end if;
  insert into posthaste.idempotency (tenant, key, event_id)
  values (coalesce(new.tenant, ''), new.idempotency_key, new.id)
  on conflict do nothing;
  return case when found then new end;
end $$;
comment on function posthaste_internal.skip_duplicate is
  'Skips an event whose idempotency key has been seen. Refuses one without type or payload, and shows no row as PostgreSQL would.';

create trigger outbox_skips_duplicates
  before insert on posthaste.outbox
  for each row
  when (new.idempotency_key is not null or new.event_type is null or new.payload is null)
  execute function posthaste_internal.skip_duplicate();

-- ── events in SQL ──────────────────────────────────────────────────────────────────────────────────

create function posthaste.event_of_key(tenant text, idempotency_key text) returns bigint
  language sql stable security definer set search_path = pg_catalog, pg_temp
  return (select event_id from posthaste.idempotency i
           where i.tenant = coalesce(event_of_key.tenant, '') and i.key = event_of_key.idempotency_key);
comment on function posthaste.event_of_key is 'The first event that carried an idempotency key.';

create function posthaste.emit(
  event_type text, payload json, tenant text default null, ordering_key text default null,
  idempotency_key text default null, endpoint_id bigint default null, headers jsonb default null,
  deliver_at timestamptz default null, expires_at timestamptz default null
) returns bigint
  language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  id bigint;
begin
  insert into posthaste.outbox (event_type, payload, tenant, ordering_key, idempotency_key, endpoint_id, headers, deliver_at, expires_at)
  values (event_type, payload, tenant, ordering_key, idempotency_key, endpoint_id,
          -- Some ORMs write 'null' for no headers.
          nullif(headers, 'null'), deliver_at, expires_at)
  returning outbox.id into id;
  if id is null then
    id := posthaste.event_of_key(tenant, idempotency_key);
  end if;
  return id;
end $$;
comment on function posthaste.emit(text, json, text, text, text, bigint, jsonb, timestamptz, timestamptz) is
  'Inserts an event and returns its id; for an idempotency key that has been seen, the id of the first event that carried it.';

-- jsonb is what SQL's functions build, and PostgreSQL takes a literal for a text where json and jsonb would both do.
create function posthaste.emit(
  event_type text, payload jsonb, tenant text default null, ordering_key text default null,
  idempotency_key text default null, endpoint_id bigint default null, headers jsonb default null,
  deliver_at timestamptz default null, expires_at timestamptz default null
) returns bigint
  language sql
  return posthaste.emit(event_type, payload::json, tenant, ordering_key, idempotency_key, endpoint_id, headers, deliver_at, expires_at);
comment on function posthaste.emit(text, jsonb, text, text, text, bigint, jsonb, timestamptz, timestamptz) is
  'The same with a payload in jsonb: select posthaste.emit(''order.paid'', jsonb_build_object(''order_id'', 1)).';

create function posthaste.emit(
  event_type text, payload text, tenant text default null, ordering_key text default null,
  idempotency_key text default null, endpoint_id bigint default null, headers jsonb default null,
  deliver_at timestamptz default null, expires_at timestamptz default null
) returns bigint
  language sql
  return posthaste.emit(event_type, payload::json, tenant, ordering_key, idempotency_key, endpoint_id, headers, deliver_at, expires_at);
comment on function posthaste.emit(text, text, text, text, text, bigint, jsonb, timestamptz, timestamptz) is
  'The same with a payload in a text that is JSON.';

-- ── webhook-ids ────────────────────────────────────────────────────────────────────────────────────

-- Two databases that number their events alike have two keys, so a receiver of both never sees one id for two events.
-- A dump takes the key with it, so that what it had sent keeps its ids.
create table posthaste.webhook_id_key (
  is_the_only_one boolean not null default true primary key,
  key             bytea   not null default sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())),
  constraint there_is_one_key check (is_the_only_one),
  constraint key_has_32_bytes check (octet_length(key) = 32)
);
comment on table posthaste.webhook_id_key is
  'Private. The key that this database''s webhook-ids are made with. With another key, receivers take what is sent again for something new.';
comment on column posthaste.webhook_id_key.is_the_only_one is 'True: there is one row.';
comment on column posthaste.webhook_id_key.key is 'Drawn by chance when the schema was made.';

insert into posthaste.webhook_id_key default values;

-- The relay computes the same (src/model/webhook_id.rs).
create function posthaste.webhook_id(event_id bigint, event_created_at timestamptz) returns text
  language plpgsql stable strict parallel safe security definer set search_path = pg_catalog, pg_temp as $$
declare
  key         constant bytea := (select k.key from posthaste.webhook_id_key k);
  fingerprint constant bytea := substr(sha256(key || '\x01' || int8send(event_id)
                                              || int8send((extract(epoch from event_created_at) * 1000000)::bigint)), 1, 8);
  pad         constant bytea := substr(sha256(key || '\x02' || fingerprint), 1, 8);
begin
  return 'evt_' || encode(fingerprint, 'hex')
         || lpad(to_hex((event_id::bit(64) # ('x' || encode(pad, 'hex'))::bit(64))::bigint), 16, '0');
end $$;
comment on function posthaste.webhook_id is
  'The webhook-id header of an event''s deliveries: the same over every retry and replay. posthaste.event_of leads back.';

create function posthaste.event_of(webhook_id text) returns bigint
  language plpgsql stable strict parallel safe security definer set search_path = pg_catalog, pg_temp as $$
declare
  key   constant bytea := (select k.key from posthaste.webhook_id_key k);
  pad   bytea;
  event bigint;
begin
  if webhook_id !~ '^evt_[0-9a-f]{32}$' then
    raise exception 'this is not a webhook-id of Posthaste: %', left(webhook_id, 100)
      using errcode = 'invalid_parameter_value', hint = 'It reads like evt_ and 32 digits or letters up to f.';
  end if;
  pad := substr(sha256(key || '\x02' || decode(substr(webhook_id, 5, 16), 'hex')), 1, 8);
  event := (('x' || substr(webhook_id, 21))::bit(64) # ('x' || encode(pad, 'hex'))::bit(64))::bigint;
  if event not between 1 and (select s.last_value from posthaste.ids_are_given_by_the_database s) then
    raise exception 'this is not a webhook-id of this database: %', webhook_id
      using errcode = 'invalid_parameter_value', hint = 'Each database has a key of its own. Ask the one that sent it.';
  end if;
  return event;
end $$;
comment on function posthaste.event_of is
  'The event of a webhook-id header, as a receiver quotes it: select * from posthaste.explain(posthaste.event_of(''evt_…'')).';
