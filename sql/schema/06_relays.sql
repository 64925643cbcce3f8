-- Relays: the running processes.

create table posthaste.relays (
  id           integer     generated always as identity primary key,
  name         text        not null,
  version      text        not null,
  started_at   timestamptz not null default now(),
  heartbeat_at timestamptz not null default now(),
  claim_count  integer     not null default 0,
  has_session  boolean     not null default true
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
comment on table posthaste.relays is
  'Running relays. Each holds a session advisory lock, if it has a session; one whose lock is free or whose heartbeat is old is dead, and any other releases its claims.';
comment on column posthaste.relays.id is 'Number of the process; never used again.';
comment on column posthaste.relays.name is 'Its relay.name setting.';
comment on column posthaste.relays.version is 'Its version of Posthaste.';
comment on column posthaste.relays.started_at is 'When it registered.';
comment on column posthaste.relays.heartbeat_at is 'When it last renewed its lease.';
comment on column posthaste.relays.claim_count is 'Deliveries it held at that time.';
comment on column posthaste.relays.has_session is
  'Whether it holds a session advisory lock. One that does not (it runs behind a pooler in transaction mode) is dead only when its heartbeat is old.';
