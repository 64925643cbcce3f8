//! Placeholder with the signatures that the command line uses; replaced when the relay comes in.

use std::sync::Arc;

use crate::{config::Config, metrics::Metrics, status::Status, stopper::Stopper, store::Database};

#[derive(Debug, thiserror::Error)]
#[error("the relay is not built in")]
pub struct RelayError;

#[expect(clippy::unused_async, reason = "placeholder")]
pub async fn run(
    _config: &Config,
    _database: Database,
    _metrics: Arc<Metrics>,
    _status: Status,
    _stopper: Stopper,
) -> Result<(), RelayError> {
    Err(RelayError)
}
