-- webhook_id_key: the key that a database's webhook-ids are made with. Called by store::webhook_ids::read.
-- A table of one row. Takes no locks.
select key from posthaste.webhook_id_key
