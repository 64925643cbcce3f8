//! The conditions of the figures: the machine, the server, the commit, the settings.

use std::fs;
use std::process::Command;

use anyhow::Result;
use posthaste::clock::Clock;
use serde_json::{Value, json};

use super::lab::{Lab, SETTINGS, Session};
use super::load::PAYLOAD;
use super::report::busy;

/// Prints them, and returns them for the file.
pub(crate) async fn look(lab: &Lab) -> Result<Value> {
    let session = Session::open(&lab.cluster.url()).await?;
    let version: String = session.query_one("show server_version", &[]).await?.get(0);
    let cores = std::thread::available_parallelism()?.get();
    let (model, commit) = (model(), commit());
    let date = Clock.now().to_string();
    println!(
        "{cores} cores ({model}), PostgreSQL {version}, fsync on, payloads of {PAYLOAD} bytes, commit {commit}, {date}; \
         settings {:?}; {}",
        lab.settings,
        busy()
    );
    Ok(json!({
        "date": date, "commit": commit, "in_full": lab.in_full, "relay_settings": lab.settings,
        "payload_bytes": PAYLOAD, "load": busy(),
        "machine": {
            "cores": cores, "processor": model,
            "memory": line_of("/proc/meminfo", "MemTotal"),
            "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        },
        "postgres": { "version": version, "fsync": "on", "settings": SETTINGS },
    }))
}

fn model() -> String {
    line_of("/proc/cpuinfo", "model name")
}

/// The value behind a name in one of the kernel's lists.
fn line_of(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
    found.map_or_else(|| "unknown".to_owned(), |(_, rest)| rest.trim().to_owned())
}

/// With a `+` where files differ from it.
fn commit() -> String {
    let git = |arguments: &[&str]| -> Option<String> {
        let directory = env!("CARGO_MANIFEST_DIR");
        let output = Command::new("git").current_dir(directory).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).unwrap_or_default();
    if changed.is_empty() { commit } else { format!("{commit}+") }
}
