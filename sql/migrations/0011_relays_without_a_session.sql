-- Relays behind a pooler in transaction mode, which keeps no session for them that could hold a lock.

alter table posthaste.relays add column has_session boolean not null default true;
comment on column posthaste.relays.has_session is
  'Whether it holds a session advisory lock. One that does not (it runs behind a pooler in transaction mode) is dead only when its heartbeat is old.';
comment on table posthaste.relays is
  'Running relays. Each holds a session advisory lock, if it has a session; one whose lock is free or whose heartbeat is old is dead, and any other releases its claims.';
