//! `posthaste doctor`: checks everything that a relay needs, and says how to fix it.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use super::database::database;
use super::error::CliError;
use super::output::say;
use crate::config::{Config, IngestSettings, WakeMode};
use crate::ingest::{self, SpoolRoom, Spooled};
use crate::relay::{self, Judged, RelayError};
use crate::store::Database;
use crate::store::doctor::{Finding, State, endpoints, examine};

/// Filled to this part, a spool is a warning: the operator should look before it is full.
const MUCH: f64 = 0.5;
/// Endpoints whose addresses are judged, at most. Each is a name to look up.
const MOST_JUDGED: i64 = 1000;
/// Endpoints that one finding names, at most.
const MOST_TOLD: usize = 10;

pub(super) async fn run(config: &Config, as_json: bool) -> Result<(), CliError> {
    let rings = config.relay.wake == WakeMode::Listen;
    let database = database(config)?;
    let mut findings = examine(&database, config.relay.lease, rings).await;
    // Without the finding on endpoints, they cannot be read either.
    if findings.iter().any(|finding| finding.check == "endpoints") {
        findings.push(addresses(config, &database).await);
    }
    findings.extend(spool(config));
    findings.push(match &config.open_secret {
        Some((file, key)) => {
            let found = format!("every user of this machine may read {key} in {}", file.display());
            let fix = format!("chmod o-r {}", file.display());
            Finding::amiss("settings", State::Warning, found, &fix)
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
    for Finding { check, state, detail, fix } in findings {
        let state = match state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Failed => "FAILED",
        };
        let fix = fix.as_ref().map(|fix| format!("\n{:22}{fix}", "")).unwrap_or_default();
        writeln!(text, "{state:8} {check:12} {detail}{fix}").expect("a string takes all");
    }
    text
}

/// The endpoints that a relay with these settings would refuse.
async fn addresses(config: &Config, database: &Database) -> Finding {
    let judged = match endpoints(database, MOST_JUDGED).await {
        Ok(endpoints) => relay::judge(config, database, endpoints).await,
        Err(error) => Err(error.into()),
    };
    let Judged { refused, unresolved, admitted } = match judged {
        Ok(judged) => judged,
        Err(error) => {
            let fix = "see the message; a relay with these settings would not start either";
            return Finding::amiss("addresses", State::Failed, in_full(&error), fix);
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
    let fix = "their deliveries are held: change the setting that is named and restart the relay, or change the endpoint's url";
    Finding::amiss("addresses", State::Warning, found, fix)
}

/// An error with its causes.
fn in_full(error: &RelayError) -> String {
    let causes =
        std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The state of the spool, if there is one. A relay may be using it meanwhile.
fn spool(config: &Config) -> Option<Finding> {
    let settings = &config.ingest;
    let path = settings.spool.as_ref().filter(|_| settings.listen.is_some())?;
    let looked =
        ingest::look_at_spool(path).and_then(|found| Ok((found, ingest::spool_room(path)?)));
    Some(match looked {
        Ok((spooled, room)) => judge_spool(settings, path, &spooled, &room),
        Err(error) => {
            let fix = "ingest.spool is to be a directory that the relay may write to; \"off\" does without";
            let found = format!("{}: {error}", path.display());
            Finding::amiss("spool", State::Failed, found, fix)
        }
    })
}

fn judge_spool(
    settings: &IngestSettings,
    path: &Path,
    spooled: &Spooled,
    room: &SpoolRoom,
) -> Finding {
    let Spooled { files, bytes, set_aside, oldest } = *spooled;
    let mut found = format!("{files} files, {bytes} bytes wait in {}", path.display());
    if let Some(oldest) = oldest {
        write!(found, ", since {oldest:.0}").expect("a string takes all");
    }
    if set_aside > 0 {
        write!(found, "; {set_aside} could not be stored").expect("a string takes all");
    }
    let most_bytes = settings.spool_bytes as u64;
    let left = most_bytes.saturating_sub(bytes);
    // A webhook as large as may come; of a spool that is smaller than a few of those, a tenth.
    let largest = settings.sources.values().map(|source| source.max_body as u64).max();
    let one = largest.unwrap_or(1).min(most_bytes / 10);
    #[expect(clippy::cast_precision_loss, reason = "a fraction is all that is asked")]
    let full = (bytes as f64 / most_bytes as f64).max(files as f64 / settings.spool_files as f64);
    let amiss = |state, found, fix| Finding::amiss("spool", state, found, fix);
    if let Some(error) = &room.closed {
        let found = format!("{found}; this user may not write there: {error}");
        let fix = "make ingest.spool a directory of the user that the relay runs as (chown, chmod 700), \
                    on a disk that is mounted to be written to";
        amiss(State::Failed, found, fix)
    } else if room.bytes < one {
        let found = format!("{found}; its disk is full: {} bytes are free", room.bytes);
        let fix = "make room on that disk, or move ingest.spool to another while no relay runs: \
                    without it webhooks are answered 503 while the database is away";
        amiss(State::Failed, found, fix)
    } else if left < one || files >= settings.spool_files {
        let (bytes, files) = (settings.spool_bytes, settings.spool_files);
        let found = format!("{found}; it is full: it may hold {files} files, {bytes} bytes");
        let fix = "see in the relay's log why the database does not store them, or raise \
                    ingest.spool_bytes and ingest.spool_files: until then webhooks are answered 503";
        amiss(State::Failed, found, fix)
    } else if set_aside > 0 {
        let fix = "look at the files named *.set-aside, and at the relay's log for why";
        amiss(State::Warning, found, fix)
    } else if full > MUCH {
        let fix = "the database is away or slow: the files are stored when it is back; a full spool answers 503";
        amiss(State::Warning, found, fix)
    } else if room.bytes < left {
        let found =
            format!("{found}; it may take {left} bytes more, and its disk has {} free", room.bytes);
        let fix = "make room on that disk, or lower ingest.spool_bytes to what it has: webhooks that fit neither are answered 503";
        amiss(State::Warning, found, fix)
    } else {
        Finding::ok("spool", found)
    }
}

#[cfg(test)]
mod tests;
