-- move_order: paid or cancelled
update orders set status = $2 where id = $1;
