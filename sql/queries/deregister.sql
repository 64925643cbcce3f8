-- deregister: ends a relay's registration. Called by store::relays::Lease::end. Index: relays_pkey.
--
-- $1 relay  $2 when it registered
delete from posthaste.relays where id = $1::int and started_at = $2::timestamptz
