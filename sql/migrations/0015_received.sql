-- Webhooks that come in: what each sender called its deliveries, so that one that is sent again, or that
-- waited in a spool while nobody knew whether it had been stored, becomes an event once.

create table posthaste.received (
  source           text        not null,
  sender_id        text        not null,
  event_id         bigint      not null,
  event_created_at timestamptz not null,
  received_at      timestamptz not null default clock_timestamp(),
  primary key (source, sender_id),
  constraint source_is_1_to_64_characters check (length(source) between 1 and 64),
  constraint sender_id_is_1_to_256_characters check (length(sender_id) between 1 and 256)
);
-- Serves the view and the trimming: both go from source to source.
create index received_by_source on posthaste.received (source, received_at);

comment on table posthaste.received is
  'Private. Webhooks that came in, by what their sender called them, for as long as upkeep.received_retention says.';
comment on column posthaste.received.source is 'The source: the name of its section in the settings, and the end of the path.';
comment on column posthaste.received.sender_id is
  'What the sender calls the delivery (X-GitHub-Delivery, webhook-id, …), or a number drawn for it where it has no name.';
comment on column posthaste.received.event_id is 'The event that became of it.';
comment on column posthaste.received.event_created_at is 'The event''s created_at, which names its partition.';
comment on column posthaste.received.received_at is 'When it was stored.';

create view posthaste.ingest_status as
  -- Walked loosely: one descent a source.
  with recursive found as (
    (select r.source from posthaste.received r order by r.source limit 1)
    union all
    select n.source from found cross join lateral (
      select r.source from posthaste.received r where r.source > found.source order by r.source limit 1) n
  )
  select found.source, last.received_at as last_received_at, last.event_id as last_event_id,
         recent.count as received_recently, recent.count = 10000 as received_recently_is_more
    from found
    cross join lateral (
      select r.received_at, r.event_id from posthaste.received r
       where r.source = found.source order by r.received_at desc limit 1) last
    cross join lateral (
      select count(*) from (
        select from posthaste.received r
         where r.source = found.source and r.received_at > clock_timestamp() - interval '1 hour' limit 10000) r) recent;
comment on view posthaste.ingest_status is
  'For each source of webhooks that come in: when it last sent, and how much. What waits in a relay''s spool is not here yet: see /status.';
comment on column posthaste.ingest_status.source is 'The source.';
comment on column posthaste.ingest_status.last_received_at is 'When its last webhook was stored.';
comment on column posthaste.ingest_status.last_event_id is 'The event that became of it.';
comment on column posthaste.ingest_status.received_recently is 'Webhooks stored in the last hour, counted up to 10,000.';
comment on column posthaste.ingest_status.received_recently_is_more is 'Whether there are (or may be) more than were counted.';

comment on column posthaste.outbox.headers is
  'Extra request headers as {"name": "value"}, for instance traceparent. They can replace none of ours, except to an endpoint with body_format raw: there content-type, where the payload is a text that is not JSON; and webhook-id, webhook-timestamp and webhook-signature, all three together.';
comment on column posthaste.endpoints.body_format is
  'standard {"type","timestamp","data"}, event_payload {"event","payload"}, raw (the payload alone; one that is a text, under the content-type that the event''s headers name) or cloudevents (structured mode).';

create or replace function posthaste.grant_roles() returns void
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  g record;
  looks constant text[] := array[
    'usage on schema posthaste',
    'select on posthaste.delivery_status, posthaste.delivery_attempts, posthaste.endpoint_status, posthaste.backlog,
       posthaste.recent_failures, posthaste.relay_status, posthaste.unrouted_events, posthaste.ingest_status, posthaste.rules',
    -- Not the headers: people put tokens there.
    'select (id, url, subscriptions, tenant, filter, enabled, disabled_at, disabled_reason, body_format, timeout,
       max_attempts, schedule, max_concurrency, rate_limit, ordered, on_dead_head, description, metadata, revision, created_at, updated_at)
       on posthaste.endpoints',
    'execute on function posthaste.webhook_id, posthaste.event_of, posthaste.explain, posthaste.check_consistency'];
  steers constant text[] := array[
    'select, insert, update, delete on posthaste.endpoints, posthaste.rules',
    'usage on sequence posthaste.revision',
    'execute on function posthaste.are_subscriptions, posthaste.are_endpoint_headers, posthaste.are_delays, posthaste.route_keys',
    'execute on function posthaste.add_endpoint, posthaste.enable_endpoint, posthaste.disable_endpoint,
       posthaste.rotate_secret, posthaste.generate_secret, posthaste.send_test, posthaste.retry, posthaste.replay,
       posthaste.cancel, posthaste.cancel_endpoint, posthaste.unblock, posthaste.load_rules, posthaste.unload_rules'];
begin
  -- A function may be executed by everybody until this is said, also one of a later migration.
  revoke all on all tables in schema posthaste from public;
  revoke all on all sequences in schema posthaste from public;
  revoke execute on all functions in schema posthaste from public;
  for g in
    select r.rolname, p.privilege from (
      select 'posthaste_producer', unnest(array[
        'usage on schema posthaste',
        'insert (event_type, payload, tenant, ordering_key, idempotency_key, endpoint_id, headers, deliver_at, expires_at)
           on posthaste.outbox',
        'select (id) on posthaste.outbox',
        'execute on function posthaste.emit, posthaste.event_of_key'])
      union all select 'posthaste_viewer', unnest(looks)
      union all select 'posthaste_operator', unnest(looks || steers)
      union all select 'posthaste_relay', unnest(array[
        'usage on schema posthaste',
        'select, insert, update, delete on all tables in schema posthaste',
        'usage, select on all sequences in schema posthaste',
        'execute on all functions in schema posthaste'])) p(role, privilege)
      join pg_roles r on r.rolname = p.role
  loop
    execute format('grant %s to %I', g.privilege, g.rolname);
  end loop;
end $$;

do $$
begin
  perform posthaste.grant_roles();
end $$;
