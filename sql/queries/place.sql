-- place: which database this is, and the role of the session. Called by store::place::look. Takes no locks, needs no
-- schema.
select current_setting('server_version') as version,
       current_setting('server_version_num')::int as version_number,
       current_setting('server_encoding') as encoding,
       current_database()::text as name,
       current_user::text as role,
       date_part('epoch', clock_timestamp()) * 1000 as now_ms
