//! The schema's versions: embedded, numbered, checksummed, applied in order under an advisory lock.
//! Forward only. A relay refuses a schema that is newer than it knows.

use tokio_postgres::Client;

use super::migrations::{LEDGER, LOCK, TIMEOUTS};
use super::session::for_transaction;
use super::visit::Visit;
use super::{StoreError, refill};

pub use super::migrations::{MIGRATIONS, Migration};

/// Settings that a migration needs, whatever is set for the database or the role.
const SETTINGS: &str = "set local standard_conforming_strings = on; \
     set local row_security = off; set local timezone = 'UTC';";

/// Applies what is missing, each migration in a transaction of its own. Returns what it applied.
///
/// # Errors
/// When the database cannot be reached, is newer than this binary, or a statement fails: the
/// migrations before the failing one stay applied.
pub async fn run(visit: &mut Visit<'_>) -> Result<Vec<&'static Migration>, StoreError> {
    let session = visit.direct().await?;
    let mut done = Vec::new();
    while let Some(migration) = step(session.client()).await? {
        done.push(migration);
    }
    visit.keep(session);
    Ok(done)
}

/// Applies the first migration that is missing. Nothing that it tells its session outlasts the
/// transaction, so a pooler in transaction mode may lie in between.
async fn step(client: &Client) -> Result<Option<&'static Migration>, StoreError> {
    // Without a bound, as another migrator may take long; the timeouts are for locks that
    // applications hold.
    client
        .batch_execute(&format!("begin; {}{LOCK}; {TIMEOUTS}", for_transaction("")))
        .await
        .map_err(StoreError::query("wait for the migration lock"))?;
    client.batch_execute(LEDGER).await.map_err(StoreError::query("create the migration ledger"))?;
    // Another migrator may have been here since our last step.
    let applied = applied(client).await?;
    verify(&applied)?;
    if applied.is_empty() && refill::is_without_rows(client).await? {
        return Err(StoreError::SchemaWithoutRows);
    }
    let missing = MIGRATIONS.get(applied.len());
    let script = missing.map_or_else(String::new, Migration::script);
    client.batch_execute(&format!("{script}commit;")).await.map_err(|source| match missing {
        Some(&Migration { version, name, .. }) => StoreError::Migration { version, name, source },
        None => StoreError::Query { doing: "create the migration ledger", source },
    })?;
    Ok(missing)
}

/// Refuses a missing schema, or one older or newer than this binary's. Returns its version.
///
/// # Errors
/// When the schema does not fit, or the database cannot be reached.
pub async fn check(visit: &mut Visit<'_>) -> Result<i32, StoreError> {
    let session = visit.first().await?;
    let client = session.client();
    if refill::is_without_rows(client).await? {
        return Err(StoreError::SchemaWithoutRows);
    }
    let exists: bool = client
        .query_typed_one("select to_regclass('posthaste.migrations') is not null", &[])
        .await
        .map_err(StoreError::query("look for the schema"))?
        .get(0);
    if !exists {
        return Err(StoreError::SchemaMissing);
    }
    let applied = applied(client).await?;
    verify(&applied)?;
    if applied.len() < MIGRATIONS.len() {
        return Err(StoreError::SchemaOlder { found: newest(&applied), known: newest_known() });
    }
    visit.keep(session);
    Ok(newest(&applied))
}

/// Whether a script of migrations has transactions of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScriptForm {
    /// A transaction for each migration.
    Whole,
    /// Without any, for a tool that has its own.
    Bare,
}

/// The migrations that are newer than a version as one script, for operators who apply SQL with a
/// tool of their own.
///
/// It does what [`run`] does, the ledger included, and names the reason where it cannot be applied.
///
/// # Errors
/// When there is no such version.
pub fn print(from: i32, form: ScriptForm) -> Result<String, StoreError> {
    if !(0..=newest_known()).contains(&from) {
        return Err(StoreError::NoVersion { given: from, newest: newest_known() });
    }
    let what = if from == 0 {
        "the whole schema".to_owned()
    } else {
        format!("what follows version {from}")
    };
    let mut script = format!("-- Posthaste {}: {what}.\n", env!("CARGO_PKG_VERSION"));
    let mut add = |name: &str, sql: &str| {
        script += &match form {
            ScriptForm::Whole => format!("\n-- {name}\nbegin;\n{SETTINGS}\n{sql}commit;\n"),
            ScriptForm::Bare => format!("\n-- {name}\n{SETTINGS}\n{sql}"),
        };
    };
    add("may it be applied here?", &guard(from));
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > from) {
        let version = migration.version;
        // Each migration checks for itself: a script may go on after an error.
        let sql = if version > 1 { guard(version - 1) } else { String::new() };
        add(migration.name, &format!("{sql}{}", migration.script()));
    }
    Ok(script)
}

/// Ends a script with an error that says why, unless the database is at this version exactly.
fn guard(from: i32) -> String {
    include_str!("../../sql/migrations/guard.sql")
        .replace("{from}", &from.to_string())
        .replace("{newest}", &newest_known().to_string())
        + if from == 0 { LEDGER } else { "" }
}

struct Applied {
    version: i32,
    name: String,
    checksum: String,
}

async fn applied(client: &Client) -> Result<Vec<Applied>, StoreError> {
    let rows = client
        .query_typed(
            "select version, name, checksum from posthaste.migrations order by version",
            &[],
        )
        .await
        .map_err(StoreError::query("read the migration ledger"))?;
    Ok(rows
        .iter()
        .map(|row| Applied { version: row.get(0), name: row.get(1), checksum: row.get(2) })
        .collect())
}

fn verify(applied: &[Applied]) -> Result<(), StoreError> {
    let changed = applied.iter().zip(MIGRATIONS).find(|(found, known)| {
        found.version != known.version || found.checksum != known.checksum()
    });
    if let Some((found, _)) = changed {
        return Err(StoreError::MigrationChanged {
            version: found.version,
            name: found.name.clone(),
        });
    }
    if newest(applied) > newest_known() {
        return Err(StoreError::SchemaNewer { found: newest(applied), known: newest_known() });
    }
    Ok(())
}

fn newest(applied: &[Applied]) -> i32 {
    applied.last().map_or(0, |migration| migration.version)
}

fn newest_known() -> i32 {
    MIGRATIONS.last().map_or(0, |migration| migration.version)
}
