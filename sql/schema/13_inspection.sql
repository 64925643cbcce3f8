-- Inspection: views for operators. No view counts a whole table: every count is bounded. Counts stand among the columns
-- and not among the tables, so that a query with a limit makes them for the rows that it gives. Bounds of time are by
-- statement_timestamp(), which an index and the pruning of days can go by. clock_timestamp() changes within a query.
--
-- The views are read by roles that may not see everything. A URL ends before its query, where tokens stand: the whole
-- of it is in posthaste.endpoints. What a receiver answered is shown to roles that may read that column of
-- posthaste.attempts. A view asks as the role that reads it; a function that runs as the owner shows neither.

create view posthaste.delivery_attempts as
select a.event_id, a.endpoint_id, posthaste.webhook_id(a.event_id, a.event_created_at) as webhook_id,
       a.number::integer as number, a.started_at, coalesce(a.outcome, 'answered') as outcome, a.cause, a.detail,
       a.status::integer as status, coalesce(a.verdict, 'delivered') as verdict, a.reason,
       a.next_attempt_at,
       case when has_column_privilege('posthaste.attempts'::regclass, 'response_headers', 'select') then a.response_headers end
         as response_headers,
       case when has_column_privilege('posthaste.attempts'::regclass, 'response_body', 'select') then a.response_body end
         as response_body,
       a.body_truncated, a.duration_ms,
       a.resolve_ms, a.connect_ms, a.tls_ms, a.headers_ms, a.body_ms, a.relay_id, a.event_created_at
  from posthaste.attempts a;
comment on view posthaste.delivery_attempts is 'Every attempt of every delivery. Ask for a range of started_at, and within it for one event_id, an endpoint_id, or what was not delivered (verdict <> ''delivered'', which has an index).';

create function posthaste_internal.most_counted() returns bigint language sql immutable parallel safe return 1000;
comment on function posthaste_internal.most_counted is
  'Views and functions count no further than this: whether 1,000 deliveries wait or more is all the same to who looks.';

create function posthaste_internal.live_state(claimed_by integer, blocked_at timestamptz, enabled boolean, in_line boolean)
  returns text language sql immutable parallel safe
  return case when claimed_by is not null then 'sending'
              when blocked_at is not null then 'blocked'
              when not enabled then 'held'
              when in_line then 'in line'
              else 'waiting' end;
comment on function posthaste_internal.live_state is 'The state of a live delivery, given its columns and whether its endpoint is enabled.';

create function posthaste_internal.live_reason(
  endpoint_id bigint, ordering_key text, blocked_at timestamptz, in_line boolean, enabled boolean, disabled_reason text,
  health text, paused_until timestamptz, pause_reason text, deliver_at timestamptz,
  last_verdict text, last_reason text, last_outcome text, last_cause text, last_status integer
) returns text language sql stable parallel safe
  return case when blocked_at is not null
              then format('dead since %s, and ordering key %s waits behind it: posthaste.unblock(%s, %L)',
                          blocked_at, ordering_key, endpoint_id, ordering_key)
              when not enabled then 'endpoint disabled: ' || disabled_reason
              when health = 'paused' then 'endpoint paused until ' || paused_until || coalesce(': ' || nullif(pause_reason, ''), '')
              when in_line then 'behind another of ordering key ' || ordering_key
              when last_verdict = 'retry' then coalesce(last_reason, concat_ws(' ', last_outcome, last_cause, last_status))
              when deliver_at > clock_timestamp() then 'not to be sent before ' || deliver_at
         end;
comment on function posthaste_internal.live_reason is
  'Why a live delivery is not sent, in words, given what is known of it, its endpoint, its event and its last attempt.';

create view posthaste.delivery_status as
select d.event_id, d.endpoint_id, posthaste.webhook_id(d.event_id, d.event_created_at) as webhook_id,
       o.event_type, o.tenant, posthaste_internal.without_query(e.url) as url,
       posthaste_internal.live_state(d.claimed_by, d.blocked_at, e.enabled, d.in_line) as state,
       d.attempt_count, d.next_attempt_at, a.outcome as last_outcome, a.cause as last_cause,
       a.status as last_status, a.started_at as last_attempt_at,
       posthaste_internal.live_reason(
         d.endpoint_id, d.ordering_key, d.blocked_at, d.in_line, e.enabled, e.disabled_reason, h.state,
         h.paused_until, h.reason, o.deliver_at, a.verdict, a.reason, a.outcome, a.cause, a.status) as reason,
       null::timestamptz as ended_at, d.event_created_at
  from posthaste.live_deliveries d
  left join posthaste.outbox o on o.id = d.event_id and o.created_at = d.event_created_at
  left join posthaste.endpoints e on e.id = d.endpoint_id
  left join posthaste.endpoint_health h on h.endpoint_id = d.endpoint_id
  left join lateral (
    select * from posthaste.delivery_attempts a
     where a.event_id = d.event_id and a.endpoint_id = d.endpoint_id
       and a.started_at >= d.created_at - interval '1 hour'
     order by a.started_at desc limit 1) a on true
union all
select a.event_id, a.endpoint_id, posthaste.webhook_id(a.event_id, a.event_created_at),
       o.event_type, o.tenant, posthaste_internal.without_query(e.url) as url,
       a.verdict, a.number, null, a.outcome, a.cause, a.status, a.started_at,
       coalesce(a.reason, case when a.verdict <> 'delivered' then concat_ws(' ', a.outcome, a.cause, a.status) end),
       a.started_at + a.duration_ms * interval '1 ms', a.event_created_at
  from posthaste.delivery_attempts a
  left join posthaste.outbox o on o.id = a.event_id and o.created_at = a.event_created_at
  left join posthaste.endpoints e on e.id = a.endpoint_id
 where a.verdict <> 'retry'
   and not exists (select from posthaste.deliveries d
                    where d.event_id = a.event_id and d.endpoint_id = a.endpoint_id)
   and not exists (select from posthaste.attempts b
                    where b.event_id = a.event_id and b.endpoint_id = a.endpoint_id
                      and b.verdict is distinct from 'retry' and b.started_at > a.started_at);
comment on view posthaste.delivery_status is
  'Every delivery, live or ended, with its event and last attempt. Ask for one event_id: it is looked up in every day that is kept. posthaste.deliveries_of looks in those since the event alone, and posthaste.deliveries_between lists the deliveries of a span of time, of an endpoint, a state or a tenant.';

create view posthaste.endpoint_status as
select e.id as endpoint_id,
       case when not e.enabled then 'disabled' else coalesce(h.state, 'flowing') end as health,
       least(waiting.count, posthaste_internal.most_counted()) as pending,
       waiting.count >= posthaste_internal.most_counted() as pending_is_more,
       (select d.created_at from posthaste.deliveries d
         where d.endpoint_id = e.id and d.claimed_by is null and d.in_line is null
         order by d.next_attempt_at, d.event_id limit 1) as oldest_pending_at,
       round((h.recent_successes / nullif(h.recent_successes + h.recent_failures, 0))::numeric, 4) as success_rate,
       round((h.recent_duration_ms / nullif(h.recent_successes + h.recent_failures, 0))::numeric, 1) as mean_duration_ms,
       coalesce(h.consecutive_failures + h.consecutive_rejections, 0) as consecutive_failures,
       (select count(*) from (
          select from posthaste.deliveries d where d.endpoint_id = e.id and d.blocked_at is not null
           limit posthaste_internal.most_counted()) d) as blocked_keys,
       coalesce(e.disabled_reason || case when e.hold then '; what comes is kept' else '; what comes is not kept' end,
                case when h.state <> 'flowing'
                     then coalesce(nullif(h.reason, ''),
                                   h.consecutive_failures || ' failures since ' || h.failing_since) end) as reason,
       h.paused_until, h.failing_since, h.last_success_at, h.last_failure_at,
       posthaste_internal.without_query(e.url) as url, e.tenant, e.description
  from posthaste.endpoints e
  left join posthaste.endpoint_health h on h.endpoint_id = e.id
  cross join lateral (
    select (select count(*) from (
              select from posthaste.deliveries d
               where d.endpoint_id = e.id and d.claimed_by is null and d.in_line is null
               limit posthaste_internal.most_counted()) d)
         + (select count(*) from (
              select from posthaste.deliveries d where d.endpoint_id = e.id and d.in_line
               limit posthaste_internal.most_counted()) d) as count) waiting;
comment on view posthaste.endpoint_status is
  'The state of each endpoint: health and why, pending deliveries (counted up to 1,000, without those that are being sent), success rate and mean duration of about the last hour.';

create view posthaste.backlog as
select b.endpoint_id, posthaste_internal.without_query(e.url) as url,
       least(waiting.count, posthaste_internal.most_counted()) as pending,
       waiting.count >= posthaste_internal.most_counted() as pending_is_more,
       (select count(*) from (
          select from posthaste.deliveries d
           where d.endpoint_id = b.endpoint_id and d.claimed_by is null and d.in_line is null
             and d.next_attempt_at <= statement_timestamp() limit posthaste_internal.most_counted()) d) as due,
       b.next_attempt_at as first_due_at,
       statement_timestamp() - least(b.next_attempt_at, statement_timestamp()) as overdue_by
  -- Walked loosely: one descent an endpoint, to the first that is due.
  from (with recursive first as (
          (select d.endpoint_id, d.next_attempt_at from posthaste.deliveries d
            where d.claimed_by is null and d.in_line is null
            order by d.endpoint_id, d.next_attempt_at, d.event_id limit 1)
          union all
          select n.endpoint_id, n.next_attempt_at from first cross join lateral (
            select d.endpoint_id, d.next_attempt_at from posthaste.deliveries d
             where d.claimed_by is null and d.in_line is null and d.endpoint_id > first.endpoint_id
             order by d.endpoint_id, d.next_attempt_at, d.event_id limit 1) n
        )
        select first.endpoint_id, first.next_attempt_at from first) b
  left join posthaste.endpoints e on e.id = b.endpoint_id
  cross join lateral (
    select (select count(*) from (
              select from posthaste.deliveries d
               where d.endpoint_id = b.endpoint_id and d.claimed_by is null and d.in_line is null
               limit posthaste_internal.most_counted()) d)
         + (select count(*) from (
              select from posthaste.deliveries d where d.endpoint_id = b.endpoint_id and d.in_line
               limit posthaste_internal.most_counted()) d) as count) waiting;
comment on view posthaste.backlog is
  'Waiting deliveries by endpoint: how many (counted up to 1,000), how many of them are due, and for how long the first has been. An endpoint whose only due deliveries are being sent is left out, with those in line behind them.';

create view posthaste.recent_failures as
select a.started_at, a.event_id, a.endpoint_id, posthaste_internal.without_query(e.url) as url, a.number::integer as number,
       coalesce(a.outcome, 'answered') as outcome, a.cause, a.status::integer as status, a.detail,
       a.verdict, a.reason, a.next_attempt_at,
       case when has_column_privilege('posthaste.attempts'::regclass, 'response_body', 'select')
            then left(a.response_body, 200) end as response_body
  from posthaste.attempts a
  left join posthaste.endpoints e on e.id = a.endpoint_id
 where coalesce(a.verdict, 'delivered') <> 'delivered' and a.started_at > statement_timestamp() - interval '1 day'
 order by a.started_at desc
 limit 1000;
comment on view posthaste.recent_failures is 'The last 1,000 attempts of the last day that did not deliver, newest first.';

create view posthaste.relay_status as
select r.id as relay_id, r.name, r.version, r.started_at, r.heartbeat_at,
       clock_timestamp() - r.heartbeat_at as silent_for, r.claim_count as claims
  from posthaste.relays r;
comment on view posthaste.relay_status is 'Running relays: when each last renewed its lease, and how many deliveries it held.';

create view posthaste.unrouted_events as
select o.id as event_id, o.event_type, o.tenant, o.created_at
  from (select * from posthaste.routing order by number desc limit 1) r
  -- In the order of its index: with a limit the planner would else read the outbox from its beginning, to find a few.
  cross join lateral (
    select o.id, o.event_type, o.tenant, o.created_at
      from posthaste.outbox o
     where o.xid >= pg_snapshot_xmin(case when r.after_id is null then r.until else r.since end)
       and not pg_visible_in_snapshot(o.xid, case when r.after_id is null then r.until else r.since end)
       and (r.after_id is null or (o.xid, o.id) > (r.after_xid, r.after_id)
            or not pg_visible_in_snapshot(o.xid, r.until))
       and o.created_at >= r.floor_at - interval '1 day'
       -- Not a join, which would read them in another order.
       and (select a.event_id from posthaste.routed_ahead a where a.event_id = o.id) is null
     order by o.xid, o.id) o;
comment on view posthaste.unrouted_events is 'Events that have been committed and are not routed yet.';

create view posthaste.events as
select o.id as event_id, posthaste.webhook_id(o.id, o.created_at) as webhook_id, o.event_type, o.tenant, o.ordering_key,
       o.endpoint_id, o.deliver_at, o.expires_at, o.created_at
  from posthaste.outbox o;
comment on view posthaste.events is
  'Every event, without its payload and headers. Ask for one event_id; posthaste.events_between lists those of a span of time, of a type or a tenant.';

create view posthaste.ingest_status as
  -- Walked loosely: one descent a source.
  with recursive found as (
    (select r.source from posthaste.received r order by r.source limit 1)
    union all
    select n.source from found cross join lateral (
      select r.source from posthaste.received r where r.source > found.source order by r.source limit 1) n
  )
  select found.source, last.received_at as last_received_at, last.event_id as last_event_id,
         recent.count as received_recently, recent.count = posthaste_internal.most_counted() as received_recently_is_more
    from found
    cross join lateral (
      select r.received_at, r.event_id from posthaste.received r
       where r.source = found.source order by r.received_at desc limit 1) last
    cross join lateral (
      select count(*) from (
        select from posthaste.received r
         where r.source = found.source and r.received_at > statement_timestamp() - interval '1 hour'
         limit posthaste_internal.most_counted()) r) recent;
comment on view posthaste.ingest_status is
  'For each source of webhooks that come in: when it last sent, and how much. Webhooks that wait in a relay''s spool are not here yet: see /status.';
comment on column posthaste.ingest_status.source is 'The source.';
comment on column posthaste.ingest_status.last_received_at is 'When its last webhook was stored.';
comment on column posthaste.ingest_status.last_event_id is 'The event that became of it.';
comment on column posthaste.ingest_status.received_recently is 'Webhooks stored in the last hour, counted up to 1,000.';
comment on column posthaste.ingest_status.received_recently_is_more is 'Whether there are (or may be) more than were counted.';

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
    ('url', 'The endpoint''s URL up to its query, where tokens stand (the whole is in posthaste.endpoints); null if the endpoint is gone.'),
    ('description', 'The endpoint''s description.'),
    ('number', 'Number of the attempt; 0 where the delivery ended without one.'),
    ('started_at', 'When the attempt began.'),
    ('outcome', 'The result on the wire: answered, timed_out, unreachable, refused, interrupted or none.'),
    ('cause', 'The kind of time-out, failure or refusal.'),
    ('detail', 'The outcome in more words.'),
    ('status', 'HTTP status of the response.'),
    ('verdict', 'The decision: delivered, retry, dead, cancelled.'),
    ('reason', 'Why, in words.'),
    ('next_attempt_at', 'When the next attempt is due.'),
    ('response_headers', 'The response''s headers; null: none, not kept (delivery.keep_responses), or not for the viewer''s role.'),
    ('response_body', 'The first bytes of the response''s body; null: none, not kept (delivery.keep_responses), or not for the viewer''s role.'),
    ('body_truncated', 'Whether the response''s body had more than is kept; null: nothing of the response is kept.'),
    ('duration_ms', 'Duration of the attempt in milliseconds.'),
    ('resolve_ms', 'Milliseconds looking the name up.'),
    ('connect_ms', 'Milliseconds opening the connection.'),
    ('tls_ms', 'Milliseconds of the TLS handshake.'),
    ('headers_ms', 'Milliseconds from the first byte sent to the end of the response head.'),
    ('body_ms', 'Milliseconds reading the response body; null: not reached, or not waited for (less than 0.1).'),
    ('relay_id', 'The relay.'),
    ('event_created_at', 'When the event was inserted; names its partition.'),
    ('claimed_by', 'The relay that is making the next attempt. Null: none.'),
    ('claim_token', 'Fences the claim: a result under another token is dropped.'),
    ('ordering_key', 'The event''s ordering key, if the endpoint was ordered when it was routed: its line.'),
    ('place', 'Its place in line, before that of its event. Null: it is of no line.'),
    ('in_line', 'True: it waits behind another of its line. Null: it does not.'),
    ('blocked_at', 'Since when it blocks its line. Null: it does not.'),
    ('state', 'waiting, held (endpoint disabled), sending, delivered, dead, cancelled.'),
    ('attempt_count', 'Attempts made.'),
    ('last_outcome', 'The outcome of the last attempt.'),
    ('last_cause', 'Its cause.'),
    ('last_status', 'Its HTTP status.'),
    ('last_attempt_at', 'When it began.'),
    ('ended_at', 'When the delivery ended; null while it is live.'),
    ('health', 'flowing, paused, probing or disabled.'),
    ('paused_until', 'When the next probe is sent.'),
    ('pending', 'Deliveries that wait, counted up to 1,000.'),
    ('pending_is_more', 'Whether there are (or may be) more than were counted.'),
    ('oldest_pending_at', 'When the first of those that wait was routed.'),
    ('consecutive_failures', 'Failed attempts since the last success.'),
    ('failing_since', 'The first of them.'),
    ('last_success_at', 'The last delivered attempt.'),
    ('last_failure_at', 'The last failed attempt.'),
    ('success_rate', 'Share of the attempts of about the last hour that delivered.'),
    ('mean_duration_ms', 'Their mean duration in milliseconds.'),
    ('due', 'Deliveries that are due now, counted up to 1,000.'),
    ('first_due_at', 'When the first is or was due.'),
    ('overdue_by', 'For how long the first has been due.'),
    ('name', 'The relay''s name.'),
    ('version', 'Its version of Posthaste.'),
    ('heartbeat_at', 'When it last renewed its lease.'),
    ('silent_for', 'How long that is ago.'),
    ('deliver_at', 'Not to be sent before this moment. Null: at once.'),
    ('expires_at', 'Not worth sending after this moment. Null: never.'),
    ('claims', 'Deliveries it held at that time.'),
    ('created_at', 'When the event was inserted.')) d(name, text)
  loop
    execute coalesce((
      select string_agg(format('comment on column %s.%I is %L', c.oid::regclass, doc.name, doc.text), '; ')
        from pg_class c join pg_attribute a on a.attrelid = c.oid
       where c.relnamespace = 'posthaste'::regnamespace and c.relkind = 'v' and a.attname = doc.name), 'select 1');
  end loop;
end $$;
comment on column posthaste.live_deliveries.created_at is 'When it was routed.';
comment on column posthaste.events.endpoint_id is 'The endpoint that it is for alone. Null: all that are subscribed.';
comment on column posthaste.events.ordering_key is 'To endpoints that are ordered, events with the same key are delivered one after the other.';
comment on column posthaste.delivery_status.state is
  'waiting, in line (behind another of its ordering key), blocked (dead, and its ordering key waits), held (endpoint disabled), sending, delivered, dead, cancelled.';
comment on column posthaste.endpoint_status.blocked_keys is
  'Ordering keys that wait behind a dead delivery, counted up to 1,000; posthaste.unblock(endpoint_id) lets them go on.';

-- ── why ────────────────────────────────────────────────────────────────────────────────────────────

-- In PL/pgSQL, and handed no rows: a function in SQL that is handed a row of a table keeps columns from
-- being added to it (PostgreSQL 15.20 and its like).
create function posthaste.explain(event bigint, at_most integer default 1000)
  returns table (endpoint_id bigint, state text, attempt_count integer, why text,
                 next_attempt_at timestamptz, last_outcome text, last_attempt_at timestamptz, url text)
  language plpgsql stable security definer
  set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  o posthaste.outbox := posthaste_internal.known_event(event);
  -- In a variable, so that the days before it are not planned for.
  earliest constant timestamptz := o.created_at - interval '1 hour';
  routed boolean := (
    select posthaste_internal.is_routed(o.xid, o.id, r.since, r.until, r.after_xid, r.after_id)
           or exists (select from posthaste.routed_ahead a where a.event_id = o.id)
      from posthaste.routing r order by r.number desc limit 1);
begin
  return query
  with live as materialized (
    select d.endpoint_id, d.attempt_count, d.next_attempt_at, d.claimed_by, d.ordering_key, d.in_line, d.blocked_at,
           d.created_at
      from posthaste.deliveries d where d.event_id = event
    union all
    select c.endpoint_id, 0, c.due_at, c.relay_id, null, null, null, c.created_at
      from posthaste_internal.claims_of_event(event) c
  ), last as materialized (
    select distinct on (a.endpoint_id) a.*,
           -- The result in words.
           coalesce(a.reason || case when a.reason like 'gave up%'
                                     then ', ' || concat_ws(' ', a.outcome, a.cause, a.status) else '' end,
                    concat_ws(' ', a.outcome, a.cause, a.status)) || coalesce(' (' || a.detail || ')', '') as came
      from posthaste.delivery_attempts a
     where a.event_id = event and a.started_at >= earliest
     order by a.endpoint_id, a.started_at desc
  ), aside as materialized (
    select s.endpoint_id,
           format('%s failed, last at %s: %s%s%s; posthaste.route_again(%s) takes it up once the cause is gone', s.during,
                  s.tried_at, s.message, coalesce(' (' || s.sqlstate || ')', ''), '; the attempt was ' || s.result, event) as why
      from posthaste.set_aside s where s.event_id = event
  ), chosen as materialized (
    select c.endpoint_id, min(c.rank) as rank
      from (select d.endpoint_id, 1 from live d
            union all select l.endpoint_id, 1 from last l
            union all select s.endpoint_id, 1 from aside s where s.endpoint_id is not null
            union all select o.endpoint_id, 2 where o.endpoint_id is not null
            union all select e.id, 2 from posthaste.endpoints e
                       where o.endpoint_id is null
                         and posthaste_internal.route_keys(e.tenant, e.subscriptions)
                             && posthaste_internal.route_keys_of_event(o.tenant, o.event_type)
            union all select e.id, 3 from posthaste.endpoints e) c(endpoint_id, rank)
     group by c.endpoint_id
     order by 2, 1
     limit greatest(at_most, 0)
  )
  select c.endpoint_id,
         case when d.claimed_by is not null then 'sending'
              when d.blocked_at is not null then 'blocked'
              when d.endpoint_id is not null and not e.enabled then 'held'
              when d.endpoint_id is not null then case when d.in_line then 'in line' else 'waiting' end
              when s.why is not null then 'set aside'
              when l.endpoint_id is not null then case l.verdict when 'retry' then 'lost' else l.verdict end
              when e.id is null then 'not owed'
              when not routed then 'not routed'
              else 'not owed' end,
         coalesce(d.attempt_count, l.number, 0),
         case when d.endpoint_id is not null then live.why
              when s.why is not null then s.why
              when l.endpoint_id is not null then ended.why
              when e.id is null then 'the endpoint that the event names does not exist'
              else absent.why end,
         d.next_attempt_at,
         concat_ws(' ', l.outcome, l.cause, l.status), l.started_at, posthaste_internal.without_query(e.url)
    from chosen c
    left join posthaste.endpoints e on e.id = c.endpoint_id
    left join posthaste.endpoint_health h on h.endpoint_id = c.endpoint_id
    left join live d on d.endpoint_id = c.endpoint_id
    left join last l on l.endpoint_id = c.endpoint_id
    left join aside s on s.endpoint_id = c.endpoint_id
                      or s.endpoint_id is null and c.rank = 2 and (e.enabled or e.hold) and e.created_at <= o.created_at
    cross join lateral (
      select case when d.claimed_by is not null
                  then format('relay %s is making attempt %s', d.claimed_by, d.attempt_count + 1)
             else concat_ws('; ',
        case when e.id is null then 'the endpoint is gone' end,
        case when not e.enabled
             then format('endpoint disabled: %s: posthaste.enable_endpoint(%s) lets it go on', e.disabled_reason, e.id) end,
        case when e.enabled and h.paused_until is not null
             then format('endpoint paused until %s (%s)', h.paused_until,
                         coalesce(nullif(h.reason, ''), h.consecutive_failures || ' failures in a row'))
                  -- An endpoint that the relay's settings refuse gets nothing sooner.
                  || case when h.trouble is distinct from 'refused'
                          then format(': posthaste.retry_endpoint(%s) sends now', e.id) else '' end end,
        case when d.blocked_at is not null
             then format('dead since %s, and ordering key %s waits behind it: posthaste.unblock(%s, %L)',
                         d.blocked_at, d.ordering_key, d.endpoint_id, d.ordering_key)
             when d.in_line
             then format('in line behind event %s of ordering key %s',
                         (select head.event_id from posthaste.deliveries head
                           where head.endpoint_id = d.endpoint_id and head.ordering_key = d.ordering_key
                             and head.in_line is null), d.ordering_key)
             when d.next_attempt_at > clock_timestamp()
             then format('attempt %s is due at %s', d.attempt_count + 1, d.next_attempt_at)
             else format('attempt %s is due since %s', d.attempt_count + 1, d.next_attempt_at) end,
        case when l.verdict in ('retry', 'dead') and l.started_at >= d.created_at - interval '1 hour'
             then 'the last one: ' || l.came end) end) live(why)
    cross join lateral (
      select case when l.verdict = 'retry' then 'to be retried, but no longer owed: see posthaste.check_consistency()'
             else format('%s at %s', l.verdict, l.started_at + l.duration_ms * interval '1 ms')
                  || case when l.number > 0 then ' by attempt ' || l.number else '' end
                  || case when l.verdict <> 'delivered' then coalesce(': ' || l.came, '') else coalesce(': ' || l.reason, '') end
                  || case when l.verdict = 'dead'
                          then format('; posthaste.retry(%s, %s) sends it again', l.event_id, l.endpoint_id) else '' end
             end) ended(why)
    cross join lateral (
      select coalesce(
        nullif(case
          when o.endpoint_id <> e.id then format('the event names endpoint %s alone', o.endpoint_id)
          when o.endpoint_id = e.id and e.filter is not null and posthaste_internal.is_announcement(o.event_type)
               and not posthaste_internal.filter_matches(o.payload, e.filter) then 'the filter does not match the payload'
          when o.endpoint_id is null and d.endpoint_id is null and l.endpoint_id is null then concat_ws('; ',
            case when e.tenant is distinct from o.tenant and e.tenant is not null
                 then format('the endpoint gets the events of tenant %s, this is of %s',
                             e.tenant, coalesce('tenant ' || o.tenant, 'no tenant')) end,
            case when not posthaste_internal.route_keys(null, e.subscriptions)
                      && posthaste_internal.route_keys_of_event(null, o.event_type)
                 then format('not subscribed: %s does not match %s', array_to_string(e.subscriptions, ', '), o.event_type) end,
            case when e.filter is not null and not posthaste_internal.filter_matches(o.payload, e.filter)
                 then coalesce('the filter fails on the payload: ' || posthaste_internal.filter_failure(o.payload, e.filter),
                               'the filter does not match the payload') end,
            case when not e.enabled and not e.hold
                 then format('the endpoint is disabled since %s: %s', e.disabled_at, e.disabled_reason) end,
            case when routed and e.created_at > o.created_at
                 then format('the endpoint was added after the event, at %s', e.created_at) end)
          else '' end, ''),
        case when not routed then 'owed, but not routed yet: a running relay does that at once'
             when e.updated_at > o.created_at
             then format('it matches now, but the endpoint was changed after the event, at %s: posthaste.replay(%s, …, states => ''{never}'') sends it',
                         e.updated_at, e.id)
             else 'it matches, but there is neither delivery nor attempt: see posthaste.check_consistency()' end)
      ) absent(why)
   order by c.rank, c.endpoint_id;
end $$;
comment on function posthaste.explain is
  'Why an event was or was not sent, to whom, and what is next: a row for each endpoint, those that are owed it first, then those that subscribe, then all others, no more than at_most. state is waiting, in line (behind another of its ordering key), blocked (dead, and its ordering key waits), held (endpoint disabled), sending, delivered, dead, cancelled, not routed, not owed, set aside (the database refused to route or record it: see posthaste.set_aside), or lost. why says what fixes it, where something is to be fixed.';
