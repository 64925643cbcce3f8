-- renew: a relay's heartbeat, and the state of the other relays and the rules. Called by store::relays::Lease::renew.
-- Index: relays_pkey. Locks: its own row.
--
-- $1 relay  $2 when it registered  $3 claims held  $4 seconds after which a heartbeat is too old
with mine as (
  update posthaste.relays set heartbeat_at = clock_timestamp(), claim_count = $3::int
   where id = $1::int and started_at = $2::timestamptz
  returning id
),
other as materialized (
  select id, heartbeat_at >= clock_timestamp() - $4::float8 * interval '1 second' as is_heard,
         session_pid is not null and not posthaste_internal.is_session(session_pid, session_role, session_began_at) as has_ended
    from posthaste.relays where id <> $1::int
)
select exists (select from mine) as held,
       (select case when is_called then last_value else 0 end from posthaste.rules_revision) as rules_revision,
       (select coalesce(array_agg(id), '{}') from other where is_heard) as others,
       exists (select from other where not is_heard or has_ended) as somebody_is_dead
