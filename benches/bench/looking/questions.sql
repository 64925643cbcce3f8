-- What operators and consoles ask: a statement each, which its first line names. $recent and $old are events of today
-- and of nine days ago.

-- endpoint_status
select * from posthaste.endpoint_status

-- endpoint_status, the most pending
select * from posthaste.endpoint_status order by pending desc limit 50

-- backlog, the most overdue
select * from posthaste.backlog order by overdue_by desc limit 20

-- recent_failures
select * from posthaste.recent_failures limit 50

-- relay_status
select * from posthaste.relay_status

-- ingest_status
select * from posthaste.ingest_status

-- unrouted_events
select count(*) from posthaste.unrouted_events

-- unrouted_events, 50
select * from posthaste.unrouted_events limit 50

-- live_deliveries of an event
select * from posthaste.live_deliveries where event_id = $recent

-- live_deliveries, 50
select * from posthaste.live_deliveries limit 50

-- explain, an event of today
select * from posthaste.explain($recent)

-- explain, an event of nine days ago
select * from posthaste.explain($old)

-- deliveries_of an event
select * from posthaste.deliveries_of($recent)

-- delivery_status of an event
select * from posthaste.delivery_status where event_id = $recent

-- delivery_attempts of an event
select * from posthaste.delivery_attempts where event_id = $recent

-- newest attempts of a minute
select * from posthaste.delivery_attempts where started_at > now() - interval '1 minute' order by started_at desc, event_id, endpoint_id limit 50

-- newest attempts of an hour
select * from posthaste.delivery_attempts where started_at > now() - interval '1 hour' order by started_at desc, event_id, endpoint_id limit 50

-- attempts of a minute, five days ago
select * from posthaste.delivery_attempts where started_at >= now() - interval '5 days' and started_at < now() - interval '5 days' + interval '1 minute' order by started_at desc, event_id, endpoint_id limit 50

-- an endpoint's newest attempts of an hour
select * from posthaste.delivery_attempts where endpoint_id = 14 and started_at > now() - interval '1 hour' order by started_at desc, event_id, endpoint_id limit 50

-- an endpoint's newest failures, it fails often
select * from posthaste.delivery_attempts where endpoint_id = 14 and verdict <> 'delivered' and started_at > now() - interval '10 days' order by started_at desc limit 50

-- an endpoint's newest failures, it fails rarely
select * from posthaste.delivery_attempts where endpoint_id = 140 and verdict <> 'delivered' and started_at > now() - interval '10 days' order by started_at desc limit 50

-- deliveries of the last hour
select * from posthaste.deliveries_between(now() - interval '1 hour', now())

-- deliveries of an hour, five days ago
select * from posthaste.deliveries_between(now() - interval '5 days', now() - interval '5 days' + interval '1 hour')

-- the same of an endpoint
select * from posthaste.deliveries_between(now() - interval '5 days', now() - interval '5 days' + interval '1 hour', endpoint => 14)

-- the same of a tenant
select * from posthaste.deliveries_between(now() - interval '5 days', now() - interval '5 days' + interval '1 hour', tenant => 'tenant7')

-- the dead of the last day
select * from posthaste.deliveries_between(now() - interval '1 day', now(), state => 'dead')

-- the dead of ten days of an endpoint
select * from posthaste.deliveries_between(now() - interval '10 days', now(), endpoint => 11, state => 'dead')

-- those that wait, of a day
select * from posthaste.deliveries_between(now() - interval '1 day', now(), state => 'waiting')

-- those that wait for an endpoint
select * from posthaste.deliveries_between(now() - interval '1 day', now(), endpoint => 14, state => 'waiting')

-- newest events
select * from posthaste.events_between(now() - interval '1 day')

-- newest events of a type
select * from posthaste.events_between(now() - interval '1 day', event_type => 'invoice.*')

-- events of a type that is not there, of an hour
select * from posthaste.events_between(now() - interval '1 hour', event_type => 'order.lost')

-- events of a type that is not there, of a day
select * from posthaste.events_between(now() - interval '1 day', event_type => 'order.lost')

-- newest events of a tenant
select * from posthaste.events_between(now() - interval '1 day', tenant => 'tenant7')

-- events of an hour, five days ago
select * from posthaste.events_between(now() - interval '5 days', now() - interval '5 days' + interval '1 hour')
