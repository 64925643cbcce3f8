-- endpoints: endpoints with their secrets and health. Called by store::endpoints::endpoints.
-- Index: the primary keys; endpoint_secrets_by_endpoint. Takes no locks.
--
-- $1 endpoints  $2 now (null: the database's clock)
select e.id, e.revision, e.url, e.body_format, e.headers,
       (extract(epoch from e.timeout) * 1000)::float8 as timeout_ms,
       e.max_attempts,
       (select array_agg((extract(epoch from d) * 1000)::float8 order by n)
          from unnest(e.schedule) with ordinality s(d, n)) as schedule_ms,
       e.max_concurrency, e.rate_limit, e.on_dead_head,
       s.secrets, s.secrets_until,
       h.state, h.consecutive_failures, h.failing_since, h.pauses, h.paused_until,
       h.consecutive_rejections, h.trouble, h.reason
from posthaste.endpoints e
left join posthaste.endpoint_health h on h.endpoint_id = e.id
cross join lateral (
  select coalesce(array_agg(secret order by id), '{}') as secrets, min(expires_at) as secrets_until
  from posthaste.endpoint_secrets s
  where s.endpoint_id = e.id and coalesce(s.expires_at > coalesce($2::timestamptz, clock_timestamp()), true)
) s
where e.id = any($1::bigint[])
