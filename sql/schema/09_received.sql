-- Webhooks that come in.

-- Webhooks that come in: what each sender called its deliveries, so that one that is sent again, or that
-- waited in a spool while nobody knew whether it had been stored, becomes an event once.
create table posthaste.received (
  source           text        not null,
  sender_id        text        not null,
  event_id         bigint      not null,
  event_created_at timestamptz not null,
  received_at      timestamptz not null default clock_timestamp(),
  primary key (source, sender_id),
  constraint source_is_1_to_64_characters check (length(source) between 1 and 64),
  constraint sender_id_is_1_to_256_characters check (length(sender_id) between 1 and 256)
);
comment on table posthaste.received is
  'Private. Webhooks that came in, by what their sender called them, for as long as upkeep.received_retention says.';
comment on column posthaste.received.source is 'The source: the name of its section in the settings, and the end of the path.';
comment on column posthaste.received.sender_id is
  'What the sender calls the delivery (X-GitHub-Delivery, webhook-id, …), or a number drawn for it where it has no name.';
comment on column posthaste.received.event_id is 'The event that became of it.';
comment on column posthaste.received.event_created_at is 'The event''s created_at, which names its partition.';
comment on column posthaste.received.received_at is 'When it was stored.';

-- Serves the view and the trimming: both go from source to source.
create index received_by_source on posthaste.received (source, received_at);
