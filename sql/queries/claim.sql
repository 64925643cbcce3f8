-- claim: claims deliveries that are due, for endpoints with room. Called by store::deliveries::claim.
-- Index: deliveries_due, one descent per endpoint; deliveries_pkey (see record for the `any`); outbox by primary
-- key, one partition per row.
-- Locks: the rows it claims, by endpoint and due time, and those for which there were too many bytes; rows that
-- others hold are skipped.
-- `offset 0` keeps each look-up of an endpoint one: see endpoints (*measured* likewise: 3,900 µs a delivery, not 15).
-- A full, paused or disabled endpoint is not in the list: its rows are never looked at.
--
-- $1 relay  $2 claim token  $3 now (null: the database's clock)  $4 endpoints with $5 their room
-- $6 room in bytes of payload and headers; the first is claimed however large it is
-- $7 room in bytes of each endpoint, $8 the place of its tenant in $9, from 0 (null: it has none), and $9 room in bytes
-- of each tenant: something is claimed while any of that is left
-- $10 whether one delivery may be claimed that two relays in a row have ended with
with clock as materialized (
  select coalesce($3::timestamptz, clock_timestamp()) as now
),
room as materialized (
  select r.endpoint_id, r.room, r.bytes, r.tenant_place, ($9::bigint[])[r.tenant_place + 1] as tenant_bytes
  from unnest($4::bigint[], $5::int[], $7::bigint[], $8::int[]) r(endpoint_id, room, bytes, tenant_place)
  cross join lateral (select from posthaste.endpoints e where e.id = r.endpoint_id and e.enabled offset 0) e
),
picked as materialized (
  select d.*, r.bytes as room_in_bytes, r.tenant_place, r.tenant_bytes
  from room r
  cross join clock
  cross join lateral (
    select d.event_id, d.endpoint_id, d.event_created_at, d.created_at, d.next_attempt_at,
           d.interruptions >= 2 as is_suspect
    from posthaste.deliveries d
    where d.endpoint_id = r.endpoint_id
      and d.claimed_by is null and d.in_line is null
      and d.next_attempt_at <= clock.now
      and ($10::bool or d.interruptions >= 2 is not true)
    order by d.next_attempt_at, d.event_id
    limit r.room
    for update skip locked
  ) d
),
-- What does not fit one is not counted for the next: first each endpoint's bytes, then its tenant's, then all.
event as materialized (
  select v.event_id, v.endpoint_id, v.event_created_at, v.created_at, v.id, v.event_type, v.payload, v.headers,
         v.only_to, v.tenant, v.deliver_at, v.expires_at, v.is_suspect,
         sum(v.bytes) over longest_due as bytes,
         row_number() over longest_due as place,
         count(*) filter (where v.is_suspect) over longest_due as suspects
  from (
    select v.*, coalesce(sum(v.bytes) over of_tenant, 0) as before_in_tenant
    from (
      select p.*, o.id, o.event_type, o.payload, o.headers, o.endpoint_id as only_to, o.tenant, o.deliver_at, o.expires_at,
             size.bytes, coalesce(sum(size.bytes) over of_endpoint, 0) as before_in_endpoint
      from picked p
      left join posthaste.outbox o on o.id = p.event_id and o.created_at = p.event_created_at
      cross join lateral (select coalesce(posthaste_internal.event_bytes(o.payload, o.headers), 0)) size(bytes)
      window of_endpoint as (partition by p.endpoint_id order by p.next_attempt_at, p.event_id
                             rows between unbounded preceding and 1 preceding)
    ) v
    where v.before_in_endpoint < v.room_in_bytes
    window of_tenant as (partition by v.tenant_place order by v.next_attempt_at, v.event_id, v.endpoint_id
                         rows between unbounded preceding and 1 preceding)
  ) v
  where v.tenant_place is null or v.before_in_tenant < v.tenant_bytes
  window longest_due as (order by v.next_attempt_at, v.event_id, v.endpoint_id)
),
claimed as (
  update posthaste.deliveries d
     set claimed_by = $1::int, claim_token = $2::bigint
    from event v
   where d.event_id = any(array[v.event_id]) and d.endpoint_id = v.endpoint_id
     and (v.place = 1 or coalesce(v.bytes, 0) <= $6::bigint)
     and (v.is_suspect is not true or v.suspects = 1)
  returning v.*, d.attempt_count, d.ordering_key
)
select c.event_id, c.endpoint_id, c.attempt_count, c.event_created_at as created_at,
       c.ordering_key, coalesce(c.is_suspect, false) as is_suspect, e.revision, c.event_type, c.payload, c.headers,
       date_part('epoch', clock.now - least(greatest(c.event_created_at, c.deliver_at), clock.now)) * 1000 as age_ms,
       case when c.id is null then 'the event is no longer in the outbox'
            when c.expires_at <= clock.now then 'expired'
            -- Asked only where the endpoint has changed since.
            when c.only_to is null and e.updated_at > c.created_at
             and not posthaste_internal.route_keys(e.tenant, e.subscriptions)
                  && posthaste_internal.route_keys_of_event(c.tenant, c.event_type) then 'no longer subscribed'
       end as cancelled,
       (select count(*) from picked) > (select count(*) from claimed) as is_cut
from claimed c
cross join clock
cross join lateral (select e.* from posthaste.endpoints e where e.id = c.endpoint_id offset 0) e
