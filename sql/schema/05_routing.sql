-- Routing: how far the outbox has been read.

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
  span_number       bigint,
  relay_id          integer,
  constraint chunk_has_xid_and_id check ((after_xid is null) = (after_id is null))
);
comment on table posthaste.routing is
  'Append-only ledger of routing. The row with the highest number is the cursor; its primary key lets one router in. Old rows are trimmed.';
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
comment on column posthaste.routing.unmatched is 'Events among them that no endpoint is owed.';
comment on column posthaste.routing.routed_at is 'When the step was routed.';
comment on column posthaste.routing.system_identifier is
  'The database cluster that the transaction numbers belong to: in a restored dump they mean nothing.';
comment on column posthaste.routing.database_oid is 'The database, likewise.';
comment on column posthaste.routing.span_number is
  'The step that began this span of since to until, where it takes several. Null: this one.';
comment on column posthaste.routing.relay_id is
  'The relay that routed it: while it takes one full step after the other, others leave routing to it.';

-- The right to route is a lock that needs a privilege: an advisory one may be taken by any role that may log in. It
-- conflicts with itself alone, is taken without a transaction number, and nothing writes to the table, so that there is
-- nothing to vacuum.
create table posthaste.routers ();
comment on table posthaste.routers is
  'Holds no row: a relay locks it while a statement of its routes, so that others do not try in vain.';

create function posthaste_internal.may_route() returns boolean
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  lock table posthaste.routers in share update exclusive mode nowait;
  return true;
exception when lock_not_available then
  return false;
end $$;
comment on function posthaste_internal.may_route is
  'Takes the router''s lock until the end of the transaction. False: another transaction has it.';

insert into posthaste.routing
  (number, since, until, floor_at, mark_xid, mark_at, events, deliveries, unmatched, system_identifier, database_oid)
select 0, s, s, now(), pg_snapshot_xmax(s), now(), 0, 0, 0,
       (select system_identifier from pg_control_system()),
       (select oid from pg_database where datname = current_database())
  from pg_current_snapshot() s;

-- A relay remembers which endpoints are owed events of which kind, and asks with each step of routing whether one has
-- changed since: by these transactions, and its snapshot of then. A number drawn from a sequence would not do: it is
-- seen before its transaction has committed.
create table posthaste.endpoint_changes (
  changed_in xid8 primary key
);
comment on table posthaste.endpoint_changes is
  'Transactions that changed endpoints. What a relay remembers of endpoints holds while there is none that it has not seen. Old rows are trimmed.';
comment on column posthaste.endpoint_changes.changed_in is 'The transaction. Rows are trimmed from the lowest on: of changes before the lowest that is left nothing is known.';

insert into posthaste.endpoint_changes values ('0');

create function posthaste_internal.note_endpoint_change() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into posthaste.endpoint_changes values (pg_current_xact_id()) on conflict do nothing;
  return null;
end $$;
comment on function posthaste_internal.note_endpoint_change is 'Tells relays that what they remember of endpoints no longer holds.';

create trigger changes_of_endpoints_are_noted
  after insert or update or delete or truncate on posthaste.endpoints
  for each statement execute function posthaste_internal.note_endpoint_change();

-- While one tenant's events are a long backlog, others' are routed ahead of the cursor. It passes over them when it
-- comes to them, and then they are forgotten here.
create table posthaste.routed_ahead (
  event_id bigint primary key,
  xid      xid8   not null
);
comment on table posthaste.routed_ahead is
  'Events that were routed before the cursor came to them, since the backlog before them is another tenant''s. Empty, but for that.';
comment on column posthaste.routed_ahead.event_id is 'The event.';
comment on column posthaste.routed_ahead.xid is 'The transaction that inserted it: once the cursor has passed it, the row is trimmed.';

-- Its cost is told too low, so that the plan of what reads events is the same with it: by transaction, not by what is
-- here. It is asked only while something is.
create function posthaste_internal.is_ahead(event bigint) returns boolean
  language sql stable parallel safe cost 1
  return exists (select from posthaste.routed_ahead a where a.event_id = is_ahead.event);
comment on function posthaste_internal.is_ahead is 'Whether an event was routed before the cursor came to it.';

create function posthaste_internal.is_routed(
  xid xid8, event bigint, since pg_snapshot, until pg_snapshot, after_xid xid8, after_id bigint
) returns boolean
  language sql immutable parallel safe
  return case when after_id is null then pg_visible_in_snapshot(xid, until)
              else pg_visible_in_snapshot(xid, since)
                   or (pg_visible_in_snapshot(xid, until) and (xid, event) <= (after_xid, after_id)) end;
comment on function posthaste_internal.is_routed is
  'Whether an event had been routed when a row of the ledger was written: its columns since, until, after_xid and after_id.';

-- A span that is not routed to its end may still bring an event that belongs in front.
create function posthaste_internal.open_span() returns bigint
  language sql stable parallel safe
  return (select case when l.after_id is not null then coalesce(l.span_number, l.number) end
            from (select * from posthaste.routing r order by r.number desc limit 1) l);
comment on function posthaste_internal.open_span is
  'The place of the span that is being routed in several steps, if one is: its events have no order yet.';

create function posthaste_internal.last_place() returns bigint
  language sql stable parallel safe
  return (select max(r.number) from posthaste.routing r);
comment on function posthaste_internal.last_place is 'The place behind all routed events.';

-- ── restored dumps ─────────────────────────────────────────────────────────────────────────────────

create function posthaste_internal.rebase_routing(out events bigint, out floor_at timestamptz)
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  here posthaste.routing;
  claimed constant bigint[] := array(select unnest(c.event_ids) from posthaste.claims c);
begin
  -- Another relay may do it at the same time: one after the other, and the second finds it done.
  lock table posthaste.routers in share update exclusive mode;
  select * into here from posthaste.routing order by number desc limit 1;
  if here.system_identifier = (select system_identifier from pg_control_system())
     and here.database_oid = (select oid from pg_database where datname = current_database()) then
    events := 0;
    floor_at := here.floor_at;
    return;
  end if;
  -- While this lock is held, no uncommitted insert exists. Only here are rows of the outbox changed: an event that
  -- was neither delivered nor tried becomes this transaction's, and
  lock table posthaste.outbox in share row exclusive mode;
  -- every other one that of a transaction before all others: the old numbers will come again.
  update posthaste.outbox o
     set xid = case when exists (select from posthaste.deliveries d where d.event_id = o.id)
                      or o.id = any(claimed)
                      or exists (select from posthaste.attempts a where a.event_id = o.id)
                    then '3'::xid8 else pg_current_xact_id() end;
  select count(*) into events from posthaste.outbox where xid = pg_current_xact_id();
  -- Not routed are this transaction, all later ones, and those that are open now and may still insert.
  floor_at := coalesce((select min(created_at) from posthaste.outbox where xid = pg_current_xact_id()), clock_timestamp());
  -- The numbers of transactions mean nothing here either.
  delete from posthaste.routed_ahead;
  delete from posthaste.endpoint_changes;
  insert into posthaste.endpoint_changes values ('0'), (pg_current_xact_id());
  insert into posthaste.routing
    (number, since, until, floor_at, mark_xid, mark_at, events, deliveries, unmatched, system_identifier, database_oid)
  select here.number + 1, s, s, rebase_routing.floor_at, x, clock_timestamp(), 0, 0, 0,
         (select system_identifier from pg_control_system()),
         (select oid from pg_database where datname = current_database())
    from pg_current_xact_id() x
    cross join lateral (
      -- Not min(open), which PostgreSQL 14 does not have.
      select string_agg(open::text, ',' order by open), (array_agg(open order by open))[1]
        from pg_snapshot_xip(pg_current_snapshot()) open where open < x) o(open, first)
    cross join lateral (
      select (coalesce(o.first, x) || ':' || x || ':' || coalesce(o.open, ''))::pg_snapshot) l(s);
end $$;
comment on function posthaste_internal.rebase_routing is
  'Begins routing anew if this database was restored from another one: every event that has neither delivery nor attempt is routed again. Returns how many there are, and the age of the first.';
