//! The checks before a relay starts: which database this is, whether both ways lead to it, its
//! schema, and whose it is. In an order in which each check can rely on the ones before.
//!
//! The checks are taken one by one, so that the caller waits between them for a database that is
//! away.

use super::place::{self, Place};
use super::visit::{Visit, VisitSession};
use super::{Database, StoreError, adopt, migrate, reach, refill, roles};

/// A check that failed, by the part of the start that it belongs to.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    #[error("reach the database")]
    Reach(#[source] StoreError),
    #[error("migrate the schema")]
    Migrate(#[source] StoreError),
    #[error("check the schema")]
    Schema(#[source] StoreError),
}

impl PreflightError {
    /// The store's own error.
    #[must_use]
    pub fn cause(&self) -> &StoreError {
        match self {
            Self::Reach(error) | Self::Migrate(error) | Self::Schema(error) => error,
        }
    }
}

/// The checks of one start, as far as they have come.
#[derive(Debug)]
pub struct Preflight<'a> {
    visit: Visit<'a>,
    /// Whether the schema is brought up to date on the way.
    migrate: bool,
    next: Option<PreflightCheck>,
    place: Option<Place>,
    /// The second session that the last check needs.
    beside: Option<VisitSession>,
}

#[derive(Debug, Clone, Copy)]
enum PreflightCheck {
    Place,
    OneDatabase,
    Refill,
    Migrate,
    Roles,
    Schema,
    Sessions,
}

impl<'a> Preflight<'a> {
    /// None of the checks has been made yet.
    #[must_use]
    pub fn new(database: &'a Database, migrate: bool) -> Self {
        let (visit, next) = (Visit::to(database), Some(PreflightCheck::Place));
        Self { visit, migrate, next, place: None, beside: None }
    }

    #[must_use]
    pub fn is_over(&self) -> bool {
        self.next.is_none()
    }

    /// Makes the next check. After an error, or when it was dropped, the next is the same one
    /// again: a migration that is broken off is rolled back with its session.
    ///
    /// # Errors
    /// If the database is unfit, or cannot be reached.
    pub async fn advance(&mut self) -> Result<(), PreflightError> {
        let Some(check) = self.next else { return Ok(()) };
        self.next = match check {
            PreflightCheck::Place => {
                let place = place::arrive(&mut self.visit).await.map_err(PreflightError::Reach)?;
                self.place = Some(place);
                Some(PreflightCheck::OneDatabase)
            }
            PreflightCheck::OneDatabase => {
                reach::is_one_database(&mut self.visit).await.map_err(PreflightError::Reach)?;
                Some(if self.migrate { PreflightCheck::Refill } else { PreflightCheck::Schema })
            }
            PreflightCheck::Refill => {
                if refill::run(&mut self.visit).await.map_err(PreflightError::Migrate)? {
                    tracing::info!("put back the rows of a schema that was loaded without them");
                }
                Some(PreflightCheck::Migrate)
            }
            PreflightCheck::Migrate => {
                self.migrate().await.map_err(PreflightError::Migrate)?;
                Some(PreflightCheck::Roles)
            }
            PreflightCheck::Roles => {
                self.roles().await.map_err(PreflightError::Migrate)?;
                Some(PreflightCheck::Schema)
            }
            PreflightCheck::Schema => {
                // Opening a session takes as long as this check.
                let beside = reach::beside(self.visit.database());
                let (checked, beside) = tokio::join!(self.schema(), beside);
                checked.map_err(PreflightError::Schema)?;
                self.beside = beside.map_err(PreflightError::Reach)?;
                Some(PreflightCheck::Sessions)
            }
            PreflightCheck::Sessions => {
                self.sessions().await.map_err(PreflightError::Reach)?;
                None
            }
        };
        Ok(())
    }

    async fn migrate(&mut self) -> Result<(), StoreError> {
        for migration in migrate::run(&mut self.visit).await? {
            let (version, name) = (migration.version, migration.name);
            tracing::info!(version, name, "migrated the schema");
        }
        Ok(())
    }

    async fn roles(&mut self) -> Result<(), StoreError> {
        let lacking = roles::lacking(&mut self.visit).await?;
        if !lacking.is_nothing() {
            let (found, sql) = (lacking.found(), lacking.sql().join(" "));
            tracing::warn!(found, sql, "roles are lacking, which an administrator can make");
        }
        Ok(())
    }

    async fn schema(&mut self) -> Result<(), StoreError> {
        let schema = migrate::check(&mut self.visit).await?;
        adopt::is_own(&mut self.visit).await?;
        if let Some(Place { name, address, role, version, .. }) = &self.place {
            tracing::info!(
                schema,
                postgresql = version,
                database = name,
                at = address,
                role,
                "on its database"
            );
        }
        Ok(())
    }

    async fn sessions(&mut self) -> Result<(), StoreError> {
        let beside = match self.beside.take() {
            None => reach::beside(self.visit.database()).await?,
            opened => opened,
        };
        match beside {
            Some(beside) => reach::keeps_sessions(&mut self.visit, &beside).await,
            None => Ok(()),
        }
    }
}
