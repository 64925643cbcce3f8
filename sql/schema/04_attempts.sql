-- Attempts: the record of every request. Rows are appended, never changed, and dropped by whole days.
--
-- Most are of an attempt that was answered and delivered, and such a row is as narrow as it can be: wide columns come
-- first, so that none is padded, and what says no more than "all was well" is null.

create table posthaste.attempts (
  event_id         bigint      not null,
  endpoint_id      bigint      not null,
  event_created_at timestamptz not null,
  started_at       timestamptz not null,
  next_attempt_at  timestamptz,
  relay_id         integer     not null,
  duration_ms      real        not null,
  resolve_ms       real,
  connect_ms       real,
  tls_ms           real,
  headers_ms       real,
  body_ms          real,
  number           smallint    not null,
  status           smallint,
  body_truncated   boolean,
  outcome          text,
  verdict          text,
  cause            text,
  detail           text,
  reason           text,
  response_headers json,
  response_body    text,
  constraint outcome_is_known
    check (outcome in ('timed_out', 'unreachable', 'refused', 'interrupted', 'none')),
  constraint verdict_is_known check (verdict in ('retry', 'dead', 'cancelled')),
  constraint next_attempt_iff_retry
    check ((verdict is not distinct from 'retry') = (next_attempt_at is not null))
) partition by range (started_at);
comment on table posthaste.attempts is
  'Every attempt, appended and never changed. A delivery''s last attempt is its final record; one that ends without an attempt has a row with number 0. The view delivery_attempts has the words for what is null here.';
comment on column posthaste.attempts.event_id is 'The event.';
comment on column posthaste.attempts.endpoint_id is 'The endpoint.';
comment on column posthaste.attempts.event_created_at is 'The event''s created_at, which names its partition.';
comment on column posthaste.attempts.started_at is 'When the request began, by the database''s clock.';
comment on column posthaste.attempts.next_attempt_at is 'When the next one is due, after verdict retry.';
comment on column posthaste.attempts.relay_id is 'The relay that made it.';
comment on column posthaste.attempts.duration_ms is 'From beginning to end, in milliseconds.';
comment on column posthaste.attempts.resolve_ms is 'Looking the name up. Null: not done (connection kept alive).';
comment on column posthaste.attempts.connect_ms is 'Opening the TCP connection. Null: not done.';
comment on column posthaste.attempts.tls_ms is 'The TLS handshake. Null: not done.';
comment on column posthaste.attempts.headers_ms is 'From the first byte sent to the end of the response head. Null: not reached.';
comment on column posthaste.attempts.body_ms is 'Reading the response body. Null: not reached, or not waited for (less than 0.1).';
comment on column posthaste.attempts.number is
  '1 for the first attempt since the delivery was routed or replayed; 0 where it ended without one. An interrupted attempt is made again under the same number.';
comment on column posthaste.attempts.status is 'HTTP status of the response.';
comment on column posthaste.attempts.body_truncated is 'Whether the response body was longer than what is kept, or cut off. Null: nothing of the response is kept.';
comment on column posthaste.attempts.outcome is
  'The result on the wire: timed_out, unreachable, refused (the relay would not send), interrupted (a relay died while it may have been sending), none (ended without an attempt). Null: answered.';
comment on column posthaste.attempts.verdict is 'The decision: retry, dead, cancelled. Null: delivered.';
comment on column posthaste.attempts.cause is
  'For timed_out the phase (resolve, connect, tls, headers); for unreachable and refused the kind (dns, connection_refused, reset, tls_expired, forbidden_address, bad_endpoint, bad_event: its headers are more than are sent; fault: a bug of the relay, …).';
comment on column posthaste.attempts.detail is
  'The outcome in more words; for answered the oddity of the answer, or the part of it that is not kept.';
comment on column posthaste.attempts.reason is
  'Why the verdict is what it is, where it is not plain. "sent twice": the request went over a connection that had been kept, which was closed without a byte of an answer, and once more over a new one.';
comment on column posthaste.attempts.response_headers is
  'The response''s headers as {"name": "value"}, in lower case, up to 4 KiB; detail says how many more there were. Null: none, or not kept (delivery.keep_responses).';
comment on column posthaste.attempts.response_body is
  'The first bytes of the response body; bytes that are not UTF-8 are shown as U+FFFD. Null: none, or not kept (delivery.keep_responses).';

create index attempts_by_delivery on posthaste.attempts (event_id, endpoint_id);

-- What did not deliver, in the words of delivery_attempts, so that a condition on its verdict finds these. They cost
-- only what fails.
create index attempts_failed on posthaste.attempts (started_at) where coalesce(verdict, 'delivered') <> 'delivered';

create index attempts_failed_by_endpoint on posthaste.attempts (endpoint_id, started_at)
  where coalesce(verdict, 'delivered') <> 'delivered';

-- Of every attempt: no WAL and 0.2 µs each (*measured*). See docs/decisions/0026.
create index attempts_by_time on posthaste.attempts using brin (started_at) with (pages_per_range = 32);

-- ── a relay that ended ─────────────────────────────────────────────────────────────────────────────

-- An event that kills whichever relay sends it would be sent again for ever, and everything that is in flight beside
-- it. What a relay had when it died is told by its claims, and most of that was harmless: so what two relays in a row
-- have died with is sent alone, a relay writes down when it begins, and only what was begun then counts as the third.
create function posthaste_internal.interrupt(
  events bigint[], endpoints bigint[], relays integer[], tokens bigint[], reason text, are_ends boolean
) returns bigint
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  released bigint;
begin
  with held as materialized (
    select d.*, e.on_dead = 'block' and d.ordering_key is not null as blocks,
           d.before >= 2 and not d.begun as is_unsent, are_ends and d.before >= 2 and d.begun as is_last
      from unnest(events, endpoints, relays, tokens) h(event_id, endpoint_id, relay_id, token)
      cross join lateral (
        select l.event_id, l.endpoint_id, l.event_created_at, l.attempt_count, l.ordering_key, l.claimed_by,
               coalesce(l.interruptions, 0) as before, coalesce(l.is_begun, false) as begun
          from posthaste.deliveries l
         where l.event_id = any(array[h.event_id]) and l.endpoint_id = h.endpoint_id
           and l.claimed_by = h.relay_id and l.claim_token = h.token
        offset 0
           for update) d
      left join lateral (select n.on_dead from posthaste.endpoints n where n.id = d.endpoint_id offset 0) e on true
  ), ended as (
    delete from posthaste.deliveries d
     using held h
     where d.event_id = any(array[h.event_id]) and d.endpoint_id = h.endpoint_id and h.is_last and h.blocks is not true
  ), again as (
    update posthaste.deliveries d
       set claimed_by = null, claim_token = null, is_begun = null,
           interruptions = case when h.is_last then null when h.is_unsent or not are_ends then nullif(h.before, 0)
                              else h.before + 1 end,
           blocked_at = case when h.is_last then clock_timestamp() end,
           next_attempt_at = case when not h.is_last then clock_timestamp()
             else coalesce((select o.expires_at from posthaste.outbox o
                             where o.id = h.event_id and o.created_at = h.event_created_at), 'infinity') end
      from held h
     where d.event_id = any(array[h.event_id]) and d.endpoint_id = h.endpoint_id and not (h.is_last and h.blocks is not true)
  ), logged as (
    insert into posthaste.attempts
      (event_id, endpoint_id, event_created_at, started_at, number, relay_id, duration_ms, outcome,
       verdict, reason, next_attempt_at)
    select h.event_id, h.endpoint_id, h.event_created_at, clock_timestamp(), least(h.attempt_count, 32766) + 1,
           h.claimed_by, 0, 'interrupted', case when h.is_last then 'dead' else 'retry' end,
           case when h.is_last then 'set aside: three relays in a row have ended while they sent it'
                else format(interrupt.reason, h.claimed_by) end,
           case when not h.is_last then clock_timestamp() end
      from held h
     where not h.is_unsent
  )
  select count(*) into released from held;
  return released;
end $$;
comment on function posthaste_internal.interrupt is
  'Releases these claims, with an interrupted attempt for each that may have been begun. Where they are ends of their relays they count: what was begun as the third relay in a row ended is dead.';

-- ── an endpoint that is deleted ────────────────────────────────────────────────────────────────────

-- Deleting an endpoint cancels its deliveries, and each has an attempt that says so.
create function posthaste_internal.cancel_deliveries_of_endpoint() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  with batch as materialized (
    -- In the order in which relays lock them.
    select c.*, m.mask & ~c.recorded as taken
      from posthaste.claims c
      cross join lateral (
        select string_agg(case when e.id = old.id then '1' else '0' end, '' order by e.n)::varbit
          from unnest(c.endpoint_ids) with ordinality e(id, n)) m(mask)
     where old.id = any(c.endpoint_ids)
     order by c.relay_id, c.token
       for update of c
  ), emptied as (
    delete from posthaste.claims c
     using batch b
     where c.relay_id = b.relay_id and c.token = b.token and bit_count(b.recorded | b.taken) = length(b.recorded)
  ), shrunk as (
    update posthaste.claims c
       set recorded = b.recorded | b.taken, pending = length(b.recorded) - bit_count(b.recorded | b.taken)
      from batch b
     where c.relay_id = b.relay_id and c.token = b.token
       and bit_count(b.taken) > 0 and bit_count(b.recorded | b.taken) < length(b.recorded)
  ), alone as (
    delete from posthaste.deliveries d where d.endpoint_id = old.id returning d.*
  ), ended as (
    select event_id, endpoint_id, event_created_at from alone
    union all
    select h.event_id, h.endpoint_id, h.event_created_at
      from batch b
      cross join lateral posthaste_internal.claimed_in(b.event_ids, b.endpoint_ids, b.event_created_ats, ~b.taken) h
  )
  insert into posthaste.attempts
    (event_id, endpoint_id, event_created_at, started_at, number, relay_id, duration_ms, outcome, verdict, reason)
  select event_id, endpoint_id, event_created_at, clock_timestamp(), 0, 0, 0, 'none', 'cancelled', 'endpoint deleted'
    from ended;
  return null;
end $$;
comment on function posthaste_internal.cancel_deliveries_of_endpoint is 'Cancels the deliveries of a deleted endpoint, with the reason.';

create trigger endpoints_cancel_what_they_are_owed
  after delete on posthaste.endpoints
  for each row execute function posthaste_internal.cancel_deliveries_of_endpoint();
