-- doctor_work: how relays and endpoints stand, one row for each. Called by store::doctor::examine. Takes no locks.
--
-- $1 seconds after which a relay is taken for dead
with relay as (
  select count(*) filter (where not is_dead) as running, count(*) filter (where is_dead) as dead
  from (select heartbeat_at < clock_timestamp() - $1::float8 * interval '1 second' as is_dead from posthaste.relays) r
),
-- Each list names twenty: with more, posthaste.endpoint_status is the better page.
endpoint as (
  select count(*) filter (where e.enabled) as enabled,
         (array_agg(e.id::text order by e.id) filter (where e.enabled and h.state <> 'flowing'))[1:20] as paused,
         (array_agg(format('%s (%s)', e.id, coalesce('since ' || date_trunc('second', h.last_success_at), 'never anything')) order by e.id)
            filter (where e.enabled and h.state = 'flowing' and h.consecutive_failures + h.consecutive_rejections >= 10))[1:20] as unaccepting,
         (array_agg(e.id::text order by e.id) filter (where e.disabled_at is not null))[1:20] as disabled
  from posthaste.endpoints e
  left join posthaste.endpoint_health h on h.endpoint_id = e.id
),
-- The first 200 filters, asked about those of the last 100 events that they are for.
filter as (
  select count(*) as filters, (array_agg(f.failure order by f.id) filter (where f.failure is not null))[1:20] as failing
  from (
    select e.id, (select format('endpoint %s, event %s: %s', e.id, o.id, o.failure)
                    from (select r.id, posthaste_internal.filter_failure(r.payload, e.filter) as failure
                            from (select o.id, o.payload, o.tenant, o.event_type from posthaste.outbox o
                                   where o.created_at > now() - interval '1 day' and o.endpoint_id is null
                                   order by o.xid desc, o.id desc limit 100) r
                           where posthaste_internal.route_keys(e.tenant, e.subscriptions)
                                 && posthaste_internal.route_keys_of_event(r.tenant, r.event_type)) o
                   where o.failure is not null limit 1) as failure
    from (select * from posthaste.endpoints e where e.filter is not null and (e.enabled or e.hold) order by e.id limit 200) e) f
),
announcement as (
  select case when is_called then last_value else 0 end as dropped from posthaste.announcements_dropped
),
aside as (
  select count(*) as found, min(s.set_aside_at) as since,
         (array_agg(concat_ws(', ', 'event ' || s.event_id, 'endpoint ' || s.endpoint_id, s.during) || ': ' || s.message
                    || coalesce(' (' || s.sqlstate || ')', '') order by s.set_aside_at desc))[1:5] as newest
  from (select * from posthaste.set_aside a limit 1000) s
)
select 'relays' as "check",
       case when running > 0 and dead = 0 then 'ok' else 'warning' end as state,
       concat_ws(', ', running || ' running', case when dead > 0 then dead || ' dead, not taken over yet' end) as detail,
       case when running = 0 then 'start one: posthaste run'
            when dead > 0 then 'wait: one that runs takes over what a dead one held' end as fix
from relay
union all
select 'endpoints',
       case when coalesce(paused, unaccepting, disabled) is null then 'ok' else 'warning' end,
       concat_ws('; ', enabled || ' enabled', 'paused: ' || array_to_string(paused, ', '),
                 'have accepted nothing of late: ' || array_to_string(unaccepting, ', '),
                 'disabled: ' || array_to_string(disabled, ', ')),
       case when coalesce(paused, disabled) is not null then
         'see posthaste.endpoint_status for why, then select posthaste.enable_endpoint(id); a paused one is probed by itself'
            when unaccepting is not null then 'see posthaste.recent_failures for what they answer' end
from endpoint
union all
select 'filters', case when failing is null then 'ok' else 'warning' end,
       coalesce('failing, so these events are not owed: ' || array_to_string(failing, '; '), filters || ' asked'),
       case when failing is not null then 'change the filters; posthaste.replay with states ''{never}'' then brings what was not owed' end
from filter
union all
select 'set aside', case when found = 0 then 'ok' else 'warning' end,
       case when found = 0 then 'nothing'
            else format('%s that the database refused to route or record, since %s: %s', found, date_trunc('second', since),
                        array_to_string(newest, '; ')) end,
       case when found > 0 then
         'see posthaste.set_aside; remove the cause (often a trigger or constraint of yours), then select posthaste.route_again()' end
from aside
union all
select 'announcements', case when dropped = 0 then 'ok' else 'warning' end, dropped || ' dropped since the schema was made',
       case when dropped > 0 then
         'the server''s log has the reason of each: let constraints and triggers of yours on posthaste.outbox pass posthaste.* events; '
         || 'setval(''posthaste.announcements_dropped'', 1, false) forgets these' end
from announcement
