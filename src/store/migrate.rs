//! The schema's versions: embedded, numbered, checksummed, applied in order by one at a time.
//! Forward only. A relay refuses a schema that is newer than it knows.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::holders::{self, Waiter};
use super::migrations::{LEDGER, LOCK, TIMEOUTS};
use super::session::for_transaction;
use super::visit::Visit;
use super::{Database, StoreError, refill};

pub use super::migrations::{MIGRATIONS, Migration};

/// Settings that a migration needs, whatever is set for the database or the role. The path above
/// all: what stands in `public` may be a stranger's, and fit better than PostgreSQL's own.
const SETTINGS: &str = "set local search_path = pg_catalog, pg_temp; \
     set local standard_conforming_strings = on; \
     set local row_security = off; set local timezone = 'UTC';";
/// A tool that has its own transaction goes on in it, by its own path.
const KEEP_PATH: &str = "do $$ begin perform pg_catalog.set_config('posthaste.former_path', \
     pg_catalog.current_setting('search_path'), true); end $$;";
const PUT_BACK_PATH: &str = "do $$ begin perform pg_catalog.set_config('search_path', \
     pg_catalog.current_setting('posthaste.former_path'), true); end $$;";

/// Two that install at once meet where they make the schemas: one of them fails, and finds them
/// made when it begins again.
const MEETINGS: u32 = 3;

/// Applies what is missing, each migration in a transaction of its own. Returns what it applied.
///
/// # Errors
/// When the database cannot be reached, is newer than this binary, or a statement fails: the
/// migrations before the failing one stay applied.
pub async fn run(visit: &mut Visit<'_>) -> Result<Vec<&'static Migration>, StoreError> {
    let session = visit.direct().await?;
    let database = visit.database().direct();
    let (mut done, mut meetings) = (Vec::new(), 0);
    loop {
        match step(session.client(), database).await {
            Ok(Some(migration)) => done.push(migration),
            Ok(None) => break,
            Err(error) if meetings < MEETINGS && has_met_another(&error) => {
                meetings += 1;
                let rolled_back = session.client().batch_execute("rollback").await;
                rolled_back.map_err(StoreError::query("begin again"))?;
            }
            Err(error) => return Err(error),
        }
    }
    visit.keep(session);
    Ok(done)
}

const MAKE_LEDGER: &str = "create the migration ledger";

/// Whether another migrator has just made the schemas that this one was about to make.
fn has_met_another(error: &StoreError) -> bool {
    const MADE: [SqlState; 3] =
        [SqlState::UNIQUE_VIOLATION, SqlState::DUPLICATE_SCHEMA, SqlState::DUPLICATE_TABLE];
    matches!(error, StoreError::Query { doing: MAKE_LEDGER, .. })
        && error.sqlstate().is_some_and(|code| MADE.contains(code))
}

/// Applies the first migration that is missing. Nothing that it tells its session outlasts the
/// transaction, so a pooler in transaction mode may lie in between.
async fn step(
    client: &Client,
    database: &Database,
) -> Result<Option<&'static Migration>, StoreError> {
    let begin = format!("begin; {} set local lock_timeout = '10s';", for_transaction(""));
    client.batch_execute(&begin).await.map_err(StoreError::query("begin a migration"))?;
    let waiter = Waiter::of(client, database).await?;
    let made = waiter.run(LEDGER).await;
    made.map_err(holders::named(MAKE_LEDGER, StoreError::query(MAKE_LEDGER)))?;
    if missing(client).await?.is_some() {
        // For others, of which one may have been here since our last step.
        let doing = "wait for another migrator";
        let locked = waiter.run(LOCK).await;
        locked.map_err(holders::named(doing, StoreError::query(doing)))?;
    }
    let missing = missing(client).await?;
    let script = missing.map_or_else(String::new, Migration::script);
    // These time-outs are for locks that applications hold.
    let ran = waiter.run(&format!("{TIMEOUTS} {script}commit;")).await;
    let doing = missing.map_or_else(|| MAKE_LEDGER.to_owned(), Migration::doing);
    ran.map_err(holders::named(&doing, |source| match missing {
        Some(&Migration { version, name, .. }) => StoreError::Migration { version, name, source },
        None => StoreError::query(MAKE_LEDGER)(source),
    }))?;
    Ok(missing)
}

/// The first migration that is missing. `None`: all are applied.
async fn missing(client: &Client) -> Result<Option<&'static Migration>, StoreError> {
    let applied = applied(client).await?;
    verify(&applied)?;
    if applied.is_empty() && refill::is_without_rows(client).await? {
        return Err(StoreError::SchemaWithoutRows);
    }
    Ok(MIGRATIONS.get(applied.len()))
}

/// Refuses a missing schema, or one older or newer than this binary's. Returns its version.
///
/// # Errors
/// When the schema does not fit, or the database cannot be reached.
pub async fn check(visit: &mut Visit<'_>) -> Result<i32, StoreError> {
    let session = visit.first().await?;
    let client = session.client();
    let doing = "look for the schema";
    let begin = format!("begin; {}", for_transaction(""));
    client.batch_execute(&begin).await.map_err(StoreError::query(doing))?;
    if refill::is_without_rows(client).await? {
        return Err(StoreError::SchemaWithoutRows);
    }
    let exists: bool = client
        .query_typed_one("select to_regclass('posthaste.migrations') is not null", &[])
        .await
        .map_err(StoreError::query(doing))?
        .get(0);
    if !exists {
        return Err(StoreError::SchemaMissing);
    }
    let applied = applied(client).await?;
    verify(&applied)?;
    if applied.len() < MIGRATIONS.len() {
        return Err(StoreError::SchemaOlder { found: newest(&applied), known: newest_known() });
    }
    client.batch_execute("commit").await.map_err(StoreError::query(doing))?;
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
            ScriptForm::Bare => {
                format!("\n-- {name}\n{KEEP_PATH}\n{SETTINGS}\n{sql}{PUT_BACK_PATH}\n")
            }
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
