//! `posthaste run`: the settings of a process, the process, and how its end is told.

use super::database::database;
use super::error::CliError;
use crate::config::Config;
use crate::process::{self, ProcessError};
use crate::stopper::Stopper;
use crate::store::preflight::PreflightError;

pub(super) async fn run(config: &Config, migrate: bool, stopper: Stopper) -> Result<(), CliError> {
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, settings = %config.origin, "posthaste starts");
    if let Some((file, key)) = &config.open_secret {
        let file = file.display().to_string();
        tracing::warn!(
            file,
            key,
            "every user of this machine may read a secret in the settings; chmod o-r"
        );
    }
    Ok(process::run(config, database(config)?, migrate, stopper).await?)
}

/// Other commands meet the same errors, and share their exit codes and hints.
impl From<ProcessError> for CliError {
    fn from(error: ProcessError) -> Self {
        match error {
            ProcessError::Server(error) => Self::Server(error),
            ProcessError::Ingest(error) => Self::Ingest(error),
            ProcessError::Preflight(PreflightError::Reach(error)) => Self::Reach(error),
            ProcessError::Preflight(PreflightError::Migrate(error)) => Self::Migrate(error),
            ProcessError::Preflight(PreflightError::Schema(error)) => Self::Schema(error),
            ProcessError::Relay(error) => Self::Relay(error),
        }
    }
}
