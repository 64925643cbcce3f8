-- tell_others: makes all relays ask for due deliveries. Called by store::deliveries::tell_others. Takes no locks but
-- NOTIFY's own.
select pg_notify('posthaste', 'due')
