-- renew: a relay's heartbeat. Called by store::relays::Lease::renew. Index: relays_pkey. Locks: its own row.
--
-- $1 relay  $2 when it registered  $3 claims held
with mine as (
  update posthaste.relays set heartbeat_at = clock_timestamp(), claim_count = $3::int
   where id = $1::int and started_at = $2::timestamptz
  returning id
)
select exists (select from mine) as held,
       (select case when is_called then last_value else 0 end from posthaste.rules_revision) as rules_revision
