-- deregister: ends a relay's registration. Called by store::relays::Lease::end. Index: relays_pkey.
--
-- $1 relay
delete from posthaste.relays where id = $1::int
