-- withdrawals: the cancellations that found deliveries claimed. Called by store::withdrawals::withdrawals, once for
-- each notice of one and once a poll.
-- Index: none, since each new row removes those that are older than an hour. Takes no locks.
select w.id, w.event_id, w.endpoint_id, w.event_type, w.reason from posthaste.withdrawals w order by w.id
