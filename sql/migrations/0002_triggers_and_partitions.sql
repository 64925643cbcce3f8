-- What happens when rows are written, and how days come and go.

-- ── the bell ────────────────────────────────────────────────────────────────────────────────────
-- A relay that is awake holds the bell's lock exclusively, so nobody rings. NOTIFY takes one lock
-- of the whole cluster at commit; a bell that is only rung when somebody is asleep does not pay it
-- under load. 1886352244 is 'post' in ASCII; the bell is its lock number 1.

create function posthaste.ring() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_notify('posthaste', '');
  return null;
end $$;
comment on function posthaste.ring is 'Wakes sleeping relays when the transaction commits.';

create trigger outbox_rings_the_bell
  after insert on posthaste.outbox
  for each statement
  when (pg_try_advisory_xact_lock_shared(1886352244, 1))
  execute function posthaste.ring();

create function posthaste.install_bell(rings boolean) returns boolean
  language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '1s' as $$
begin
  if rings = (select tgenabled <> 'D' from pg_trigger
               where tgrelid = 'posthaste.outbox'::regclass and tgname = 'outbox_rings_the_bell') then
    return false;
  end if;
  if rings then
    alter table posthaste.outbox enable trigger outbox_rings_the_bell;
  else
    alter table posthaste.outbox disable trigger outbox_rings_the_bell;
  end if;
  return true;
end $$;
comment on function posthaste.install_bell is
  'Turns the bell on or off; returns whether that changed anything. Without it relays poll: for applications that use two-phase commit (PREPARE TRANSACTION refuses NOTIFY) and engines without LISTEN.';

-- ── what is the relay's to set ──────────────────────────────────────────────────────────────────
-- Routing trusts created_at and xid. A row that sets them would be lost in silence; so it is refused
-- aloud. The WHEN costs a comparison; ordinary rows never call the function.

create function posthaste.refuse_foreign_clock() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception 'posthaste.outbox: created_at and xid are set by the database'
    using errcode = 'check_violation', constraint = 'created_at_and_xid_are_left_to_the_database',
          detail = format('created_at is %s, the database''s clock says %s.', new.created_at, clock_timestamp()),
          hint = 'Leave both columns out of the INSERT; put the application''s own time into the payload.';
end $$;
comment on function posthaste.refuse_foreign_clock is 'Refuses an event whose created_at or xid was set by hand.';

create trigger outbox_keeps_the_databases_clock
  after insert on posthaste.outbox
  for each row
  when (new.xid <> pg_current_xact_id()
        or new.created_at < clock_timestamp() - interval '1 hour'
        or new.created_at > clock_timestamp() + interval '1 hour')
  execute function posthaste.refuse_foreign_clock();

-- ── idempotency ─────────────────────────────────────────────────────────────────────────────────

create function posthaste.skip_duplicate() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into posthaste.idempotency (tenant, key, event_id)
  values (coalesce(new.tenant, ''), new.idempotency_key, new.id)
  on conflict do nothing;
  return case when found then new end;
end $$;
comment on function posthaste.skip_duplicate is 'Skips an event whose idempotency key has been seen.';

create trigger outbox_skips_duplicates
  before insert on posthaste.outbox
  for each row
  when (new.idempotency_key is not null)
  execute function posthaste.skip_duplicate();

-- ── endpoints ───────────────────────────────────────────────────────────────────────────────────

create function posthaste.touch_endpoint() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  new.revision := nextval('posthaste.revision');
  new.updated_at := clock_timestamp();
  if new.enabled then
    new.disabled_at := null;
    new.disabled_reason := null;
  else
    new.disabled_at := coalesce(new.disabled_at, clock_timestamp());
    new.disabled_reason := coalesce(new.disabled_reason, 'disabled by ' || session_user);
  end if;
  return new;
end $$;
comment on function posthaste.touch_endpoint is 'Gives a changed endpoint its revision, and a disabled one its time and reason.';

create trigger endpoints_are_touched
  before insert or update on posthaste.endpoints
  for each row execute function posthaste.touch_endpoint();

create function posthaste.generate_secret() returns text
  language sql volatile parallel safe set search_path = pg_catalog, pg_temp
  return 'whsec_' || encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
                                   || uuid_send(gen_random_uuid())), 'base64');
comment on function posthaste.generate_secret is
  'A new HMAC secret of 32 bytes. gen_random_uuid draws 122 bits from the server''s strong random source; three are hashed to 256.';

create function posthaste.give_secret() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into posthaste.endpoint_secrets (endpoint_id, secret) values (new.id, posthaste.generate_secret());
  return null;
end $$;
comment on function posthaste.give_secret is 'Every endpoint has a secret from its first moment.';

create trigger endpoints_have_a_secret
  after insert on posthaste.endpoints
  for each row execute function posthaste.give_secret();

create function posthaste.touch_endpoint_of_secret() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  update posthaste.endpoints set updated_at = clock_timestamp()
   where id in (new.endpoint_id, old.endpoint_id);
  return null;
end $$;
comment on function posthaste.touch_endpoint_of_secret is 'A changed secret is a changed endpoint.';

create trigger secrets_touch_their_endpoint
  after insert or update or delete on posthaste.endpoint_secrets
  for each row execute function posthaste.touch_endpoint_of_secret();

-- An endpoint that is deleted ends what it was owed, and says so.
create function posthaste.cancel_deliveries_of_endpoint() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  with ended as (
    delete from posthaste.deliveries d where d.endpoint_id = old.id returning d.*
  )
  insert into posthaste.attempts
    (event_id, endpoint_id, event_created_at, started_at, number, relay_id, duration_ms, outcome, verdict, reason)
  select event_id, endpoint_id, event_created_at, clock_timestamp(), 0, 0, 0, 'none', 'cancelled', 'endpoint deleted'
    from ended;
  return null;
end $$;
comment on function posthaste.cancel_deliveries_of_endpoint is 'Cancels what a deleted endpoint is still owed, with the reason.';

create trigger endpoints_cancel_what_they_are_owed
  after delete on posthaste.endpoints
  for each row execute function posthaste.cancel_deliveries_of_endpoint();

-- ── rules ───────────────────────────────────────────────────────────────────────────────────────

create function posthaste.check_rule() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- The relay matches with an engine without look-around and back-references, which some bodies
  -- could otherwise make run for ever.
  if new.body_pattern ~ '\(\?<?[=!]|\\[1-9mMyYA-CE-RT-VX-Z]' then
    raise exception 'rule %: body_pattern has look-around, a back-reference or an unknown escape', new.name
      using errcode = 'check_violation', constraint = 'body_pattern_is_a_regular_expression';
  end if;
  begin
    perform '' ~ new.body_pattern;
  exception when invalid_regular_expression then
    raise exception 'rule %: body_pattern is not a regular expression: %', new.name, sqlerrm
      using errcode = 'check_violation', constraint = 'body_pattern_is_a_regular_expression';
  end;
  return new;
end $$;
comment on function posthaste.check_rule is 'Refuses a rule whose body_pattern cannot be matched, by its name.';

create trigger rules_are_checked
  before insert or update on posthaste.rules
  for each row execute function posthaste.check_rule();

create function posthaste.touch_rules() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform nextval('posthaste.rules_revision');
  return null;
end $$;
comment on function posthaste.touch_rules is 'Tells the relays that the rules have changed.';

create sequence posthaste.rules_revision;
comment on sequence posthaste.rules_revision is 'Moves with every change of posthaste.rules; relays look at it with each heartbeat.';

create trigger rules_touch_their_revision
  after insert or update or delete or truncate on posthaste.rules
  for each statement execute function posthaste.touch_rules();

-- ── days ────────────────────────────────────────────────────────────────────────────────────────

create table posthaste.outbox_default partition of posthaste.outbox default;
comment on table posthaste.outbox_default is
  'Safety net: takes events of a day that has no partition, so that an insert never fails for want of one.';
create table posthaste.attempts_default partition of posthaste.attempts default;
comment on table posthaste.attempts_default is 'Safety net, likewise.';

create function posthaste.make_partitions(days_ahead integer) returns integer
  language plpgsql security definer
  set search_path = pg_catalog, pg_temp set timezone = 'UTC' set lock_timeout = '100ms' as $$
declare
  parent text;
  key text;
  day date;
  child text;
  made integer := 0;
begin
  foreach parent in array array['outbox', 'attempts'] loop
    key := case parent when 'outbox' then 'created_at' else 'started_at' end;
    for day in select current_date + n from generate_series(0, days_ahead) n loop
      child := format('%s_%s', parent, to_char(day, 'YYYYMMDD'));
      continue when to_regclass('posthaste.' || child) is not null;
      -- Made apart and attached: that takes a lock which inserts do not wait for. What the safety
      -- net caught of this day moves along.
      execute format('create table posthaste.%I (like posthaste.%I including defaults including constraints)', child, parent);
      execute format(
        'with moved as (delete from posthaste.%I where %I >= %L and %I < %L returning *)
         insert into posthaste.%I select * from moved',
        parent || '_default', key, day, key, day + 1, child);
      execute format('alter table posthaste.%I attach partition posthaste.%I for values from (%L) to (%L)',
                     parent, child, day, day + 1);
      execute format('comment on table posthaste.%I is %L', child,
                     format('The %s of %s (UTC).', case parent when 'outbox' then 'events' else parent end, day));
      made := made + 1;
    end loop;
  end loop;
  return made;
end $$;
comment on function posthaste.make_partitions is
  'Makes the daily partitions of outbox and attempts from today to so many days ahead (UTC); returns how many were missing.';

create function posthaste.drop_partitions(outbox_retention interval, attempts_retention interval) returns text[]
  language plpgsql security definer
  set search_path = pg_catalog, pg_temp set timezone = 'UTC' set lock_timeout = '100ms' as $$
declare
  child record;
  needed boolean;
  dropped text[] := '{}';
begin
  for child in
    select c.relname, p.relname as parent, to_date(right(c.relname, 8), 'YYYYMMDD') + 1 as upper_bound
      from pg_inherits i
      join pg_class c on c.oid = i.inhrelid
      join pg_class p on p.oid = i.inhparent
     where p.oid in ('posthaste.outbox'::regclass, 'posthaste.attempts'::regclass)
       and c.relname ~ '_[0-9]{8}$'
     order by c.relname
  loop
    continue when child.upper_bound > now() - case child.parent
      when 'outbox' then outbox_retention else attempts_retention end;
    if child.parent = 'outbox' then
      -- Kept while a live delivery needs one of its events, or one is not routed yet.
      execute format(
        'select exists (select from posthaste.deliveries d
                         where d.event_id between (select min(id) from posthaste.%1$I) and (select max(id) from posthaste.%1$I)
                           and d.event_created_at < %2$L)
             or exists (select from posthaste.%1$I o
                         where o.xid >= (select pg_snapshot_xmin(since) from posthaste.routing order by number desc limit 1)
                           and not pg_visible_in_snapshot(o.xid, (select since from posthaste.routing order by number desc limit 1)))',
        child.relname, child.upper_bound) into needed;
      continue when needed;
    end if;
    begin
      execute format('drop table posthaste.%I', child.relname);
      dropped := dropped || child.relname::text;
    exception when lock_not_available then
      -- Somebody reads or writes it for long; an insert must not queue behind us. Next time.
      null;
    end;
  end loop;
  return dropped;
end $$;
comment on function posthaste.drop_partitions is
  'Drops whole days that are past their retention, except days of the outbox that are still needed; returns what it dropped.';

select posthaste.make_partitions(7);

-- ── filters ─────────────────────────────────────────────────────────────────────────────────────

create function posthaste.filter_matches(payload json, filter jsonpath) returns boolean
  language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
begin
  return jsonb_path_exists(payload::jsonb, filter, silent => true);
exception when data_exception or program_limit_exceeded then
  -- json allows what jsonb cannot hold (\u0000, numbers without end). Such a payload matches no
  -- filter; it must not stop the events behind it.
  return false;
end $$;
comment on function posthaste.filter_matches is
  'Whether the path yields anything for the payload. A payload that jsonb cannot hold matches nothing.';

-- ── restored dumps ──────────────────────────────────────────────────────────────────────────────

create function posthaste.rebase_routing(out events bigint, out floor_at timestamptz)
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  here posthaste.routing;
begin
  -- Another relay may do it at the same time: one after the other, and the second finds it done.
  perform pg_advisory_xact_lock(1886352244, 2);
  select * into here from posthaste.routing order by number desc limit 1;
  if here.system_identifier = (select system_identifier from pg_control_system())
     and here.database_oid = (select oid from pg_database where datname = current_database()) then
    events := 0;
    floor_at := here.floor_at;
    return;
  end if;
  -- Nobody has inserted without committing while we hold this lock. The only time that rows of the
  -- outbox are changed: what was neither delivered nor tried becomes this transaction's, and
  lock table posthaste.outbox in share row exclusive mode;
  -- the rest becomes that of a transaction before all others: the old numbers will come again.
  update posthaste.outbox o
     set xid = case when exists (select from posthaste.deliveries d where d.event_id = o.id)
                      or exists (select from posthaste.attempts a where a.event_id = o.id)
                    then '3'::xid8 else pg_current_xact_id() end;
  select count(*) into events from posthaste.outbox where xid = pg_current_xact_id();
  -- What is not routed: this transaction, all that come after it, and those that are open now and
  -- may still insert.
  floor_at := coalesce((select min(created_at) from posthaste.outbox where xid = pg_current_xact_id()), clock_timestamp());
  insert into posthaste.routing
    (number, since, until, floor_at, mark_xid, mark_at, events, deliveries, unmatched, system_identifier, database_oid)
  select here.number + 1, s, s, rebase_routing.floor_at, x, clock_timestamp(), 0, 0, 0,
         (select system_identifier from pg_control_system()),
         (select oid from pg_database where datname = current_database())
    from pg_current_xact_id() x
    cross join lateral (
      select string_agg(open::text, ',' order by open), min(open)
        from pg_snapshot_xip(pg_current_snapshot()) open where open < x) o(open, first)
    cross join lateral (
      select (coalesce(o.first, x) || ':' || x || ':' || coalesce(o.open, ''))::pg_snapshot) l(s);
end $$;
comment on function posthaste.rebase_routing is
  'Begins routing anew if this database was restored from another one: every event that has neither delivery nor attempt is routed again. Returns how many there are, and the age of the first.';
