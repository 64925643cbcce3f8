-- tell_others: makes all relays ask what is due. Called by store::deliveries::tell_others. Takes no locks but NOTIFY's own.
select pg_notify('posthaste', 'due')
