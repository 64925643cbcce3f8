//! Placeholder with the signatures that the command line uses; replaced when the demo comes in.

use crate::stopper::Stopper;

#[derive(Debug, clap::Args)]
pub struct DemoArgs;

#[derive(Debug, thiserror::Error)]
#[error("the demo is not built in")]
pub struct DemoError;

#[expect(clippy::unused_async, reason = "placeholder")]
pub async fn run(_args: DemoArgs, _stopper: Stopper) -> Result<(), DemoError> {
    Err(DemoError)
}
