-- What pauses an endpoint, and why, in words. Written by note_health, read by endpoints.
-- Three columns for posthaste.endpoint_health; then what reads or resets them: enable_endpoint, announce_health,
-- endpoint_status, delivery_status, why_owed (or whatever explain is made of).

alter table posthaste.endpoint_health
  add column consecutive_rejections integer not null default 0,
  add column trouble text
    constraint trouble_is_failing_rejecting_or_refused check (trouble in ('failing', 'rejecting', 'refused')),
  add column reason text;
comment on column posthaste.endpoint_health.consecutive_failures is
  'Failed attempts since the last success, without those that were answered with 4xx.';
comment on column posthaste.endpoint_health.consecutive_rejections is
  'Attempts since the last success that were answered with 4xx (but 408, 410, 425 and 429, which are failures).';
comment on column posthaste.endpoint_health.failing_since is
  'The first failure since the last success, or the beginning of what pauses it now.';
comment on column posthaste.endpoint_health.trouble is
  'What pauses it: failing; rejecting (it answers 4xx to all it is sent); refused (by the relay''s own settings). Null while it flows.';
comment on column posthaste.endpoint_health.reason is
  'Why it is paused, in words: what came last, or the setting that would open it.';

-- enable_endpoint: forgets these too.
create or replace function posthaste.enable_endpoint(endpoint bigint) returns boolean
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  was_enabled boolean := (posthaste.known_endpoint(endpoint)).enabled;
  was_paused boolean;
begin
  -- Also where it only ends a pause: the new revision makes relays read it again.
  update posthaste.endpoints e set enabled = true where e.id = endpoint;
  update posthaste.endpoint_health h
     set state = 'flowing', consecutive_failures = 0, consecutive_rejections = 0, failing_since = null, pauses = 0,
         paused_until = null, trouble = null, reason = null
   where h.endpoint_id = endpoint
     and (h.state <> 'flowing' or h.consecutive_failures > 0 or h.consecutive_rejections > 0 or h.pauses > 0);
  was_paused := found;
  perform posthaste.wake();
  return not was_enabled or was_paused;
end $$;

-- announce_health: the reason in words, and both counts.
create or replace function posthaste.announce_health() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if new.state = 'flowing' then
    perform posthaste.announce('posthaste.endpoint.recovered', new.endpoint_id,
      jsonb_build_object('recovered_at', new.last_success_at, 'failing_since', old.failing_since));
  else
    perform posthaste.announce('posthaste.endpoint.paused', new.endpoint_id,
      jsonb_build_object('reason', coalesce(nullif(new.reason, ''),
                                            format('%s failures since %s', new.consecutive_failures, new.failing_since)),
                         'trouble', new.trouble,
                         'consecutive_failures', new.consecutive_failures,
                         'consecutive_rejections', new.consecutive_rejections,
                         'failing_since', new.failing_since, 'paused_until', new.paused_until));
  end if;
  return null;
end $$;

-- endpoint_status: reason, and the failures of both kinds together (so that it says "failed attempts since the last success").
create or replace view posthaste.endpoint_status as
select e.id as endpoint_id, e.url, e.tenant, e.description,
       case when not e.enabled then 'disabled' else coalesce(h.state, 'flowing') end as health,
       coalesce(e.disabled_reason,
                case when h.state <> 'flowing'
                     then coalesce(nullif(h.reason, ''), h.consecutive_failures || ' failures since ' || h.failing_since) end) as reason,
       h.paused_until, p.pending, p.pending = 10000 as pending_is_more, f.oldest_pending_at,
       coalesce(h.consecutive_failures + h.consecutive_rejections, 0) as consecutive_failures, h.failing_since,
       h.last_success_at, h.last_failure_at,
       round((h.recent_successes / nullif(h.recent_successes + h.recent_failures, 0))::numeric, 4) as success_rate,
       round((h.recent_duration_ms / nullif(h.recent_successes + h.recent_failures, 0))::numeric, 1) as mean_duration_ms,
       b.blocked_keys
  from posthaste.endpoints e
  left join posthaste.endpoint_health h on h.endpoint_id = e.id
  cross join lateral (
    select count(*) as pending from (
      (select from posthaste.deliveries d where d.endpoint_id = e.id and d.claimed_by is null and d.in_line is null limit 10000)
      union all
      (select from posthaste.deliveries d where d.endpoint_id = e.id and d.in_line limit 10000)
      limit 10000) d) p
  cross join lateral (
    select count(*) as blocked_keys from (
      select from posthaste.deliveries d where d.endpoint_id = e.id and d.blocked_at is not null limit 10000) d) b
  left join lateral (
    select d.created_at as oldest_pending_at from posthaste.deliveries d
     where d.endpoint_id = e.id and d.claimed_by is null and d.in_line is null
     order by d.next_attempt_at, d.event_id limit 1) f on true;

-- delivery_status: the same words behind "endpoint paused until …":
--   when h.state = 'paused' then 'endpoint paused until ' || h.paused_until || coalesce(': ' || nullif(h.reason, ''), '')

-- why_owed (explain): likewise. Here by a look-up, so that its signature stays.
create or replace function posthaste.why_owed(
  d posthaste.deliveries, a posthaste.attempts, e posthaste.endpoints, paused_until timestamptz
) returns text
  language sql stable parallel safe
  return case
    when (d).claimed_by is not null then
      format('relay %s is making attempt %s', (d).claimed_by, (d).attempt_count + 1)
    when (d).event_id is not null then concat_ws('; ',
      case when (e).id is null then 'the endpoint is gone' end,
      'endpoint disabled: ' || (e).disabled_reason,
      'endpoint paused until ' || paused_until || coalesce(': ' || nullif(
        (select h.reason from posthaste.endpoint_health h where h.endpoint_id = (d).endpoint_id), ''), ''),
      case when (d).blocked_at is not null
           then format('dead since %s, and ordering key %s waits behind it: posthaste.unblock(%s, %L)',
                       (d).blocked_at, (d).ordering_key, (d).endpoint_id, (d).ordering_key)
           when (d).in_line
           then format('in line behind event %s of ordering key %s',
                       (select h.event_id from posthaste.deliveries h
                         where h.endpoint_id = (d).endpoint_id and h.ordering_key = (d).ordering_key and h.in_line is null), (d).ordering_key)
           when (d).next_attempt_at > clock_timestamp()
           then format('attempt %s is due at %s', (d).attempt_count + 1, (d).next_attempt_at)
           else format('attempt %s is due since %s', (d).attempt_count + 1, (d).next_attempt_at) end,
      case when (d).attempt_count > 0 and (a).verdict in ('retry', 'dead')
           then 'the last one: ' || coalesce((a).reason, concat_ws(' ', (a).outcome, (a).cause, (a).status)) end)
    when (a).verdict = 'retry' then 'to be retried, but no longer owed: see posthaste.check_consistency()'
    else format('%s at %s', (a).verdict, (a).started_at + (a).duration_ms * interval '1 ms')
         || case when (a).number > 0 then ' by attempt ' || (a).number else '' end
         || coalesce(': ' || coalesce((a).reason, case when (a).verdict <> 'delivered'
                                                       then concat_ws(' ', (a).outcome, (a).cause, (a).status) end), '')
  end;
