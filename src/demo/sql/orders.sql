-- orders: the shop's own table; Posthaste knows nothing of it
create table orders (
    id          bigint generated always as identity primary key,
    customer    text not null,
    total_cents integer not null,
    status      text not null default 'created'
);
