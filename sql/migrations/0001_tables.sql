-- The tables: what the application writes, what is owed, and what has happened.
--
-- `outbox` and `attempts` are only ever inserted into and are reclaimed by dropping whole days;
-- `deliveries` holds what is owed now and nothing else. See docs/ARCHITECTURE.md.

create sequence posthaste.revision;
comment on sequence posthaste.revision is
  'Numbers every change of an endpoint, a secret or a rule, so that a relay can tell that its cached copy is old.';

-- ── what the application writes ─────────────────────────────────────────────────────────────────

create table posthaste.outbox (
  id              bigint      generated always as identity,
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
  constraint event_type_is_dotted_words
    check (event_type ~ '^[^\s.*]+(\.[^\s.*]+)*$' and length(event_type) <= 256),
  constraint tenant_is_not_empty check (tenant <> ''),
  constraint idempotency_key_is_1_to_256_characters
    check (length(idempotency_key) between 1 and 256),
  constraint ordering_key_is_1_to_256_characters
    check (length(ordering_key) between 1 and 256),
  constraint headers_are_an_object_of_texts
    check (headers is null or (jsonb_typeof(headers) = 'object'
           and not jsonb_path_exists(headers, '$.* ? (@.type() != "string")')))
) partition by range (created_at);

create index outbox_by_xid on posthaste.outbox (xid, id);

comment on table posthaste.outbox is
  'Events. Insert a row here in your own transaction; if it commits, every endpoint that is owed the event gets it. Rows are never changed; old days are dropped after the retention.';
comment on column posthaste.outbox.id is 'Number of the event, given by the database.';
comment on column posthaste.outbox.event_type is
  'What happened, in dotted words: order.paid. Endpoints subscribe to it by pattern. posthaste.* is kept for the relay''s own events.';
comment on column posthaste.outbox.payload is
  'The facts, kept and sent byte for byte as inserted (json, not jsonb).';
comment on column posthaste.outbox.tenant is
  'Whose event it is: endpoints of another tenant do not get it; endpoints without a tenant get every tenant''s.';
comment on column posthaste.outbox.ordering_key is
  'For delivery in order per key, to endpoints that are ordered. Stored, not enforced yet.';
comment on column posthaste.outbox.idempotency_key is
  'A second event with the same key (and tenant) is skipped silently while the first is remembered.';
comment on column posthaste.outbox.endpoint_id is
  'Send to this endpoint alone, whatever it subscribes to. Null: to all that are subscribed.';
comment on column posthaste.outbox.headers is
  'Extra request headers as {"name": "value"}, for instance traceparent. They can replace none of ours.';
comment on column posthaste.outbox.deliver_at is 'Not to be sent before this moment. Null: at once.';
comment on column posthaste.outbox.expires_at is
  'Not worth sending after this moment: what is still pending then is cancelled. Null: never.';
comment on column posthaste.outbox.created_at is
  'When the row was inserted, by the database''s clock. Not the application''s to set: its own time belongs into the payload.';
comment on column posthaste.outbox.xid is
  'The inserting transaction: routing reads what has committed since it last looked by it. Not the application''s to set.';

-- ── who is owed ─────────────────────────────────────────────────────────────────────────────────

create function posthaste.are_subscriptions(patterns text[]) returns boolean
  language sql immutable strict parallel safe
  return (select bool_and(coalesce(p ~ '^(\*|[^\s.*]+(\.[^\s.*]+)*(\.\*)?)$', false)) from unnest(patterns) p);
comment on function posthaste.are_subscriptions is
  'Whether every element is a subscription: *, order.* or order.paid.';

create function posthaste.are_endpoint_headers(headers jsonb) returns boolean
  language sql immutable strict parallel safe
  return jsonb_typeof(headers) = 'object' and (
    select coalesce(bool_and(
             jsonb_typeof(value) = 'string'
             and key ~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]{1,128}$'
             and (value #>> '{}') ~ '^[\x20-\x7e\x80-\U0010FFFF\t]*$'
             and length(value #>> '{}') <= 4096
             and lower(key) not in (
               'host', 'content-length', 'content-type', 'content-encoding', 'transfer-encoding',
               'connection', 'keep-alive', 'proxy-connection', 'proxy-authenticate',
               'proxy-authorization', 'te', 'trailer', 'upgrade', 'expect', 'user-agent')
             and lower(key) not like 'webhook-%'), true)
      from jsonb_each(case when jsonb_typeof(headers) = 'object' then headers else '{}' end));
comment on function posthaste.are_endpoint_headers is
  'Whether this is {"name": "value"} with names and values that HTTP allows (no CR, LF or control characters) and none of the names that the relay sets itself or that belong to one hop.';

create function posthaste.are_delays(delays interval[]) returns boolean
  language sql immutable strict parallel safe
  return cardinality(delays) between 1 and 100 and array_position(delays, null) is null
     and (select bool_and(d between interval '0' and interval '30 days') from unnest(delays) d);
comment on function posthaste.are_delays is 'Whether these are 1 to 100 delays of 0 to 30 days.';

create table posthaste.endpoints (
  id              bigint      generated always as identity primary key,
  url             text        not null,
  subscriptions   text[]      not null default '{*}',
  tenant          text,
  filter          jsonpath,
  enabled         boolean     not null default true,
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
  description     text,
  metadata        jsonb       not null default '{}',
  revision        bigint      not null default nextval('posthaste.revision'),
  created_at      timestamptz not null default now(),
  updated_at      timestamptz not null default now(),
  constraint url_is_http_or_https check (url ~* '^https?://[^\s/?#]+[^\s]*$'),
  constraint url_has_no_user_or_password check (url !~ '^[^/]*//[^/?#]*@'),
  constraint url_has_no_backslash_or_control_character check (url !~ '[\\[:cntrl:]]'),
  constraint url_is_at_most_4096_bytes check (octet_length(url) <= 4096),
  constraint at_least_one_subscription check (cardinality(subscriptions) >= 1),
  constraint subscriptions_are_star_prefix_or_exact check (posthaste.are_subscriptions(subscriptions)),
  constraint tenant_is_not_empty check (tenant <> ''),
  constraint body_format_is_standard_event_payload_raw_or_cloudevents
    check (body_format in ('standard', 'event_payload', 'raw', 'cloudevents')),
  constraint headers_are_texts_that_replace_none_of_ours check (posthaste.are_endpoint_headers(headers)),
  constraint timeout_is_100_ms_to_10_minutes check (timeout between '100 ms' and '10 minutes'),
  constraint max_attempts_is_1_to_1000 check (max_attempts between 1 and 1000),
  constraint schedule_is_1_to_100_delays_of_at_most_30_days check (posthaste.are_delays(schedule)),
  constraint max_concurrency_is_1_to_10000 check (max_concurrency between 1 and 10000),
  constraint rate_limit_is_more_than_0_a_second check (rate_limit > 0 and rate_limit <= 1000000),
  constraint disabled_iff_disabled_at check (enabled = (disabled_at is null))
);

create function posthaste.route_keys(tenant text, subscriptions text[]) returns text[]
  language sql immutable parallel safe
  return (select array_agg(coalesce(route_keys.tenant, '') || ' ' || p) from unnest(subscriptions) p);
comment on function posthaste.route_keys is
  'What an endpoint is found by when events are routed: its tenant (empty for every tenant) and each of its subscriptions.';

create function posthaste.route_keys_of_event(tenant text, event_type text) returns text[]
  language sql immutable parallel safe
  return (
    select array_agg(t.tenant || ' ' || p.pattern)
      from (select '' union select coalesce(route_keys_of_event.tenant, '')) t(tenant),
           (select '*' where event_type not like 'posthaste.%'
            union all select event_type
            union all
            select array_to_string((string_to_array(event_type, '.'))[1:n], '.') || '.*'
              from generate_series(1, cardinality(string_to_array(event_type, '.')) - 1) n) p(pattern));
comment on function posthaste.route_keys_of_event is
  'The route keys that match an event: for order.paid.eu its own name, order.paid.*, order.* and *, each for its tenant and for every tenant. The relay''s own posthaste.* events are not matched by *.';

create index endpoints_by_route on posthaste.endpoints
  using gin (posthaste.route_keys(tenant, subscriptions)) with (fastupdate = off);

comment on table posthaste.endpoints is 'Places that are owed events. Only url must be given.';
comment on column posthaste.endpoints.id is 'Number of the endpoint, given by the database.';
comment on column posthaste.endpoints.url is
  'Where to POST: https, unless the relay''s addresses.allow_http opens the host; no user or password in it.';
comment on column posthaste.endpoints.subscriptions is
  'Event-type patterns, at least one: * (everything), order.* (order.paid, order.paid.eu), order.paid.';
comment on column posthaste.endpoints.tenant is 'Gets this tenant''s events only. Null: every tenant''s.';
comment on column posthaste.endpoints.filter is
  'SQL/JSON path on the payload; the event is owed if it yields anything: $ ? (@.total > 100)';
comment on column posthaste.endpoints.enabled is
  'Whether it gets events. While false no new event is owed, and what is pending is held.';
comment on column posthaste.endpoints.disabled_at is 'Since when it has been disabled.';
comment on column posthaste.endpoints.disabled_reason is 'Why it has been disabled, and by whom.';
comment on column posthaste.endpoints.body_format is
  'standard {"type","timestamp","data"}, event_payload {"event","payload"}, raw (the payload alone) or cloudevents (structured mode).';
comment on column posthaste.endpoints.headers is
  'Extra request headers as {"name": "value"}. They can replace none of the relay''s.';
comment on column posthaste.endpoints.timeout is 'For one attempt in total. Null: delivery.timeout.';
comment on column posthaste.endpoints.max_attempts is 'Attempts before a delivery is dead. Null: retry.max_attempts.';
comment on column posthaste.endpoints.schedule is
  'Fixed delays between attempts in place of the formula; the last one repeats.';
comment on column posthaste.endpoints.max_concurrency is
  'At most this many requests at once. Null: delivery.max_concurrency.';
comment on column posthaste.endpoints.rate_limit is 'At most this many attempts a second, from each relay. Null: no limit.';
comment on column posthaste.endpoints.ordered is 'Whether events with an ordering key are to be delivered one after the other. Stored, not enforced yet.';
comment on column posthaste.endpoints.description is 'For people.';
comment on column posthaste.endpoints.metadata is 'The operator''s own facts. Not read by the relay.';
comment on column posthaste.endpoints.revision is 'Changes with every change of the endpoint or its secrets.';
comment on column posthaste.endpoints.created_at is 'When it was added.';
comment on column posthaste.endpoints.updated_at is 'When it was last changed.';

create table posthaste.endpoint_secrets (
  id          bigint      generated always as identity primary key,
  endpoint_id bigint      not null references posthaste.endpoints on delete cascade,
  secret      text        not null,
  created_at  timestamptz not null default now(),
  expires_at  timestamptz,
  constraint secret_is_whsec_of_24_to_75_bytes_or_whsk_of_32_or_64
    check (secret ~ '^whsec_([A-Za-z0-9+/]{4}){7,24}([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)$'
           and length(rtrim(secret, '=')) >= 38
           or secret ~ '^whsk_([A-Za-z0-9+/]{43}=|[A-Za-z0-9+/]{86}==)$')
);
create index endpoint_secrets_by_endpoint on posthaste.endpoint_secrets (endpoint_id);

comment on table posthaste.endpoint_secrets is
  'Signing secrets, several per endpoint while one replaces another: all that have not expired sign. Readable by the relay''s role alone.';
comment on column posthaste.endpoint_secrets.id is 'Number of the secret.';
comment on column posthaste.endpoint_secrets.endpoint_id is 'Whose requests it signs.';
comment on column posthaste.endpoint_secrets.secret is
  'whsec_ and base64 of 24 to 75 bytes (HMAC-SHA256, v1), or whsk_ and base64 of an ed25519 seed, with or without its public key (v1a).';
comment on column posthaste.endpoint_secrets.created_at is 'When it was added.';
comment on column posthaste.endpoint_secrets.expires_at is 'From then on it no longer signs. Null: it does not expire.';

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
  constraint state_is_flowing_paused_or_probing check (state in ('flowing', 'paused', 'probing')),
  constraint paused_iff_paused_until check ((state = 'paused') = (paused_until is not null))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

comment on table posthaste.endpoint_health is
  'How each endpoint has been doing. Written on transitions, and at most about once a second per endpoint.';
comment on column posthaste.endpoint_health.endpoint_id is 'The endpoint.';
comment on column posthaste.endpoint_health.state is
  'flowing; paused (nothing is sent until paused_until); probing (one request is out to see).';
comment on column posthaste.endpoint_health.consecutive_failures is 'Failed attempts since the last success.';
comment on column posthaste.endpoint_health.failing_since is 'The first failure since the last success.';
comment on column posthaste.endpoint_health.pauses is 'Pauses since the last success; each is longer.';
comment on column posthaste.endpoint_health.paused_until is 'When a single probe is sent.';
comment on column posthaste.endpoint_health.last_success_at is 'The last delivered attempt.';
comment on column posthaste.endpoint_health.last_failure_at is 'The last failed attempt.';
comment on column posthaste.endpoint_health.recent_successes is
  'Delivered attempts, each weighing e^(-age/1 h): a moving count of the last hour that needs no history.';
comment on column posthaste.endpoint_health.recent_failures is 'Failed attempts, weighed likewise.';
comment on column posthaste.endpoint_health.recent_duration_ms is
  'Sum of the attempts'' durations in milliseconds, weighed likewise.';
comment on column posthaste.endpoint_health.updated_at is 'When the row was last written, and what ages refer to.';

-- ── what is owed now ────────────────────────────────────────────────────────────────────────────

create table posthaste.deliveries (
  event_id         bigint      not null,
  endpoint_id      bigint      not null,
  event_created_at timestamptz not null,
  attempt_count    integer     not null default 0,
  next_attempt_at  timestamptz not null,
  claimed_by       integer,
  claim_token      bigint,
  ordering_key     text,
  created_at       timestamptz not null default now(),
  primary key (event_id, endpoint_id),
  constraint claimed_iff_claim_token check ((claimed_by is null) = (claim_token is null))
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.2,
        vacuum_truncate = off);

-- A delivery that succeeds at once is inserted claimed and deleted: it never enters this index.
create index deliveries_due on posthaste.deliveries (endpoint_id, next_attempt_at, event_id)
  where claimed_by is null;

comment on table posthaste.deliveries is
  'What is owed now: one event to one endpoint. A row is deleted when the delivery ends; its last attempt is its record.';
comment on column posthaste.deliveries.event_id is 'The event owed.';
comment on column posthaste.deliveries.endpoint_id is 'The endpoint it is owed to.';
comment on column posthaste.deliveries.event_created_at is 'The event''s created_at, which names its partition.';
comment on column posthaste.deliveries.attempt_count is 'Attempts made and recorded so far (interrupted ones do not count).';
comment on column posthaste.deliveries.next_attempt_at is 'Due from then on.';
comment on column posthaste.deliveries.claimed_by is 'The relay that is making the next attempt. Null: nobody.';
comment on column posthaste.deliveries.claim_token is 'Fences the claim: a result under another token is dropped.';
comment on column posthaste.deliveries.ordering_key is 'The event''s ordering key.';
comment on column posthaste.deliveries.created_at is 'When it was routed.';

-- ── what has happened ───────────────────────────────────────────────────────────────────────────

create table posthaste.attempts (
  event_id         bigint      not null,
  endpoint_id      bigint      not null,
  event_created_at timestamptz not null,
  started_at       timestamptz not null,
  next_attempt_at  timestamptz,
  number           integer     not null,
  relay_id         integer     not null,
  status           integer,
  duration_ms      real        not null,
  resolve_ms       real,
  connect_ms       real,
  tls_ms           real,
  headers_ms       real,
  body_ms          real,
  body_truncated   boolean     not null default false,
  outcome          text        not null,
  verdict          text        not null,
  cause            text,
  detail           text,
  reason           text,
  response_headers json,
  response_body    text,
  constraint outcome_is_known
    check (outcome in ('answered', 'timed_out', 'unreachable', 'refused', 'interrupted', 'none')),
  constraint verdict_is_known check (verdict in ('delivered', 'retry', 'dead', 'cancelled')),
  constraint next_attempt_iff_retry check ((verdict = 'retry') = (next_attempt_at is not null))
) partition by range (started_at);

create index attempts_by_delivery on posthaste.attempts (event_id, endpoint_id);
create index attempts_failed on posthaste.attempts (started_at) where verdict <> 'delivered';

comment on table posthaste.attempts is
  'Every attempt, appended and never changed. A delivery''s last attempt is its final record; one that ends without an attempt has a row with number 0.';
comment on column posthaste.attempts.event_id is 'The event.';
comment on column posthaste.attempts.endpoint_id is 'The endpoint.';
comment on column posthaste.attempts.event_created_at is 'The event''s created_at, which names its partition.';
comment on column posthaste.attempts.started_at is 'When the request began, by the database''s clock.';
comment on column posthaste.attempts.next_attempt_at is 'When the next one is due, after verdict retry.';
comment on column posthaste.attempts.number is
  '1 for the first attempt since the delivery was routed or replayed; 0 where it ended without one. An interrupted attempt is made again under the same number.';
comment on column posthaste.attempts.relay_id is 'The relay that made it.';
comment on column posthaste.attempts.status is 'HTTP status of the response.';
comment on column posthaste.attempts.duration_ms is 'From beginning to end, in milliseconds.';
comment on column posthaste.attempts.resolve_ms is 'Looking the name up. Null: not done (connection kept alive).';
comment on column posthaste.attempts.connect_ms is 'Opening the TCP connection. Null: not done.';
comment on column posthaste.attempts.tls_ms is 'The TLS handshake. Null: not done.';
comment on column posthaste.attempts.headers_ms is 'From the first byte sent to the end of the response head. Null: not reached.';
comment on column posthaste.attempts.body_ms is 'Reading the response body. Null: not reached.';
comment on column posthaste.attempts.body_truncated is 'Whether the response body was longer than what is kept, or cut off.';
comment on column posthaste.attempts.outcome is
  'What happened on the wire: answered, timed_out, unreachable, refused (we would not send), interrupted (a relay died while it may have been sending), none (ended without an attempt).';
comment on column posthaste.attempts.verdict is 'What was decided: delivered, retry, dead, cancelled.';
comment on column posthaste.attempts.cause is
  'For timed_out the phase (resolve, connect, tls, headers); for unreachable and refused the kind (dns, connection_refused, reset, tls_expired, forbidden_address, …).';
comment on column posthaste.attempts.detail is 'The outcome in more words.';
comment on column posthaste.attempts.reason is 'Why the verdict is what it is, where it is not plain.';
comment on column posthaste.attempts.response_headers is 'The response''s headers as {"name": "value"}, in lower case.';
comment on column posthaste.attempts.response_body is
  'The first bytes of the response body; bytes that are not UTF-8 are shown as U+FFFD.';

-- ── how the relays go about it ──────────────────────────────────────────────────────────────────

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
  constraint status_is_within_100_to_999 check (status <@ int4range(100, 1000) and not isempty(status)),
  constraint host_is_a_name_or_star_dot_suffix check (host ~ '^(\*\.)?[^\s*/:@]+$'),
  constraint event_type_is_a_subscription check (event_type is null or posthaste.are_subscriptions(array[event_type])),
  constraint body_pattern_is_at_most_1024_characters check (length(body_pattern) between 1 and 1024),
  constraint at_least_one_condition
    check (num_nonnulls(host, status, outcome, cause, body_pattern, event_type) > 0)
);
comment on table posthaste.rules is
  'What to do when an outcome looks like this. Of the enabled rules whose every condition holds, the one with the lowest priority number decides; a 2xx is delivered before any rule is asked.';
comment on column posthaste.rules.id is 'Number of the rule; breaks ties of priority.';
comment on column posthaste.rules.name is 'Shown in attempts.reason when the rule decided.';
comment on column posthaste.rules.priority is 'Lower comes first.';
comment on column posthaste.rules.enabled is 'Whether it is asked.';
comment on column posthaste.rules.preset is 'The set it was loaded with: shipped, keygen, or custom.';
comment on column posthaste.rules.host is 'The endpoint''s host: a name, or *.suffix for every name under it.';
comment on column posthaste.rules.status is 'The response status, as a range: [500,600).';
comment on column posthaste.rules.outcome is 'answered, timed_out, unreachable or refused.';
comment on column posthaste.rules.cause is 'The outcome''s cause, as in attempts: dns, headers, tls_expired, …';
comment on column posthaste.rules.body_pattern is
  'Regular expression that the kept part of the response body must contain; (?i) for any case.';
comment on column posthaste.rules.event_type is 'A subscription that the event''s type must match.';
comment on column posthaste.rules.action is
  'retry (by the schedule), dead, disable_endpoint (and dead), delete_endpoint (and dead), delivered.';
comment on column posthaste.rules.description is 'For people.';

create table posthaste.relays (
  id           integer     generated always as identity primary key,
  name         text        not null,
  version      text        not null,
  started_at   timestamptz not null default now(),
  heartbeat_at timestamptz not null default now(),
  claim_count  integer     not null default 0
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
comment on table posthaste.relays is
  'Running relays. Each holds a session advisory lock; one whose lock is free or whose heartbeat is old is dead, and any other releases its claims.';
comment on column posthaste.relays.id is 'Number of the process; never used again.';
comment on column posthaste.relays.name is 'Its relay.name setting.';
comment on column posthaste.relays.version is 'Its version of Posthaste.';
comment on column posthaste.relays.started_at is 'When it registered.';
comment on column posthaste.relays.heartbeat_at is 'When it last renewed its lease.';
comment on column posthaste.relays.claim_count is 'Deliveries it held at that time.';

create table posthaste.routing (
  number            bigint      primary key,
  since             pg_snapshot not null,
  until             pg_snapshot not null,
  after_xid         xid8,
  after_id          bigint,
  floor_at          timestamptz not null,
  mark_xid          xid8        not null,
  mark_at           timestamptz not null,
  events            integer     not null,
  deliveries        integer     not null,
  unmatched         integer     not null,
  routed_at         timestamptz not null default clock_timestamp(),
  system_identifier bigint      not null,
  database_oid      oid         not null,
  constraint chunk_has_xid_and_id check ((after_xid is null) = (after_id is null))
);
comment on table posthaste.routing is
  'Append-only ledger of what has been routed. The row with the highest number is the cursor; its primary key lets one router in. Old rows are trimmed.';
comment on column posthaste.routing.number is 'One more than the last.';
comment on column posthaste.routing.since is 'The events routed are those visible in until and not in since.';
comment on column posthaste.routing.until is 'See since.';
comment on column posthaste.routing.after_xid is
  'Null: everything between since and until is routed. Otherwise only up to this transaction and event, in that order.';
comment on column posthaste.routing.after_id is 'See after_xid.';
comment on column posthaste.routing.floor_at is
  'No transaction that is not routed yet began before this moment, so older partitions need no look.';
comment on column posthaste.routing.mark_xid is 'Once every transaction before this one has ended, floor_at moves up to mark_at.';
comment on column posthaste.routing.mark_at is 'See mark_xid.';
comment on column posthaste.routing.events is 'Events routed in this step.';
comment on column posthaste.routing.deliveries is 'Deliveries that they owe.';
comment on column posthaste.routing.unmatched is 'Events among them that nobody is owed.';
comment on column posthaste.routing.routed_at is 'When.';
comment on column posthaste.routing.system_identifier is
  'The database cluster that the transaction numbers belong to: in a restored dump they mean nothing.';
comment on column posthaste.routing.database_oid is 'The database, likewise.';

create table posthaste.idempotency (
  tenant     text        not null,
  key        text        not null,
  event_id   bigint      not null,
  created_at timestamptz not null default now(),
  primary key (tenant, key)
);
create index idempotency_by_age on posthaste.idempotency (created_at);
comment on table posthaste.idempotency is 'Idempotency keys seen, for as long as the outbox is kept.';
comment on column posthaste.idempotency.tenant is 'The event''s tenant; empty where it has none.';
comment on column posthaste.idempotency.key is 'The event''s idempotency key.';
comment on column posthaste.idempotency.event_id is 'The first event that carried it.';
comment on column posthaste.idempotency.created_at is 'When it was first seen.';

-- ── the first cursor: nothing has been routed, and nothing can have been inserted before ────────

insert into posthaste.routing
  (number, since, until, floor_at, mark_xid, mark_at, events, deliveries, unmatched, system_identifier, database_oid)
select 0, s, s, now(), pg_snapshot_xmax(s), now(), 0, 0, 0,
       (select system_identifier from pg_control_system()),
       (select oid from pg_database where datname = current_database())
  from pg_current_snapshot() s;
