-- Roles: to grant to the application, to operators and to the relay. They belong to the whole cluster; where the
-- migrating role may not create them, they are left out and a notice says so.

do $$
declare
  role text;
begin
  foreach role in array array['posthaste_producer', 'posthaste_viewer', 'posthaste_operator', 'posthaste_relay'] loop
    begin
      if not exists (select from pg_roles where rolname = role) then
        execute format('create role %I nologin', role);
      end if;
    exception
      when duplicate_object or unique_violation then null;
      when insufficient_privilege then
        raise notice 'role % cannot be created by %; create it, then call posthaste.grant_roles()', role, current_user;
    end;
  end loop;
end $$;

-- The rights of every role, in one place. Every migration that adds something calls it again.
create function posthaste.grant_roles() returns void
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  g record;
  looks constant text[] := array[
    'usage on schema posthaste, posthaste_internal',
    'select on posthaste.live_deliveries, posthaste.delivery_status, posthaste.delivery_attempts,
       posthaste.endpoint_status, posthaste.backlog,
       posthaste.recent_failures, posthaste.relay_status, posthaste.events, posthaste.unrouted_events, posthaste.ingest_status,
       posthaste.rules, posthaste.set_aside',
    -- Neither headers nor url: tokens stand there. The views show the url up to its query.
    'select (id, subscriptions, tenant, filter, enabled, disabled_at, disabled_reason, body_format, timeout,
       max_attempts, schedule, max_concurrency, rate_limit, ordered, on_dead, hold, description, metadata, revision, created_at, updated_at)
       on posthaste.endpoints',
    'execute on function posthaste.webhook_id, posthaste.event_of, posthaste.explain, posthaste.check_consistency,
       posthaste.deliveries_of, posthaste.deliveries_between, posthaste.events_between',
    'execute on function posthaste_internal.claimed_in, posthaste_internal.without_query,
       posthaste_internal.most_counted, posthaste_internal.live_state, posthaste_internal.live_reason'];
  steers constant text[] := array[
    'select, insert, update, delete on posthaste.endpoints, posthaste.rules',
    -- The views show these columns to roles that may read them.
    'select (response_headers, response_body) on posthaste.attempts',
    'usage on sequence posthaste.revision',
    -- The checks, triggers and the index of these tables call these.
    'execute on function posthaste_internal.are_subscriptions, posthaste_internal.are_endpoint_headers,
       posthaste_internal.are_delays, posthaste_internal.url_problem, posthaste_internal.host_problem,
       posthaste_internal.filter_problem, posthaste_internal.header_problem, posthaste_internal.is_header_of_the_relay,
       posthaste_internal.causes, posthaste_internal.is_cause,
       posthaste_internal.route_keys, posthaste_internal.generate_secret',
    'execute on function posthaste.add_endpoint, posthaste.enable_endpoint, posthaste.disable_endpoint,
       posthaste.rotate_secret, posthaste.send_test, posthaste.retry, posthaste.retry_endpoint, posthaste.replay,
       posthaste.cancel, posthaste.cancel_endpoint, posthaste.unblock, posthaste.route_again, posthaste.load_rules, posthaste.unload_rules'];
begin
  -- Every role may execute a new function until this revokes it, also one of a later migration.
  revoke all on all tables in schema posthaste from public;
  revoke all on all sequences in schema posthaste from public;
  revoke execute on all functions in schema posthaste, posthaste_internal from public;
  for g in
    select r.rolname, p.privilege from (
      select 'posthaste_producer', unnest(array[
        'usage on schema posthaste, posthaste_internal',
        -- All columns: an ORM names each, with DEFAULT for what the database sets, and reads those back.
        'insert on posthaste.outbox',
        'select (id, created_at, xid) on posthaste.outbox',
        'usage on sequence posthaste.ids_are_given_by_the_database',
        'select on sequence posthaste.silence',
        'execute on function posthaste_internal.are_event_headers, posthaste_internal.header_problem,
           posthaste_internal.is_header_of_the_relay',
        'execute on function
           posthaste.emit(text, json, text, text, text, bigint, jsonb, timestamptz, timestamptz),
           posthaste.emit(text, jsonb, text, text, text, bigint, jsonb, timestamptz, timestamptz),
           posthaste.emit(text, text, text, text, text, bigint, jsonb, timestamptz, timestamptz)',
        'execute on function posthaste.event_of_key'])
      union all select 'posthaste_viewer', unnest(looks)
      union all select 'posthaste_operator', unnest(looks || steers)
      union all select 'posthaste_relay', unnest(array[
        'usage on schema posthaste, posthaste_internal',
        'select, insert, update, delete on all tables in schema posthaste',
        'usage, select on all sequences in schema posthaste',
        'update on sequence posthaste.silence',
        'execute on all functions in schema posthaste, posthaste_internal'])) p(role, privilege)
      join pg_roles r on r.rolname = p.role
  loop
    execute format('grant %s to %I', g.privilege, g.rolname);
  end loop;
end $$;
comment on function posthaste.grant_roles is
  'Grants each role what it needs, and revokes everything from all others; safe to call again.';

do $$
begin
  perform posthaste.grant_roles();
end $$;
