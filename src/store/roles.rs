//! The roles that come with the schema. They belong to the whole cluster, so the role that migrates
//! may lack the privilege to make them; then an administrator runs the SQL that [`Lacking`] prints.

use super::StoreError;
use super::run::Sessions;
use super::visit::Visit;

const ROLES: &str = include_str!("../../sql/queries/roles.sql");
const GRANT: &str = "select posthaste.grant_roles();";

/// Missing roles and grants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lacking {
    /// Roles that do not exist.
    pub roles: Vec<String>,
    /// Roles that exist and lack their grants.
    pub grants: Vec<String>,
}

impl Lacking {
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.roles.is_empty() && self.grants.is_empty()
    }

    /// The missing roles and grants, in words.
    #[must_use]
    pub fn found(&self) -> String {
        let said = |what: &str, names: &[String]| {
            (!names.is_empty()).then(|| format!("{what}: {}", names.join(", ")))
        };
        let parts = [said("not there", &self.roles), said("without their grants", &self.grants)];
        parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }

    /// The statements that an administrator runs.
    #[must_use]
    pub fn sql(&self) -> Vec<String> {
        let create = |name: &String| format!("create role {name} nologin;");
        self.roles.iter().map(create).chain([GRANT.to_owned()]).collect()
    }
}

/// Looks for the roles.
///
/// # Errors
/// When the database cannot be reached.
pub async fn lacking(visit: &mut Visit<'_>) -> Result<Lacking, StoreError> {
    let session = visit.first().await?;
    let sessions = Sessions::for_transactions(visit.database(), "");
    let found = sessions.run_once(session.client(), ROLES, "look for the roles", &[]).await?;
    visit.keep(session);
    let mut lacking = Lacking::default();
    for row in found.rows {
        if !row.get::<_, bool>("is_there") {
            lacking.roles.push(row.get("name"));
        } else if !row.get::<_, bool>("is_granted") {
            lacking.grants.push(row.get("name"));
        }
    }
    Ok(lacking)
}
