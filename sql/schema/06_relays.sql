-- Relays: the running processes.

create table posthaste.relays (
  id               integer     generated always as identity primary key,
  name             text        not null,
  version          text        not null,
  started_at       timestamptz not null default now(),
  heartbeat_at     timestamptz not null default now(),
  claim_count      integer     not null default 0,
  session_pid      integer,
  session_role     oid,
  session_began_at timestamptz,
  constraint session_has_pid_and_role check ((session_pid is null) = (session_role is null))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
comment on table posthaste.relays is
  'Running relays. Each names the session that keeps its lease, if it has one; a relay whose session has ended or whose heartbeat is old is dead, and any other releases its claims.';
comment on column posthaste.relays.id is 'Number of the process; never used again.';
comment on column posthaste.relays.name is 'Its relay.name setting.';
comment on column posthaste.relays.version is 'Its version of Posthaste.';
comment on column posthaste.relays.started_at is 'When it registered.';
comment on column posthaste.relays.heartbeat_at is 'When it last renewed its lease.';
comment on column posthaste.relays.claim_count is 'Deliveries it held at that time.';
comment on column posthaste.relays.session_pid is
  'The process of the session that keeps its lease (pg_stat_activity.pid). Null: it has none, as it runs behind a pooler in transaction mode, and is dead only when its heartbeat is old.';
comment on column posthaste.relays.session_role is 'The role of that session (pg_stat_activity.usesysid).';
comment on column posthaste.relays.session_began_at is
  'When that session began (pg_stat_activity.backend_start), by which it is told from a later one of the same number.';

-- A lock would say the same, but any role that may log in can take one: it could keep a relay from registering, or have
-- a dead one look alive. A session ends at once in pg_stat_activity, and nothing that a stranger may do adds one.
create function posthaste_internal.is_session(pid integer, role oid, began_at timestamptz) returns boolean
  language sql stable
  return exists (
    select from pg_stat_activity a
     where a.pid = is_session.pid and a.usesysid = is_session.role
       and a.datid = (select d.oid from pg_database d where d.datname = current_database())
       -- Null: a session of another role, of which the caller may not know that much.
       and coalesce(a.backend_start = is_session.began_at, true));
comment on function posthaste_internal.is_session is
  'Whether a session lives: its process, its role, and when it began, as pg_stat_activity has them.';
