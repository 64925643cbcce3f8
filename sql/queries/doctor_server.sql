-- doctor_server: what the server is, and as whom we are there. Called by store::doctor::examine. Takes no locks, needs no schema.
select current_setting('server_version') as version,
       current_setting('server_version_num')::int as version_number,
       current_user::text as role,
       (extract(epoch from clock_timestamp()) * 1000)::float8 as now_ms
