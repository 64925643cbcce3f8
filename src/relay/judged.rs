//! Finds the endpoints that this relay's settings would refuse, without sending anything:
//! `posthaste doctor` tells of them before a delivery has to find it out.

use std::time::Duration;

use futures_util::StreamExt as _;

use super::client::{RelayError, client};
use crate::clock::Clock;
use crate::config::Config;
use crate::model::endpoint::EndpointId;
use crate::model::outcome::Outcome;
use crate::outbound::client::Client;
use crate::outbound::target::Target;
use crate::store::{Database, Store};

/// Names looked up at once.
const AT_ONCE: usize = 32;
/// For all of them: a name server that hangs is not waited for by each.
const PATIENCE: Duration = Duration::from_secs(10);

/// How endpoints stand to the settings.
#[derive(Debug, Default)]
pub struct Judged {
    /// Endpoints that would be refused, with the reason.
    pub refused: Vec<(EndpointId, String)>,
    /// Endpoints whose names do not resolve here, or not in time.
    pub unresolved: Vec<EndpointId>,
    pub admitted: usize,
}

/// Judges endpoints, given with their URLs, as a relay with these settings would.
///
/// # Errors
/// When no relay could start with these settings.
pub async fn judge(
    config: &Config,
    database: &Database,
    endpoints: Vec<(EndpointId, String)>,
) -> Result<Judged, RelayError> {
    let limits = &config.database;
    let store = Store::open(database.clone(), limits.pool_size, limits.statement_timeout)?;
    let client = client(config, &store).await?;
    let until = Clock.instant() + PATIENCE;
    let asked = endpoints.into_iter().map(|(id, url)| {
        let client = &client;
        let patience = config.delivery.resolve_timeout;
        async move {
            let judged = admission(client, &url, patience);
            let judged = tokio::time::timeout_at(until.into(), judged).await;
            (id, judged.unwrap_or(Admission::Unresolved))
        }
    });
    let mut all = Judged::default();
    let mut answers = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE);
    while let Some((id, answer)) = answers.next().await {
        match answer {
            Admission::Admitted => all.admitted += 1,
            Admission::Refused(detail) => all.refused.push((id, detail)),
            Admission::Unresolved => all.unresolved.push(id),
        }
    }
    all.refused.sort_unstable();
    all.unresolved.sort_unstable();
    Ok(all)
}

enum Admission {
    Admitted,
    Refused(String),
    Unresolved,
}

async fn admission(client: &Client, url: &str, patience: Duration) -> Admission {
    let target = match Target::parse(url) {
        Ok(target) => target,
        Err(error) => return Admission::Refused(error.to_string()),
    };
    match client.judge(&target, patience).await {
        Ok(()) => Admission::Admitted,
        Err(Outcome::Refused { detail, .. }) => Admission::Refused(detail),
        Err(_) => Admission::Unresolved,
    }
}
