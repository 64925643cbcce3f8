//! Webhooks that come in. A sender may never send one again, so it is kept before it is answered.
//!
//! # One webhook's way
//!
//! The **listener** ([`serve::listener`](crate::serve::listener)) takes connections, bounded in
//! number and shared among senders, and each is a **conversation** (`conversation`), bounded in
//! time. The **intake** (`request`) reads one request of a **source** (`source`) within its bounds,
//! lets the verifier ([`signing::verify`](crate::signing::verify)) say whether it is the source's,
//! and makes an event of it. The **writer** (`writer`) gathers the events that come while a commit
//! is under way into the next, and answers when that is committed. While the database is away, or
//! slower than it may be, the **spool** (`spool`) keeps them on disk; the writer stores them from
//! there when the database is back, in order, and each once.
//!
//! From the outbox on it is an event like any other.

mod answer;
mod body;
mod conversation;
mod error;
pub mod in_memory;
mod request;
mod source;
mod spool;
mod writer;

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::mpsc;

use crate::clock::Present;
use crate::config::{Config, IngestSettings};
use crate::observe::metrics::Metrics;
use crate::observe::status::Status;
use crate::serve::listener::Listener;
use crate::serve::ration::Ration;
use crate::serve::tls::CertificateFiles;
use crate::stopper::Stopper;
use crate::store::{Database, Store};

use conversation::{Conversation, ConversationBounds};
pub use error::IngestError;
use request::{Intake, YIELDS_AFTER};
use source::Source;
use spool::Spool;
pub use spool::{SpoolRoom, Spooled, look as look_at_spool, room as spool_room};
use writer::Writer;

/// Webhooks are stored by one statement at a time; beside it another may look whether the database
/// is back.
const CONNECTIONS: usize = 2;

/// A listener, an intake and a writer that are ready, and take no webhook yet.
#[derive(Debug)]
pub struct Ingest {
    listener: Listener,
    intake: Intake,
    writer: Writer,
    waiting: mpsc::Receiver<writer::WaitingRequest>,
    bounds: ConversationBounds,
}

impl Ingest {
    /// Takes the port and the spool, so that a fault of either is known before anything starts.
    /// `None`: no webhooks are to be taken in.
    ///
    /// # Errors
    /// If the port, the certificate, the spool or a secret cannot be used.
    pub async fn open(
        config: &Config,
        database: &Database,
        metrics: &Arc<Metrics>,
        status: &Status,
    ) -> Result<Option<Self>, IngestError> {
        let settings = &config.ingest;
        let Some(address) = settings.listen else { return Ok(None) };
        let listener = listen(address, settings, metrics).await?;
        let spool = match &settings.spool {
            Some(path) => Some(Spool::open(path, settings.spool_bytes, settings.spool_files)?),
            None => None,
        };
        let sources = sources(settings)?;
        let timeout = config.database.statement_timeout;
        let store = Store::open(database.clone(), CONNECTIONS, timeout)?;
        let (sender, waiting) = mpsc::channel(settings.max_in_flight);
        let writer = Writer::new(store, spool, settings, metrics, status);
        let intake = Intake::new(sources, settings, sender, metrics, Present::default());
        let bounds = ConversationBounds {
            head_timeout: settings.head_timeout,
            max_head: settings.max_head,
            grace: config.relay.grace,
        };
        Ok(Some(Self { listener, intake, writer, waiting, bounds }))
    }

    /// The address it listens at: with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Whether webhooks are kept while the database is away.
    #[must_use]
    pub fn has_spool(&self) -> bool {
        self.writer.has_spool()
    }

    /// Takes webhooks in until the stop; then answers the requests that had come, and returns.
    pub async fn run(self, stopper: &Stopper) {
        let (intake, bounds, told) = (Arc::new(self.intake), self.bounds, stopper.clone());
        let hold = move |stream, peer, place| {
            let (intake, stopper) = (Arc::clone(&intake), told.clone());
            Conversation { intake, peer, place, bounds, stopper }.hold(stream)
        };
        // The writer ends when the intake is gone, and with it the last request that could wait.
        tokio::join!(self.listener.serve(hold, stopper), self.writer.run(self.waiting));
    }
}

async fn listen(
    address: SocketAddr,
    settings: &IngestSettings,
    metrics: &Metrics,
) -> Result<Listener, IngestError> {
    // Read before the port is taken: without its certificate a listener is of no use.
    let files = match (&settings.certificate_file, &settings.key_file) {
        (Some(certificate), Some(key)) => Some(CertificateFiles::open("ingest", certificate, key)?),
        _ => None,
    };
    let places = Ration::of(settings.max_connections, YIELDS_AFTER);
    let listener = Listener::bind("ingest.listen", address, places).await;
    let listener = listener.map_err(|source| IngestError::Bind { address, source })?;
    let listener = listener.counted_by(metrics.ingest.connections.clone());
    let listener = listener.admitting(admitted(settings));
    Ok(match files {
        Some(files) => listener.with_tls(files, settings.head_timeout),
        None => listener,
    })
}

/// Where the senders of all sources are. Empty: anywhere, as for one source at least.
fn admitted(settings: &IngestSettings) -> Vec<IpNet> {
    let clients = || settings.sources.values().map(|source| &source.clients);
    if clients().any(Vec::is_empty) { Vec::new() } else { clients().flatten().copied().collect() }
}

fn sources(settings: &IngestSettings) -> Result<Vec<Source>, IngestError> {
    let sources = settings.sources.iter().map(|(name, source)| {
        let opened = Source::new(name, source);
        opened.map_err(|source| IngestError::Secret { name: name.clone(), source })
    });
    sources.collect()
}
