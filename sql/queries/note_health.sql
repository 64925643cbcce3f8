-- note_health: adds attempts to the moving counts of endpoints and writes down their state, and their windows as far as
-- they are known. Called by store::health::note_health.
-- Index: endpoints_pkey, endpoint_health_pkey, one descent each a note. Locks: the endpoints' health rows, by id.
-- A scalar subquery is looked up for each note. `exists` becomes a join, and without hashes the planner compared each
-- endpoint with each note (*measured* with 10,000: 800 to 2,800 µs a note instead of 11).
-- The counts fade with e^(-age/1 h), so the last hour's rate needs no scan of attempts.
-- A window stays as it was left where this relay does not know it yet.
--
-- $1 now (null: the database's clock)
-- Then arrays, the n-th element of each for the n-th endpoint:
-- $2 endpoints  $3 successes, $4 failures and $5 milliseconds of the attempts since the last note
-- $6 states  $7 consecutive failures  $8 since when it fails (null: it does not)  $9 pauses since the last success
-- $10 until when it is paused (null: it is not)  $11 consecutive rejections  $12 troubles and $13 reasons (null: none)
-- $14 sizes of windows, over all relays, and $15 milliseconds that an answer takes when few are in flight (both null:
-- not known)
with clock as materialized (
  select coalesce($1::timestamptz, clock_timestamp()) as now
)
insert into posthaste.endpoint_health as h
  (endpoint_id, recent_successes, recent_failures, recent_duration_ms, state, consecutive_failures,
   failing_since, pauses, paused_until, consecutive_rejections, trouble, reason,
   window_at, window_size, normal_duration_ms,
   last_success_at, last_failure_at, updated_at)
select n.endpoint_id, n.successes, n.failures, n.duration_ms, n.state, n.consecutive_failures,
       n.failing_since, n.pauses, n.paused_until, n.consecutive_rejections, n.trouble, n.reason,
       case when n.window_size is not null then clock.now end, n.window_size, n.normal_duration_ms,
       case when n.successes > 0 then clock.now end, case when n.failures > 0 then clock.now end, clock.now
from unnest($2::bigint[], $3::float8[], $4::float8[], $5::float8[], $6::text[], $7::int[],
            $8::timestamptz[], $9::int[], $10::timestamptz[],
            $11::int[], $12::text[], $13::text[], $14::smallint[], $15::float4[])
     n(endpoint_id, successes, failures, duration_ms, state, consecutive_failures, failing_since, pauses, paused_until,
       consecutive_rejections, trouble, reason, window_size, normal_duration_ms)
cross join clock
where (select true from posthaste.endpoints e where e.id = n.endpoint_id)
order by n.endpoint_id
on conflict (endpoint_id) do update set
  recent_successes = h.recent_successes * exp(-least(greatest(extract(epoch from excluded.updated_at - h.updated_at), 0), 360000) / 3600) + excluded.recent_successes,
  recent_failures = h.recent_failures * exp(-least(greatest(extract(epoch from excluded.updated_at - h.updated_at), 0), 360000) / 3600) + excluded.recent_failures,
  recent_duration_ms = h.recent_duration_ms * exp(-least(greatest(extract(epoch from excluded.updated_at - h.updated_at), 0), 360000) / 3600) + excluded.recent_duration_ms,
  state = excluded.state,
  consecutive_failures = excluded.consecutive_failures,
  failing_since = excluded.failing_since,
  pauses = excluded.pauses,
  paused_until = excluded.paused_until,
  consecutive_rejections = excluded.consecutive_rejections,
  trouble = excluded.trouble,
  reason = excluded.reason,
  window_at = coalesce(excluded.window_at, h.window_at),
  window_size = coalesce(excluded.window_size, h.window_size),
  normal_duration_ms = coalesce(excluded.normal_duration_ms, h.normal_duration_ms),
  last_success_at = coalesce(excluded.last_success_at, h.last_success_at),
  last_failure_at = coalesce(excluded.last_failure_at, h.last_failure_at),
  updated_at = excluded.updated_at
