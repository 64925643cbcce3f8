-- place_order: the shop's own write
insert into orders (customer, total_cents) values ($1, $2) returning id;
