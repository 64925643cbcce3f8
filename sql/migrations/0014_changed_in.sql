-- An endpoint says which transaction changed it last.
--
-- Whether routing could see a change was judged by the row's xmin. After a savepoint that is the number of
-- a subtransaction, and snapshots list none of these: while its transaction was open, lost_events took a
-- subscription for visible, and missed deliveries that nobody owed.

alter table posthaste.endpoints add column changed_in xid8;
comment on column posthaste.endpoints.changed_in is
  'The transaction that changed it last, whatever savepoints it had. Null: none since this column exists.';

create or replace function posthaste.touch_endpoint() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  new.revision := nextval('posthaste.revision');
  new.updated_at := clock_timestamp();
  new.changed_in := pg_current_xact_id();
  if new.enabled then
    new.disabled_at := null;
    new.disabled_reason := null;
  else
    new.disabled_at := coalesce(new.disabled_at, clock_timestamp());
    new.disabled_reason := coalesce(new.disabled_reason, 'disabled by ' || session_user);
  end if;
  return new;
end $$;

create or replace function posthaste.lost_events(since timestamptz)
  returns table (problem text, event_id bigint, endpoint_id bigint, detail text)
  language sql stable
begin atomic
  with last as materialized (
    select r as ledger from posthaste.routing r order by r.number desc limit 1
  ), event as not materialized (
    select o.* from posthaste.outbox o cross join last
     where o.created_at >= lost_events.since and posthaste.is_routed(o.xid, o.id, last.ledger)
  ), kind as materialized (
    select e.event_type, coalesce(e.tenant, '') as tenant from event e where e.endpoint_id is null group by 1, 2
  ), subscriber as materialized (
    select k.event_type, k.tenant, s.id, s.filter, s.updated_at, s.changed_in
      from kind k
      join posthaste.endpoints s
        on posthaste.route_keys(s.tenant, s.subscriptions)
           && posthaste.route_keys_of_event(nullif(k.tenant, ''), k.event_type)
     where s.enabled
  ), owed as (
    select e.id, e.xid, e.created_at, s.id as owed_to, s.updated_at as unchanged_since, s.changed_in,
           s.filter, case when s.filter is not null then e.payload end as payload
      from event e
      join subscriber s on s.event_type = e.event_type and s.tenant = coalesce(e.tenant, '')
     where e.endpoint_id is null and s.updated_at <= e.created_at
    union all
    select e.id, e.xid, e.created_at, n.id, n.created_at, n.changed_in, null, null
      from event e
      join posthaste.endpoints n on n.id = e.endpoint_id
     where n.created_at <= e.created_at
  ), missing as (
    select *
      from owed w
     where not exists (select from posthaste.deliveries d where d.event_id = w.id and d.endpoint_id = w.owed_to)
       and not exists (
         select from posthaste.attempts a
          where a.event_id = w.id and a.endpoint_id = w.owed_to and a.started_at >= lost_events.since - interval '1 hour')
    -- A fence: filters and the ledger are asked about these few, not about every event.
    offset 0
  )
  select 'an event was routed, but neither delivered nor ended', w.id, w.owed_to,
         'there is neither a delivery nor an attempt; posthaste.replay with states ''{never}'' sends it'
    from missing w
   where (w.filter is null or posthaste.filter_matches(w.payload, w.filter))
     and (w.unchanged_since < w.created_at - interval '1 hour'
          or (select pg_visible_in_snapshot(w.changed_in, r.until)
                from posthaste.routing r
               where posthaste.is_routed(w.xid, w.id, r)
                 and r.number > (select min(f.number) from posthaste.routing f)
               order by r.number limit 1));
end;

drop function posthaste.full_xid(xid);
