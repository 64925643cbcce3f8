-- apply_effect: disables or deletes an endpoint. Called by store::endpoints::apply_effect.
-- Index: endpoints_pkey. Locks: the endpoint; when it is deleted, its deliveries.
--
-- Says by posthaste.disabling that the reason is the relay's: tenants are told it, and not an operator's.
--
-- $1 endpoint  $2 whether to delete it  $3 why
with disabled as (
  update posthaste.endpoints set enabled = false, disabled_reason = $3::text
   where id = $1::bigint and not $2::bool and enabled and set_config('posthaste.disabling', 'on', true) = 'on'
  returning id
),
deleted as (
  delete from posthaste.endpoints where id = $1::bigint and $2::bool
  returning id
)
select exists (select from disabled union all select from deleted)
