-- Roles to grant to the application, to people and to the relay. They belong to the whole cluster;
-- where the migrating role may not create them, they are left out and a notice says so.

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
        raise notice 'role % cannot be created by %; create it and grant as in this migration', role, current_user;
    end;
  end loop;
end $$;

revoke all on all tables in schema posthaste from public;
revoke all on all sequences in schema posthaste from public;
revoke execute on all functions in schema posthaste from public;

-- Which role may do what, in one place. Called again by every migration that adds something.
create function posthaste.grant_roles() returns void
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if exists (select from pg_roles where rolname = 'posthaste_producer') then
    grant usage on schema posthaste to posthaste_producer;
    grant insert (event_type, payload, tenant, ordering_key, idempotency_key, endpoint_id, headers, deliver_at, expires_at)
      on posthaste.outbox to posthaste_producer;
    grant select (id) on posthaste.outbox to posthaste_producer;
    grant execute on function posthaste.emit, posthaste.event_of_key to posthaste_producer;
  end if;
  if exists (select from pg_roles where rolname = 'posthaste_viewer') then
    grant usage on schema posthaste to posthaste_viewer;
    grant select on posthaste.delivery_status, posthaste.delivery_attempts, posthaste.endpoint_status,
      posthaste.backlog, posthaste.recent_failures, posthaste.relay_status, posthaste.unrouted_events,
      posthaste.endpoints, posthaste.rules to posthaste_viewer;
    grant execute on function posthaste.webhook_id to posthaste_viewer;
  end if;
  if exists (select from pg_roles where rolname = 'posthaste_relay') then
    grant usage on schema posthaste to posthaste_relay;
    grant select, insert, update, delete on all tables in schema posthaste to posthaste_relay;
    grant usage, select on all sequences in schema posthaste to posthaste_relay;
    grant execute on all functions in schema posthaste to posthaste_relay;
  end if;
end $$;
comment on function posthaste.grant_roles is 'Grants each role what it needs; safe to call again.';
revoke execute on function posthaste.grant_roles from public;

select posthaste.grant_roles();
