-- endpoints: who is to hear of what, with delays between retries short enough for a demo
insert into posthaste.endpoints (url, subscriptions, description, schedule) values
    ('<receiver>/analytics', '{*}',               'always up',            '{1s,1s,2s,2s,5s}'),
    ('<receiver>/billing',   '{order.paid}',      'fails 2 requests of 3', '{1s,1s,2s,2s,5s}'),
    ('<receiver>/support',   '{order.cancelled}', 'takes 300 ms',         '{1s,1s,2s,2s,5s}'),
    ('<refusing>/partner',     '{order.created}',   'is down',              null);
