//! The operator's rules.

use tokio_postgres::Row;

use super::{Store, StoreError};
use crate::model::rules::{Rule, RuleError, RuleRow, RuleSet};

pub(super) const RULES: &str = include_str!("../../sql/queries/rules.sql");

/// Reads the enabled rules. One that this relay cannot understand is reported and left out: the
/// others still hold.
///
/// # Errors
/// When the statement fails.
pub async fn rules(store: &Store) -> Result<RuleSet, StoreError> {
    let rows = store.queue.query(RULES, "read the rules", &[]).await?;
    let (rules, unusable) = read(&rows);
    for error in unusable {
        tracing::error!(error = error.in_full(), "a rule is not understood and not asked");
    }
    Ok(RuleSet::new(rules))
}

/// The rules in these rows, and what is wrong with the others.
pub(super) fn read(rows: &[Row]) -> (Vec<Rule>, Vec<RuleError>) {
    let (mut rules, mut unusable) = (Vec::new(), Vec::new());
    for row in rows {
        let status = row
            .get::<_, Option<i32>>("status_from")
            .zip(row.get::<_, Option<i32>>("status_to"))
            .and_then(|(from, to)| Some(u16::try_from(from).ok()?..=u16::try_from(to).ok()?));
        let rule = Rule::new(RuleRow {
            id: row.get("id"),
            name: row.get("name"),
            priority: row.get("priority"),
            host: row.get("host"),
            status,
            outcome: row.get("outcome"),
            cause: row.get("cause"),
            body: row.get("body_pattern"),
            event_type: row.get("event_type"),
            action: row.get("action"),
        });
        match rule {
            Ok(rule) => rules.push(rule),
            Err(error) => unusable.push(error),
        }
    }
    (rules, unusable)
}
