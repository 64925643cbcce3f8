-- place: which database this is, and the role of the session. Called by store::place::look. Takes no locks, needs no
-- schema. Every name with its schema: nothing has been set yet, as an old server may not know some of the settings.
select pg_catalog.current_setting('server_version') as version,
       pg_catalog.current_setting('server_version_num')::pg_catalog.int4 as version_number,
       pg_catalog.current_setting('server_encoding') as encoding,
       pg_catalog.current_database()::pg_catalog.text as name,
       current_user::pg_catalog.text as role,
       pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())
         operator(pg_catalog.*) 1000::pg_catalog.float8 as now_ms
