-- How people steer: every function is one call from psql.

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
  values (event_type, payload, tenant, ordering_key, idempotency_key, endpoint_id, headers, deliver_at, expires_at)
  returning outbox.id into id;
  if id is null then
    id := posthaste.event_of_key(tenant, idempotency_key);
  end if;
  return id;
end $$;
comment on function posthaste.emit is
  'Inserts an event and returns its id; for an idempotency key that has been seen, the id of the first event that carried it.';

create function posthaste.event_of_key(tenant text, idempotency_key text) returns bigint
  language sql stable security definer set search_path = pg_catalog, pg_temp
  return (select event_id from posthaste.idempotency i
           where i.tenant = coalesce(event_of_key.tenant, '') and i.key = event_of_key.idempotency_key);
comment on function posthaste.event_of_key is 'The first event that carried an idempotency key.';
