//! Webhooks that come in: what a sender may never send again is kept before it is answered.
//!
//! # One webhook's way
//!
//! The **listener** (`listener`) takes connections, bounded in number, and each is a **conversation**
//! (`conversation`), bounded in time. The **handler** (`handler`) reads
//! one request of a **source** (`source`) within its bounds, lets the verifier ([`signing::verify`](crate::signing::verify)) say whether it is
//! the source's, and makes of it what is to be stored. The **writer** (`writer`) gathers what comes
//! while a commit is under way into the next, and answers when it is committed. While the database is
//! away, or slower than it may be, the **spool** (`spool`) keeps it on disk; the writer stores it from
//! there when the database is back, in order, and each once.
//!
//! From the outbox on it is an event like any other.

mod answer;
mod conversation;
pub mod in_memory;
mod listener;
mod request;
mod source;
mod spool;
mod tls;
mod writer;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::clock::Present;
use crate::config::{Config, IngestSettings};
use crate::observe::metrics::Metrics;
use crate::observe::status::Status;
use crate::stopper::Stopper;
use crate::store::{Database, Store, StoreError};

use listener::Listener;
use request::Handler;
use source::Source;
use spool::Spool;
pub use spool::{SpoolRoom, Spooled, look as look_at_spool, room as spool_room};
use tls::Tls;
use writer::Writer;

/// What comes in is one statement at a time; beside it one may be looking whether the database is back.
const CONNECTIONS: usize = 2;

/// Webhooks cannot be taken in.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error("listen on {address} (ingest.listen)")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("read {setting} {}", path.display())]
    Certificate { setting: &'static str, path: PathBuf, source: io::Error },
    #[error("use the certificate and key of ingest")]
    Tls(#[from] rustls::Error),
    #[error("use the spool {}", path.display())]
    Spool { path: PathBuf, source: io::Error },
    #[error("the spool {} is in use by another process", path.display())]
    SpoolInUse { path: PathBuf },
    #[error("ingest.sources.{name}.secret")]
    Secret { name: String, source: crate::signing::verify::VerifierError },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A front handler that is bound and lets nobody in yet.
#[derive(Debug)]
pub struct Ingest {
    listener: Listener,
    handler: Handler,
    writer: Writer,
    waiting: mpsc::Receiver<writer::WaitingRequest>,
    grace: Duration,
}

impl Ingest {
    /// Takes the port and the spool, so that what is wrong with either is known before anything starts.
    /// `None`: nothing is to be taken in.
    ///
    /// # Errors
    /// When it cannot be as it is set.
    pub async fn open(
        config: &Config,
        database: &Database,
        metrics: &Arc<Metrics>,
        status: &Status,
    ) -> Result<Option<Self>, IngestError> {
        let settings = &config.ingest;
        let Some(address) = settings.listen else { return Ok(None) };
        let tls = match (&settings.certificate_file, &settings.key_file) {
            (Some(certificate), Some(key)) => Some(Tls::open(certificate, key)?),
            _ => None,
        };
        let listener = Listener::bind(address, tls, settings, metrics).await?;
        let spool = match &settings.spool {
            Some(path) => Some(Spool::open(path, settings.spool_bytes, settings.spool_files)?),
            None => None,
        };
        let sources = sources(settings)?;
        let timeout = config.database.statement_timeout;
        let store = Store::open(database.clone(), CONNECTIONS, timeout)?;
        let (sender, waiting) = mpsc::channel(settings.max_in_flight);
        let writer = Writer::new(store, spool, settings, metrics, status);
        let handler = Handler::new(sources, settings, sender, metrics, Present::default());
        Ok(Some(Self { listener, handler, writer, waiting, grace: config.relay.grace }))
    }

    /// Where it listens: the port is the one that was given by the system if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Whether webhooks are kept while the database is away.
    #[must_use]
    pub fn has_spool(&self) -> bool {
        self.writer.has_spool()
    }

    /// Takes webhooks in until the stop; then answers what had come, and returns.
    pub async fn run(self, stopper: &Stopper) {
        let serving = self.listener.serve(self.handler, self.grace, stopper);
        // ends when the handler is gone, and with it the last that could wait
        tokio::join!(serving, self.writer.run(self.waiting));
    }
}

fn sources(settings: &IngestSettings) -> Result<Vec<Source>, IngestError> {
    let sources = settings.sources.iter().map(|(name, source)| {
        let opened = Source::new(name, source);
        opened.map_err(|source| IngestError::Secret { name: name.clone(), source })
    });
    sources.collect()
}
