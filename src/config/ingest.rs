//! `[ingest]` and its sources: the typed settings, their secrets and their bounds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use super::bounds::{GIB, KIB, MIB, MILLISECOND, MINUTE, SECOND, Violation, Violations};
use super::serde_as;
use super::units::EventType;
use crate::model::secret::Secret;
use crate::model::selector::Selector;
use crate::signing::verify::{Scheme, Verifier};

/// While secrets rotate there are two; a file with more of them is another file.
const SECRETS_MAX: usize = 16;

/// `[ingest]`: webhooks that come in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IngestSettings {
    /// `None`: no webhook is taken in.
    #[serde(deserialize_with = "serde_as::listen")]
    pub listen: Option<SocketAddr>,
    /// There if `key_file` is.
    #[serde(deserialize_with = "serde_as::path")]
    pub certificate_file: Option<PathBuf>,
    #[serde(deserialize_with = "serde_as::path")]
    pub key_file: Option<PathBuf>,
    pub max_connections: usize,
    pub max_in_flight: usize,
    /// At least the `max_body` of every source.
    #[serde(deserialize_with = "serde_as::bytes")]
    pub max_in_flight_bytes: usize,
    #[serde(deserialize_with = "serde_as::duration")]
    pub head_timeout: Duration,
    #[serde(deserialize_with = "serde_as::duration")]
    pub body_timeout: Duration,
    #[serde(deserialize_with = "serde_as::bytes")]
    pub max_head: usize,
    /// Events per statement.
    pub batch: usize,
    #[serde(deserialize_with = "serde_as::duration")]
    pub commit_timeout: Duration,
    /// `None`: no spool.
    #[serde(deserialize_with = "serde_as::path_or_off")]
    pub spool: Option<PathBuf>,
    #[serde(deserialize_with = "serde_as::bytes")]
    pub spool_bytes: usize,
    pub spool_files: usize,
    /// By name, which is the end of the path that the sender posts to.
    #[serde(skip)]
    pub sources: BTreeMap<String, SourceSettings>,
}

/// `[ingest.sources.NAME]`: a sender, its proof, and the events that its webhooks become.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSettings {
    pub verify: Scheme,
    #[serde(deserialize_with = "serde_as::hidden")]
    secret: Option<Secret>,
    #[serde(deserialize_with = "serde_as::hidden")]
    old_secret: Option<Secret>,
    #[serde(deserialize_with = "serde_as::path")]
    secret_file: Option<PathBuf>,
    /// All that are accepted, from the three above.
    #[serde(skip)]
    pub secrets: Vec<Secret>,
    #[serde(deserialize_with = "serde_as::duration")]
    pub tolerance: Duration,
    #[serde(deserialize_with = "serde_as::bytes")]
    pub max_body: usize,
    pub max_in_flight: usize,
    #[serde(deserialize_with = "serde_as::event_type")]
    pub event_type: EventType,
    #[serde(deserialize_with = "serde_as::unless_empty")]
    pub tenant: Option<String>,
    #[serde(deserialize_with = "serde_as::selector")]
    pub ordering_key: Option<Selector>,
    /// In lower case.
    #[serde(deserialize_with = "serde_as::header_patterns")]
    pub headers: Vec<String>,
    pub content_types: Vec<Content>,
    #[serde(deserialize_with = "serde_as::networks")]
    pub clients: Vec<IpNet>,
}

/// An accepted kind of body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    Json,
    Form,
}

impl SourceSettings {
    /// The secrets' texts, for the verifier alone.
    #[must_use]
    pub fn exposed_secrets(&self) -> Vec<String> {
        self.secrets.iter().map(|secret| secret.expose().to_owned()).collect()
    }

    /// The setting that an error about a secret names.
    fn key_of_secrets(&self) -> &'static str {
        match (&self.secret, &self.old_secret) {
            (Some(_), _) => "secret",
            (None, Some(_)) => "old_secret",
            (None, None) => "secret_file",
        }
    }

    /// Gathers the secrets. The error tells what is wrong with the file.
    pub(super) fn read_secrets(
        &mut self,
        read: impl FnOnce(&PathBuf) -> Result<String, String>,
    ) -> Result<(), String> {
        self.secrets = [&self.secret, &self.old_secret].into_iter().flatten().cloned().collect();
        if let Some(path) = &self.secret_file {
            let text = read(path)?;
            let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
            self.secrets.extend(lines.map(|line| Secret::new(line.to_owned())));
            if self.secrets.is_empty() {
                return Err("the file is empty".to_owned());
            }
        }
        Ok(())
    }
}

pub(super) fn check(ingest: &IngestSettings, found: &mut Violations) {
    let files = [
        ("ingest.certificate_file", &ingest.certificate_file, &ingest.key_file),
        ("ingest.key_file", &ingest.key_file, &ingest.certificate_file),
    ];
    for (key, file, other) in files {
        found.file(key, file.as_deref());
        if other.is_none() && file.as_ref().is_some_and(|file| file.is_file()) {
            found.push(key, "certificate and key go together; give both or neither".to_owned());
        }
    }
    found.count("ingest.max_connections", ingest.max_connections, 1..=65_536);
    found.count("ingest.max_in_flight", ingest.max_in_flight, 1..=65_536);
    found.size("ingest.max_in_flight_bytes", ingest.max_in_flight_bytes, KIB..=4 * GIB - 1);
    found.time("ingest.head_timeout", ingest.head_timeout, 100 * MILLISECOND..=10 * MINUTE);
    found.time("ingest.body_timeout", ingest.body_timeout, 100 * MILLISECOND..=10 * MINUTE);
    // the least that hyper takes; a head is in memory as long as its connection
    found.size("ingest.max_head", ingest.max_head, 8 * KIB..=MIB);
    found.count("ingest.batch", ingest.batch, 1..=10_000);
    found.time("ingest.commit_timeout", ingest.commit_timeout, 10 * MILLISECOND..=5 * MINUTE);
    found.size("ingest.spool_bytes", ingest.spool_bytes, 64 * KIB..=1024 * GIB);
    found.count("ingest.spool_files", ingest.spool_files, 1..=10_000_000);
    if let Some(directory) = ingest.spool.as_ref().filter(|directory| !directory.is_dir()) {
        let what = format!(
            "there is no directory {}; make it, or write \"off\" for no spool",
            directory.display()
        );
        found.push("ingest.spool", what);
    }
    if ingest.listen.is_some() && ingest.sources.is_empty() {
        let what =
            "no source may send; write a section such as [ingest.sources.gitlab], or \"off\"";
        found.push("ingest.listen", what.to_owned());
    }
    for (name, source) in &ingest.sources {
        let mut of_source = Violations::default();
        check_source(ingest, source, &mut of_source);
        for violation in of_source.into_vec() {
            let key = format!("ingest.sources.{name}.{}", violation.key).into();
            found.add(Violation { key, ..violation });
        }
    }
}

fn check_source(ingest: &IngestSettings, source: &SourceSettings, found: &mut Violations) {
    found.time("tolerance", source.tolerance, SECOND..=24 * 60 * MINUTE);
    found.size("max_body", source.max_body, 1..=256 * MIB);
    if source.max_body > ingest.max_in_flight_bytes && source.max_body <= 256 * MIB {
        found.add(Violation {
            key: "max_body".into(),
            with: Some("ingest.max_in_flight_bytes"),
            what: "must be at most ingest.max_in_flight_bytes".to_owned(),
        });
    }
    found.count("max_in_flight", source.max_in_flight, 1..=65_536);
    found.unless(
        source
            .tenant
            .as_deref()
            .is_none_or(|tenant| tenant.len() <= 256 && !tenant.chars().any(char::is_control)),
        "tenant",
        "write at most 256 bytes on one line",
    );
    found.unless(
        !source.content_types.is_empty(),
        "content_types",
        "nothing could be sent; write [\"json\"], [\"form\"] or both",
    );
    if source.secrets.len() > SECRETS_MAX {
        found.push(
            "secret_file",
            format!("it holds more than {SECRETS_MAX} secrets; write one a line"),
        );
    }
    if source.verify == Scheme::None {
        if !source.secrets.is_empty() {
            let what = "with a secret, requests should be verified; write how the sender proves that it knows it";
            found.push("verify", what.to_owned());
        }
    } else if source.secrets.is_empty() && source.secret_file.is_some() {
        // the problem of the file has been told
    } else if source.secrets.is_empty() {
        let what = "not set; write the secret that the sender knows, or its file in secret_file, or verify = \"none\"";
        found.push("secret", what.to_owned());
    } else if source.exposed_secrets().iter().any(|secret| secret.contains(char::is_control)) {
        let what = "it holds a control character, perhaps the end of a line";
        found.push(source.key_of_secrets(), what.to_owned());
    } else if let Err(wrong) =
        Verifier::new(source.verify, &source.exposed_secrets(), source.tolerance)
    {
        // says nothing of the secret itself
        found.push(source.key_of_secrets(), wrong.to_string());
    }
}
