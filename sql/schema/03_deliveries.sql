-- Deliveries: what endpoints are owed now. A row is deleted when its delivery ends.

create table posthaste.deliveries (
  event_id         bigint      not null,
  endpoint_id      bigint      not null,
  event_created_at timestamptz not null,
  attempt_count    integer     not null default 0,
  next_attempt_at  timestamptz not null,
  claimed_by       integer,
  claim_token      bigint,
  ordering_key     text,
  created_at       timestamptz not null default now(),
  place            bigint,
  in_line          boolean,
  blocked_at       timestamptz,
  interruptions    smallint,
  is_begun         boolean,
  primary key (event_id, endpoint_id),
  constraint claimed_iff_claim_token check ((claimed_by is null) = (claim_token is null)),
  constraint place_iff_ordering_key check ((place is null) = (ordering_key is null)),
  constraint in_line_has_a_key_and_no_claim
    check (in_line is null or (in_line and ordering_key is not null and claimed_by is null))
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.2,
        vacuum_truncate = off);
comment on table posthaste.deliveries is
  'Live deliveries: each row is one event that is owed to one endpoint. A row is deleted when the delivery ends; its last attempt is its record.';
comment on column posthaste.deliveries.event_id is 'The event owed.';
comment on column posthaste.deliveries.endpoint_id is 'The endpoint it is owed to.';
comment on column posthaste.deliveries.event_created_at is 'The event''s created_at, which names its partition.';
comment on column posthaste.deliveries.attempt_count is 'Attempts made and recorded so far (interrupted ones do not count).';
comment on column posthaste.deliveries.next_attempt_at is 'Due from then on.';
comment on column posthaste.deliveries.claimed_by is 'The relay that is making the next attempt. Null: none.';
comment on column posthaste.deliveries.claim_token is 'Fences the claim: a result under another token is dropped.';
comment on column posthaste.deliveries.ordering_key is
  'The event''s ordering key, if the endpoint was ordered when it was routed: its line.';
comment on column posthaste.deliveries.created_at is 'When it was routed.';
comment on column posthaste.deliveries.place is
  'Its place in line, before that of its event: the routing span that it came with.';
comment on column posthaste.deliveries.in_line is 'True: it waits behind another of its line. Null: it does not.';
comment on column posthaste.deliveries.blocked_at is
  'Since when it blocks its line: it is dead, and the endpoint''s on_dead is block. Null: it does not.';

comment on column posthaste.deliveries.interruptions is
  'How many relays in a row have ended while they had it, without an attempt that is recorded since. Null: none. From two on it is sent alone, and after a third it is dead.';
comment on column posthaste.deliveries.is_begun is
  'Whether the relay has begun the attempt. Written only where interruptions is two or more.';

create index deliveries_due on posthaste.deliveries (endpoint_id, next_attempt_at, event_id)
  where claimed_by is null and in_line is null;

create index deliveries_in_line on posthaste.deliveries (endpoint_id, ordering_key, place, event_id)
  where in_line;

create unique index one_delivery_of_a_line_has_its_turn on posthaste.deliveries (endpoint_id, ordering_key)
  where ordering_key is not null and in_line is null;

create index deliveries_blocked on posthaste.deliveries (endpoint_id, ordering_key)
  where blocked_at is not null;

-- What a step of routing claims at once is due now and has no attempt yet, and most of it is delivered at the first
-- attempt. So it is written down as one row (a *batch*), and a delivery of its own is made only of what was not
-- delivered: see record.sql.
create table posthaste.claims (
  relay_id          integer     not null,
  token             bigint      not null,
  pending           integer     not null,
  recorded          varbit      not null,
  due_at            timestamptz not null,
  created_at        timestamptz not null default now(),
  first_event       bigint      not null,
  last_event        bigint      not null,
  event_ids         bigint[]    not null,
  endpoint_ids      bigint[]    not null,
  event_created_ats timestamptz[] not null,
  primary key (relay_id, token),
  -- Arrays are not looked at: each change of the row would read them anew.
  constraint pending_are_those_not_recorded
    check (pending > 0 and pending = length(recorded) - bit_count(recorded))
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
comment on table posthaste.claims is
  'Deliveries that relays have claimed as they routed them, a row for each step of routing. A row is deleted when the last of its deliveries is recorded; what was not delivered is a row of posthaste.deliveries from then on.';
comment on column posthaste.claims.relay_id is 'The relay that is making their first attempts.';
comment on column posthaste.claims.token is 'Fences the claims: a result under another token is dropped.';
comment on column posthaste.claims.pending is 'Deliveries that are not recorded yet.';
comment on column posthaste.claims.recorded is 'A bit for each delivery: 1 once it is recorded or given back.';
comment on column posthaste.claims.due_at is 'Due from then on.';
comment on column posthaste.claims.created_at is 'When they were routed.';
comment on column posthaste.claims.first_event is 'The lowest of event_ids.';
comment on column posthaste.claims.last_event is 'The highest of event_ids.';
comment on column posthaste.claims.event_ids is 'The events owed, the n-th in the n-th delivery.';
comment on column posthaste.claims.endpoint_ids is 'The endpoints they are owed to, likewise.';
comment on column posthaste.claims.event_created_ats is 'The events'' created_at, likewise.';

-- Half the processor time of PostgreSQL's own compression (*measured*).
do $$
begin
  alter table posthaste.claims alter column event_ids set compression lz4,
    alter column endpoint_ids set compression lz4, alter column event_created_ats set compression lz4;
exception
  -- The server was built without it.
  when feature_not_supported then null;
end $$;

create function posthaste_internal.claimed_in(
  event_ids bigint[], endpoint_ids bigint[], event_created_ats timestamptz[], recorded varbit)
  returns table (event_id bigint, endpoint_id bigint, event_created_at timestamptz)
  language sql immutable parallel safe
begin atomic
  select u.event_id, u.endpoint_id, u.event_created_at
    from unnest(claimed_in.event_ids, claimed_in.endpoint_ids, claimed_in.event_created_ats)
         with ordinality u(event_id, endpoint_id, event_created_at, n)
   where get_bit(claimed_in.recorded, n::integer - 1) = 0;
end;
comment on function posthaste_internal.claimed_in is
  'The deliveries of a row of posthaste.claims that are not recorded yet, given its columns.';

create view posthaste.live_deliveries as
select d.event_id, d.endpoint_id, d.event_created_at, d.attempt_count, d.next_attempt_at, d.claimed_by,
       d.claim_token, d.ordering_key, d.created_at, d.place, d.in_line, d.blocked_at
  from posthaste.deliveries d
union all
select h.event_id, h.endpoint_id, h.event_created_at, 0, c.due_at, c.relay_id, c.token, null, c.created_at, null, null, null
  from posthaste.claims c
  cross join lateral posthaste_internal.claimed_in(c.event_ids, c.endpoint_ids, c.event_created_ats, c.recorded) h;
comment on view posthaste.live_deliveries is
  'Every live delivery, however it is stored: rows of posthaste.deliveries, and what posthaste.claims holds.';

create function posthaste_internal.claims_of_event(event bigint)
  returns table (endpoint_id bigint, relay_id integer, token bigint, event_created_at timestamptz, due_at timestamptz,
                 created_at timestamptz)
  language sql stable
begin atomic
  select h.endpoint_id, c.relay_id, c.token, h.event_created_at, c.due_at, c.created_at
    from posthaste.claims c
    cross join lateral posthaste_internal.claimed_in(c.event_ids, c.endpoint_ids, c.event_created_ats, c.recorded) h
   where claims_of_event.event between c.first_event and c.last_event and h.event_id = claims_of_event.event;
end;
comment on function posthaste_internal.claims_of_event is
  'The deliveries of an event that a relay has claimed as it routed them and has not recorded yet.';
