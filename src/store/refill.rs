//! A schema that was loaded without its rows, as `pg_dump -s` and a framework's `structure.sql`
//! leave it: the tables are there, and ledger, routing cursor and shipped rules are not.
//!
//! A comparison tells whether it is the schema of this version: this version's is made beside it
//! and rolled back to a savepoint. If all of that is there, the rows that were made with it are put
//! into the tables that have none.

use tokio_postgres::Client;

use super::StoreError;
use super::migrations::{LEDGER, MIGRATIONS, Migration, TIMEOUTS};
use super::session::for_transaction;
use super::visit::Visit;

const CATALOG: &str = include_str!("../../sql/queries/catalog.sql");
const FIRST_ROWS: &str = include_str!("../../sql/queries/first_rows.sql");

/// The tables are there, and the ledger of migrations is not.
const IS_BARE: &str = "select to_regclass('posthaste.routing') is not null \
     and to_regclass('posthaste.migrations') is null";
const IS_EMPTY: &str = "select to_regclass('posthaste.routing') is not null \
     and not exists (select from posthaste.migrations)";

/// The ledgers whose rows a policy hides from this role, and the SQL that shows them again.
const HIDDEN: &str = "select string_agg(name, ', '), \
         string_agg(format('alter table %s disable row level security', name), '; ') \
     from unnest(array['posthaste.migrations', 'posthaste.routing']) name \
     where row_security_active(to_regclass(name))";

/// The suffix of the schemas' names while this version's are made beside them, used nowhere else.
const ASIDE: &str = "_found_without_rows";
const SCHEMAS: [&str; 2] = ["posthaste", "posthaste_internal"];
/// More than these would not be read.
const DIFFERENCES_TOLD: usize = 10;

/// The meaning of names depends on the path: both comparisons need the same.
const PATH: &str = "set local search_path = pg_catalog, pg_temp; set local timezone = 'UTC';";
/// Not rows, but made with the schema: partitions for the next days, and grants, which a dump may
/// have left out.
const COMPLETE: &str =
    "select posthaste_internal.make_partitions(7); select posthaste.grant_roles();";
/// Events inserted before there was a cursor are older than it: as in a restored dump, routing
/// begins with those that were neither delivered nor tried.
const ROUTE_ALL: &str = "update posthaste.routing set database_oid = 0 \
     where exists (select from posthaste.outbox); \
     select posthaste_internal.rebase_routing();";

/// Puts back the rows that a schema has from the start. Returns whether they were missing.
///
/// # Errors
/// When the schema is not the one that this version makes, or the database fails; then nothing has
/// been changed.
pub async fn run(visit: &mut Visit<'_>) -> Result<bool, StoreError> {
    let session = visit.direct().await?;
    let client = session.client();
    batch(client, &format!("begin; {} {TIMEOUTS} {PATH}", for_transaction(""))).await?;
    let mut refilled = is_without_rows(client).await?;
    if refilled {
        // Another one may do it at the same time. Whatever the dump has left out, this is there.
        batch(client, "lock table posthaste.routing in exclusive mode").await?;
        refilled = is_without_rows(client).await?;
    }
    if refilled {
        let rows = compare(client).await?;
        refill(client, &rows).await?;
    }
    batch(client, "commit").await?;
    visit.keep(session);
    Ok(refilled)
}

const DOING: &str = "put back what the schema has from the start";

/// Whether the schema is there and its ledger is not, or has nothing in it.
pub(super) async fn is_without_rows(client: &Client) -> Result<bool, StoreError> {
    // One after the other: a statement that names a table is refused where there is none.
    if ask(client, IS_BARE).await? {
        return Ok(true);
    }
    if !is_there(client).await? {
        return Ok(false);
    }
    // A table whose rows a policy hides reads like an empty one.
    let hidden = client.query_typed_one(HIDDEN, &[]).await;
    let hidden = hidden.map_err(StoreError::query("look for the schema"))?;
    if let (Some(tables), Some(fix)) = (hidden.get(0), hidden.get(1)) {
        return Err(StoreError::LedgerHidden { tables, fix });
    }
    ask(client, IS_EMPTY).await
}

async fn is_there(client: &Client) -> Result<bool, StoreError> {
    ask(client, "select to_regclass('posthaste.migrations') is not null").await
}

/// The rows of one table, as JSON.
struct Rows {
    table: String,
    columns: String,
    json: String,
}

/// Makes this version's schema beside the existing one, and undoes it. Returns its rows.
async fn compare(client: &Client) -> Result<Vec<Rows>, StoreError> {
    // The ledger may have been left out.
    let mut make = format!("{LEDGER} savepoint found;");
    for schema in SCHEMAS {
        make += &format!(
            "do $$ begin if to_regnamespace('{schema}') is not null then alter schema {schema} rename to {schema}{ASIDE}; end if; end $$;"
        );
    }
    make += LEDGER;
    for migration in MIGRATIONS {
        make += &Migration::script(migration);
    }
    // A migration's own settings must not apply to the comparison.
    make += PATH;
    batch(client, &make).await?;
    let differences = client.query(CATALOG, &[&ASIDE]).await.map_err(StoreError::query(DOING))?;
    let mut rows = Vec::new();
    for row in client.query(FIRST_ROWS, &[]).await.map_err(StoreError::query(DOING))? {
        let (table, columns): (String, String) = (row.get("table_name"), row.get("columns"));
        let read = format!("select jsonb_agg(to_jsonb(t))::text from posthaste.{table} t");
        let read = client.query_one(&read, &[]).await.map_err(StoreError::query(DOING))?;
        rows.extend(read.get::<_, Option<String>>(0).map(|json| Rows { table, columns, json }));
    }
    batch(client, "rollback to savepoint found").await?;
    if differences.is_empty() {
        return Ok(rows);
    }
    let count = differences.len();
    let told = differences.iter().take(DIFFERENCES_TOLD).map(|row| row.get(0));
    Err(StoreError::SchemaUnlike { count, differences: told.collect::<Vec<String>>().join(", ") })
}

async fn refill(client: &Client, rows: &[Rows]) -> Result<(), StoreError> {
    for Rows { table, columns, json } in rows {
        let insert = format!(
            "insert into posthaste.{table} ({columns}) \
             select {columns} from jsonb_populate_recordset(null::posthaste.{table}, $1::text::jsonb) \
             where not exists (select from posthaste.{table})"
        );
        client.execute(&insert, &[json]).await.map_err(StoreError::query(DOING))?;
    }
    batch(client, &format!("{COMPLETE} {ROUTE_ALL}")).await
}

async fn ask(client: &Client, question: &str) -> Result<bool, StoreError> {
    let row = client.query_typed_one(question, &[]).await;
    Ok(row.map_err(StoreError::query("look for the schema"))?.get(0))
}

async fn batch(client: &Client, sql: &str) -> Result<(), StoreError> {
    client.batch_execute(sql).await.map_err(StoreError::query(DOING))
}
