//! `posthaste doctor`: looks at all that a relay needs, says how it stands, and how to mend what does not.

use std::fmt::Write as _;

use serde_json::json;

use super::{CliError, database, say};
use crate::config::{Config, Wake};
use crate::ingest::{self, Spooled};
use crate::relay::{self, Judged, RelayError};
use crate::store::Database;
use crate::store::doctor::{Finding, State, endpoints, examine};

/// Nearly full: somebody should look before it is.
const MUCH: f64 = 0.5;
/// Endpoints whose addresses are judged. Each is a name to look up.
const MOST_JUDGED: i64 = 1000;
/// Endpoints that are named in one finding.
const MOST_TOLD: usize = 10;

pub(super) async fn run(config: &Config, as_json: bool) -> Result<(), CliError> {
    let rings = config.relay.wake == Wake::Listen;
    let database = database(config)?;
    let mut findings = examine(&database, config.relay.lease, rings).await;
    // Where it could not be looked at endpoints, they cannot be read either.
    if findings.iter().any(|finding| finding.what == "endpoints") {
        findings.push(addresses(config, &database).await);
    }
    findings.extend(spool(config));
    findings.push(match &config.open_secret {
        Some((file, key)) => {
            let found = format!("every user of this machine may read {key} in {}", file.display());
            let mend = format!("chmod o-r {}", file.display());
            Finding::amiss("settings", State::Warning, found, &mend)
        }
        None => Finding::ok("settings", config.origin.to_string()),
    });
    let failed = findings.iter().filter(|finding| finding.state == State::Failed).count();
    say(&if as_json {
        format!("{:#}\n", json!({ "healthy": failed == 0, "findings": findings }))
    } else {
        text(&findings)
    })?;
    if failed > 0 { Err(CliError::Unwell { failed, of: findings.len() }) } else { Ok(()) }
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { what, state, found, mend } in findings {
        let state = match state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Failed => "FAILED",
        };
        let mend = mend.as_ref().map(|mend| format!("\n{:22}{mend}", "")).unwrap_or_default();
        writeln!(text, "{state:8} {what:12} {found}{mend}").expect("a string takes all");
    }
    text
}

/// Which endpoints these settings would refuse.
async fn addresses(config: &Config, database: &Database) -> Finding {
    let judged = match endpoints(database, MOST_JUDGED).await {
        Ok(endpoints) => relay::judge(config, database, endpoints).await,
        Err(error) => Err(error.into()),
    };
    let Judged { refused, unresolved, admitted } = match judged {
        Ok(judged) => judged,
        Err(error) => {
            let mend = "see the message; a relay with these settings would not start either";
            return Finding::amiss("addresses", State::Failed, in_full(&error), mend);
        }
    };
    let mut found = format!("{admitted} endpoints may be sent to");
    if !unresolved.is_empty() {
        let ids: Vec<_> = unresolved.iter().take(MOST_TOLD).map(ToString::to_string).collect();
        let more = if unresolved.len() > MOST_TOLD { ", …" } else { "" };
        write!(found, "; names that do not resolve here: {}{more}", ids.join(", "))
            .expect("a string takes all");
    }
    if refused.is_empty() {
        return Finding::ok("addresses", found);
    }
    for (endpoint, why) in refused.iter().take(MOST_TOLD) {
        write!(found, "; refused: {endpoint} ({why})").expect("a string takes all");
    }
    if refused.len() > MOST_TOLD {
        write!(found, "; and {} more", refused.len() - MOST_TOLD).expect("a string takes all");
    }
    let mend = "what they are owed is held: set what is named and restart the relay, or change the endpoint's url";
    Finding::amiss("addresses", State::Warning, found, mend)
}

/// An error with its causes.
fn in_full(error: &RelayError) -> String {
    let causes =
        std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// How the spool stands, if there is one. It is looked at beside the relay that uses it.
fn spool(config: &Config) -> Option<Finding> {
    let settings = &config.ingest;
    let path = settings.spool.as_ref().filter(|_| settings.listen.is_some())?;
    let Spooled { files, bytes, set_aside, oldest } = match ingest::look_at_spool(path) {
        Ok(spooled) => spooled,
        Err(error) => {
            let mend = "ingest.spool is to be a directory that the relay may write to; \"off\" does without";
            let found = format!("{}: {error}", path.display());
            return Some(Finding::amiss("spool", State::Failed, found, mend));
        }
    };
    let mut found = format!("{files} files, {bytes} bytes wait in {}", path.display());
    if let Some(oldest) = oldest {
        write!(found, ", since {oldest:.0}").expect("a string takes all");
    }
    if set_aside > 0 {
        write!(found, "; {set_aside} could not be stored").expect("a string takes all");
    }
    #[expect(clippy::cast_precision_loss, reason = "a fraction is all that is asked")]
    let full = (bytes as f64 / settings.spool_bytes as f64)
        .max(files as f64 / settings.spool_files as f64);
    Some(if set_aside > 0 {
        let mend = "look at the files named *.set-aside, and at the relay's log for why";
        Finding::amiss("spool", State::Warning, found, mend)
    } else if full > MUCH {
        let mend = "the database is away or slow: what waits is stored when it is back, and a full spool answers 503";
        Finding::amiss("spool", State::Warning, found, mend)
    } else {
        Finding::ok("spool", found)
    })
}
