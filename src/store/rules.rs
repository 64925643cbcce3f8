//! The operator's rules.

use super::{Store, StoreError};
use crate::model::rules::{Rule, RuleRow, RuleSet};

const RULES: &str = include_str!("../../sql/queries/rules.sql");

/// Reads the enabled rules. One that this relay cannot understand is reported and left out: the
/// others still hold.
///
/// # Errors
/// When the statement fails.
pub async fn rules(store: &Store) -> Result<RuleSet, StoreError> {
    let rows = store.queue.query(RULES, "read the rules", &[]).await?;
    let rules = rows.iter().filter_map(|row| {
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
        rule.inspect_err(|error| tracing::error!(%error, "a rule is not understood and not asked"))
            .ok()
    });
    Ok(RuleSet::new(rules.collect()))
}
