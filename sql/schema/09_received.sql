-- Webhooks that come in: the ids that senders gave them. A webhook that is sent again becomes an event once, and so
-- does one that waited in a spool while it was unknown whether it had been stored.

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
  'Private. Webhooks that came in, by the ids of their senders, for as long as upkeep.received_retention says.';
comment on column posthaste.received.source is 'The source: the name of its section in the settings, and the end of the path.';
comment on column posthaste.received.sender_id is
  'The sender''s id of the delivery (X-GitHub-Delivery, webhook-id, …), or a number drawn for it where it has none.';
comment on column posthaste.received.event_id is 'The event that became of it.';
comment on column posthaste.received.event_created_at is 'The event''s created_at, which names its partition.';
comment on column posthaste.received.received_at is 'When it was stored.';

-- Serves the view and the trimming: both go from source to source.
create index received_by_source on posthaste.received (source, received_at);
