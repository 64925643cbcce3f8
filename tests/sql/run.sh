#!/bin/sh
# Runs the scripts beside it, each in a new database with the schema: tests/sql/run.sh [script …]
# Takes PGHOST, PGPORT, PGUSER from the environment; the user must be a superuser (roles are switched).
# A script may `execute` every statement of sql/queries by its file's name.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
sql=$here/../../sql
database=posthaste_sql_test
psql() { command psql -X -q -v ON_ERROR_STOP=1 "$@"; }

[ $# -gt 0 ] || set -- "$here"/*.sql
for script in "$@"; do
  psql -d postgres -c "drop database if exists $database with (force)" -c "create database $database" 2>/dev/null
  cat "$sql"/migrations/ledger.sql "$sql"/schema/*.sql | psql -d $database -o /dev/null --single-transaction
  {
    for query in "$sql"/queries/*.sql; do
      name=$(basename "$query" .sql)
      echo "prepare $name as"; cat "$query"; echo ";"
    done
    echo "set client_min_messages = warning;"
    cat "$script"
  } | psql -d $database -o /dev/null
  echo "ok $(basename "$script")"
done
psql -d postgres -c "drop database if exists $database with (force)"
