-- A printed script begins with this: an error that says why it must not be applied here.
do $$
declare
  applied integer := 0;
begin
  if current_setting('server_encoding') <> 'UTF8' then
    raise exception 'the database % is encoded in %, and Posthaste needs UTF8',
      current_database(), current_setting('server_encoding')
      using hint = 'Make another: create database ... encoding ''UTF8'' template template0.';
  end if;
  if to_regclass('posthaste.migrations') is not null then
    select coalesce(max(version), 0) into applied from posthaste.migrations;
  end if;
  if applied = 0 and to_regclass('posthaste.routing') is not null then
    raise exception 'the schema posthaste was loaded without its rows'
      using hint = 'posthaste migrate puts them back.';
  elsif applied > {from} then
    raise exception
      'already applied: the schema posthaste is at version %, and this script begins after {from}',
      applied
      using hint = case when applied < {newest}
        then format('posthaste migrate --print --from %s prints what is newer.', applied)
        else 'There is nothing newer to apply.' end;
  elsif applied < {from} then
    raise exception
      'the schema posthaste is at version %, and this script begins after {from}', applied
      using hint = format('posthaste migrate --print --from %s prints all that is newer.', applied);
  end if;
end $$;
