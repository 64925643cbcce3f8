-- write_event: the whole of what an application does for a webhook, in the transaction of its own write
insert into posthaste.outbox (event_type, payload)
values ($1, json_build_object('order_id', $2::bigint, 'customer', $3::text, 'total_cents', $4::integer));
