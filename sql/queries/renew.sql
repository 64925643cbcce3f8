-- renew: a relay's heartbeat, and the state of the other relays and the rules. Called by store::relays::Lease::renew.
-- Index: relays_pkey. Locks: its own row; for the statement, the locks of relays that are dead.
--
-- $1 relay  $2 when it registered  $3 claims held  $4 seconds after which a heartbeat is too old
with mine as (
  update posthaste.relays set heartbeat_at = clock_timestamp(), claim_count = $3::int
   where id = $1::int and started_at = $2::timestamptz
  returning id
),
other as materialized (
  select id, heartbeat_at >= clock_timestamp() - $4::float8 * interval '1 second' as is_heard,
         has_session
    from posthaste.relays where id <> $1::int
)
select exists (select from mine) as held,
       (select case when is_called then last_value else 0 end from posthaste.rules_revision) as rules_revision,
       (select coalesce(array_agg(id), '{}') from other where is_heard) as others,
       exists (select from other
                where not is_heard or (has_session and pg_try_advisory_xact_lock(1885893228, id))) as somebody_is_dead
