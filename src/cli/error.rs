//! Errors that end a command early, with their exit codes and hints.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::demo::DemoError;
use crate::ingest::IngestError;
use crate::observe::log::LoggingError;
use crate::relay::RelayError;
use crate::serve::probe::ProbeError;
use crate::serve::server::ServerError;
use crate::signing::verify::VerifierError;
use crate::store::StoreError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Logging(#[from] LoggingError),
    #[error("start the runtime")]
    Runtime(#[source] io::Error),
    #[error("listen for signals")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("take in webhooks")]
    Ingest(#[from] IngestError),
    #[error("{setting} cannot be used")]
    Database { setting: &'static str, source: StoreError },
    #[error("reach the database")]
    Reach(#[source] StoreError),
    #[error("migrate the schema")]
    Migrate(#[source] StoreError),
    #[error("print the migrations")]
    Print(#[source] StoreError),
    #[error("take over the copy")]
    Adopt(#[source] StoreError),
    #[error("check the schema")]
    Schema(#[source] StoreError),
    #[error("run the relay")]
    Relay(#[from] RelayError),
    #[error("http.listen is \"off\": there is no relay to ask")]
    NoListener,
    #[error("ask for the relay's health")]
    Probe(#[from] ProbeError),
    #[error("{url}: not ready: {why}")]
    NotHealthy { url: String, why: String },
    #[error("receive webhooks")]
    Receive(#[from] ReceiveError),
    #[error("run the demo")]
    Demo(#[from] DemoError),
    #[error("{failed} of {of} checks failed")]
    Unwell { failed: usize, of: usize },
    #[error("write to standard output")]
    Output(#[source] io::Error),
}

/// Why receiving failed.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error("read {}", path.display())]
    SecretFile { path: PathBuf, source: io::Error },
    #[error("use the secrets")]
    Secrets(#[source] VerifierError),
    #[error("listen on {address}")]
    Bind { address: SocketAddr, source: io::Error },
}

/// The command could not be done, or ended in the middle. Trying again may help.
const FAILED: u8 = 1;
/// Wrong usage or settings. Trying again is no use. clap exits with the same code.
const USAGE: u8 = 2;

impl CliError {
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::Logging(_)
            | Self::Database { .. }
            | Self::Print(_)
            | Self::NoListener
            | Self::Probe(ProbeError::Url)
            | Self::Receive(ReceiveError::SecretFile { .. } | ReceiveError::Secrets(_))
            | Self::Reach(
                StoreError::NoSessions { .. }
                | StoreError::Elsewhere { .. }
                | StoreError::Strayed { .. }
                | StoreError::Encoding { .. }
                | StoreError::ServerTooOld { .. },
            ) => USAGE,
            Self::Runtime(_)
            | Self::Signals(_)
            | Self::Server(_)
            | Self::Ingest(_)
            | Self::Reach(_)
            | Self::Migrate(_)
            | Self::Adopt(_)
            | Self::Schema(_)
            | Self::Relay(_)
            | Self::Probe(_)
            | Self::NotHealthy { .. }
            | Self::Receive(ReceiveError::Bind { .. })
            | Self::Demo(_)
            | Self::Unwell { .. }
            | Self::Output(_) => FAILED,
        }
    }

    /// Advice for the operator.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Server(ServerError::Bind { source, .. }) => refused_address(
                source,
                "another process has that port; choose another in http.listen, or \"off\"",
            ),
            Self::Receive(ReceiveError::Bind { source, .. }) => refused_address(
                source,
                "another process has that port; give another, or 0 for any that is free",
            ),
            Self::Schema(
                StoreError::SchemaMissing
                | StoreError::SchemaOlder { .. }
                | StoreError::SchemaWithoutRows,
            ) => Some(
                "`posthaste migrate` brings the schema up to date; `posthaste run --migrate` does both",
            ),
            Self::Migrate(error) if error.is_denied() => Some(
                "an administrator can make the schemas for this role: create schema posthaste authorization ROLE; \
                 create schema posthaste_internal authorization ROLE",
            ),
            Self::Reach(StoreError::NoSessions { .. }) => Some(
                "behind such a pooler set database.pooler = \"transaction\", and database.direct_url past it, or relay.wake = \"poll\"",
            ),
            _ => None,
        }
    }
}

fn refused_address(error: &io::Error, in_use: &'static str) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::AddrInUse => Some(in_use),
        io::ErrorKind::PermissionDenied => Some("ports below 1024 need a privilege"),
        io::ErrorKind::AddrNotAvailable => Some("this host does not have that address"),
        _ => None,
    }
}
