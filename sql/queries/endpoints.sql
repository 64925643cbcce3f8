-- endpoints: endpoints with their secrets, health and windows. Called by store::endpoints::endpoints.
-- Operators may write times that the relay's clock cannot hold, up to the year 294276 and infinity.
-- Index: the primary keys; endpoint_secrets_by_endpoint. Takes no locks.
-- `offset 0` keeps the look-up of health from becoming a join, which without hashes read the whole table for each
-- endpoint where it was empty when it was last analyzed (*measured* with 10,000: 500 to 800 µs instead of 5).
-- The one of secrets keeps PostgreSQL 16 and later from reading all secrets by their number, which spares the sort.
--
-- $1 endpoints  $2 now (null: the database's clock)
select e.id, e.revision, e.enabled, e.tenant, e.url, e.body_format, e.headers,
       date_part('epoch', e.timeout) * 1000 as timeout_ms,
       e.max_attempts,
       (select array_agg(date_part('epoch', d) * 1000 order by n)
          from unnest(e.schedule) with ordinality s(d, n)) as schedule_ms,
       e.max_concurrency, e.rate_limit, e.on_dead,
       s.secrets, s.secrets_until,
       h.state, h.consecutive_failures, h.pauses, h.consecutive_rejections, h.trouble, h.reason,
       h.window_size, h.normal_duration_ms,
       case when h.window_at is not null
            then date_part('epoch', now.at - greatest(least(h.window_at, now.at + interval '1 year'), '2000-01-01+00'))
            end as window_age_s,
       case when h.failing_since is not null
            then greatest(least(h.failing_since, now.at + interval '1 year'), '2000-01-01+00') end as failing_since,
       case when h.paused_until is not null
            then greatest(least(h.paused_until, now.at + interval '1 year'), '2000-01-01+00') end as paused_until
from posthaste.endpoints e
cross join lateral (select coalesce($2::timestamptz, clock_timestamp()) as at) now
left join lateral (
  select h.* from posthaste.endpoint_health h where h.endpoint_id = e.id offset 0
) h on true
cross join lateral (
  select coalesce(array_agg(secret order by id), '{}') as secrets,
         case when count(expires_at) > 0 then least(min(expires_at), now.at + interval '1 year') end as secrets_until
  from (
    select s.id, s.secret, s.expires_at from posthaste.endpoint_secrets s
    where s.endpoint_id = e.id and coalesce(s.expires_at > now.at, true) offset 0
  ) s
) s
where e.id = any($1::bigint[])
