//! The operator's rules.

use tokio_postgres::Row;

use super::{Store, StoreError};
use crate::model::rules::{Rule, RuleRow, RuleSet};

pub(super) const RULES: &str = include_str!("../../sql/queries/rules.sql");

/// Reads the enabled rules. A rule that this relay cannot evaluate is logged and ignored; the
/// others still hold.
///
/// # Errors
/// When the statement fails.
pub async fn rules(store: &Store) -> Result<RuleSet, StoreError> {
    let rows = store.queue.query(RULES, "read the rules", &[]).await?;
    let (rules, unusable) = read(&rows);
    for error in unusable {
        tracing::error!(error, "ignoring a rule that this relay cannot evaluate");
    }
    Ok(RuleSet::new(rules))
}

/// The rules in these rows, and the errors of the others.
pub(super) fn read(rows: &[Row]) -> (Vec<Rule>, Vec<String>) {
    let (mut rules, mut unusable) = (Vec::new(), Vec::new());
    for row in rows {
        let id = row.get("id");
        let written = written(row, id).map_err(StoreError::unreadable("rule", id));
        match written.map(Rule::new) {
            Ok(Ok(rule)) => rules.push(rule),
            Ok(Err(error)) => unusable.push(error.in_full()),
            Err(error) => unusable.push(error.in_full()),
        }
    }
    (rules, unusable)
}

fn written(row: &Row, id: i64) -> Result<RuleRow, tokio_postgres::Error> {
    let from = row.try_get::<_, Option<i32>>("status_from")?;
    let to = row.try_get::<_, Option<i32>>("status_to")?;
    let status = from
        .zip(to)
        .and_then(|(from, to)| Some(u16::try_from(from).ok()?..=u16::try_from(to).ok()?));
    Ok(RuleRow {
        id,
        name: row.try_get("name")?,
        priority: row.try_get("priority")?,
        host: row.try_get("host")?,
        status,
        outcome: row.try_get("outcome")?,
        cause: row.try_get("cause")?,
        body: row.try_get("body_pattern")?,
        event_type: row.try_get("event_type")?,
        action: row.try_get("action")?,
    })
}
