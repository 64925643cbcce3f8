-- What people look at. No view counts a whole table: what is counted is bounded.

create function posthaste.webhook_id(event_id bigint, event_created_at timestamptz) returns text
  language sql immutable strict parallel safe
  return 'evt_' || event_id || '_' || to_hex((extract(epoch from event_created_at) * 1000000)::bigint);
comment on function posthaste.webhook_id is
  'The webhook-id header of an event''s deliveries: the same over every retry and replay.';

create view posthaste.delivery_attempts as
select a.event_id, a.endpoint_id, posthaste.webhook_id(a.event_id, a.event_created_at) as webhook_id,
       a.number, a.started_at, a.outcome, a.cause, a.detail, a.status, a.verdict, a.reason,
       a.next_attempt_at, a.response_headers, a.response_body, a.body_truncated, a.duration_ms,
       a.resolve_ms, a.connect_ms, a.tls_ms, a.headers_ms, a.body_ms, a.relay_id, a.event_created_at
  from posthaste.attempts a;
comment on view posthaste.delivery_attempts is 'Every attempt of every delivery. Ask for one event_id, or for a range of started_at.';

create view posthaste.delivery_status as
select d.event_id, d.endpoint_id, posthaste.webhook_id(d.event_id, d.event_created_at) as webhook_id,
       o.event_type, o.tenant, e.url,
       case when d.claimed_by is not null then 'sending'
            when not e.enabled then 'held'
            else 'waiting' end as state,
       d.attempt_count, d.next_attempt_at, a.outcome as last_outcome, a.cause as last_cause,
       a.status as last_status, a.started_at as last_attempt_at,
       case when not e.enabled then 'endpoint disabled: ' || e.disabled_reason
            when h.state = 'paused' then 'endpoint paused until ' || h.paused_until
            when a.verdict = 'retry' then coalesce(a.reason, concat_ws(' ', a.outcome, a.cause, a.status))
            when o.deliver_at > clock_timestamp() then 'not to be sent before ' || o.deliver_at
       end as reason,
       null::timestamptz as ended_at, d.event_created_at
  from posthaste.deliveries d
  left join posthaste.outbox o on o.id = d.event_id and o.created_at = d.event_created_at
  left join posthaste.endpoints e on e.id = d.endpoint_id
  left join posthaste.endpoint_health h on h.endpoint_id = d.endpoint_id
  left join lateral (
    select * from posthaste.attempts a
     where a.event_id = d.event_id and a.endpoint_id = d.endpoint_id
       and a.started_at >= d.created_at - interval '1 hour'
     order by a.started_at desc limit 1) a on true
union all
select a.event_id, a.endpoint_id, posthaste.webhook_id(a.event_id, a.event_created_at),
       o.event_type, o.tenant, e.url,
       a.verdict, a.number, null, a.outcome, a.cause, a.status, a.started_at,
       coalesce(a.reason, case when a.verdict <> 'delivered' then concat_ws(' ', a.outcome, a.cause, a.status) end),
       a.started_at + a.duration_ms * interval '1 ms', a.event_created_at
  from posthaste.attempts a
  left join posthaste.outbox o on o.id = a.event_id and o.created_at = a.event_created_at
  left join posthaste.endpoints e on e.id = a.endpoint_id
 where a.verdict <> 'retry'
   and not exists (select from posthaste.deliveries d
                    where d.event_id = a.event_id and d.endpoint_id = a.endpoint_id)
   and not exists (select from posthaste.attempts b
                    where b.event_id = a.event_id and b.endpoint_id = a.endpoint_id
                      and b.verdict <> 'retry' and b.started_at > a.started_at);
comment on view posthaste.delivery_status is
  'Every delivery, live or ended, with its event and last attempt. Ask for one event_id or webhook_id''s event, an endpoint_id, or a range of event_created_at.';

create view posthaste.endpoint_status as
select e.id as endpoint_id, e.url, e.tenant, e.description,
       case when not e.enabled then 'disabled' else coalesce(h.state, 'flowing') end as health,
       coalesce(e.disabled_reason,
                case when h.state <> 'flowing'
                     then h.consecutive_failures || ' failures since ' || h.failing_since end) as reason,
       h.paused_until, p.pending, p.pending = 10000 as pending_is_more, f.oldest_pending_at,
       coalesce(h.consecutive_failures, 0) as consecutive_failures, h.failing_since,
       h.last_success_at, h.last_failure_at,
       round((h.recent_successes / nullif(h.recent_successes + h.recent_failures, 0))::numeric, 4) as success_rate,
       round((h.recent_duration_ms / nullif(h.recent_successes + h.recent_failures, 0))::numeric, 1) as mean_duration_ms
  from posthaste.endpoints e
  left join posthaste.endpoint_health h on h.endpoint_id = e.id
  cross join lateral (
    select count(*) as pending from (
      select from posthaste.deliveries d where d.endpoint_id = e.id and d.claimed_by is null limit 10000) d) p
  left join lateral (
    select d.created_at as oldest_pending_at from posthaste.deliveries d
     where d.endpoint_id = e.id and d.claimed_by is null
     order by d.next_attempt_at, d.event_id limit 1) f on true;
comment on view posthaste.endpoint_status is
  'How each endpoint is doing: health and why, what is pending (counted up to 10,000; what is being sent just now not included), success rate and mean duration of about the last hour.';

create view posthaste.backlog as
with recursive endpoint as (
  (select endpoint_id from posthaste.deliveries where claimed_by is null
    order by endpoint_id, next_attempt_at, event_id limit 1)
  union all
  select n.endpoint_id from endpoint e cross join lateral (
    select d.endpoint_id from posthaste.deliveries d
     where d.claimed_by is null and d.endpoint_id > e.endpoint_id
     order by d.endpoint_id, d.next_attempt_at, d.event_id limit 1) n
)
select b.endpoint_id, e.url, p.pending, p.pending = 10000 as pending_is_more, due.due,
       f.next_attempt_at as first_due_at,
       greatest(clock_timestamp() - f.next_attempt_at, interval '0') as overdue_by
  from endpoint b
  left join posthaste.endpoints e on e.id = b.endpoint_id
  cross join lateral (
    select count(*) as pending from (
      select from posthaste.deliveries d where d.endpoint_id = b.endpoint_id and d.claimed_by is null limit 10000) d) p
  cross join lateral (
    select count(*) as due from (
      select from posthaste.deliveries d where d.endpoint_id = b.endpoint_id and d.claimed_by is null
         and d.next_attempt_at <= clock_timestamp() limit 10000) d) due
  cross join lateral (
    select d.next_attempt_at from posthaste.deliveries d
     where d.endpoint_id = b.endpoint_id and d.claimed_by is null
     order by d.next_attempt_at, d.event_id limit 1) f;
comment on view posthaste.backlog is
  'What waits, by endpoint: how many deliveries (counted up to 10,000), how many of them are due, and for how long the first has been.';

create view posthaste.recent_failures as
select a.started_at, a.event_id, a.endpoint_id, e.url, a.number, a.outcome, a.cause, a.status, a.detail,
       a.verdict, a.reason, a.next_attempt_at, left(a.response_body, 200) as response_body
  from posthaste.attempts a
  left join posthaste.endpoints e on e.id = a.endpoint_id
 where a.verdict <> 'delivered' and a.started_at > clock_timestamp() - interval '1 day'
 order by a.started_at desc
 limit 1000;
comment on view posthaste.recent_failures is 'The last 1,000 attempts of the last day that did not deliver, newest first.';

create view posthaste.relay_status as
select r.id as relay_id, r.name, r.version, r.started_at, r.heartbeat_at,
       clock_timestamp() - r.heartbeat_at as silent_for, r.claim_count as claims
  from posthaste.relays r;
comment on view posthaste.relay_status is 'Running relays: when each was last heard of, and how many deliveries it held.';

create view posthaste.unrouted_events as
select o.id as event_id, o.event_type, o.tenant, o.created_at
  from (select * from posthaste.routing order by number desc limit 1) r
  join posthaste.outbox o
    on (o.xid >= pg_snapshot_xmin(case when r.after_id is null then r.until else r.since end)
        and not pg_visible_in_snapshot(o.xid, case when r.after_id is null then r.until else r.since end)
        and (r.after_id is null or (o.xid, o.id) > (r.after_xid, r.after_id)
             or not pg_visible_in_snapshot(o.xid, r.until)))
   and o.created_at >= r.floor_at - interval '1 day';
comment on view posthaste.unrouted_events is 'Events that have been committed and are not routed yet.';

do $$
declare
  doc record;
begin
  for doc in select * from (values
    ('event_id', 'The event.'),
    ('endpoint_id', 'The endpoint.'),
    ('webhook_id', 'The webhook-id header that receivers see; the same over every retry and replay.'),
    ('event_type', 'The event''s type.'),
    ('tenant', 'The tenant.'),
    ('url', 'The endpoint''s URL; null if the endpoint is gone.'),
    ('description', 'The endpoint''s description.'),
    ('number', 'Number of the attempt; 0 where the delivery ended without one.'),
    ('started_at', 'When the attempt began.'),
    ('outcome', 'What happened on the wire.'),
    ('cause', 'What kind of time-out, failure or refusal it was.'),
    ('detail', 'The outcome in more words.'),
    ('status', 'HTTP status of the response.'),
    ('verdict', 'What was decided: delivered, retry, dead, cancelled.'),
    ('reason', 'Why, in words.'),
    ('next_attempt_at', 'When the next attempt is due.'),
    ('response_headers', 'The response''s headers.'),
    ('response_body', 'The first bytes of the response''s body.'),
    ('body_truncated', 'Whether the response''s body had more than is kept.'),
    ('duration_ms', 'Duration of the attempt in milliseconds.'),
    ('resolve_ms', 'Milliseconds looking the name up.'),
    ('connect_ms', 'Milliseconds opening the connection.'),
    ('tls_ms', 'Milliseconds of the TLS handshake.'),
    ('headers_ms', 'Milliseconds from the first byte sent to the end of the response head.'),
    ('body_ms', 'Milliseconds reading the response body.'),
    ('relay_id', 'The relay.'),
    ('event_created_at', 'When the event was inserted; names its partition.'),
    ('state', 'waiting, held (endpoint disabled), sending, delivered, dead, cancelled.'),
    ('attempt_count', 'Attempts made.'),
    ('last_outcome', 'What came of the last attempt.'),
    ('last_cause', 'Its cause.'),
    ('last_status', 'Its HTTP status.'),
    ('last_attempt_at', 'When it began.'),
    ('ended_at', 'When the delivery ended; null while it is live.'),
    ('health', 'flowing, paused, probing or disabled.'),
    ('paused_until', 'When the next probe is sent.'),
    ('pending', 'Deliveries that wait, counted up to 10,000.'),
    ('pending_is_more', 'Whether there are (or may be) more than were counted.'),
    ('oldest_pending_at', 'When the first of those that wait was routed.'),
    ('consecutive_failures', 'Failed attempts since the last success.'),
    ('failing_since', 'The first of them.'),
    ('last_success_at', 'The last delivered attempt.'),
    ('last_failure_at', 'The last failed attempt.'),
    ('success_rate', 'Share of the attempts of about the last hour that delivered.'),
    ('mean_duration_ms', 'Their mean duration in milliseconds.'),
    ('due', 'Deliveries that are due now, counted up to 10,000.'),
    ('first_due_at', 'When the first is or was due.'),
    ('overdue_by', 'For how long the first has been due.'),
    ('name', 'The relay''s name.'),
    ('version', 'Its version of Posthaste.'),
    ('heartbeat_at', 'When it last renewed its lease.'),
    ('silent_for', 'How long that is ago.'),
    ('claims', 'Deliveries it held at that time.'),
    ('created_at', 'When the event was inserted.')) d(name, text)
  loop
    execute coalesce((
      select string_agg(format('comment on column %s.%I is %L', c.oid::regclass, doc.name, doc.text), '; ')
        from pg_class c join pg_attribute a on a.attrelid = c.oid
       where c.relnamespace = 'posthaste'::regnamespace and c.relkind = 'v' and a.attname = doc.name), 'select 1');
  end loop;
end $$;
