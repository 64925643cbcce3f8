//! The settings as types: a struct for each section of `default.toml`, which has each default and
//! its reason. [`check`](super::check) checks bounds, and settings against one another.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::{fmt, fs, net::SocketAddr, thread, time::Duration};

use serde::Deserialize;

use super::ingest::IngestSettings;
use super::serde_as;
use crate::model::allow::AllowEntry;
use crate::model::proxy::ProxyUrl;
use crate::model::secret::Secret;

/// All settings of one process.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(skip)]
    pub origin: Origin,
    /// The settings file and the key of a secret in it, if every user of this machine may read it.
    #[serde(skip)]
    pub open_secret: Option<(PathBuf, String)>,
    pub database: DatabaseSettings,
    pub http: HttpSettings,
    pub ingest: IngestSettings,
    pub relay: RelaySettings,
    pub delivery: DeliverySettings,
    pub retry: RetrySettings,
    pub health: HealthSettings,
    pub addresses: AddressSettings,
    pub upkeep: UpkeepSettings,
    pub log: LogSettings,
}

/// Where settings were read, besides variables and flags.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Origin {
    /// This file.
    File(PathBuf),
    /// No file: there is none of the customary name in this directory.
    NoneIn(PathBuf),
    /// No file was looked for.
    #[default]
    Nowhere,
}

impl Origin {
    /// The file, if every user of this machine may read it.
    pub(super) fn is_open_to_all(&self) -> Option<&Path> {
        let Self::File(path) = self else { return None };
        let mode = fs::metadata(path).ok()?.permissions().mode();
        (mode & 0o004 != 0).then_some(path)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::NoneIn(directory) => write!(f, "no posthaste.toml in {}", directory.display()),
            Self::Nowhere => f.write_str("no file"),
        }
    }
}

/// `[database]`: where the outbox is and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// Never empty once loaded; the text of `url_file` has been read into it.
    pub url: Secret,
    #[serde(deserialize_with = "serde_as::path")]
    pub(super) url_file: Option<PathBuf>,
    #[serde(deserialize_with = "serde_as::path")]
    pub(super) password_file: Option<PathBuf>,
    /// Replaces the password of both URLs. Read from `password_file`.
    #[serde(skip)]
    pub password: Option<Secret>,
    pub pooler: Pooler,
    /// The way to sessions that are kept, if it is another. The text of `direct_url_file` has been
    /// read into it.
    #[serde(deserialize_with = "serde_as::hidden")]
    pub direct_url: Option<Secret>,
    #[serde(deserialize_with = "serde_as::path")]
    pub(super) direct_url_file: Option<PathBuf>,
    /// Pooled connections, besides the relay's own session. 1 to 100.
    pub pool_size: usize,
    /// Per host.
    #[serde(deserialize_with = "serde_as::duration")]
    pub connect_timeout: Duration,
    /// How long a start waits for a database that is not there yet; zero: not at all.
    #[serde(deserialize_with = "serde_as::duration")]
    pub startup_timeout: Duration,
    #[serde(deserialize_with = "serde_as::duration")]
    pub statement_timeout: Duration,
    /// Root certificates in PEM to trust besides the system's.
    #[serde(deserialize_with = "serde_as::path")]
    pub ca_file: Option<PathBuf>,
}

/// Whether a pooler lies between the relay and the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooler {
    /// No pooler, or one in session mode: a connection is a session.
    None,
    /// A pooler that lends a session for each transaction.
    Transaction,
}

/// `[http]`: the relay's own listener.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    /// `None`: serve nothing.
    #[serde(deserialize_with = "serde_as::listen")]
    pub listen: Option<SocketAddr>,
}

/// `[relay]`: the running loop.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelaySettings {
    /// Never empty once loaded: the host's name unless given.
    pub name: String,
    /// Requests in flight over all endpoints.
    pub max_in_flight: usize,
    /// Payload bytes of claimed deliveries.
    #[serde(deserialize_with = "serde_as::bytes")]
    pub max_in_flight_bytes: usize,
    /// Rows per statement.
    pub batch: usize,
    #[serde(deserialize_with = "serde_as::duration")]
    pub poll_interval: Duration,
    #[serde(deserialize_with = "serde_as::duration")]
    pub heartbeat: Duration,
    /// At least three heartbeats.
    #[serde(deserialize_with = "serde_as::duration")]
    pub lease: Duration,
    #[serde(deserialize_with = "serde_as::duration")]
    pub grace: Duration,
    pub wake: WakeMode,
    /// Longest wait before results are written; may be zero.
    #[serde(deserialize_with = "serde_as::duration")]
    pub record_interval: Duration,
    threads: usize,
}

impl RelaySettings {
    /// Threads of the runtime: as set, or one per core this process may use. At least 1.
    #[must_use]
    pub fn worker_threads(&self) -> usize {
        match self.threads {
            0 => thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }

    pub(super) fn configured_threads(&self) -> usize {
        self.threads
    }
}

/// How an idle relay learns of new events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WakeMode {
    /// LISTEN for the bell, with a slow poll behind it.
    Listen,
    /// Look every `poll_interval`.
    Poll,
}

/// `[delivery]`: one attempt, and how many at once to one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliverySettings {
    /// In total, to the end of the response's head, unless the endpoint has its own.
    #[serde(deserialize_with = "serde_as::duration")]
    pub timeout: Duration,
    #[serde(deserialize_with = "serde_as::duration")]
    pub resolve_timeout: Duration,
    #[serde(deserialize_with = "serde_as::duration")]
    pub connect_timeout: Duration,
    #[serde(deserialize_with = "serde_as::duration")]
    pub tls_timeout: Duration,
    /// Of which attempts the response is stored.
    pub keep_responses: KeepResponses,
    /// Bytes of a response's body that are stored; may be zero.
    #[serde(deserialize_with = "serde_as::bytes")]
    pub response_body_limit: usize,
    /// How long a response's body is read.
    #[serde(deserialize_with = "serde_as::duration")]
    pub body_timeout: Duration,
    /// Requests in flight to an endpoint that has not answered yet. 1 to `max_concurrency`.
    pub initial_window: u32,
    /// Per endpoint, unless it has its own.
    pub max_concurrency: u32,
    /// Never empty once loaded, and fit for a header.
    pub user_agent: String,
    /// Root certificates in PEM to trust besides the system's.
    #[serde(deserialize_with = "serde_as::path")]
    pub ca_file: Option<PathBuf>,
    #[serde(deserialize_with = "serde_as::proxy")]
    pub proxy: Option<ProxyUrl>,
    /// How long an idle connection is kept.
    #[serde(deserialize_with = "serde_as::duration")]
    pub idle_timeout: Duration,
    /// The `source` attribute of `CloudEvents`.
    pub cloudevents_source: String,
}

/// Of which attempts the headers and the body of the response are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeepResponses {
    /// Of those that did not deliver.
    Failures,
    All,
    None,
}

impl KeepResponses {
    /// Whether that of an attempt is, which delivered or did not.
    #[must_use]
    pub fn keeps(self, delivered: bool) -> bool {
        match self {
            Self::Failures => !delivered,
            Self::All => true,
            Self::None => false,
        }
    }
}

/// `[retry]`: the time of the next attempt, and when a delivery is given up.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrySettings {
    /// The n-th retry comes after `n^exponent` seconds and the jitter.
    pub exponent: u32,
    #[serde(deserialize_with = "serde_as::duration")]
    pub jitter_min: Duration,
    /// At least `jitter_min`.
    #[serde(deserialize_with = "serde_as::duration")]
    pub jitter_max: Duration,
    /// No delay is longer; at least `jitter_max`.
    #[serde(deserialize_with = "serde_as::duration")]
    pub cap: Duration,
    /// The first attempt included; at least 1.
    pub max_attempts: u32,
    /// Age of the event after which its delivery is given up.
    #[serde(deserialize_with = "serde_as::duration_or_off")]
    pub max_age: Option<Duration>,
    #[serde(deserialize_with = "serde_as::duration")]
    pub retry_after_cap: Duration,
}

/// `[health]`: when an endpoint is paused, probed and disabled.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthSettings {
    /// Consecutive failures; at least 1.
    pub failure_threshold: u32,
    /// At least 1.
    pub rejection_threshold: u32,
    #[serde(deserialize_with = "serde_as::duration")]
    pub first_pause: Duration,
    /// At least `first_pause`.
    #[serde(deserialize_with = "serde_as::duration")]
    pub longest_pause: Duration,
    /// `None`: never.
    #[serde(deserialize_with = "serde_as::duration_or_off")]
    pub disable_after: Option<Duration>,
}

/// `[addresses]`: receivers that may be dialled besides the public internet over HTTPS.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressSettings {
    pub allow: Vec<AllowEntry>,
    pub allow_http: Vec<AllowEntry>,
}

/// `[upkeep]`: partitions and retention.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpkeepSettings {
    #[serde(deserialize_with = "serde_as::duration")]
    pub interval: Duration,
    /// In days; at least 1.
    pub partitions_ahead: u32,
    /// At least a day.
    #[serde(deserialize_with = "serde_as::duration")]
    pub outbox_retention: Duration,
    /// At least a day.
    #[serde(deserialize_with = "serde_as::duration")]
    pub attempts_retention: Duration,
    /// At least an hour.
    #[serde(deserialize_with = "serde_as::duration")]
    pub received_retention: Duration,
}

/// `[log]`: its level and its form.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// A level, and others for parts of the program; `tracing`'s `EnvFilter` takes it once loaded.
    #[serde(deserialize_with = "serde_as::filter")]
    pub level: String,
    pub format: LogFormat,
}

/// The form of the log's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text if standard error is a terminal, JSON if not.
    Auto,
    /// One object per line.
    Json,
    Text,
}
