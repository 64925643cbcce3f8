-- Fills a database with ten days of events, attempts and live deliveries, as relays would have left them.
-- Everything is a matter of an event's number, so that it is the same each time.

create schema looking;

create table looking.span (events bigint, began_at timestamptz, step interval, first_xid bigint);

-- Transactions of fifty events each, so that an event's is known by its number.
create procedure looking.use_transactions(count bigint) language plpgsql as $$
begin
  for n in 1..count loop
    perform pg_current_xact_id();
    commit;
  end loop;
end $$;

create function looking.begin(events bigint, endpoints integer) returns void language plpgsql set timezone = 'UTC' as $$
declare
  days constant interval := '10 days';
  day date;
  parent text;
begin
  insert into looking.span
  select events, clock_timestamp() - days, days / events, pg_current_xact_id()::text::bigint - events / 50 - 1;
  foreach parent in array array['outbox', 'attempts'] loop
    for day in select current_date - n from generate_series(0, 10) n loop
      continue when to_regclass(format('posthaste.%s_%s', parent, to_char(day, 'YYYYMMDD'))) is not null;
      execute format('create table posthaste.%1$s_%2$s partition of posthaste.%1$s for values from (%3$L) to (%4$L)',
                     parent, to_char(day, 'YYYYMMDD'), day, day + 1);
    end loop;
  end loop;
  perform looking.add_endpoints(endpoints);
  insert into posthaste.relays (name, version) select 'relay-' || n, '0.1.0' from generate_series(1, 4) n;
end $$;

create function looking.add_endpoints(count integer) returns void language sql as $$
  with added as (
    insert into posthaste.endpoints (url, subscriptions, tenant)
    select 'https://example.com/hooks/' || n, array['order.*'], 'tenant' || n % 800 from generate_series(1, count) n
    returning id
  )
  insert into posthaste.endpoint_health
    (endpoint_id, recent_successes, recent_failures, recent_duration_ms, last_success_at)
  select id, 200, id % 3, 4000, clock_timestamp() from added;
$$;

-- The events from one number until before another, with what became of them. Of eleven events one is live. Of the
-- attempts 1 in 250 fails, nine in ten of these at the first 20 endpoints, and is delivered ten seconds later or dead.
create procedure looking.fill(from_event bigint, until_event bigint) language plpgsql as $$
begin
  insert into posthaste.outbox (id, event_type, payload, tenant, created_at, xid)
  overriding system value
  select n, (array['order.paid', 'order.sent', 'order.made', 'invoice.paid'])[1 + n % 4],
         json_build_object('order', n, 'note', repeat('x', 150)),
         'tenant' || n % 800, s.began_at + n * s.step, (s.first_xid + n / 50)::text::xid8
    from looking.span s, generate_series(from_event, until_event - 1) n;

  insert into posthaste.attempts
    (event_id, endpoint_id, event_created_at, started_at, next_attempt_at, relay_id, duration_ms, headers_ms, number,
     status, verdict, reason, response_body)
  select e.n, e.endpoint_id, e.created_at, a.*
    from (select n, n % 11 = 5 as is_live, s.began_at + n * s.step as created_at, n % 250 = 0 as fails,
                 n % 2500 = 0 as dies,
                 case when n % 250 = 0 and n % 2500 <> 250 then 1 + n / 250 % 20 else 1 + n * 7919 % 200 end as endpoint_id
            from looking.span s, generate_series(from_event, until_event - 1) n) e
    cross join lateral (
      select e.created_at + interval '20 ms', case when e.fails and not e.dies then e.created_at + interval '10 s' end,
             1 + e.n % 4, 15 + e.n % 40, 10, 1, case when e.fails then 503 else 200 end,
             case when e.dies then 'dead' when e.fails then 'retry' end, case when e.dies then 'gave up' end,
             case when e.fails then repeat('unavailable ', 20) end
      union all
      select e.created_at + interval '10 s', null, 1 + e.n % 4, 15, 10, 2, 200, null, null, null
       where e.fails and not e.dies) a
   where not e.is_live
   order by 4;
end $$;

create function looking.owed_to(event bigint, endpoints integer, deep integer) returns bigint language sql immutable
  return case when event / 11 % 100 = 0 then 1 + event / 1100 % endpoints else 1 + event / 11 % deep end;

-- Every live delivery anew: of a hundred one to any of the endpoints, the others to those numbered up to deep.
create function looking.owe(endpoints integer, deep integer) returns bigint language plpgsql as $$
declare
  made bigint;
begin
  truncate posthaste.deliveries, posthaste.claims;
  insert into posthaste.deliveries (event_id, endpoint_id, event_created_at, attempt_count, next_attempt_at, created_at)
  select n, looking.owed_to(n, endpoints, deep), s.began_at + n * s.step, 0,
         s.began_at + n * s.step + n % 2 * interval '11 days', s.began_at + n * s.step
    from looking.span s, generate_series(5, s.events - 1, 11) n
   where n < s.events - 6 * 500 * 11;
  get diagnostics made = row_count;
  -- The last of them are claimed as they were routed, 500 in each step.
  insert into posthaste.claims
  select 1 + batch % 4, 1000 + batch, 500, repeat('0', 500)::varbit, max(at), max(at), min(n), max(n), array_agg(n order by n),
         array_agg(looking.owed_to(n, endpoints, deep) order by n), array_agg(at order by n)
    from (select n, s.began_at + n * s.step as at, (row_number() over (order by n) - 1) / 500 as batch
            from looking.span s, generate_series(5, s.events - 1, 11) n
           where n >= s.events - 6 * 500 * 11
           order by n limit 6 * 500) e
   group by batch;
  return made;
end $$;

-- A relay has routed all of it; ten sources have sent webhooks, most of them within the hour.
create function looking.finish() returns void language plpgsql as $$
begin
  perform setval('posthaste.ids_are_given_by_the_database', s.events) from looking.span s;
  insert into posthaste.routing
    (number, since, until, floor_at, mark_xid, mark_at, events, deliveries, unmatched, system_identifier, database_oid)
  select number + 1, until, pg_current_snapshot(), now(), pg_current_xact_id(), now(), 0, 0, 0, system_identifier, database_oid
    from posthaste.routing order by number desc limit 1;
  insert into posthaste.received (source, sender_id, event_id, event_created_at, received_at)
  select 'source' || n % 10, n::text, s.events - n, s.began_at + (s.events - n) * s.step,
         clock_timestamp() - n * interval '18 ms'
    from looking.span s, generate_series(1, least(s.events / 50, 300000)) n;
end $$;

-- Delivered attempts of now, each statement in a transaction of its own.
create procedure looking.record(statements integer, at_once integer) language plpgsql as $$
begin
  for s in 1..statements loop
    insert into posthaste.attempts
      (event_id, endpoint_id, event_created_at, started_at, relay_id, duration_ms, headers_ms, number, status)
    select s * at_once::bigint + n, 1 + n % 200, clock_timestamp(), clock_timestamp(), 1, 15, 10, 1, 200
      from generate_series(1, at_once) n;
    commit;
  end loop;
end $$;
