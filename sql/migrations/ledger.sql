-- The table of applied migrations. Makes only what is missing: a role that owns both schemas needs no right to make
-- one, and where all is there it needs no right at all.
do $$
begin
  if to_regnamespace('posthaste') is null then
    create schema posthaste;
    comment on schema posthaste is
      'Posthaste, an outbox relay: insert into posthaste.outbox in your own transaction, and the webhook arrives.';
  end if;
  if to_regnamespace('posthaste_internal') is null then
    create schema posthaste_internal;
    comment on schema posthaste_internal is
      'Parts of the functions, triggers and checks of the schema posthaste. Call none of it: it may change with any version.';
  end if;
  if to_regclass('posthaste.migrations') is null then
    create table posthaste.migrations (
      version    integer     primary key,
      name       text        not null,
      checksum   text        not null,
      applied_at timestamptz not null default now()
    );
    comment on table posthaste.migrations is 'The migrations of this schema that have been applied.';
    comment on column posthaste.migrations.version is 'Number of the migration; they are applied in order.';
    comment on column posthaste.migrations.name is 'Its name.';
    comment on column posthaste.migrations.checksum is 'SHA-256 of its text.';
    comment on column posthaste.migrations.applied_at is 'When it was applied.';
  end if;
end $$;
