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

create index deliveries_due on posthaste.deliveries (endpoint_id, next_attempt_at, event_id)
  where claimed_by is null and in_line is null;

create index deliveries_in_line on posthaste.deliveries (endpoint_id, ordering_key, place, event_id)
  where in_line;

create unique index one_delivery_of_a_line_has_its_turn on posthaste.deliveries (endpoint_id, ordering_key)
  where ordering_key is not null and in_line is null;

create index deliveries_blocked on posthaste.deliveries (endpoint_id, ordering_key)
  where blocked_at is not null;
