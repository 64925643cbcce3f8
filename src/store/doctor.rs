//! Examines the database: one finding for each thing that a relay needs.

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::connect::answered;
use super::place::Place;
use super::run::{Parameters, Sessions};
use super::visit::Visit;
use super::{Database, StoreError, adopt, migrate, place, reach, roles, rules};
use crate::clock::Clock;
use crate::model::endpoint::EndpointId;

const SCHEMA: &str = include_str!("../../sql/queries/doctor_schema.sql");
const ENDPOINTS: &str = include_str!("../../sql/queries/doctor_endpoints.sql");
const WORK: &str = include_str!("../../sql/queries/doctor_work.sql");
const SESSIONS: &str = include_str!("../../sql/queries/doctor_sessions.sql");

/// Receivers refuse signatures that are 5 minutes off; Posthaste signs by this machine's clock.
const CLOCKS_APART: Duration = Duration::from_secs(60);
const CLOCKS_APART_A_LITTLE: Duration = Duration::from_secs(2);
/// A statement of ours that waits for longer is held up.
const LONG_WAIT_SECONDS: f64 = 1.0;
/// Rows that were deleted since cannot be removed, and tables that are written all the time grow.
const OLD_TRANSACTION_SECONDS: f64 = 3_600.0;
const OLD_BY_TRANSACTIONS: i32 = 1_000_000;
/// A table that is locked is told, and not waited for.
const LOCK_TIMEOUT: &str = "set lock_timeout = '3s';";
/// The examination is a few small statements; a server that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the check, a word.
    pub check: String,
    pub state: State,
    pub detail: String,
    /// The remedy: SQL, a command, or a setting. `None`: there is nothing to do.
    pub fix: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// It works, and the operator should look.
    Warning,
    /// It does not work.
    Failed,
}

impl Finding {
    /// The check passed.
    pub fn ok(check: &str, detail: impl Into<String>) -> Self {
        Self { check: check.to_owned(), state: State::Ok, detail: detail.into(), fix: None }
    }

    /// The check did not pass.
    pub fn amiss(check: &str, state: State, detail: impl Into<String>, fix: &str) -> Self {
        let (check, fix) = (check.to_owned(), Some(fix.to_owned()));
        Self { check, state, detail: detail.into(), fix }
    }
}

/// The session that examines the database.
struct Examination {
    client: Client,
    sessions: Sessions,
}

impl Examination {
    async fn rows(
        &self,
        sql: &'static str,
        doing: &'static str,
        parameters: &Parameters<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        Ok(self.sessions.run_once(&self.client, sql, doing, parameters).await?.rows)
    }
}

/// Looks at the database, from the connection to the endpoints.
///
/// A failed check leaves out those that need it. `lease`: after this much silence a relay is dead.
/// `rings`: whether inserts are to ring the bell.
pub async fn examine(database: &Database, lease: Duration, rings: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    match server(database, &mut findings).await {
        Ok(true) => {}
        Ok(false) => return findings,
        Err(error) => {
            let fix = "see that the server runs and accepts writes (a standby does not), and that database.url (or DATABASE_URL) is right";
            findings.push(Finding::amiss("connection", State::Failed, error.in_full(), fix));
            return findings;
        }
    }
    let looking = look(database, lease, rings, &mut findings);
    if let Err(error) = answered("look at the database", PATIENCE, looking).await {
        let fix = "see the message; the checks after this one could not run";
        findings.push(Finding::amiss("questions", State::Failed, error.in_full(), fix));
    }
    findings
}

async fn look(
    database: &Database,
    lease: Duration,
    rings: bool,
    findings: &mut Vec<Finding>,
) -> Result<(), StoreError> {
    findings.push(way(database).await);
    findings.extend(pgpool(reach::pgpool(database).await));
    if database.strayed().is_some() {
        // The next session may lead elsewhere, so its findings would be of another database.
        return Ok(());
    }
    let mut visit = Visit::to(database);
    let schema = migrate::check(&mut visit).await;
    let newest = migrate::MIGRATIONS.last().map_or("", |newest| newest.name);
    match schema {
        Ok(_) => findings.push(Finding::ok("schema", format!("up to date: {newest}"))),
        Err(error) => {
            let fix = match &error {
                StoreError::SchemaNewer { .. } => "run a newer posthaste",
                StoreError::MigrationChanged { .. } => {
                    "the schema is not what this posthaste made; compare with `posthaste migrate --print`"
                }
                StoreError::LedgerHidden { fix, .. } => fix.as_str(),
                StoreError::Query { .. } => "grant posthaste_relay to the role that the relay uses",
                _ => "posthaste migrate",
            };
            findings.push(Finding::amiss("schema", State::Failed, error.in_full(), fix));
            if matches!(error, StoreError::SchemaMissing) {
                return Ok(());
            }
        }
    }
    let lacking = roles::lacking(&mut visit).await?;
    findings.push(if lacking.is_nothing() {
        Finding::ok("roles", "all exist, with their grants")
    } else {
        Finding::amiss("roles", State::Warning, lacking.found(), &lacking.sql().join(" "))
    });
    findings.push(match adopt::is_own(&mut visit).await {
        Ok(()) => Finding::ok("ledger", "written in this database"),
        Err(error @ StoreError::Copy { .. }) => {
            let fix = "posthaste adopt --hold, or posthaste adopt";
            Finding::amiss("ledger", State::Failed, error.in_full(), fix)
        }
        // The schema checks below say what is missing.
        Err(_) => Finding::ok("ledger", "not checked"),
    });
    // Opened only now: the database may end sessions that rest.
    let (client, driver) = database.session(|_| {}).await?;
    let sessions = Sessions::for_transactions(database, LOCK_TIMEOUT);
    let asked = Examination { client, sessions };
    tokio::select! {
        result = inside(&asked, lease, rings, findings) => result,
        _ = driver => Err(StoreError::SessionEnded),
    }
}

/// Examines the schema, the work and the rules.
async fn inside(
    asked: &Examination,
    lease: Duration,
    rings: bool,
    findings: &mut Vec<Finding>,
) -> Result<(), StoreError> {
    let of_schema = asked.rows(SCHEMA, "look at the schema", &[&rings]).await?;
    findings.extend(of_schema.iter().map(finding));
    // Before tables are read, for which these may have doctor wait too.
    let bounds: &Parameters<'_> =
        &[&LONG_WAIT_SECONDS, &OLD_TRANSACTION_SECONDS, &OLD_BY_TRANSACTIONS];
    let sessions = asked.rows(SESSIONS, "look at other sessions", bounds).await?;
    findings.extend(sessions.iter().map(finding));
    if findings.iter().any(|one| one.check == "privileges" && one.state != State::Ok) {
        return Ok(());
    }
    let work = asked.rows(WORK, "look at relays and endpoints", &[&lease.as_secs_f64()]).await?;
    findings.extend(work.iter().map(finding));
    let (usable, unusable) = rules::read(&asked.rows(rules::RULES, "read the rules", &[]).await?);
    findings.push(if unusable.is_empty() {
        Finding::ok("rules", format!("{} enabled", usable.len()))
    } else {
        let fix = "change or disable them in posthaste.rules: relays ignore them";
        Finding::amiss("rules", State::Warning, unusable.join("; "), fix)
    });
    Ok(())
}

/// The first enabled endpoints with their URLs, at most `most`.
///
/// # Errors
/// When the database cannot be reached, or the statement fails.
pub async fn endpoints(
    database: &Database,
    most: i64,
) -> Result<Vec<(EndpointId, String)>, StoreError> {
    let (client, driver) = database.session(|_| {}).await?;
    let doing = "read where endpoints are";
    let asked = Examination { client, sessions: Sessions::for_transactions(database, "") };
    let parameters: [&(dyn ToSql + Sync); 1] = [&most];
    let rows = tokio::select! {
        rows = answered(doing, PATIENCE, asked.rows(ENDPOINTS, doing, &parameters)) => rows?,
        _ = driver => return Err(StoreError::SessionEnded),
    };
    Ok(rows.iter().map(|row| (row.get("id"), row.get("url"))).collect())
}

/// Whether Posthaste can work in this database; if not, the other checks mean nothing.
async fn server(database: &Database, findings: &mut Vec<Finding>) -> Result<bool, StoreError> {
    let (client, driver) = database.session(|_| {}).await?;
    let before = Clock.now();
    let place = tokio::select! {
        place = answered("ask which database this is", PATIENCE, place::look(&client, database)) => place?,
        _ = driver => return Err(StoreError::SessionEnded),
    };
    let after = Clock.now();
    let Place { address, name, role, version, encoding, .. } = &place;
    findings.push(Finding::ok("connection", format!("to {name} at {address}, as {role}")));
    findings.push(if place.is_new_enough() {
        Finding::ok("version", format!("PostgreSQL {version}"))
    } else {
        let fix = "14 or newer is needed";
        Finding::amiss("version", State::Failed, format!("PostgreSQL {version}"), fix)
    });
    findings.push(match place.is_fit() {
        Err(error @ StoreError::Encoding { .. }) => {
            let fix = "create database … encoding 'UTF8' template template0, and use that";
            Finding::amiss("encoding", State::Failed, error.in_full(), fix)
        }
        _ => Finding::ok("encoding", encoding),
    });
    // The server read its clock between the question and the answer.
    let theirs = place.now_ms;
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are exact in 53 bits")]
    let (before, after) = (before.as_millisecond() as f64, after.as_millisecond() as f64);
    let apart = (before - theirs).max(theirs - after).max(0.0);
    let found = format!("{:.1} s apart from the database's", apart / 1000.0);
    let fix = "set both by NTP: signatures carry this machine's time, and receivers refuse what is minutes off";
    let more_than = |bound: Duration| apart > bound.as_secs_f64() * 1000.0;
    findings.push(if more_than(CLOCKS_APART) {
        Finding::amiss("clock", State::Failed, found, fix)
    } else if more_than(CLOCKS_APART_A_LITTLE) {
        Finding::amiss("clock", State::Warning, found, fix)
    } else {
        Finding::ok("clock", found)
    });
    Ok(place.is_fit().is_ok())
}

/// Whether the ways to the database are what the settings say.
async fn way(database: &Database) -> Finding {
    let checked = async {
        let mut visit = Visit::to(database);
        reach::is_one_database(&mut visit).await?;
        match reach::beside(database).await? {
            Some(beside) => reach::keeps_sessions(&mut visit, &beside).await,
            None => Ok(()),
        }
    };
    match checked.await {
        Ok(()) if database.is_pooled() && database.keeps_sessions() => {
            let direct = database.direct().address();
            Finding::ok(
                "pooler",
                format!("in transaction mode, as set; sessions are kept at {direct}"),
            )
        }
        Ok(()) if database.keeps_sessions() => {
            Finding::ok("pooler", "none, or one that keeps sessions")
        }
        Ok(()) => Finding::ok("pooler", "in transaction mode, as set"),
        Err(error @ StoreError::Strayed { .. }) => {
            let fix = "have database.url name the server that takes writes, its standbys, or a proxy that leads to the first alone";
            Finding::amiss("address", State::Failed, error.in_full(), fix)
        }
        Err(error @ StoreError::Elsewhere { .. }) => {
            let fix = "let database.direct_url lead to the database that database.url leads to, past the pooler";
            Finding::amiss("direct_url", State::Failed, error.in_full(), fix)
        }
        Err(error @ StoreError::NoSessions { setting: "database.direct_url", .. }) => {
            let fix = "let database.direct_url lead past the pooler, to PostgreSQL itself";
            Finding::amiss("pooler", State::Failed, error.in_full(), fix)
        }
        Err(error) => {
            let fix = "set database.pooler = \"transaction\", and database.direct_url past the pooler, or relay.wake = \"poll\"";
            Finding::amiss("pooler", State::Failed, error.in_full(), fix)
        }
    }
}

/// Warns of a Pgpool-II, which spreads statements that it takes for reads over standbys. `None` if
/// there is none, or if another finding says why it could not be asked.
fn pgpool(found: Result<Option<(&'static str, String)>, StoreError>) -> Option<Finding> {
    let (setting, version) = found.ok().flatten()?;
    let found = format!(
        "{setting} leads through Pgpool-II ({version}), with which Posthaste is not tested: it may take a \
         statement for a read, and send it to a standby"
    );
    let fix = format!(
        "let {setting} lead past it, to PostgreSQL itself or through PgBouncer; at the least, set \
         load_balance_mode = off in pgpool.conf"
    );
    Some(Finding::amiss("pgpool", State::Warning, found, &fix))
}

fn finding(row: &Row) -> Finding {
    let state = match row.get("state") {
        "ok" => State::Ok,
        "warning" => State::Warning,
        _ => State::Failed,
    };
    Finding { check: row.get("check"), state, detail: row.get("detail"), fix: row.get("fix") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pgpool_in_between_is_a_finding_of_its_own() {
        let found = pgpool(Ok(Some(("database.url", "4.4.3 (nurikoboshi)".to_owned())))).unwrap();
        assert_eq!((&found.check[..], found.state), ("pgpool", State::Warning));
        assert!(
            found.detail.starts_with("database.url leads through Pgpool-II (4.4.3"),
            "{found:?}"
        );
        assert!(found.fix.unwrap().contains("load_balance_mode = off"));
        for none in [Ok(None), Err(StoreError::SessionEnded)] {
            assert_eq!(pgpool(none), None);
        }
    }
}
